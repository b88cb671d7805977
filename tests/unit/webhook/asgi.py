"""Calls an ASGI application without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from bubu_operator.injection import InjectionConfig

Json = dict[str, Any]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def review(self) -> Json:
        """The response part of an AdmissionReview."""
        return json.loads(self.body)["response"]


class View:
    """A `ClusterView` that a test fills."""

    def __init__(
        self, *configs: InjectionConfig, namespaces: dict[str, dict[str, str]] | None = None
    ) -> None:
        self.configs = list(configs)
        self.namespaces = {"flows": {}} if namespaces is None else namespaces
        self.missing: tuple[str, ...] = ()

    def waiting_for(self) -> tuple[str, ...]:
        """What the test says is missing."""
        return self.missing

    def namespace_labels(self, namespace: str) -> dict[str, str] | None:
        """As the test filled it."""
        return self.namespaces.get(namespace)

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """Those of the namespace."""
        return tuple(config for config in self.configs if config.namespace == namespace)

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """Those without one."""
        return tuple(config for config in self.configs if not config.namespace)


async def call_async(
    app: Any,
    body: bytes | list[bytes] = b"",
    *,
    method: str = "POST",
    path: str = "/mutate",
    content_type: str | None = "application/json",
) -> Answer:
    """Send one request; a list is a body in chunks, and a None in it is a broken connection."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        chunk = chunks.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message["body"] for message in rest),
    )


def call(app: Any, body: bytes | list[bytes] = b"", **more: Any) -> Answer:
    """`call_async` from a plain test."""
    return asyncio.run(call_async(app, body, **more))


def review_of(pod: Any, **more: Any) -> bytes:
    """An AdmissionReview of a pod's creation in namespace flows."""
    request = {
        "uid": "u-1",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "flows",
        "object": pod,
        **more,
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    ).encode()
