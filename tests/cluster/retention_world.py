"""A namespace with a file store, a policy and controllers of its own, for tests of retention."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, until

__all__ = ["API", "DAY", "FAST", "SLOW", "World", "finished"]

API = "storage.bubustack.io/v1alpha1"
DAY = 86400.0
SLOW = {"maxScan": 20000, "maxDelete": 10000, "requestsPerSecond": 1}
"""A pass over 8,200 objects, a page of 1,000 at a time, takes seconds and has many checkpoints.

Tests that step in have to do it in this time, on a busy machine, too."""
FAST = {"maxScan": 20000, "maxDelete": 20000}
"""For what comes after."""


class World:
    """A namespace with a file store and a controller of its own that watches only it."""

    def __init__(self, cluster: Cluster, namespace: str, workdir: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.root = workdir / "stores"
        self.store = self.root / namespace
        self.root.mkdir()
        self._workdir = workdir
        self.controllers: list[ControllerProcess] = []

    def controller(self, *arguments: str, **options: Any) -> ControllerProcess:
        """Make a controller for this namespace (not started)."""
        options = {"namespaces": [self.namespace], "roots": [self.root]} | options
        made = ControllerProcess(self.cluster, self._workdir, arguments=arguments, **options)
        self.controllers.append(made)
        return made

    def fill(self, *, old: int, young: int, objects: int = 1, prefix: str = "outputs") -> None:
        """Write runs whose newest object is 40 days or 2 days old; every tenth old run has a young twin."""
        now = time.time()
        for number in range(old + young):
            age = 40 * DAY if number < old else 2 * DAY
            run = self.store / prefix / self.namespace / f"run-{number * 7919 % (old + young):05d}"
            run.mkdir(parents=True)
            for index in range(objects):
                item = run / f"o{index}"
                item.write_bytes(b"x" * 10)
                os.utime(item, (now - age, now - age))

    def objects(self) -> set[str]:
        """Return the keys of everything that is stored as data."""
        # os.walk and not rglob: a pass may remove a directory while we look.
        return {
            str(Path(folder, name).relative_to(self.store))
            for folder, _, names in os.walk(self.store)
            for name in names
            if ".bubu" not in Path(folder).parts
        }

    def config(self, **spec: Any) -> None:
        """Apply the StorageConfig."""
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "StorageConfig",
                "metadata": {"name": "main", "namespace": self.namespace},
                "spec": {"file": {"path": str(self.store)}, **spec},
            }
        )

    def policy(self, name: str = "tidy", **spec: Any) -> None:
        """Apply a RetentionPolicy; stores of tests are mostly due, so by default the share has no bound."""
        defaults = {
            "interval": "1s",
            "safety": {"maxDuePercent": 100},
            "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
            "limits": {"maxScan": 5000, "maxDelete": 1000},
        }
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "RetentionPolicy",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": defaults | spec,
            }
        )

    def read(self, name: str = "tidy") -> dict[str, Any]:
        """Return the policy as it is."""
        return self.cluster.get("retentionpolicy", name, "-n", self.namespace)

    def status(self, name: str = "tidy") -> dict[str, Any]:
        """Return its status."""
        return self.read(name).get("status") or {}

    def wait(
        self, check: Callable[[dict[str, Any]], Any], what: str, seconds: float = 30.0
    ) -> dict[str, Any]:
        """Wait until the status is as wanted; return it."""
        last: dict[str, Any] = {}

        def there() -> dict[str, Any] | None:
            nonlocal last
            last = self.status()
            return last if check(last) else None

        try:
            return until(there, what, seconds)
        except AssertionError:
            raise AssertionError(f"not within {seconds:g} s: {what}; status: {last}") from None

    def events(self) -> list[tuple[str, str]]:
        """Return (reason, note) of the policy's events, oldest first."""
        items = self.cluster.get("events.events.k8s.io", "-n", self.namespace)["items"]
        mine = [item for item in items if item["regarding"]["kind"] == "RetentionPolicy"]
        return [(item["reason"], item["note"]) for item in sorted(mine, key=lambda item: item["eventTime"])]

    @classmethod
    @contextmanager
    def running(cls, cluster: Cluster, namespace: str, workdir: Path) -> Generator[World]:
        """Make a world; its controllers are stopped afterwards and must not have stumbled."""
        made = cls(cluster, namespace, workdir)
        try:
            yield made
        finally:
            for controller in made.controllers:
                controller.stop()
        for controller in made.controllers:
            assert "Traceback" not in controller.log


def finished(status: dict[str, Any], mode: str = "Enforce") -> bool:
    """Tell whether the last pass is one of a mode and has ended."""
    last: dict[str, Any] = status.get("lastPass") or {}
    return last.get("mode") == mode and "finishTime" in last
