"""Prometheus and promtool, built once by `tests.cluster.build` and kept outside the clone.

A Go module of ours pins the versions, since Prometheus' own ``go.mod`` has replacements, which
``go install`` refuses. Left out are the user interface and all service discovery but Kubernetes'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import Program, given_or_built

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROMETHEUS_VERSION", "ensure_prometheus", "ensure_promtool"]

PROMETHEUS_VERSION = "v0.312.0"
"""Of the Go module; the release is 3.12."""

_MODULE = Path(__file__).with_name("prometheus")


def _program(name: str) -> Program:
    return Program(
        name=name,
        title=f"{name} of Prometheus {PROMETHEUS_VERSION}",
        version=PROMETHEUS_VERSION,
        go_arguments=(
            "build",
            "-v",
            "-mod=readonly",
            "-buildvcs=false",
            "-trimpath",
            "-tags=remove_all_sd,enable_kubernetes_sd,netgo",
            "-ldflags=-s -w",
            "-o",
            f"{{out}}/{name}",
            f"github.com/prometheus/prometheus/cmd/{name}",
        ),
        inputs=(_MODULE / "go.mod", _MODULE / "go.sum"),
        folder=_MODULE,
        minimum_go=(1, 25),
    )


def ensure_promtool(report: Callable[[str], None] | None = None) -> Path:
    """Return promtool: ``$BUBU_PROMTOOL``, or the one in the cache, built first if needed.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_program("promtool"), "BUBU_PROMTOOL", report)


def ensure_prometheus(report: Callable[[str], None] | None = None) -> Path:
    """Return the server: ``$BUBU_PROMETHEUS``, or the one in the cache, built first if needed.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_program("prometheus"), "BUBU_PROMETHEUS", report)
