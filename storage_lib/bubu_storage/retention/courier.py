"""Carries batches of deletions to a store, several at a time.

Threads only send: what may be sent is decided, and what came back is judged, by the calling thread.
Invariants: each request passes the gate, permits included, right before it is sent; none is sent once
the listing behind it or what is known of owners is too old, or once more is known than it was judged by,
or after `Courier.end`; nothing is in flight after `Courier.close`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, cast

from bubu_storage.backend.bulk_requests import Answer, Batch, Plan, delete_batch
from bubu_storage.backend.bulk_source import Item
from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import StorageError
from bubu_storage.retention.delete import MAX_BATCH_SIZE
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.judge import Judge

if TYPE_CHECKING:
    from bubu_storage.retention.pending import Part

__all__ = ["SINGLES_AT_A_TIME", "Courier", "Parcel", "TooLateError"]

SINGLES_AT_A_TIME: Final = 16
"""Single deletions that one thread sends one after the other."""


class TooLateError(Exception):
    """What the request was based on does not do any more; it was not sent."""


@dataclass(slots=True)
class Parcel(Batch):
    """Members of runs that go out together.

    Attributes:
        parts: whose members the items are, in the same order.
        valid_until: no request is sent later, by the gate's clock.
        version: of the judge, when all members were due; none is sent once it knows more.
        is_unknown: an earlier request for it may have had an effect.
    """

    parts: list[Part] = field(default_factory=list["Part"])
    valid_until: float = 0.0
    version: int = 0
    is_unknown: bool = False

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Parcel:
        """Pack members."""
        items = [
            Item(position, key, size_bytes, etag)
            for pending, start, stop in parts
            for position, (key, size_bytes, etag) in enumerate((pending.members or ())[start:stop], start)
        ]
        return cls(items, parts=list(parts))

    def cut(self, start: int, stop: int) -> Parcel:
        """Return a piece of it."""
        parts: list[Part] = []
        offset = 0
        for part in self.parts:
            first = max(part.start, part.start + start - offset)
            last = min(part.stop, part.start + stop - offset)
            if first < last:
                parts.append(part._replace(start=first, stop=last))
            offset += part.stop - part.start
        return Parcel(
            self.items[start:stop],
            self.attempts,
            self.singly,
            self.split,
            parts=parts,
            valid_until=self.valid_until,
            version=self.version,
            is_unknown=self.is_unknown,
        )


class _Guarded:
    """A store as one parcel sees it: every request passes the gate."""

    def __init__(
        self, backend: ObjectBackend, gate: Gate, judge: Judge, parcel: Parcel, ending: threading.Event
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._judge = judge
        self._parcel = parcel
        self._ending = ending
        self.name = backend.name

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """See `BatchDeleter`."""
        batcher = cast("BatchDeleter", self._backend)
        self._pass()
        wanted = {key: etag for key, etag in if_match.items() if etag} if if_match else None
        failed = batcher.delete_objects(keys, if_match=wanted) if wanted else batcher.delete_objects(keys)
        # Some stores answer about keys that nobody asked for.
        return {key: failed[key] for key in keys if key in failed} if failed else failed

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """See `ObjectBackend`."""
        self._pass()
        if if_match:
            self._backend.delete_object(key, if_match=if_match)
        else:
            self._backend.delete_object(key)

    def _pass(self) -> None:
        self._check_age()
        self._gate.turn_to_delete()
        self._check_age()

    def _check_age(self) -> None:
        # In this order: with a new look at the owners, the version has grown before it counts as fresh.
        if self._ending.is_set() or self._gate.now > self._parcel.valid_until or not self._judge.is_fresh:
            raise TooLateError
        if self._judge.version != self._parcel.version:
            raise TooLateError


class Courier:
    """Sends parcels in threads, which begin with the first of them.

    Args:
        backend: the store.
        gate: lets each request through.
        judge: tells whether what is known of owners is recent enough.
        concurrency: most parcels in flight.
        is_conditional: delete only what still has the ETag that was listed.

    Attributes:
        has_batches: the store takes many keys in one request.
        in_flight: parcels on their way.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        judge: Judge,
        concurrency: int,
        *,
        is_conditional: bool = False,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._judge = judge
        self._is_conditional = is_conditional
        # Where a batch would be deleted one by one inside the call, that is better done side by side.
        is_imitated = getattr(innermost(backend), "bulk_delete_is_emulated", False)
        self.has_batches = isinstance(backend, BatchDeleter) and not is_imitated
        self.in_flight = 0
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="bubu-sweep")
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._ending = threading.Event()
        self._is_staffed = False

    def send(self, parcel: Parcel, generation: int) -> None:
        """Send a parcel; returns at once.

        Raises:
            RuntimeError: the system gives no thread at all, or the interpreter ends.
        """
        self.in_flight += 1
        try:
            self._pool.submit(self._carry, parcel, generation, has_batches=self.has_batches)
        except RuntimeError as error:
            # Where no further thread can be started, the parcel is in line for those that there are. Where
            # the interpreter ends, it is not: nobody would ever answer.
            if not self._is_staffed or "shutdown" in str(error):
                self.in_flight -= 1
                raise
        self._is_staffed = True

    def _carry(self, parcel: Parcel, generation: int, *, has_batches: bool) -> None:
        guarded = _Guarded(self._backend, self._gate, self._judge, parcel, self._ending)
        # Of the store, only the name and the requests to delete are needed.
        plan = Plan(cast("ObjectBackend", guarded), 1, MAX_BATCH_SIZE, self._is_conditional)
        batcher = guarded if has_batches and not parcel.singly else None
        self._answers.put(delete_batch(plan, batcher, parcel, generation, self._ending))

    def receive(self, timeout_seconds: float | None) -> Answer | None:
        """Return an answer, waiting so long if need be; None if there is none."""
        if not self.in_flight:
            return None
        try:
            if timeout_seconds == 0:
                answer = self._answers.get_nowait()
            else:
                answer = self._answers.get(timeout=timeout_seconds)
        except Empty:
            return None
        self.in_flight -= 1
        return answer

    def end(self) -> None:
        """Send nothing more of what is under way."""
        self._ending.set()

    def close(self) -> None:
        """Wait until the threads are gone."""
        self._pool.shutdown(wait=True)
