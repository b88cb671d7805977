"""What stands in frames: requests, answers and errors, and how each is checked when it is read; pure.

Invariants: an error arrives as the class of the tree that it left as, by name and with its fields,
and as a plain `StorageError` where its class is not known; what is read has the types that it must
have, or the channel is of no use (`FrameError`). Times are whole microseconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import bubu_storage.errors as tree
from bubu_operator.jobpass.frames import FrameError
from bubu_operator.kube.resources import JsonObject
from bubu_operator.kube.scrub import shorten
from bubu_storage.backend.types import ListedObject, ObjectInfo
from bubu_storage.errors import StorageError, ThrottledError

__all__ = [
    "field_of",
    "info_from_wire",
    "info_to_wire",
    "list_from_wire",
    "list_to_wire",
    "read_error",
    "text_map",
    "time_from_wire",
    "time_to_wire",
    "write_error",
]

MAX_ERROR_CHARACTERS: Final = 2000
MAX_CODE_CHARACTERS: Final = 100
MAX_KEY_CHARACTERS: Final = 4096
"""No store has longer ones; runs of 10,000 keys are held, and one stands in a policy's status."""

MAX_TAG_CHARACTERS: Final = 1024
MAX_NUMBER: Final = 1 << 62
"""Of either sign; JSON has no end of its own, and everything that is reckoned with them has one."""

MAX_RETRY_AFTER_SECONDS: Final = 3600.0

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CLASSES: Final[dict[str, type[StorageError]]] = {
    name: found
    for name in tree.__all__
    # Such an error holds another one, which does not travel.
    if name != "CopyError"
    and isinstance(found := getattr(tree, name), type)
    and issubclass(found, StorageError)
}
_ENTRY_FIELDS: Final = 4


def field_of(header: Mapping[str, Any], name: str, kind: type, default: object = None) -> Any:
    """Return a field of a header if it has this type; ``default`` where it is absent.

    Raises:
        FrameError: it has another type, or is absent without a default.
    """
    value = header.get(name, default)
    # In JSON a whole number is also a float; a truth value is no number.
    good = (
        isinstance(value, int | float) and not isinstance(value, bool)
        if kind is float
        else isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
    )
    if not good:
        raise FrameError(f"field {name} is no {kind.__name__}")
    if kind is str:
        _check_text(cast("str", value))
    elif kind in {int, float} and abs(value) > MAX_NUMBER:
        raise FrameError(f"field {name} is out of all measure")
    return value


def text_map(header: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a field that maps texts to texts; {} where it is absent.

    Raises:
        FrameError: it is something else.
    """
    value = cast("dict[Any, Any]", field_of(header, name, dict, {}))
    for key, text in value.items():
        if not isinstance(text, str):
            raise FrameError(f"field {name} does not map texts to texts")
        _check_text(str(key))
        _check_text(text)
    return cast("dict[str, str]", value)


def write_error(error: BaseException, message: str) -> JsonObject:
    """Return the form of an error.

    Args:
        error: what was raised.
        message: its text without secrets.
    """
    known = isinstance(error, StorageError)
    wire: JsonObject = {
        "type": type(error).__name__ if known else StorageError.__name__,
        "message": _sendable(shorten(message, MAX_ERROR_CHARACTERS)),
    }
    if known:
        for name in ("key", "status", "code", "retry_after_seconds"):
            value = getattr(error, name, None)
            if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
                wire[name] = _sendable(value) if isinstance(value, str) else value
    return wire


def read_error(wire: JsonObject) -> StorageError:
    """Return the error that `write_error` described.

    Raises:
        FrameError: it describes none.
    """
    message = shorten(str(field_of(wire, "message", str)), MAX_ERROR_CHARACTERS)
    key = str(field_of(wire, "key", str))[:MAX_KEY_CHARACTERS] if "key" in wire else None
    code = shorten(str(field_of(wire, "code", str)), MAX_CODE_CHARACTERS) if "code" in wire else None
    status = field_of(wire, "status", int) if "status" in wire else None
    kind = _CLASSES.get(str(field_of(wire, "type", str)), StorageError)
    if kind is ThrottledError:
        after = field_of(wire, "retry_after_seconds", float) if "retry_after_seconds" in wire else None
        bounded = None if after is None else min(max(0.0, float(after)), MAX_RETRY_AFTER_SECONDS)
        return ThrottledError(message, key=key, status=status, code=code, retry_after_seconds=bounded)
    return kind(message, key=key, status=status, code=code)


def time_to_wire(when: datetime) -> int:
    """Return a point in time as whole microseconds."""
    return (when - _EPOCH) // _MICROSECOND


def time_from_wire(value: object) -> datetime:
    """Read what `time_to_wire` wrote.

    Raises:
        FrameError: this is no time.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise FrameError("a time that is no whole number")
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        raise FrameError("a time that no calendar has") from None


def list_to_wire(entries: Sequence[ListedObject]) -> list[list[Any]]:
    """Return the entries of a page."""
    return [[entry.key, entry.size_bytes, entry.etag, time_to_wire(entry.last_modified)] for entry in entries]


def list_from_wire(value: object, most: int) -> tuple[ListedObject, ...]:
    """Read what `list_to_wire` wrote.

    Raises:
        FrameError: this is no page of at most so many entries.
    """
    if not isinstance(value, list) or len(cast("list[Any]", value)) > most:
        raise FrameError(f"no page of at most {most} entries")
    entries: list[ListedObject] = []
    for item in cast("list[Any]", value):
        if not isinstance(item, list) or len(cast("list[Any]", item)) != _ENTRY_FIELDS:
            raise FrameError("an entry of a listing that is none")
        key, size, etag, modified = cast("list[Any]", item)
        if type(key) is not str or type(size) is not int or type(etag) is not str or not key:
            raise FrameError("an entry of a listing that is none")
        _check_measures(key, size, etag)
        _check_text(key)
        entries.append(ListedObject(key, size, etag, time_from_wire(modified)))
    return tuple(entries)


def info_to_wire(info: ObjectInfo) -> JsonObject:
    """Return the facts of an object."""
    return {
        "key": info.key,
        "size": info.size_bytes,
        "type": info.content_type,
        "etag": info.etag,
        "modified": time_to_wire(info.last_modified),
        "metadata": dict(info.metadata),
    }


def info_from_wire(value: object) -> ObjectInfo:
    """Read what `info_to_wire` wrote.

    Raises:
        FrameError: these are no facts.
    """
    if not isinstance(value, dict):
        raise FrameError("facts of an object that are none")
    facts = cast("JsonObject", value)
    key, size, etag = field_of(facts, "key", str), field_of(facts, "size", int), field_of(facts, "etag", str)
    content_type = field_of(facts, "type", str)
    _check_measures(key, size, etag + content_type)
    return ObjectInfo(
        key=key,
        size_bytes=size,
        content_type=content_type,
        etag=etag,
        last_modified=time_from_wire(facts.get("modified")),
        metadata=text_map(facts, "metadata"),
    )


def _check_measures(key: str, size: int, tags: str) -> None:
    if not (
        0 <= size <= MAX_NUMBER and len(key) <= MAX_KEY_CHARACTERS and len(tags) <= 2 * MAX_TAG_CHARACTERS
    ):
        raise FrameError("an object that is out of all measure")


def _check_text(text: str) -> None:
    """Refuse what has no UTF-8 form: JSON can hold it, and no key can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FrameError("a text that has no UTF-8 form") from None


def _sendable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode()
