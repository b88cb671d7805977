"""Helm against a real API server, as an administrator runs it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.chart.programs import ensure_helm
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, ChartError, helm_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.cluster.cluster import Cluster

__all__ = ["HelmCluster"]


@dataclass(frozen=True, slots=True)
class HelmCluster:
    """One release on a cluster.

    Attributes:
        cluster: where.
        release: its name.
        namespace: of the release.
    """

    cluster: Cluster
    release: str = RELEASE
    namespace: str = NAMESPACE

    def run(self, *arguments: str, program: Path | None = None, timeout_seconds: float = 180.0) -> str:
        """Run Helm on this cluster; return what it printed.

        Raises:
            ChartError: it ended with another code than 0.
        """
        with tempfile.TemporaryDirectory(prefix="bubu-helm-") as folder:
            done = subprocess.run(
                [
                    str(program or ensure_helm()),
                    *arguments,
                    *("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace),
                ],
                env=helm_environment(folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
        if done.returncode != 0:
            raise ChartError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def install(
        self, values: Mapping[str, Any] | None = None, *options: str, program: Path | None = None
    ) -> str:
        """Install the chart from this repository."""
        words = ("install", self.release, str(CHART), "--create-namespace", *_assignments(values))
        return self.run(*words, *options, program=program)

    def upgrade(
        self, values: Mapping[str, Any] | None = None, *options: str, program: Path | None = None
    ) -> str:
        """Upgrade to the chart in this repository."""
        words = ("upgrade", self.release, str(CHART), *_assignments(values))
        return self.run(*words, *options, program=program)

    def uninstall(self, *options: str, program: Path | None = None) -> str:
        """Take the release away."""
        return self.run("uninstall", self.release, *options, program=program)


def _assignments(values: Mapping[str, Any] | None) -> tuple[str, ...]:
    # Helm 3 knows no whole document here, so each top-level value is said apart.
    pairs = [f"{key}={json.dumps(value)}" for key, value in (values or {}).items()]
    return tuple(word for pair in pairs for word in ("--set-json", pair))
