"""The clock by which a store dates its objects.

The time that a store answers with may be a proxy's, or (file stores) this machine's, while objects are
dated by another. Invariant: nothing is left in the store, unless the process dies between two requests;
`bubu_storage.retention.tidy` clears that away.
"""

from __future__ import annotations

import contextlib
import secrets
from datetime import datetime
from typing import Final

from bubu_storage.backend.types import EPOCH, ObjectBackend
from bubu_storage.errors import StorageError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["CLOCK_PREFIX", "stamped_time"]

CLOCK_PREFIX: Final = RESERVED_PREFIX + "retention/clock/"
"""Where objects are for the moment in which the store dates them."""


def stamped_time(backend: ObjectBackend) -> datetime:
    """Return the date that the store gives to an object written now, in three requests.

    Where it gives none, its own word has to do.

    Raises:
        StorageError: the store failed or refused.
    """
    key = CLOCK_PREFIX + secrets.token_hex(12)
    try:
        backend.put_object(key, b"", size_bytes=0)
        stamped = backend.head_object(key).last_modified
    finally:
        with contextlib.suppress(StorageError):
            backend.delete_object(key)
    return stamped if stamped > EPOCH else backend.server_time()
