"""Find out what a store really lets us do, by doing it once and cleaning up.

One small object below ``.bubu/probe/`` is written, read back, listed and deleted. The name is
random, so that any number of probes may run at once; whatever happens, the object is deleted.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import CorruptObjectError, ObjectNotFoundError, StorageError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["PROBE_PREFIX", "Capability", "ProbeReport", "probe_backend"]

PROBE_PREFIX: Final = RESERVED_PREFIX + "probe/"
"""Where probe objects live for a moment."""


class Capability(StrEnum):
    """Something that a store was seen to do."""

    READ = "Read"
    WRITE = "Write"
    LIST = "List"
    DELETE = "Delete"
    BULK_DELETE = "BulkDelete"


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The outcome of a probe that worked.

    Attributes:
        latency_seconds: mean time of one operation.
        capabilities: what was seen to work, in the order of `Capability`.
        clock_skew_seconds: the store's clock minus ours; positive when the store is ahead.
    """

    latency_seconds: float
    capabilities: tuple[Capability, ...]
    clock_skew_seconds: float


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
        write: also write and delete. Without it only a listing and, where the store holds an
            object, the reading of one are tried; nothing is changed.
        monotonic: clock for the latency, in seconds.
        now: our wall clock, timezone-aware, for the skew.

    Raises:
        StorageError: the first operation that failed, as the backend raised it.
        CorruptObjectError: what was read is not what was written.
    """
    seen: set[Capability] = set()
    started = monotonic()
    operations = _probe_by_writing(backend, seen) if write else _probe_by_reading(backend, seen)
    latency = (monotonic() - started) / operations
    before = now()
    store_time = backend.server_time()
    ours = before + (now() - before) / 2
    return ProbeReport(
        latency_seconds=latency,
        capabilities=tuple(one for one in Capability if one in seen),
        clock_skew_seconds=(store_time - ours).total_seconds(),
    )


def _probe_by_writing(backend: ObjectBackend, seen: set[Capability]) -> int:
    """Write, read, list and delete one object; return the number of operations."""
    key = PROBE_PREFIX + secrets.token_hex(12)
    data = secrets.token_bytes(64)
    try:
        backend.put_object(key, data, size_bytes=len(data))
        seen.add(Capability.WRITE)
        _check_read(backend, key, data)
        seen.add(Capability.READ)
        _check_listed(backend, key)
        seen.add(Capability.LIST)
        if isinstance(backend, BatchDeleter) and _delete_in_bulk(backend, key):
            seen.add(Capability.BULK_DELETE)
        backend.delete_object(key)
        seen.add(Capability.DELETE)
    except BaseException:
        # The write may have happened although its answer was lost.
        with contextlib.suppress(StorageError):
            backend.delete_object(key)
        raise
    return len(seen)


def _check_read(backend: ObjectBackend, key: str, data: bytes) -> None:
    with backend.get_object(key) as stored:
        echo = stored.read()
    if echo != data:
        raise CorruptObjectError(
            f"{backend.name} returned other bytes than were just written to {key!r}", key=key
        )


def _check_listed(backend: ObjectBackend, key: str) -> None:
    page = next(backend.list_objects(key, page_size=1), None)
    if page is None or page.objects[0].key != key:
        raise StorageError(f"{backend.name} does not list {key!r}, which was just written", key=key)


def _delete_in_bulk(backend: BatchDeleter, key: str) -> bool:
    """Delete by a batch of one; tell whether the store did it, not the backend one by one."""
    failed = backend.delete_objects([key])
    if failed:
        raise failed[key]
    return not getattr(backend, "bulk_delete_is_emulated", False)


def _probe_by_reading(backend: ObjectBackend, seen: set[Capability]) -> int:
    """List, and read an object if there is one; return the number of operations."""
    page = next(backend.list_objects("", page_size=1), None)
    seen.add(Capability.LIST)
    if page is None:
        return 1
    first = page.objects[0]
    # It may be deleted by now, which says nothing against the store.
    with (
        contextlib.suppress(ObjectNotFoundError),
        backend.get_object(first.key, range_header="bytes=0-0" if first.size_bytes else "") as stored,
    ):
        stored.read()
        seen.add(Capability.READ)
    return 2
