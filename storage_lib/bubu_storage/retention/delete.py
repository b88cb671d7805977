"""Sends deletions and tells exactly which keys were dealt with.

Batches where the store can, single requests where it cannot or where a batch as a whole
is refused, so that one bad key never holds up the others. Invariants:

* keys go out in the order given, and what was dealt with is a leading part of them;
* a key that may have reached the store counts against ``maxDelete``, once;
* a key that failed is reported and passed by; only a store that fails throughout, or that
  cannot be meant (no such bucket, bad credentials), ends the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    NotSentError,
    ObjectNotFoundError,
    StorageError,
    ThrottledError,
    TransientError,
    UnauthenticatedError,
    UnsupportedOperationError,
)
from bubu_storage.retention.gate import Gate, PassStoppedError, stop_of
from bubu_storage.retention.rules import is_reserved

__all__ = ["MAX_BATCH_SIZE", "DeleteResult", "Deleter"]

MAX_BATCH_SIZE: Final = 1000
"""Keys in one request."""

_MAX_TRANSIENT_IN_A_ROW: Final = 3
"""Single deletions that may fail one after the other before the store counts as down."""

_FATAL: Final = (BucketNotFoundError, UnauthenticatedError, NotSentError)
"""Nothing was sent, or nothing that the store carried out; nor will the next request be."""


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What became of a request to delete some keys.

    Attributes:
        done: how many keys, from the first on, were dealt with: deleted or failed.
        failed: those of them that are still there, with the error.
        stop: why the pass must end now, None if it need not.
    """

    done: int
    failed: Mapping[str, StorageError] = field(default_factory=dict[str, StorageError])
    stop: PassStoppedError | None = None


