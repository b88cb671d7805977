"""Deletes marks, and nothing else: in one request where the store has such a request, else one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import StorageError, ThrottledError, UnsupportedOperationError
from bubu_storage.retention.crew import send_each
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.mark_keys import is_mark

__all__ = ["delete_marks"]


def delete_marks(
    backend: ObjectBackend, gate: Gate, keys: Sequence[str], note_error: Callable[[StorageError, str], None]
) -> list[str]:
    """Delete some marks; return those that may still be there.

    Args:
        backend: the store.
        gate: lets each request through.
        keys: of marks, up to 1,000.
        note_error: told why a mark may still be there, and its key.

    Raises:
        ValueError: a key is no mark's; nothing was deleted.
        PassStoppedError: a limit of the gate is reached, or a permit is gone.
    """
    for key in keys:
        if not is_mark(key):
            raise ValueError(f"{key!r} is no mark")
    if isinstance(backend, BatchDeleter):
        refused = _delete_batch(backend, gate, keys, note_error)
        if refused is not None:
            return refused
    failed: list[str] = []
    for key, answer in send_each(gate, deque(keys), backend.delete_object, gate.turn_to_delete):
        if isinstance(answer, StorageError):
            note_error(answer, key)
            failed.append(key)
    return failed


def _delete_batch(
    batcher: BatchDeleter, gate: Gate, keys: Sequence[str], note_error: Callable[[StorageError, str], None]
) -> list[str] | None:
    """Delete in one request; None if the store has no such request."""
    while True:
        gate.turn_to_delete()
        try:
            failed = batcher.delete_objects(keys)
        except UnsupportedOperationError:
            return None
        except ThrottledError as error:
            gate.back_off(error)
        except StorageError as error:
            note_error(error, keys[0])
            return list(keys)
        else:
            gate.succeeded()
            for key, error in failed.items():
                note_error(error, key)
            return [key for key in keys if key in failed]
