"""Find out what a store really lets us do, by doing it once and cleaning up.

Two small objects below ``.bubu/probe/`` are written, read back, listed, copied and deleted, with and
without conditions. Their names are random, so that any number of probes may run at once; whatever
happens, they are deleted.

A capability is claimed only if it was seen: of a condition, that a wrong ETag is refused *and* the right
one accepted, for each kind of request by itself, since there are servers that honour conditions of a PUT
and silently ignore those of a deletion. What a store need not have (conditions, copies, batches) is no
failure if it is missing, ignored or refused; only an error that may pass (`TransientError`) is one, since
then nothing was found out. A look at an object that is not there comes before everything else: later the
SDK may have learned another region than the configured one from an error's text, which an answer to HEAD
does not have. Whether old versions are kept is a fact beside these: it is asked once, and
never a failure.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeVar

from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.types import BackendCopier, BatchDeleter, ObjectBackend
from bubu_storage.errors import (
    CorruptObjectError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    TransientError,
)
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "PROBE_PREFIX",
    "VERSIONED",
    "VERSIONED_MEANING",
    "Capability",
    "ProbeReport",
    "is_versioned",
    "probe_backend",
]

PROBE_PREFIX: Final = RESERVED_PREFIX + "probe/"
"""Where probe objects live for a moment."""

VERSIONED: Final = "Versioned"
"""Stands beside capabilities where the store keeps what is deleted; no capability, since nobody needs it."""

VERSIONED_MEANING: Final = (
    "keeps old versions: a deletion hides an object and frees nothing, until a lifecycle rule of the bucket "
    "expires noncurrent versions and delete markers"
)
"""What follows for whoever deletes; goes on after the store's name."""

_WRONG_ETAG: Final = f'"{"0" * 32}"'
"""The MD5 of nothing that anybody would store."""

_T = TypeVar("_T")


