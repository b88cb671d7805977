"""Whole lists from the API server, or an error: pages, tokens, retries, and what is served at all.

Invariants: a list is one snapshot, all of it, or it is not given: a page that is missing, of another
snapshot or of another length than announced starts the list anew, and after some tries fails it; an object
is handed on page by page, so that no list is ever held whole; pages are cut by their bytes; every
failure is an `OwnersUnknownError` that names the list, the cause and the way out.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

from bubu_operator.errors import (
    KubeApiError,
    KubeForbiddenError,
    KubeGoneError,
    KubeNotFoundError,
    KubeThrottledError,
    KubeUnauthorizedError,
    KubeUnreachableError,
)
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, Resource, metadata_of, section
from bubu_operator.owners.census import OwnersProblem
from bubu_operator.owners.kinds import OwnerKind
from bubu_storage.errors import OwnersUnknownError

__all__ = ["Discovery", "Gatherer", "ListLength", "NotServedError", "Traffic"]

FIRST_PAGE: Final = 50
"""Whole objects may have a megabyte each; how large they are here shows the first page."""

FIRST_METADATA_PAGE: Final = 500
MOST_PER_PAGE: Final = 5_000
PAGE_BYTES: Final = 4 << 20
MAX_STARTS: Final = 3
"""A snapshot that expires between two pages is begun anew so often, and no oftener."""

REQUEST_SECONDS: Final = 15.0
RETRY_WAIT_SECONDS: Final = 1.0
DISCOVERY_SECONDS: Final = 30.0
MOST_ANSWERS: Final = 1_000

_LIST: Final = "application/json"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

T = TypeVar("T")


class NotServedError(OwnersUnknownError):
    """The API server does not serve a kind."""


class _OtherSnapshotError(Exception):
    """Two pages do not belong together."""


@dataclass(slots=True)
class Traffic:
    """What was asked of the API server.

    Attributes:
        requests: how many, discovery and retries included.
        received_bytes: of the bodies, as they were before compression.
    """

    requests: int = 0
    received_bytes: int = 0


@dataclass(slots=True)
class ListLength:
    """Watches that a list is as long as its pages announce."""

    announced: int | None = None

    def take(self, count: int, remaining: object, *, is_last: bool) -> None:
        """Note a page of so many objects, and how many are said to remain; the server may not say it.

        Raises:
            _OtherSnapshotError: the page before had announced another number, or the last page announces
                objects that nothing leads to.
        """
        left = remaining if isinstance(remaining, int) else 0 if is_last else None
        if is_last and left:
            raise _OtherSnapshotError(f"its last page leaves out {left} objects")
        if self.announced is not None and left is not None and self.announced != count + left:
            raise _OtherSnapshotError(
                f"{self.announced} objects were announced, {count} came and {left} remain"
            )
        self.announced = left


class Discovery:
    """What an API server has said lately of what it serves; shared by threads.

    It spares policies that are looked at and not due the same few questions again and again. Nothing is
    deleted by it: whoever reads objects asks anew first.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, JsonObject]] = {}

    def get(self, path: str) -> JsonObject | None:
        """Return the answer to a path, None where it is not known, or not any more."""
        with self._lock:
            asked_at, answer = self._answers.get(path, (float("-inf"), None))
        return answer if self._monotonic() - asked_at < DISCOVERY_SECONDS else None

    def put(self, path: str, answer: JsonObject) -> None:
        """Remember an answer; an empty one says that there is nothing."""
        now = self._monotonic()
        with self._lock:
            if len(self._answers) >= MOST_ANSWERS:
                self._answers = {
                    each: known for each, known in self._answers.items() if now - known[0] < DISCOVERY_SECONDS
                }
            if len(self._answers) < MOST_ANSWERS or path in self._answers:
                self._answers[path] = (now, answer)