class Deleter:
    """Deletes objects of one store.

    Args:
        backend: the store; its `BatchDeleter` capability is used if it has it.
        gate: lets each request through.
        charge: told how many more objects may have been deleted.
        is_conditional: delete only what still has the ETag that was listed.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        charge: Callable[[int], None],
        *,
        is_conditional: bool = False,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._charge = charge
        self._is_conditional = is_conditional
        self._batcher: BatchDeleter | None = backend if isinstance(backend, BatchDeleter) else None
        # Charged by a batch of unknown outcome; a later request for them is no new deletion.
        self._charged: set[str] = set()
        self._transient_in_a_row = 0

    def note_charged(self, keys: Iterable[str]) -> None:
        """Take note of keys that were charged for elsewhere, by a request of unknown outcome."""
        self._charged.update(keys)

    def delete(
        self,
        keys: Sequence[str],
        *,
        valid_until: float,
        etags: Mapping[str, str] | None = None,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> DeleteResult:
        """Delete leading keys, one batch at most.

        Args:
            keys: in byte order; more than one batch takes are left for the next call.
            valid_until: time of the gate's clock after which the listing that the keys come
                from is too old; at least one request is sent.
            etags: of the keys, as they were listed; where deletions are conditional, a key with
                another one fails with a `PreconditionFailedError`.
            may_go_on: asked whenever a request has waited for its turn; False leaves the rest.

        Returns:
            ``done`` may be 0: the store asked to wait, which has been done, or it may not go on.

        Raises:
            InvalidKeyError: a key of the reserved area; nothing was sent.
        """
        batch = keys[:MAX_BATCH_SIZE]
        if not batch:
            return DeleteResult(0)
        for key in batch:
            if is_reserved(key):
                raise InvalidKeyError(
                    f"{key!r} lies in the reserved area; retention never deletes there", key=key
                )
        conditions: Mapping[str, str] = etags if self._is_conditional and etags else {}
        try:
            if self._batcher is not None:
                result = self._delete_batch(self._batcher, batch, conditions, may_go_on)
                if result is not None:
                    return result
        except PassStoppedError as stop:
            return DeleteResult(0, stop=stop)
        return self._delete_singly(batch, conditions, valid_until, may_go_on)

    def _delete_batch(
        self,
        batcher: BatchDeleter,
        keys: Sequence[str],
        conditions: Mapping[str, str],
        may_go_on: Callable[[], bool],
    ) -> DeleteResult | None:
        """Return the outcome of a batch; None if the keys must be tried one by one."""
        self._gate.turn()
        if not may_go_on():
            return DeleteResult(0)
        self._gate.permit()
        try:
            if conditions:
                wanted = {key: conditions[key] for key in keys if conditions.get(key)}
                answer = batcher.delete_objects(keys, if_match=wanted)
            else:
                answer = batcher.delete_objects(keys)
        except ThrottledError as error:
            self._gate.back_off(error)
            return DeleteResult(0)
        except UnsupportedOperationError:
            self._batcher = None
            return None
        except _FATAL as error:
            return DeleteResult(0, stop=stop_of(error))
        except StorageError:
            self._charge_for(keys)
            self._charged.update(keys)
            return None
        failed = {key: answer[key] for key in keys if key in answer}
        throttled = [error for error in failed.values() if isinstance(error, ThrottledError)]
        if throttled and len(throttled) == len(keys):
            self._gate.back_off(throttled[0])
            return DeleteResult(0)
        unsent = [key for key, error in failed.items() if isinstance(error, NotSentError)]
        if unsent:
            return self._cut_off(keys, failed, unsent)
        self._charge_for(keys)
        if throttled:
            try:
                self._gate.back_off(throttled[0])
            except PassStoppedError as stop:
                return DeleteResult(len(keys), failed, stop)
        else:
            self._gate.succeeded()
        return DeleteResult(len(keys), failed)

    def _cut_off(
        self, keys: Sequence[str], failed: dict[str, StorageError], unsent: Sequence[str]
    ) -> DeleteResult:
        """Return the outcome of a batch of which some keys were not sent, for which there is no going on."""
        refused = frozenset(unsent)
        self._charge_for([key for key in keys if key not in refused])
        # What went behind the first of them is found to be gone by the next pass.
        done = keys.index(unsent[0])
        leading = {key: failed[key] for key in keys[:done] if key in failed}
        return DeleteResult(done, leading, stop_of(failed[unsent[0]]))

    def _delete_singly(
        self,
        keys: Sequence[str],
        conditions: Mapping[str, str],
        valid_until: float,
        may_go_on: Callable[[], bool],
    ) -> DeleteResult:
        failed: dict[str, StorageError] = {}
        for done, key in enumerate(keys):
            if done and self._gate.now > valid_until:
                return DeleteResult(done, failed)
            try:
                self._gate.turn()
                if not may_go_on():
                    return DeleteResult(done, failed)
                self._gate.permit()
                self._delete_one(key, conditions.get(key, ""), failed)
            except ThrottledError as error:
                try:
                    self._gate.back_off(error)
                except PassStoppedError as stop:
                    return DeleteResult(done, failed, stop)
                return DeleteResult(done, failed)
            except _FATAL as error:
                return DeleteResult(done, failed, stop_of(error))
            except PassStoppedError as stop:
                return DeleteResult(done, failed, stop)
            if self._transient_in_a_row >= _MAX_TRANSIENT_IN_A_ROW:
                # The cursor moves past these keys: they may be at fault, not the store.
                return DeleteResult(done + 1, failed, stop_of(failed[key]))
        return DeleteResult(len(keys), failed)

    def _delete_one(self, key: str, etag: str, failed: dict[str, StorageError]) -> None:
        try:
            if etag:
                self._backend.delete_object(key, if_match=etag)
            else:
                self._backend.delete_object(key)
        except (ThrottledError, *_FATAL):
            raise
        except ObjectNotFoundError:
            self._transient_in_a_row = 0
        except StorageError as error:
            failed[key] = error
            self._transient_in_a_row += 1 if isinstance(error, TransientError) else -self._transient_in_a_row
        else:
            self._transient_in_a_row = 0
            self._gate.succeeded()
        self._charge_for((key,))

    def _charge_for(self, keys: Sequence[str]) -> None:
        new = [key for key in keys if key not in self._charged]
        self._charged.difference_update(keys)
        self._charge(len(new))
