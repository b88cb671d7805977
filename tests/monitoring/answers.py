"""``python -m tests.monitoring.answers FOLDER``: what each panel of the dashboard shows, as JSON.

The Prometheus of a recording is started once more over its data, and asked every expression of the JSON as
Grafana would ask it. The drawing is left to a program that needs nothing of ours.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.monitoring.rules import dashboard
from tests.monitoring.server import PrometheusServer

RATE_INTERVAL = "30s"
STEPS = 240


def answers(folder: Path) -> dict[str, Any]:
    """Return the dashboard's panels with ``series`` in each target, and the recording's story."""
    story = json.loads((folder / "story.json").read_text("utf-8"))
    shown = dashboard()
    with PrometheusServer(folder) as server:
        for panel in shown["panels"]:
            for target in panel.get("targets", []):
                target["series"] = _ask(server, target, story)
    return {"story": story, "title": shown["title"], "panels": shown["panels"]}


def _ask(server: PrometheusServer, target: dict[str, Any], story: dict[str, Any]) -> list[dict[str, Any]]:
    expr = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$namespace", ".*")
    step = (story["to"] - story["from"]) / STEPS
    found = server.api(
        "query_range", query=expr, start=str(story["from"]), end=str(story["to"]), step=f"{step:.3f}"
    )
    return [
        {
            "name": _legend(target["legendFormat"], one["metric"]),
            "points": [(float(when), float(value)) for when, value in one["values"]],
        }
        for one in found["result"]
    ]


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), form)


if __name__ == "__main__":
    json.dump(answers(Path(sys.argv[1]).absolute()), sys.stdout)