class Gatherer:
    """Reads lists for one observation; not shared between threads.

    Args:
        client: of the API server.
        monotonic: seconds.
        deadline: on ``monotonic``: no request is sent after it.
        sleep: waits.
        traffic: counted into.
        discovery: remembers what is served; what it knows is not asked again if ``believes``.
        believes: take what ``discovery`` knows for what is.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        deadline: float,
        traffic: Traffic,
        discovery: Discovery | None = None,
        believes: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._deadline = deadline
        self._traffic = traffic
        self._discovery = discovery
        self._believes = believes
        self._monotonic = monotonic
        self._sleep = sleep

    # -- what is served --------------------------------------------------------------------

    def resource_of(self, kind: OwnerKind) -> Resource:
        """Find the resource of a kind.

        Raises:
            NotServedError: the API server does not serve it.
            OwnersUnknownError: it could not be asked, or the kind cannot be listed by namespaces.
        """
        path = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        try:
            answer = self._discover(path)
        except KubeApiError as error:
            raise _unknown(f"cannot find out whether {kind} is served", error) from error
        entries = cast("list[JsonObject]", answer.get("resources") or [])
        found = next(
            (item for item in entries if item.get("kind") == kind.kind and "/" not in str(item.get("name"))),
            None,
        )
        if found is None:
            raise NotServedError(
                f"the API server does not serve {kind}; install what defines it, or take it out of the "
                "policy's spec.owners",
                code=OwnersProblem.UNKNOWN.value,
            )
        if not found.get("namespaced"):
            raise OwnersUnknownError(
                f"{kind} is cluster-scoped; owners of runs live in namespaces: take it out of spec.owners",
                code=OwnersProblem.UNKNOWN.value,
            )
        return Resource(kind.group, kind.version, str(found["name"]), kind.kind)

    def other_versions(self, kind: OwnerKind) -> list[str]:
        """Return the other versions of its group in which a kind is served.

        Raises:
            OwnersUnknownError: it could not be asked.
        """
        try:
            group = self._discover(f"/apis/{kind.group}")
        except KubeApiError as error:
            raise _unknown(f"cannot find out in which versions {kind.key} is served", error) from error
        versions = [
            str(item.get("version")) for item in cast("list[JsonObject]", group.get("versions") or [])
        ]
        served: list[str] = []
        for version in versions:
            other = OwnerKind(kind.group, version, kind.kind)
            try:
                self.resource_of(other)
            except NotServedError:
                continue
            served.append(version)
        return served

    def _discover(self, path: str) -> JsonObject:
        """Return what discovery says; nothing where there is nothing."""
        known = self._discovery.get(path) if self._discovery is not None and self._believes else None
        if known is not None:
            return known
        try:
            answer = self._get(path)
        except KubeNotFoundError:
            answer = {}
        if self._discovery is not None:
            self._discovery.put(path, answer)
        return answer

    # -- objects ---------------------------------------------------------------------------

    def check_list(self, resource: Resource, namespace: str | None) -> None:
        """Make sure that a list can be read, by the first of its objects, or that it could be lately.

        Raises:
            OwnersUnknownError: it cannot.
        """
        where = f"namespace {namespace}" if namespace else "all namespaces"
        path = resource.path(namespace)
        if self._discovery is not None and self._believes and self._discovery.get(path) is not None:
            return
        try:
            self._get(path, query={"limit": "1", "continue": ""}, accept=_METADATA_LIST)
        except KubeApiError as error:
            what = f"cannot list {resource.plural}.{resource.group or 'core'} in {where}"
            raise _unknown(what, error, resource, "list") from error
        if self._discovery is not None:
            self._discovery.put(path, {})

    def read_list(
        self,
        resource: Resource,
        namespace: str | None,
        convert: Callable[[JsonObject], T],
        *,
        metadata_only: bool = False,
    ) -> list[T]:
        """Read a whole list, all of one snapshot, and return what is made of each object.

        Raises:
            NotServedError: there is no such kind any more.
            OwnersUnknownError: there is no complete list.
        """
        where = f"namespace {namespace}" if namespace else "all namespaces"
        what = f"cannot list {resource.plural}.{resource.group or 'core'} in {where}"
        problem: Exception | None = None
        for _ in range(MAX_STARTS):
            try:
                return self._read_once(resource, namespace, convert, metadata_only=metadata_only)
            except (KubeGoneError, _OtherSnapshotError) as error:
                problem = error
            except KubeNotFoundError as error:
                raise NotServedError(
                    f"{what}: the API server does not serve it any more", code=OwnersProblem.UNKNOWN.value
                ) from error
            except KubeApiError as error:
                raise _unknown(what, error, resource, "list") from error
        raise OwnersUnknownError(
            f"{what}: begun {MAX_STARTS} times and never complete ({problem}); the next pass tries again",
            code=OwnersProblem.UNKNOWN.value,
        ) from problem

    def read_object(self, resource: Resource, namespace: str, name: str) -> JsonObject | None:
        """Read one object; None if it is gone.

        Raises:
            OwnersUnknownError: it could not be read.
        """
        path = f"{resource.path(namespace)}/{quote(name, safe='')}"
        try:
            return self._get(path)
        except KubeNotFoundError:
            return None
        except KubeApiError as error:
            what = f"cannot read {resource.plural}.{resource.group or 'core'} {namespace}/{name}"
            raise _unknown(what, error, resource, "get") from error

    def _read_once(
        self,
        resource: Resource,
        namespace: str | None,
        convert: Callable[[JsonObject], T],
        *,
        metadata_only: bool,
    ) -> list[T]:
        limit = FIRST_METADATA_PAGE if metadata_only else FIRST_PAGE
        result: list[T] = []
        length = ListLength()
        token = snapshot = ""
        while True:
            before = self._traffic.received_bytes
            page = self._get(
                resource.path(namespace),
                query={"limit": str(limit), "continue": token},
                accept=_METADATA_LIST if metadata_only else _LIST,
            )
            metadata = section(page, "metadata")
            version = str(metadata.get("resourceVersion") or "")
            if not version or snapshot not in {"", version}:
                raise _OtherSnapshotError("its pages are of different times")
            snapshot = version
            items = _items(page)
            result += map(convert, items)
            token = str(metadata.get("continue") or "")
            length.take(len(items), metadata.get("remainingItemCount"), is_last=not token)
            if not token:
                return result
            received = self._traffic.received_bytes - before
            limit = max(1, min(MOST_PER_PAGE, PAGE_BYTES * max(1, len(items)) // received))

    # -- requests --------------------------------------------------------------------------

    def _get(self, path: str, *, query: dict[str, str] | None = None, accept: str = _LIST) -> JsonObject:
        """Ask once, and once more where that may help."""
        try:
            return self._ask(path, query, accept)
        except KubeThrottledError as error:
            self._sleep(min(RETRY_WAIT_SECONDS, error.retry_after_seconds or RETRY_WAIT_SECONDS))
        except KubeUnreachableError:
            self._sleep(RETRY_WAIT_SECONDS / 4)
        return self._ask(path, query, accept)

    def _ask(self, path: str, query: dict[str, str] | None, accept: str) -> JsonObject:
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise OwnersUnknownError(
                "the API server takes too long to list the owners; the next pass tries again",
                code=OwnersProblem.UNKNOWN.value,
            )
        self._traffic.requests += 1
        response = self._client.send(
            "GET", path, query=query, accept=accept, timeout_seconds=min(REQUEST_SECONDS, left)
        )
        data = self._client.read(response, path)
        self._traffic.received_bytes += len(data)
        try:
            answer: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise KubeUnreachableError(f"GET {path}: the answer is no JSON") from error
        if not isinstance(answer, dict):
            raise KubeUnreachableError(f"GET {path}: the answer is no object")
        return cast("JsonObject", answer)


def _items(page: JsonObject) -> list[JsonObject]:
    """Return the objects of a page, each of which has a name."""
    items: Any = page.get("items", "")
    objects = cast("list[Any]", [] if items is None else items)
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):  # pyright: ignore[reportUnnecessaryIsInstance] - it came over the wire
        raise KubeUnreachableError("the answer is no list of objects")
    if not all(metadata_of(item).get("name") for item in objects):
        raise KubeUnreachableError("the answer holds an object without a name")
    return objects


def _unknown(
    what: str, error: KubeApiError, resource: Resource | None = None, verb: str = ""
) -> OwnersUnknownError:
    """Say what cannot be known, why, and what helps."""
    text = f"{what}: {error}"
    if isinstance(error, KubeForbiddenError | KubeUnauthorizedError) and resource is not None:
        text = (
            f"{what}: the controller's account may not {verb} it. Grant it verbs get and list on resource "
            f"{resource.plural} of apiGroup {resource.group!r}, by a ClusterRole as in controller-rbac.yaml "
            f"({error})"
        )
    return OwnersUnknownError(text, code=OwnersProblem.UNKNOWN.value)
