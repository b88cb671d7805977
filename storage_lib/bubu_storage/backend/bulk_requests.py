"""The requests of a bulk deletion: what goes out together, and what comes back.

Invariant: a request never raises in its thread; whatever happens is in its answer, for the
calling thread to judge.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bubu_storage.backend.bulk_source import Item, Source
from bubu_storage.backend.checks import MAX_BATCH_DELETE
from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    NotSentError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    ThrottledError,
    TransientError,
    UnauthenticatedError,
    UnsupportedOperationError,
)

__all__ = ["FATAL", "Answer", "Batch", "Plan", "Split", "all_denied", "delete_batch", "read_source"]

FATAL: Final = (BucketNotFoundError, UnauthenticatedError, ConfigurationError, NotSentError)
"""Errors that no other request would escape."""

_MAX_CONCURRENCY: Final = 1024
_MAX_FAILED_IN_A_ROW: Final = 3
"""Single deletions that may fail in passing one after the other before the next ones wait as well."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bulk deletion is asked to do.

    Attributes:
        backend: the store.
        concurrency: most deletions in flight.
        batch_size: most keys of one request; 1 = single deletions.
        if_unchanged: compare ETags.

    Raises:
        ConfigurationError: a number is out of range.
    """

    backend: ObjectBackend
    concurrency: int
    batch_size: int
    if_unchanged: bool

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= _MAX_CONCURRENCY:
            raise ConfigurationError(
                f"concurrency is {self.concurrency}; it must be 1 to {_MAX_CONCURRENCY} requests"
            )
        if not 1 <= self.batch_size <= MAX_BATCH_DELETE:
            raise ConfigurationError(f"batch_size is {self.batch_size}; it must be 1 to {MAX_BATCH_DELETE}")


@dataclass(slots=True)
class Split:
    """The pieces of a batch that was refused as a whole: if all of them pass, its size was at fault."""

    left: int
    piece_size: int


@dataclass(slots=True)
class Batch:
    """Objects that go out together.

    Attributes:
        items: the objects.
        attempts: requests for them that failed with an error which may pass.
        singly: delete one by one.
        split: what the batch is a piece of.
    """

    items: list[Item]
    attempts: int = 0
    singly: bool = False
    split: Split | None = None


@dataclass(slots=True)
class Answer:
    """What a thread brings back.

    Attributes:
        generation: of the pacer, when it was sent.
        batch: what was to be deleted; None: something was read.
        read: what was read; None at the end.
        done: how many objects of the batch, from the first on, the store has answered for.
        failed: those of them that are still there.
        requests: how many were sent.
        error: what ended it.
        is_settled: it has been judged, or is being judged.
    """

    generation: int
    batch: Batch | None = None
    read: list[Item] | None = None
    done: int = 0
    failed: dict[str, StorageError] = field(default_factory=dict[str, StorageError])
    requests: int = 0
    error: BaseException | None = None
    is_settled: bool = False


def all_denied(items: Sequence[Item], failed: Mapping[str, StorageError]) -> StorageError | None:
    """Return the first error if every key was denied: many stores answer so to who may delete nothing."""
    errors = [failed.get(item.key) for item in items]
    return errors[0] if all(isinstance(error, PermissionDeniedError) for error in errors) else None


def read_source(source: Source, generation: int) -> Answer:
    """Read the next objects."""
    answer = Answer(generation)
    try:
        answer.read = source.read()
    except BaseException as error:  # noqa: BLE001 - raised by the calling thread
        answer.error = error
    return answer


def delete_batch(
    plan: Plan, batcher: BatchDeleter | None, batch: Batch, generation: int, ending: threading.Event
) -> Answer:
    """Delete objects in one request, or one by one.

    Args:
        plan: what is asked for.
        batcher: the store, if it has batches.
        batch: the objects.
        generation: of the pacer.
        ending: once set, no more single deletions are sent.
    """
    answer = Answer(generation, batch)
    try:
        if batch.singly or batcher is None:
            _delete_singly(plan, batch, answer, ending)
        else:
            answer.requests = 1
            conditions = {item.key: item.etag for item in batch.items} if plan.if_unchanged else None
            keys = [item.key for item in batch.items]
            failed = batcher.delete_objects(keys, if_match=conditions)
            _check_asked_for(failed, keys, plan.backend.name)
            answer.failed = failed
            answer.done = len(batch.items)
    except BaseException as error:  # noqa: BLE001 - raised by the calling thread
        answer.error = error
    return answer


def _check_asked_for(failed: Mapping[str, StorageError], keys: Sequence[str], store: str) -> None:
    """Refuse an answer about other keys: one of ours is still there, and nobody knows which."""
    others = failed.keys() - keys if failed else ()
    for key in sorted(others)[:1]:
        raise StorageError(
            f"{store} cannot delete {key[:80]!r}, which is none of the {len(keys)} keys that were asked for",
            code="InvalidAnswer",
        ) from failed[key]


def _delete_singly(plan: Plan, batch: Batch, answer: Answer, ending: threading.Event) -> None:
    failed_in_a_row = 0
    for item in batch.items:
        if ending.is_set():
            return
        answer.requests += 1
        try:
            plan.backend.delete_object(item.key, if_match=item.etag if plan.if_unchanged else "")
        except ObjectNotFoundError:
            pass
        except (ThrottledError, UnsupportedOperationError, *FATAL):
            raise
        except StorageError as error:
            answer.failed[item.key] = error
            failed_in_a_row += 1 if isinstance(error, TransientError) else -failed_in_a_row
            if failed_in_a_row >= _MAX_FAILED_IN_A_ROW:
                answer.done += 1
                raise
        else:
            failed_in_a_row = 0
        answer.done += 1
