"""A small API server in memory: discovery, pages of one snapshot, single objects, and faults on request."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bubu_operator.errors import (
    KubeApiError,
    KubeForbiddenError,
    KubeGoneError,
    KubeNotFoundError,
)

GROUP = "/apis/runs.bubustack.io"
RUNS = GROUP + "/v1alpha1"
STORY_RUNS, STEP_RUNS = "storyruns", "stepruns"


def story_run(
    name: str, story: str = "story", phase: str | None = "Running", **fields: Any
) -> dict[str, Any]:
    """Make a StoryRun."""
    spec = {"storyRef": {"name": story}, **fields.pop("spec", {})}
    return _object(name, spec, phase, fields)


def step_run(name: str, story_run: str, phase: str | None = "Running", **fields: Any) -> dict[str, Any]:
    """Make a StepRun."""
    spec = {"storyRunRef": {"name": story_run}, "stepId": "a", **fields.pop("spec", {})}
    return _object(name, spec, phase, fields)


def _object(name: str, spec: dict[str, Any], phase: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "team-a",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **fields.pop("metadata", {}),
    }
    status = {} if phase is None else {"phase": phase}
    return {"metadata": metadata, "spec": spec, "status": {**status, **fields.pop("status", {})}}


def ref(path: str) -> dict[str, str]:
    """Make a reference."""
    return {"$bubuStorageRef": path, "$bubuStorageContentType": "application/json"}


@dataclass
class Request:
    """One request as it came."""

    path: str
    query: dict[str, str]
    metadata_only: bool


@dataclass
class Api:
    """The part of an API server that `Gatherer` speaks to, in the place of a `KubeClient`.

    Attributes:
        served: entries of discovery by path of group and version.
        objects: by plural.
        page_size: the most that a page holds, whatever is asked for.
        before: called with each request before it is answered; may raise, or change the objects.
        requests: what came.
    """

    served: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    page_size: int = 1_000_000
    before: Callable[[Request], None] = lambda _: None
    alter: Callable[[dict[str, Any]], None] = lambda _: None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._versions = itertools.count(100)
        self._version = "99"
        self._snapshots: dict[str, tuple[list[dict[str, Any]], str]] = {}
        self.served.setdefault(RUNS, [entry("StoryRun", STORY_RUNS), entry("StepRun", STEP_RUNS)])

    def put(self, plural: str, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        for obj in objects:
            self._version = str(next(self._versions))
            stored = json.loads(json.dumps(obj))
            stored["metadata"]["resourceVersion"] = self._version
            key = f"{stored['metadata']['namespace']}/{stored['metadata']['name']}"
            self.objects.setdefault(plural, {})[key] = stored

    def drop(self, plural: str, run: str) -> None:
        """Delete an object."""
        self._version = str(next(self._versions))
        del self.objects[plural][run]

    # -- as KubeClient ---------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        accept: str = "",
        timeout_seconds: float,
    ) -> bytes:
        """Answer a request."""
        assert method == "GET"
        assert timeout_seconds > 0
        request = Request(path, dict(query or {}), "PartialObjectMetadataList" in accept)
        self.requests.append(request)
        self.before(request)
        answer = self._answer(request)
        self.alter(answer)
        return json.dumps(answer).encode()

    def read(self, response: bytes, path: str) -> bytes:  # noqa: ARG002 - as a KubeClient
        """Return the body."""
        return response

    def _answer(self, request: Request) -> dict[str, Any]:
        parts = request.path.strip("/").split("/")
        depth = len(parts) if parts[0] == "apis" else len(parts) + 1
        if depth == 2:
            versions = [
                {"version": path.rsplit("/", 1)[1]}
                for path in self.served
                if path.startswith(request.path + "/")
            ]
            if not versions:
                raise KubeNotFoundError("no such group", status=404)
            return {"versions": versions}
        if depth == 3:
            if request.path not in self.served:
                raise KubeNotFoundError("no such version", status=404)
            return {"resources": self.served[request.path]}
        rest = parts[3:] if parts[0] == "apis" else parts[2:]
        namespace = None
        if rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        if not any(item["name"] == rest[0] for items in self.served.values() for item in items):
            raise KubeNotFoundError("the server could not find the requested resource", status=404)
        if len(rest) == 2:
            try:
                return self.objects.get(rest[0], {})[f"{namespace}/{rest[1]}"]
            except KeyError:
                raise KubeNotFoundError("not found", status=404, reason="NotFound") from None
        return self._page(request, rest[0], namespace)

    def _page(self, request: Request, plural: str, namespace: str | None) -> dict[str, Any]:
        if token := request.query["continue"]:
            if token not in self._snapshots:
                raise KubeGoneError("expired", status=410)
            items, version = self._snapshots.pop(token)
        else:
            version = self._version
            items = [
                json.loads(json.dumps(obj))
                for key, obj in sorted(self.objects.get(plural, {}).items())
                if namespace is None or key.startswith(namespace + "/")
            ]
            if request.metadata_only:
                items = [{"metadata": item["metadata"]} for item in items]
        size = min(int(request.query["limit"]), self.page_size)
        page, rest = items[:size], items[size:]
        metadata: dict[str, Any] = {"resourceVersion": version}
        if rest:
            metadata["continue"] = f"t{len(self.requests)}"
            metadata["remainingItemCount"] = len(rest)
            self._snapshots[metadata["continue"]] = (rest, version)
        return {"metadata": metadata, "items": page}

    def forget_snapshots(self) -> None:
        """Make every token that was given out expire."""
        self._snapshots.clear()


def entry(kind: str, plural: str, *, namespaced: bool = True) -> dict[str, Any]:
    """Make an entry of discovery."""
    return {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]}


def forbid(request: Request) -> None:
    """Refuse every request for objects."""
    if request.query:
        raise KubeForbiddenError("stepruns is forbidden", status=403)


def fail(
    error: KubeApiError, *, times: int, when: Callable[[Request], bool] = lambda _: True
) -> Callable[[Request], None]:
    """Raise an error so many times."""
    left = [times]

    def before(request: Request) -> None:
        if left[0] and when(request):
            left[0] -= 1
            raise error

    return before