class Capability(StrEnum):
    """Something that a store was seen to do."""

    READ = "Read"
    WRITE = "Write"
    LIST = "List"
    DELETE = "Delete"
    BULK_DELETE = "BulkDelete"
    """Many objects in one request, done by the store itself."""
    COPY = "Copy"
    """Copies inside the store."""
    CONDITIONAL_PUT = "ConditionalPut"
    """``if_match`` and ``if_none_match`` of a put; uploads in parts are not tried."""
    CONDITIONAL_DELETE = "ConditionalDelete"
    """``if_match`` of a single deletion."""
    CONDITIONAL_BULK_DELETE = "ConditionalBulkDelete"
    """ETags of the keys of a batch, as listings give them."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The outcome of a probe that worked.

    Attributes:
        latency_seconds: mean time of one request.
        capabilities: what was seen to work, in the order of `Capability`.
        clock_skew_seconds: the store's clock minus ours; positive when the store is ahead.
        versioned: whether the store keeps old versions; None where it does not say.
    """

    latency_seconds: float
    capabilities: tuple[Capability, ...]
    clock_skew_seconds: float
    versioned: bool | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The capabilities as texts, and `VERSIONED` where that was seen."""
        return (*(one.value for one in self.capabilities), *([VERSIONED] if self.versioned else []))


def is_versioned(backend: ObjectBackend) -> bool | None:
    """Ask the store, in one request, whether it keeps old versions; None where it does not say.

    A refusal, an error and a store without such a question all mean the last: nothing is raised.
    """
    ask: Callable[[], bool | None] | None = getattr(innermost(backend), "is_versioned", None)
    if ask is None:
        return None
    try:
        return ask()
    except StorageError:
        return None


def probe_backend(
    backend: ObjectBackend,
    *,
    write: bool = True,
    monotonic: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ProbeReport:
    """Use each operation of a store once and report what works.

    Args:
        backend: the store; stays open.
        write: also write and delete, in about 17 requests. Without it only a look at a key that is not there,
            a listing and, where the store holds an object, the reading of one are tried; nothing is changed.
        monotonic: clock for the latency, in seconds.
        now: our wall clock, timezone-aware, for the skew.

    Raises:
        StorageError: the first operation that failed, as the backend raised it.
        CorruptObjectError: what was read is not what was written.
    """
    seen: set[Capability] = set()
    started = monotonic()
    requests = _WritingProbe(backend, seen).run() if write else _probe_by_reading(backend, seen)
    latency = (monotonic() - started) / requests
    before = now()
    store_time = backend.server_time()
    ours = before + (now() - before) / 2
    return ProbeReport(
        latency_seconds=latency,
        capabilities=tuple(one for one in Capability if one in seen),
        clock_skew_seconds=(store_time - ours).total_seconds(),
        versioned=is_versioned(backend),
    )


class _WritingProbe:
    """One probe that writes: its keys, what was seen, and how many requests that took."""

    def __init__(self, backend: ObjectBackend, seen: set[Capability]) -> None:
        self._backend = backend
        self._seen = seen
        self._base = PROBE_PREFIX + secrets.token_hex(12)
        self._first, self._second = f"{self._base}.1", f"{self._base}.2"
        self._data = secrets.token_bytes(64)
        self._requests = 0

    def run(self) -> int:
        """Try everything and return the number of requests."""
        refusal = self._counted(lambda: _refusal_of_a_look(self._backend, f"{self._base}.0"))
        try:
            etag = self._put(self._first, self._data)
            _raise_if_any(refusal)
            self._seen.add(Capability.WRITE)
            self._check_bytes(self._first)
            self._seen.add(Capability.READ)
            if etag and self._puts_on_conditions(etag):
                self._seen.add(Capability.CONDITIONAL_PUT)
            if isinstance(self._backend, BackendCopier):
                self._try_copy(self._backend)
            left = self._check_listed()
            self._seen.add(Capability.LIST)
            if isinstance(self._backend, BatchDeleter):
                left = self._try_batches(self._backend, left)
            self._try_deletions(left)
        except BaseException:
            # A write may have happened although its answer was lost.
            for key in (self._first, self._second):
                with contextlib.suppress(StorageError):
                    self._backend.delete_object(key)
            raise
        return self._requests

    def _puts_on_conditions(self, etag: str) -> bool:
        """Tell whether the store tells the first object's ETag from a wrong one, and absent from present."""
        first, second, data = self._first, self._second, self._data
        return (
            self._is_refused(lambda: self._put(first, data, if_none_match="*"))
            and self._is_refused(lambda: self._put(first, data, if_match=_WRONG_ETAG))
            and self._is_accepted(lambda: self._put(first, data, if_match=etag))
            and self._is_accepted(lambda: self._put(second, b"to be replaced", if_none_match="*"))
        )

    def _try_copy(self, copier: BackendCopier) -> None:
        if self._is_accepted(lambda: self._counted(lambda: copier.copy_object(self._first, self._second))):
            self._check_bytes(self._second)
            self._seen.add(Capability.COPY)

    def _check_listed(self) -> dict[str, str]:
        listed = self._list()
        if self._first not in listed:
            raise StorageError(
                f"{self._backend.name} does not list {self._first!r}, which was just written", key=self._first
            )
        return listed

    def _try_batches(self, deleter: BatchDeleter, listed: dict[str, str]) -> dict[str, str]:
        """Delete in one batch by a wrong and by a right ETag; where that fails, without any.

        Returns:
            What is left, as `_list` gives it.
        """
        first, second = self._first, self._second
        right = listed.get(second) or self._put(second, self._data)
        failed: dict[str, StorageError] | None = None
        if right:
            wanted = {first: _WRONG_ETAG, second: right}
            with _bearing():
                failed = self._counted(lambda: deleter.delete_objects([first, second], if_match=wanted))
        left = self._list()
        if failed is None or second in left:
            failed = self._counted(lambda: deleter.delete_objects([second]))
            if second in failed:
                raise failed[second]
            left.pop(second, None)
        elif first in left and list(failed) == [first] and isinstance(failed[first], PreconditionFailedError):
            self._see_batches(Capability.CONDITIONAL_BULK_DELETE)
        self._see_batches(Capability.BULK_DELETE)
        return left

    def _see_batches(self, capability: Capability) -> None:
        """Claim what the store did, not what the backend did one by one in its place."""
        if not getattr(innermost(self._backend), "bulk_delete_is_emulated", False):
            self._seen.add(capability)

    def _try_deletions(self, left: dict[str, str]) -> None:
        key = self._first
        etag = left.get(key) or self._put(key, self._data)
        if (
            etag
            and self._is_refused(lambda: self._delete(key, if_match=_WRONG_ETAG))
            and self._is_accepted(lambda: self._delete(key, if_match=etag))
        ):
            self._seen.add(Capability.CONDITIONAL_DELETE)
        for one in {key, *left}:
            self._delete(one)
        self._seen.add(Capability.DELETE)

    # ---- requests

    def _counted(self, act: Callable[[], _T]) -> _T:
        self._requests += 1
        return act()

    def _put(self, key: str, data: bytes, *, if_match: str = "", if_none_match: str = "") -> str:
        return self._counted(
            lambda: self._backend.put_object(
                key, data, size_bytes=len(data), if_match=if_match, if_none_match=if_none_match
            )
        )

    def _delete(self, key: str, *, if_match: str = "") -> None:
        self._counted(lambda: self._backend.delete_object(key, if_match=if_match))

    def _list(self) -> dict[str, str]:
        """Return the ETags of the probe's objects by key."""
        page = self._counted(lambda: next(self._backend.list_objects(self._base), None))
        return {one.key: one.etag for one in page.objects} if page is not None else {}

    def _check_bytes(self, key: str) -> None:
        with self._counted(lambda: self._backend.get_object(key)) as stored:
            echo = stored.read()
        if echo != self._data:
            raise CorruptObjectError(
                f"{self._backend.name} returned other bytes than were just written to {key!r}", key=key
            )

    @staticmethod
    def _is_refused(act: Callable[[], object]) -> bool:
        """Tell whether a request ends with a failed precondition; ignored or not understood is "no"."""
        try:
            with _bearing(PreconditionFailedError):
                act()
        except PreconditionFailedError:
            return True
        return False

    @staticmethod
    def _is_accepted(act: Callable[[], object]) -> bool:
        """Tell whether a request succeeds."""
        with _bearing():
            act()
            return True
        return False


