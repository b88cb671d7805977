"""etcd's JSON gateway over the Unix socket of a local control plane, to do what only time does otherwise."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.errors import ClusterError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.cluster import Cluster

__all__ = ["compact", "current_revision"]

SECONDS = 10.0


class _SocketConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Open the socket instead of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def current_revision(cluster: Cluster) -> int:
    """Return the store's revision: what the API calls resourceVersion."""
    key = base64.b64encode(b"/").decode()
    return int(_call(cluster, "range", {"key": key})["header"]["revision"])


def compact(cluster: Cluster) -> int:
    """Forget all history up to now; returns the revision that is the oldest from now on."""
    revision = current_revision(cluster)
    _call(cluster, "compaction", {"revision": str(revision), "physical": True})
    return revision


def _call(cluster: Cluster, what: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = _SocketConnection(cluster.workdir / "state" / "client:1")
    try:
        connection.request("POST", f"/v3/kv/{what}", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise ClusterError(f"etcd refused {what}: {response.status} {data[:300]!r}")
    return cast("dict[str, Any]", json.loads(data))
