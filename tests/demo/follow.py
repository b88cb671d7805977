"""Follow one object through every change, so that no pass of a policy is missed."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Self

from tests.cluster import Cluster
from tests.cluster.processes import PATIENCE
from tests.demo.console import DemoFailedError

__all__ = ["Watch"]


class Watch:
    """``kubectl get --watch`` of one object, as a stream of its states."""

    def __init__(self, cluster: Cluster, resource: str, name: str, namespace: str) -> None:
        self._title = f"{resource}/{name}"
        self._states: queue.Queue[dict[str, Any]] = queue.Queue()
        env = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        self._process = subprocess.Popen(
            [
                str(cluster.kubectl_path), "--kubeconfig", str(cluster.kubeconfig),
                "get", resource, name, "-n", namespace, "--watch", "-o", "json",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=env,
            text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def states(self, *, deadline_seconds: float) -> Iterator[dict[str, Any]]:
        """Yield every state from now on.

        Raises:
            DemoFailedError: the caller still wanted more after ``deadline_seconds``, which are stretched
                as those of ``wait_until``.
        """
        end = time.monotonic() + deadline_seconds * PATIENCE
        last: dict[str, Any] = {}
        while True:
            try:
                last = self._states.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                status = json.dumps(last.get("status"), indent=1)
                raise DemoFailedError(
                    f"{self._title} did not get there within {deadline_seconds:g} s; its status:\n{status}"
                ) from None
            yield last

    def _read(self, stream: IO[str]) -> None:
        decoder = json.JSONDecoder()
        buffer = ""
        for line in stream:
            buffer += line
            # kubectl indents: only a document's last line begins with its closing brace.
            if line.startswith("}"):
                state, _ = decoder.raw_decode(buffer.lstrip())
                self._states.put(state)
                buffer = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
