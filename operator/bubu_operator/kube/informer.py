"""A live copy of one kind of object, kept by list + watch in one thread.

Invariants: once `Informer.synced` is set the copy is complete, and change handlers have been
told of all of it. It never empties because the API server is away: it grows stale instead, and
`Informer.age_seconds` says by how much. A forgotten resourceVersion (410) leads to a new list, a
silent connection to a new watch from where the last one was; every failure waits longer than the
one before, with jitter, so that many replicas do not return in step. `Informer.snapshot` never
changes under its reader.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Generic, Self, TypeAlias, TypeVar

from bubu_operator.errors import KubeApiError, KubeGoneError, KubeNotFoundError, KubeUnreachableError
from bubu_operator.kube.client import KubeClient, ObjectList
from bubu_operator.kube.resources import JsonObject, ObjectKey, Resource, key_of
from bubu_operator.kube.watch import WatchEvent, WatchStream

__all__ = ["Change", "ChangeHandler", "Informer", "as_is", "backoff_seconds"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_BASE_SECONDS: Final = 0.5
BACKOFF_MAX_SECONDS: Final = 10.0
"""After an outage of any length the copy is right again this soon."""

PAGE_OBJECTS: Final = 100
"""A tenant's objects may carry 256 KiB of annotations each: a page of 250 such took 260 MiB while it
was parsed, and kept every other thread waiting for 0.3 s (measured)."""

LIST_SECONDS: Final = 30.0
WATCH_SECONDS: Final = 300.0
INACTIVITY_SECONDS: Final = 90.0
SHORT_WATCH_SECONDS: Final = 0.5
"""A watch that lasted this long, or brought an event, starts the back-off anew."""


class Change(StrEnum):
    """What happened to an object; a first list reports everything as added."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"


ChangeHandler: TypeAlias = Callable[[Change, ObjectKey], None]
"""Called in the informer's thread after the copy has changed; must not block."""


def as_is(obj: JsonObject) -> JsonObject:
    """Keep objects as the API sent them: the plain ``transform``."""
    return obj


def backoff_seconds(failures: int, rng: random.Random, *, base: float, maximum: float) -> float:
    """Return the pause after the ``failures``-th failure in a row: exponential, half of it jitter."""
    ceiling = min(maximum, base * 2.0 ** min(max(failures - 1, 0), 32))
    return ceiling * (0.5 + rng.random() / 2)


