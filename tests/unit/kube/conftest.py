"""Fixtures of the Kubernetes client's tests."""

from __future__ import annotations

import pytest
from kubernetes.client.configuration import Configuration

from bubu_operator.kube.client import KubeClient
from tests.unit.kube.api_server import ScriptedServer


@pytest.fixture
def serve():
    """Start scripted servers, and clients of them; all closed afterwards."""
    opened = []

    def start(script) -> tuple[ScriptedServer, KubeClient]:
        server = ScriptedServer(script)
        client = KubeClient(Configuration(host=server.url, api_key={"BearerToken": "Bearer sesame-token"}))
        opened.append((server, client))
        return server, client

    yield start
    for server, client in opened:
        client.close()
        server.close()
