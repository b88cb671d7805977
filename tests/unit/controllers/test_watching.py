"""Kopf's thread: it ends when it is told to, whatever it is at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kubernetes.client.configuration import Configuration

from bubu_operator.controllers.watching import WATCHED, Watcher, build_registry
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import GROUP, VERSION, JsonObject
from tests.cluster.processes import PATIENCE, Stopwatch, wait_until
from tests.unit.kube.api_server import Handler, ScriptedServer

OURS = f"/apis/{GROUP}/{VERSION}"
PROMPT_SECONDS = 3.0
"""More than an end takes, and less than the five seconds that Kopf gives its own requests."""

ITSELF_SECONDS = 10.0
"""More than Kopf takes to end by itself, those five seconds included."""


def _ignore(*_: object) -> None:
    """Hear nothing."""


def _group(name: str, version: str) -> JsonObject:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(*kinds: tuple[str, str]) -> JsonObject:
    return {
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": True,
                "verbs": ["list", "watch"],
            }
            for plural, kind in kinds
        ]
    }


# The first four are what Kopf asks of any cluster before it watches anything.
DISCOVERY = {
    "/api": {"versions": ["v1"]},
    "/api/v1": _resources(("namespaces", "Namespace")),
    "/apis": {"groups": [_group("apiextensions.k8s.io", "v1"), _group(GROUP, VERSION)]},
    "/apis/apiextensions.k8s.io/v1": _resources(("customresourcedefinitions", "CustomResourceDefinition")),
    OURS: _resources(*((kind.plural, kind.kind) for kind in WATCHED)),
}


class World:
    """An API server whose answer to one path never comes or is no JSON, and a watcher of it."""

    def __init__(self, silent_at: str = "", odd_at: str = "") -> None:
        self._silent_at = silent_at
        self._odd_at = odd_at
        self.server = ScriptedServer(self._answer)
        self._client = KubeClient(Configuration(host=self.server.url))
        self.watcher = Watcher(())

    def start(self) -> None:
        """Begin to listen."""
        self.watcher.start(build_registry(self._client, _ignore))

    def waits(self) -> bool:
        """Tell whether the request has come that is never answered."""
        with self.server.lock:
            return any(path.startswith(self._silent_at) for _, path, _, _ in self.server.seen)

    def _answer(self, handler: Handler) -> None:
        path, _, query = handler.path.partition("?")
        headers = {"Content-Type": "text/html" if path == self._odd_at else "application/json"}
        if self._silent_at and handler.path.startswith(self._silent_at):
            handler.server.release.wait()
        elif "watch=true" in query:
            handler.stream()
            handler.server.release.wait()
        elif (answer := DISCOVERY.get(path)) is not None:
            handler.reply(answer, headers=headers)
        else:
            handler.reply({"metadata": {"resourceVersion": "1"}, "items": []}, headers=headers)

    def close(self) -> None:
        """End all of it."""
        self.watcher.stop()
        self.server.close()
        self.watcher.join(PROMPT_SECONDS * PATIENCE)
        self._client.close()


@pytest.fixture
def worlds() -> Iterator[ExitStack]:
    """Ends what a test has made."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    "silent_at",
    [
        pytest.param("/apis", id="while it asks what there is"),
        pytest.param(OURS, id="while it asks what our group has"),
        pytest.param(f"{OURS}/{WATCHED[0].plural}", id="while it lists"),
        pytest.param(f"{OURS}/{WATCHED[0].plural}?watch", id="while it opens a watch"),
    ],
)
def test_it_ends_at_once_whatever_kopf_waits_for(worlds: ExitStack, silent_at: str) -> None:
    """A request that has no answer yet, Kopf's first ones included, holds up nobody."""
    world = World(silent_at)
    worlds.callback(world.close)
    world.start()
    wait_until(world.waits, 10, f"a request for {silent_at}")

    watch = Stopwatch()
    world.watcher.stop()
    world.watcher.stop()
    world.watcher.join(PROMPT_SECONDS * PATIENCE)

    assert not world.watcher.alive
    assert world.watcher.error is None
    assert watch.seconds < PROMPT_SECONDS


def test_told_to_end_before_it_begins_it_does_not_begin(worlds: ExitStack) -> None:
    """A signal may come between the making of the parts and their start."""
    world = World()
    worlds.callback(world.close)

    world.watcher.stop()
    world.start()
    world.watcher.join(PROMPT_SECONDS * PATIENCE)

    assert not world.watcher.alive
    assert world.watcher.error is None
    assert world.server.seen == []


def test_an_end_that_kopf_comes_to_by_itself_is_seen_with_its_reason(worlds: ExitStack) -> None:
    """The main thread ends the process then; Kopf would send it SIGKILL after a while, without a word."""
    world = World(odd_at=OURS)
    worlds.callback(world.close)

    world.start()
    world.watcher.join(ITSELF_SECONDS * PATIENCE)

    assert not world.watcher.alive
    assert "text/html" in str(world.watcher.error)


def test_a_loop_that_is_stuck_does_not_keep_the_process() -> None:
    """A thread of Kopf's waits for the flag, and the interpreter's end for that thread."""
    code = (
        "import asyncio, threading, time\n"
        "import kopf\n"
        "from bubu_operator.controllers.watching import Watcher\n"
        "async def stuck(*, settings, stop_flag, ready_flag, **_):\n"
        "    asyncio.get_running_loop().run_in_executor(settings.execution.executor, stop_flag.wait)\n"
        "    ready_flag.set()\n"
        "    threading.Event().wait()\n"
        "kopf.operator = stuck\n"
        "watcher = Watcher(())\n"
        "watcher.start(kopf.OperatorRegistry())\n"
        "assert watcher.ready.wait(60)\n"
        "watcher.stop()\n"
        "watcher.join(0.1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (
        0,
        "watching did not end within 0.1 s; it ends with this process\n",
    )
