"""The shipped alert rules and dashboard, read as data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ALERTS_FILE", "DASHBOARD_FILE", "ROOT", "Alert", "alerts", "dashboard", "metrics_of", "panels"]

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "bubu-storage-operator" / "files"
ALERTS_FILE = FILES / "alerts.yaml"
DASHBOARD_FILE = FILES / "dashboard.json"

_METRIC = re.compile(r"\b(?:bubu|process)_[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule."""

    name: str
    expr: str
    severity: str
    annotations: dict[str, str]


def alerts() -> list[Alert]:
    """Return every alert of the shipped file."""
    document = yaml.safe_load(ALERTS_FILE.read_text("utf-8"))
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"]["severity"], rule["annotations"])
        for group in document["groups"]
        for rule in group["rules"]
    ]


def dashboard() -> dict[str, Any]:
    """Return the shipped dashboard."""
    return json.loads(DASHBOARD_FILE.read_text("utf-8"))


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, those inside closed rows included, without the rows."""
    found: list[dict[str, Any]] = []
    for panel in dashboard()["panels"]:
        found.extend([panel, *panel.get("panels", [])])
    return [panel for panel in found if panel["type"] != "row"]


def metrics_of(expr: str) -> set[str]:
    """Return the names of our metrics in an expression."""
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", expr)))
