"""Where the mark of a run is, which run a mark is about, and what date it has.

Pure: names and listed facts only. A mark has the run directory in its own key, so that marks sort
like the runs that they are about; what they mean says `bubu_storage.retention.marks`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from bubu_storage.backend.types import EPOCH, ListedObject, ObjectInfo
from bubu_storage.retention.rules import has_date
from bubu_storage.retention.spec import run_prefix_of
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "MARKS_PREFIX",
    "VOID_CONTENT",
    "is_mark",
    "mark_date",
    "mark_key",
    "marks_after",
    "run_beside_mark",
    "run_of_mark",
]

MARKS_PREFIX: Final = RESERVED_PREFIX + "retention/marks/"
"""Where marks are."""

VOID_CONTENT: Final = b""
"""Of an object in a mark's place that is no mark."""

_NAME: Final = "mark"


def is_mark(key: str) -> bool:
    """Tell whether a key is that of a mark, void or not."""
    return key.startswith(MARKS_PREFIX) and key.endswith("/" + _NAME)


def mark_key(run_prefix: str) -> str:
    """Return the key of the mark of a run directory."""
    return f"{MARKS_PREFIX}{run_prefix}{_NAME}"


def run_beside_mark(key: str) -> str:
    """Return the directory that a mark is about, in whatever scope; "" if this is no mark."""
    return key[len(MARKS_PREFIX) : -len(_NAME)] if is_mark(key) else ""


def run_of_mark(key: str, scope: str) -> str:
    """Return the run directory in this scope that a mark is about; "" if this is no such mark."""
    run_prefix = run_beside_mark(key)
    return run_prefix if run_prefix_of(run_prefix, scope) == run_prefix else ""


def marks_after(key: str, scope: str) -> str:
    """Return the key before the marks of later runs; a mark may sort behind the members of its run."""
    run_prefix = run_prefix_of(key, scope)
    return mark_key(run_prefix) if run_prefix else MARKS_PREFIX + key


def mark_date(entry: ListedObject | ObjectInfo) -> datetime | None:
    """Return the date of a mark, `EPOCH` if it is void, None if the store gives none."""
    if entry.size_bytes == len(VOID_CONTENT):
        return EPOCH
    return entry.last_modified if has_date(entry.last_modified) else None
