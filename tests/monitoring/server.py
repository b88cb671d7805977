"""A real Prometheus on loopback, scraping what it is told to, with our alert rules."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import yaml

from tests.cluster.errors import StartError
from tests.cluster.processes import ManagedProcess, free_port, spawn, tail, wait_until
from tests.monitoring.programs import ensure_prometheus
from tests.monitoring.rules import ALERTS_FILE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JOB", "OPERATOR_NAMESPACE", "PrometheusServer", "Target"]

JOB = "bubu-storage-operator"
OPERATOR_NAMESPACE = "bubu-storage-system"
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """A process to scrape, under the name that a pod would have."""

    name: str
    port: int


class PrometheusServer(AbstractContextManager["PrometheusServer"]):
    """Starts on entering; its data stay in ``folder``, so that another one can show them again."""

    def __init__(self, folder: Path, targets: list[Target] | None = None, *, scrape_seconds: int = 1) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: ManagedProcess | None = None
        self._configuration = {
            "global": {
                "scrape_interval": f"{scrape_seconds}s",
                "scrape_timeout": f"{scrape_seconds}s",
                "evaluation_interval": f"{scrape_seconds}s",
            },
            "rule_files": [str(ALERTS_FILE)],
            "scrape_configs": [
                {
                    "job_name": JOB,
                    "honor_labels": True,
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{target.port}"],
                            "labels": {
                                "instance": target.name,
                                "pod": target.name,
                                "namespace": OPERATOR_NAMESPACE,
                            },
                        }
                        for target in targets or []
                    ],
                }
            ],
        }

    def __enter__(self) -> Self:
        executable = ensure_prometheus()
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "prometheus.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration), "utf-8")
        log = self._folder / "prometheus.log"
        process = self._process = spawn(
            "prometheus",
            [
                str(executable),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            log=log,
        )

        def ready() -> bool:
            if not process.is_running():
                raise StartError(f"Prometheus ended early:\n{tail(log)}")
            try:
                return self._get("/-/ready") != b""
            except OSError:
                return False

        wait_until(ready, START_SECONDS, "Prometheus to be ready")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.stop(grace_seconds=20.0)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of an instant query.

        Raises:
            urllib.error.HTTPError: the expression is wrong.
        """
        return self.api("query", query=expr)["result"]

    def api(self, path: str, **parameters: str) -> Any:
        """Return the ``data`` of an answer of the API."""
        return json.loads(self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=20) as answer:
            return answer.read()