class Informer(Generic[T]):
    """Keep ``transform(object)`` of every object of a kind.

    A transform keeps memory small or parses once. One that raises leaves the object out and
    logs why: a single odd object must not blind the rest.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        transform: Callable[[JsonObject], T],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        on_change: ChangeHandler | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        inactivity_seconds: float = INACTIVITY_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self.synced = threading.Event()
        self._client = client
        self._resource = resource
        self._transform = transform
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._inactivity_seconds = inactivity_seconds
        self._watch_seconds = watch_seconds
        self._lock = threading.Lock()
        self._objects: dict[ObjectKey, T] = {}
        self._versions: dict[ObjectKey, str] = {}
        self._snapshot: Mapping[ObjectKey, T] | None = None
        self._revision = 0
        self._contact: float | None = None
        self._last_error: KubeApiError | None = None
        self._resume_at = ""
        self._watched_since: float | None = None
        self._events = 0
        self._stop = threading.Event()
        self._stream: WatchStream | None = None
        self._thread: threading.Thread | None = None

    # -- readers -------------------------------------------------------------------------

    def snapshot(self) -> Mapping[ObjectKey, T]:
        """Return the whole copy as an immutable mapping; cheap when nothing has changed."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = MappingProxyType(dict(self._objects))
            return self._snapshot

    def get(self, key: ObjectKey) -> T | None:
        """Return one object's copy, or None."""
        with self._lock:
            return self._objects.get(key)

    @property
    def revision(self) -> int:
        """Counts changes: equal revisions mean equal snapshots (for derived indexes)."""
        return self._revision

    @property
    def last_error(self) -> KubeApiError | None:
        """Why the API server cannot be followed right now, or None."""
        return self._last_error

    @property
    def age_seconds(self) -> float:
        """Seconds since the API server was last heard (object, bookmark or list); inf before the first."""
        contact = self._contact
        return float("inf") if contact is None else max(0.0, self._monotonic() - contact)

    # -- life ----------------------------------------------------------------------------

    def start(self) -> Self:
        """Start following in a thread of its own; `synced` is set after the first whole list."""
        if self._thread is not None:
            raise RuntimeError(f"the informer of {self._resource.plural} is already started")
        self._thread = threading.Thread(
            target=self._run, name=f"informer-{self._resource.plural}", daemon=True
        )
        self._thread.start()
        return self

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the thread and its connection; twice is fine."""
        self._stop.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            failed = False
            self._watched_since = None
            self._events = 0
            try:
                if not self._resume_at:
                    self._relist()
                self._follow()
            except KubeApiError as error:
                if isinstance(error, (KubeGoneError, KubeNotFoundError)):
                    self._resume_at = ""
                self._report(error)
                failed = True
            except Exception:
                # A bug of ours must not end the copy for ever; a fresh list is the safe restart.
                logger.exception("informer of %s failed; listing again", self._resource.plural)
                self._resume_at = ""
                failed = True
            # Streams end at their time; one that ends at once, and brought nothing, would make a hot
            # loop. One that did its work and broke off begins the back-off anew: it must not take
            # longer and longer to return only because a network cuts its connections now and then.
            if self._was_useful():
                failures = int(failed)
            else:
                failures += 1
            if failures and not self._stop.is_set():
                self._pause(failures)

    def _was_useful(self) -> bool:
        since = self._watched_since
        if since is None:
            return False
        return self._events > 0 or self._monotonic() - since >= SHORT_WATCH_SECONDS

    def _pause(self, failures: int) -> None:
        self._stop.wait(
            backoff_seconds(failures, self._rng, base=BACKOFF_BASE_SECONDS, maximum=BACKOFF_MAX_SECONDS)
        )

    def _report(self, error: KubeApiError) -> None:
        if self._stop.is_set():
            return
        changed = self._last_error is None or str(self._last_error) != str(error)
        self._last_error = error
        # Silence and expiry are part of a watch's life; only what is new and real is a warning.
        level = logging.WARNING if changed and not isinstance(error, KubeGoneError) else logging.DEBUG
        logger.log(level, "cannot follow %s: %s", self._resource.plural, error)

    def _heard(self) -> None:
        self._contact = self._monotonic()
        self._last_error = None

    def _relist(self) -> None:
        objects: dict[ObjectKey, T] = {}
        versions: dict[ObjectKey, str] = {}
        resource_version = ""
        for page in self._pages():
            resource_version = page.resource_version
            for item in page.items:
                item.setdefault("kind", self._resource.kind)
                item.setdefault("apiVersion", self._resource.api_version)
                key = key_of(item)
                made = self._made(key, item)
                if made is not None:
                    objects[key] = made
                    versions[key] = _version(item)
        with self._lock:
            before = self._versions
            self._objects, self._versions = objects, versions
            self._snapshot = None
            self._revision += 1
        self._resume_at = resource_version
        self._heard()
        for key, version in versions.items():
            if key not in before:
                self._tell(Change.ADDED, key)
            elif before[key] != version:
                self._tell(Change.MODIFIED, key)
        for key in before.keys() - versions.keys():
            self._tell(Change.DELETED, key)
        # Last of all: what handlers derive from the copy must be whole when readers are let in.
        self.synced.set()

    def _pages(self) -> Iterator[ObjectList]:
        """The list, page by page: only one page's objects are in memory before they are transformed."""
        token = ""
        while not self._stop.is_set():
            page = self._client.list_page(
                self._resource,
                self._namespace,
                label_selector=self._label_selector,
                field_selector=self._field_selector,
                limit=PAGE_OBJECTS,
                continue_token=token,
                timeout_seconds=LIST_SECONDS,
            )
            yield page
            token = page.continue_token
            if not token:
                return
        raise KubeUnreachableError(f"listing {self._resource.plural} was stopped")

    def _follow(self) -> None:
        """Apply events until the stream ends; `_resume_at` is where to go on."""
        seconds = self._watch_seconds * (0.8 + 0.2 * self._rng.random())
        stream = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self._resume_at,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            timeout_seconds=seconds,
            inactivity_seconds=self._inactivity_seconds,
        )
        with self._lock:
            self._stream = stream
        try:
            with stream:
                if self._stop.is_set():
                    return
                self._heard()
                self._watched_since = self._monotonic()
                for event in stream:
                    self._heard()
                    self._apply(event)
                    self._events += 1
                    self._resume_at = event.resource_version or self._resume_at
        finally:
            with self._lock:
                self._stream = None

    def _apply(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        key = key_of(event.object)
        made = None if event.type == "DELETED" else self._made(key, event.object)
        with self._lock:
            known = key in self._objects
            if made is None:
                self._objects.pop(key, None)
                self._versions.pop(key, None)
            else:
                self._objects[key] = made
                self._versions[key] = _version(event.object)
            self._snapshot = None
            self._revision += 1
        if made is None:
            if known:
                self._tell(Change.DELETED, key)
        else:
            self._tell(Change.MODIFIED if known else Change.ADDED, key)

    def _made(self, key: ObjectKey, obj: JsonObject) -> T | None:
        try:
            return self._transform(obj)
        except Exception as error:  # noqa: BLE001 - the transform is the user's; see the class
            logger.warning("%s %s is left out: %s", self._resource.kind, key, error)
            return None

    def _tell(self, change: Change, key: ObjectKey) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(change, key)
        except Exception:
            logger.exception("the change handler of %s failed for %s", self._resource.plural, key)


def _version(obj: JsonObject) -> str:
    metadata: JsonObject = obj.get("metadata") or {}
    return str(metadata.get("resourceVersion") or "")