@contextlib.contextmanager
def _bearing(*raised: type[StorageError]) -> Generator[None]:
    """Bear that a store lacks what it need not have; errors that may pass, and ``raised``, come out."""
    try:
        yield
    except (TransientError, *raised):
        raise
    except StorageError:
        return


def _refusal_of_a_look(backend: ObjectBackend, key: str) -> StorageError | None:
    """Ask for an object that is not there; return what is wrong if that is not the answer.

    It is to be raised after a request that works: one that fails has a text as its answer, and so says more.
    "Forbidden" is nothing wrong: it is the answer to those who may read objects and not list them.

    Raises:
        TransientError: nothing was found out, and another request would only wait as long.
    """
    try:
        backend.head_object(key)
    except TransientError:
        raise
    except (ObjectNotFoundError, PermissionDeniedError):
        return None
    except StorageError as error:
        return error
    return None


def _raise_if_any(refusal: StorageError | None) -> None:
    if refusal is not None:
        raise refusal


def _probe_by_reading(backend: ObjectBackend, seen: set[Capability]) -> int:
    """Look, list, and read an object if there is one; return the number of requests."""
    refusal = _refusal_of_a_look(backend, f"{PROBE_PREFIX}{secrets.token_hex(12)}.0")
    page = next(backend.list_objects("", page_size=1), None)
    _raise_if_any(refusal)
    seen.add(Capability.LIST)
    if page is None:
        return 2
    first = page.objects[0]
    # It may be deleted by now, which says nothing against the store.
    with (
        contextlib.suppress(ObjectNotFoundError),
        backend.get_object(first.key, range_header="bytes=0-0" if first.size_bytes else "") as stored,
    ):
        stored.read()
        seen.add(Capability.READ)
    return 3
