"""What every backend refuses before it does anything: keys, batches, pages and conditions that make no sense.

Pure functions that return what they were given, or raise. All backends share them, so that a
key or a condition is good everywhere or nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bubu_storage.errors import (
    ConfigurationError,
    InvalidKeyError,
    LimitExceededError,
    UnsupportedOperationError,
)

__all__ = [
    "MAX_KEY_BYTES",
    "check_batch",
    "check_conditions",
    "check_copy",
    "check_key",
    "check_page_size",
    "check_prefix",
    "refuse_conditions",
]

MAX_KEY_BYTES: Final = 1024
"""S3's limit for a key, in UTF-8 bytes; all backends share it so that data can move."""

MAX_QUOTED_CHARACTERS: Final = 80
"""How much of a bad key a message repeats."""

MAX_BATCH_DELETE: Final = 1000
"""Keys that one `BatchDeleter.delete_objects` call accepts."""

MAX_PAGE_SIZE: Final = 1000
"""Entries that one page of a listing may be asked for."""


def check_key(key: str) -> str:
    r"""Return ``key`` if it can name an object on every backend.

    Refused: empty; absolute; a segment that is ``..`` (also with ``\`` as separator, as the
    Go implementation judges); over 1,024 UTF-8 bytes; NUL; a lone surrogate.

    Raises:
        InvalidKeyError: with the reason.
    """
    if not key:
        raise InvalidKeyError("an object key must not be empty", key=key)
    _check_text(key, "object key")
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it can begin a key; "" is the whole store.

    Raises:
        InvalidKeyError: with the reason.
    """
    if prefix:
        _check_text(prefix, "prefix")
    return prefix


def check_batch(keys: Sequence[str]) -> Sequence[str]:
    """Return ``keys`` if one `BatchDeleter.delete_objects` call may have so many.

    Raises:
        LimitExceededError: more than 1,000.
        TypeError: one text instead of a sequence of them.
    """
    if isinstance(keys, str):
        raise TypeError("delete_objects takes a sequence of keys, not one key")
    if len(keys) > MAX_BATCH_DELETE:
        raise LimitExceededError(f"{len(keys)} keys in one batch; at most {MAX_BATCH_DELETE} are accepted")
    return keys


def check_conditions(if_match: str, if_none_match: str = "") -> None:
    """Refuse conditions that no store understands; "" is no condition.

    Raises:
        ConfigurationError: both at once, ``*`` as an ETag, another ``if_none_match`` than ``*``, or
            text that no header can carry.
    """
    if if_match and if_none_match:
        raise ConfigurationError("if_match and if_none_match exclude each other; give one of them")
    if if_match == "*":
        raise ConfigurationError("if_match takes an ETag, not '*'")
    if not (if_match.isascii() and if_match.isprintable()):
        raise ConfigurationError(f"if_match is {if_match[:80]!r}; an ETag is printable ASCII")
    if if_none_match not in {"", "*"}:
        raise ConfigurationError(f"if_none_match is {if_none_match[:80]!r}; it must be '*' (no object yet)")


def check_copy(
    source_key: str, destination_key: str, *, content_type: str, metadata: Mapping[str, str] | None
) -> None:
    """Refuse a copy that cannot be made: bad keys, or an object onto itself with nothing changed.

    Raises:
        InvalidKeyError: with the reason.
    """
    check_key(source_key)
    check_key(destination_key)
    if source_key == destination_key and not content_type and metadata is None:
        raise InvalidKeyError(
            f"object {_quoted(source_key)} cannot be copied onto itself with nothing changed; "
            "give another destination, a content type or metadata",
            key=source_key,
        )


def refuse_conditions(*conditions: str) -> None:
    """Refuse any condition, for a store that has none.

    Raises:
        UnsupportedOperationError: one of them is not "".
    """
    if any(conditions):
        raise UnsupportedOperationError("this store has no conditional requests")


def check_page_size(page_size: int) -> int:
    """Return ``page_size`` if a listing accepts it.

    Raises:
        LimitExceededError: it is not 1 to 1,000.
    """
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise LimitExceededError(f"page_size is {page_size}; it must be 1 to {MAX_PAGE_SIZE}")
    return page_size


def _quoted(text: str) -> str:
    # A key can be as long as its sender likes; a message quotes only its beginning.
    return repr(text) if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]!r}…"


def _check_text(text: str, what: str) -> None:
    quoted = _quoted(text)
    if text.startswith("/"):
        raise InvalidKeyError(f"{what} {quoted} is absolute; keys are relative to the store", key=text)
    if ".." in text.replace("\\", "/").split("/"):
        raise InvalidKeyError(f"{what} {quoted} has a '..' segment and could leave its directory", key=text)
    if "\x00" in text:
        raise InvalidKeyError(f"{what} {quoted} holds a NUL character", key=text)
    try:
        length = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"{what} {quoted} is no valid Unicode text", key=text) from error
    if length > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"{what} {quoted} has {length} bytes; stores accept at most {MAX_KEY_BYTES}", key=text
        )
