"""Stored objects: the wrapper ``{"contentType":…,"data":…}`` that is written and read.

Written in one fixed form, byte for byte; read tolerantly (any field order, extra fields,
field names in any case, blanks around). Kind ``raw`` holds text as it is, ``json`` any value.
"""

from __future__ import annotations

from typing import Any, Final

from bubu_storage.payload.codec import encode_measured, encode_string
from bubu_storage.payload.decoder import (
    MalformedJsonError,
    corrupt,
    decode_text,
    repair_surrogates,
    skip_blanks,
    value_at,
)
from bubu_storage.wire import KIND_JSON, KIND_RAW

__all__ = ["decode_stored_object", "encode_stored_json", "encode_stored_text", "read_stored_object"]

_JSON_HEAD: Final = b'{"contentType":"json","data":'
_RAW_HEAD: Final = b'{"contentType":"raw","data":'
_TAIL: Final = b"}"
_HEADS: Final = ((KIND_RAW, _RAW_HEAD.decode("ascii")), (KIND_JSON, _JSON_HEAD.decode("ascii")))
_PIECE_CHARACTERS: Final = 1 << 20
_MISSING: Final = object()


def encode_stored_text(text: str) -> bytes | bytearray:
    """Return the bytes of a raw stored object; ``text`` holds no lone surrogates.

    Long texts are encoded piece by piece into one buffer, so that the peak is little more
    than the result itself.
    """
    if len(text) <= _PIECE_CHARACTERS:
        return b"".join((_RAW_HEAD, encode_string(text).encode("utf-8"), _TAIL))
    body = bytearray(_RAW_HEAD)
    body += b'"'
    for start in range(0, len(text), _PIECE_CHARACTERS):
        piece = encode_string(text[start : start + _PIECE_CHARACTERS])
        body += memoryview(piece.encode("utf-8"))[1:-1]
    body += b'"}'
    return body


def encode_stored_json(value: Any, *, simple: bool) -> bytes:
    """Return the bytes of a json stored object; the value has been measured (see `codec`)."""
    return b"".join((_JSON_HEAD, encode_measured(value, simple=simple).encode("utf-8"), _TAIL))


def decode_stored_object(data: bytes | bytearray | memoryview, key: str) -> Any:
    """Return the value inside a stored object.

    Args:
        data: the object's bytes.
        key: its key, for messages.

    Raises:
        CorruptObjectError: not a stored object; the message has the reason.
        DepthError: nested too deeply.
    """
    return read_stored_object(data, key)[1]


def read_stored_object(data: bytes | bytearray | memoryview, key: str) -> tuple[str, Any]:
    """Return the kind (``json`` or ``raw``) and the value of a stored object; see `decode_stored_object`."""
    return parse_stored_object(decode_text(data), key)


def parse_stored_object(text: str, key: str) -> tuple[str, Any]:
    """`read_stored_object` of bytes that have been decoded, so that they need not be kept meanwhile.

    Raises:
        CorruptObjectError, DepthError: as `decode_stored_object`.
    """
    try:
        kind, value = _read_own_form(text) or _read_wrapper(text, key)
        if kind not in {KIND_JSON, KIND_RAW}:
            raise corrupt(key, f"unknown content type {kind[:40]!r}; it must be 'json' or 'raw'")
        if value is _MISSING:
            raise corrupt(key, "it has no data")
        value = repair_surrogates(value, text)
    except MalformedJsonError as error:
        raise corrupt(key, str(error)) from None
    if kind == KIND_JSON:
        return kind, value
    if value is None:
        return kind, ""
    if not isinstance(value, str):
        raise corrupt(key, "its content type is 'raw' and its data is not a string")
    return kind, value


def _read_own_form(text: str) -> tuple[str, Any] | None:
    """Read what `encode_stored_text` and `encode_stored_json` write; None for anything else."""
    for kind, head in _HEADS:
        if text.startswith(head):
            try:
                value, end = value_at(text, len(head))
            except MalformedJsonError:
                return None  # the careful way has the right message
            return (kind, value) if end == len(text) - 1 and text[end] == "}" else None
    return None


def _read_wrapper(text: str, key: str) -> tuple[str, Any]:
    """Return content type ("" where absent) and data (`_MISSING` where absent)."""
    position = skip_blanks(text, 0)
    if text[position : position + 1] != "{":
        if position == len(text):
            raise corrupt(key, "it is empty")
        value, end = value_at(text, position, ignored=True)
        _expect_end(text, end)
        if value is None:
            return "", _MISSING
        raise corrupt(key, f"it is a JSON {_type_name(value)}, not an object")
    kind: Any = ""
    data: Any = _MISSING
    position = skip_blanks(text, position + 1)
    if text[position : position + 1] == "}":
        _expect_end(text, position + 1)
        return "", _MISSING
    while True:
        name, position = _read_name(text, position)
        field = name.lower()
        position = skip_blanks(text, position)
        if field == "data":
            data, position = value_at(text, position)
        else:
            value, position = value_at(text, position, ignored=True)
            if field == "contenttype" and value is not None:
                # A number that is read over comes as text; its first character tells.
                kind = _content_type(value, text, position, key)
        position = skip_blanks(text, position)
        mark = text[position : position + 1]
        if mark == "}":
            _expect_end(text, position + 1)
            return kind, data
        if mark != ",":
            raise MalformedJsonError(f"expected ',' or '}}' at character {position}")
        position = skip_blanks(text, position + 1)


def _read_name(text: str, position: int) -> tuple[str, int]:
    if text[position : position + 1] != '"':
        raise MalformedJsonError(f"expected a field name in double quotes at character {position}")
    name, position = value_at(text, position)
    position = skip_blanks(text, position)
    if text[position : position + 1] != ":":
        raise MalformedJsonError(f"expected ':' at character {position}")
    return name, position + 1


def _content_type(value: Any, text: str, end: int, key: str) -> str:
    if isinstance(value, str) and text[end - 1] == '"':
        return value
    raise corrupt(key, "its content type is not a string")


def _expect_end(text: str, position: int) -> None:
    if skip_blanks(text, position) != len(text):
        raise MalformedJsonError(f"something follows the object at character {position}")


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, list):
        return "array"
    return "string or number"
