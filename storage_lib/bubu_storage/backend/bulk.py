"""Deleting many objects of any backend fast: listing and deleting overlap, batches run side by side.

`delete_prefix` and `delete_keys` are the whole of it. Memory is bounded whatever the number of
objects: a few pages are read ahead, and a report keeps the first failures only.

Invariants:

* only what was asked for is deleted, and never our own area ``.bubu/`` by a prefix: a store that lists
  anything else ends it;
* every object is either deleted, or in the count of failures, or was not reached because the
  operation was stopped: none is lost sight of, whatever the store answers;
* a key that cannot be deleted holds up no other;
* no request is in flight any more when a call returns or raises. Only keys of the caller's that do
  not come are left waiting, in a thread that ends with them or with the program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from bubu_storage.backend.bulk_books import BulkDeleteProgress, BulkDeleteReport, partial_report
from bubu_storage.backend.bulk_engine import SINGLES_AT_A_TIME, Engine
from bubu_storage.backend.bulk_requests import Plan
from bubu_storage.backend.bulk_source import KeySource, ListingSource, Source, is_reserved
from bubu_storage.backend.checks import MAX_BATCH_DELETE, check_prefix
from bubu_storage.backend.types import ListedObject, ObjectBackend
from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "DEFAULT_BULK_CONCURRENCY",
    "BulkDeleteProgress",
    "BulkDeleteReport",
    "delete_keys",
    "delete_prefix",
    "partial_report",
]

DEFAULT_BULK_CONCURRENCY: Final = 16
"""Requests in flight, besides the one that lists."""


def delete_prefix(
    backend: ObjectBackend,
    prefix: str,
    *,
    concurrency: int = DEFAULT_BULK_CONCURRENCY,
    batch_size: int = MAX_BATCH_DELETE,
    on_progress: Callable[[BulkDeleteProgress], object] | None = None,
    if_unchanged: bool = False,
    everything: bool = False,
    stop: threading.Event | None = None,
) -> BulkDeleteReport:
    """Delete all objects whose key begins with a prefix, while they are being listed.

    Objects that are stored meanwhile may or may not be deleted. Our own area ``.bubu/``, of the
    store or of a folder in it, is left alone.

    Args:
        backend: the store.
        prefix: plain text, as for `ObjectBackend.list_objects`: ``a/b`` also deletes ``a/bc``. End
            it with ``/`` to mean a folder.
        concurrency: deletions in flight when all goes well; fewer while the store throttles.
        batch_size: keys of one request, up to 1,000; 1 sends single deletions.
        on_progress: told how far it is, now and then, by the calling thread; what it raises ends
            the operation.
        if_unchanged: delete an object only while it has the ETag that the listing showed; others
            fail with a `PreconditionFailedError`. Some stores silently ignore the condition in
            batches (see `bubu_storage.backend.probe`): use ``batch_size=1`` there.
        everything: required with the prefix "", the whole store; refused with any other.
        stop: once set, nothing more is sent; what is in flight is waited for.

    Raises:
        InvalidKeyError: the prefix is "" without ``everything``, lies in ``.bubu/``, or is none.
        ConfigurationError: a number is out of range, or ``everything`` comes with a prefix.
        StorageError: what the store itself ended it with: the bucket is missing, credentials are
            refused, it fails or throttles throughout. `partial_report` tells what was deleted.
    """
    check_prefix(prefix)
    if not prefix and not everything:
        raise InvalidKeyError(
            f"an empty prefix deletes every object of {backend.name}; pass everything=True to mean it",
            key=prefix,
        )
    if prefix and everything:
        raise ConfigurationError(f"everything=True and the prefix {prefix[:80]!r} contradict each other")
    if is_reserved(prefix):
        raise InvalidKeyError(
            f"prefix {prefix[:80]!r} lies in the reserved area {RESERVED_PREFIX}, which no prefix deletes; "
            "name the keys instead",
            key=prefix,
        )
    plan = Plan(backend, concurrency, batch_size, if_unchanged)
    return _run(plan, ListingSource(backend, prefix), on_progress, stop)


def delete_keys(
    backend: ObjectBackend,
    keys: Iterable[str] | Iterable[ListedObject],
    *,
    concurrency: int = DEFAULT_BULK_CONCURRENCY,
    batch_size: int = MAX_BATCH_DELETE,
    on_progress: Callable[[BulkDeleteProgress], object] | None = None,
    if_unchanged: bool = False,
    stop: threading.Event | None = None,
) -> BulkDeleteReport:
    """Delete the objects of these keys; missing ones count as deleted, as everywhere.

    Args:
        backend: the store.
        keys: keys, or entries of a listing; any length, read a little ahead of the deletions and
            in another thread. A key that comes twice is deleted and counted twice. Keys that do not
            come hold up an end by ``stop`` or by an error for a few seconds only.
        concurrency: as for `delete_prefix`.
        batch_size: as for `delete_prefix`.
        on_progress: as for `delete_prefix`.
        if_unchanged: as for `delete_prefix`; needs entries of a listing.
        stop: as for `delete_prefix`.

    Raises:
        ConfigurationError: a number is out of range.
        TypeError: one text instead of several, or entries that are neither keys nor listed objects.
        StorageError: as for `delete_prefix`; also anything that ``keys`` raises.
    """
    if isinstance(keys, str):
        raise TypeError("delete_keys takes several keys, not one text")
    plan = Plan(backend, concurrency, batch_size, if_unchanged)
    source = KeySource(keys, piece=max(batch_size, SINGLES_AT_A_TIME), need_etags=if_unchanged)
    return _run(plan, source, on_progress, stop)


def _run(
    plan: Plan,
    source: Source,
    on_progress: Callable[[BulkDeleteProgress], object] | None,
    stop: threading.Event | None,
) -> BulkDeleteReport:
    return Engine(plan, source, on_progress, stop).run()
