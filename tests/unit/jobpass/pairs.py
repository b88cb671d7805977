"""Agents in this process, for tests: an executor served over a real socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from bubu_operator.jobpass.agent_channel import AgentChannel
from bubu_operator.jobpass.executor import Executor
from bubu_operator.jobpass.remote_backend import RemoteBackend
from bubu_operator.jobpass.rights import Rights
from bubu_operator.jobpass.serving import serve
from bubu_operator.kube.scrub import Redactor
from bubu_storage.backend.types import ObjectBackend


class EveryRight(Rights):
    """Lets everything through that is a key, to see that requests arrive as they were sent."""

    def may_list(self, prefix):
        """Let it through."""

    def may_delete(self, keys):
        """Let it through."""

    def may_put(self, key):
        """Let it through."""


@contextlib.contextmanager
def agent_of(
    backend: ObjectBackend, rights: Rights | None = None, redactor: Redactor | None = None, **options
) -> Iterator[RemoteBackend]:
    """Serve a backend by an agent in a thread; yield the engine's side."""
    ours, theirs = socket.socketpair()
    executor = Executor(backend, rights or EveryRight(("x/",)), redactor or Redactor())
    thread = threading.Thread(target=serve, args=(theirs, executor), kwargs={"idle_seconds": 30.0})
    thread.start()
    try:
        remote = RemoteBackend(AgentChannel(ours, "test://store"), **options)
        try:
            yield remote
        finally:
            remote.close()
    finally:
        ours.close()
        thread.join(60)
        theirs.close()
        assert not thread.is_alive()
