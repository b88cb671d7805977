"""Read JSON as Go's ``encoding/json`` reads it: strict grammar, tolerant text.

Refused, though Python's ``json`` takes them: NaN and Infinity, numbers beyond a float64.
Accepted, though Python's ``json`` does not: broken UTF-8 (U+FFFD for each bad byte) and
nesting up to `MAX_NESTING` whatever the interpreter's recursion limit. Integers keep all
their digits (Go rounds to a float64; keeping them is our one wanted difference), ``-0``
is a float so that its sign survives, lone surrogate escapes become U+FFFD. A float without
a fraction is written as an integer, so it comes back as one.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from bubu_storage.errors import CorruptObjectError, DepthError
from bubu_storage.payload.codec import MAX_NESTING, normalize

__all__ = ["MalformedJsonError", "decode_json", "decode_text", "skip_blanks", "value_at"]

_ERRORS: Final = "bubu_storage.replace_each_byte"
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONSTANTS: Final[tuple[tuple[str, Any], ...]] = (("null", None), ("true", True), ("false", False))
_SAFE_DIGITS: Final = 300
"""An integer text of fewer characters is inside the range of a float64."""


class MalformedJsonError(ValueError):
    """The text is not JSON; the message has the reason and the place, never the content."""


def _replace_one_byte(error: UnicodeError) -> tuple[str, int]:
    """Stand in for one bad byte; the bytes after it get their own chance, as in Go."""
    if isinstance(error, UnicodeDecodeError):
        return "\ufffd", error.start + 1
    raise error


codecs.register_error(_ERRORS, _replace_one_byte)


def decode_text(data: bytes | bytearray | memoryview) -> str:
    """Decode UTF-8 with one U+FFFD for each byte that is part of no valid character."""
    return str(data, "utf-8", _ERRORS)


def _read_int(text: str) -> int | float:
    if len(text) < _SAFE_DIGITS:
        return -0.0 if text == "-0" else int(text)
    _read_float(text)
    return int(text)


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedJsonError("a number is beyond the range of a 64-bit float")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJsonError(f"{name} is not JSON")


_STRICT: Final = json.JSONDecoder(
    parse_int=_read_int, parse_float=_read_float, parse_constant=_refuse_constant
)
_LENIENT: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
"""For values that are read over: their numbers need only look like numbers."""


def skip_blanks(text: str, position: int) -> int:
    """Return the position of the next character that is no JSON white space."""
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def value_at(text: str, position: int, *, ignored: bool = False) -> tuple[Any, int]:
    """Read the one JSON value that begins at a position; lone surrogates may be left in it.

    Args:
        text: the whole document.
        position: of the value's first character.
        ignored: the value will be thrown away; only its grammar matters.

    Returns:
        The value and the position after it.

    Raises:
        MalformedJsonError: there is none.
        DepthError: nested deeper than `MAX_NESTING`.
    """
    try:
        return (_LENIENT if ignored else _STRICT).raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise MalformedJsonError(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        return _Iterative(text, _number_reader(ignored=ignored)).read(position)


def decode_json(data: bytes | str) -> Any:
    """Read one JSON document and nothing after it.

    Raises:
        MalformedJsonError: it is not JSON.
        DepthError: nested deeper than `MAX_NESTING`.
    """
    text = data if isinstance(data, str) else decode_text(data)
    value, end = value_at(text, skip_blanks(text, 0))
    if skip_blanks(text, end) != len(text):
        raise MalformedJsonError(f"something follows the value at character {end}")
    return repair_surrogates(value, text)


def repair_surrogates(value: Any, text: str) -> Any:
    r"""Replace what lone ``\ud800`` escapes in ``text`` left in ``value`` by U+FFFD."""
    if "\\ud" in text or "\\uD" in text:
        return normalize(value)
    return value


def _number_reader(*, ignored: bool) -> Callable[[str, bool], Any]:
    def read(text: str, is_int: bool) -> Any:
        if ignored:
            return text
        return _read_int(text) if is_int else _read_float(text)

    return read


def _new_container(head: str) -> Any:
    return {} if head == "{" else []


class _Iterative:
    """A parser without recursion, for documents that are too deep for the C scanner."""

    def __init__(self, text: str, read_number: Callable[[str, bool], Any]) -> None:
        self._text = text
        self._read_number = read_number

    def read(self, position: int) -> tuple[Any, int]:
        """Read the value at a position; see `value_at`."""
        text = self._text
        # Open containers, each with the key that waits for a value and whether it is a map.
        stack: list[tuple[Any, str, bool]] = []
        while True:
            position = skip_blanks(text, position)
            head = text[position : position + 1]
            if head in {"{", "["}:
                opened = _new_container(head)
                inner = skip_blanks(text, position + 1)
                if text[inner : inner + 1] != ("}" if head == "{" else "]"):
                    if len(stack) >= MAX_NESTING:
                        raise DepthError(f"the document is nested deeper than {MAX_NESTING} levels")
                    key = ""
                    if head == "{":
                        key, inner = self._key(inner)
                    stack.append((opened, key, head == "{"))
                    position = inner
                    continue
                value, position = opened, inner + 1
            else:
                value, position = self._scalar(position, head)
            while stack:
                container, key, is_map = stack[-1]
                if is_map:
                    container[key] = value
                else:
                    container.append(value)
                position = skip_blanks(text, position)
                mark = text[position : position + 1]
                if mark == ",":
                    if is_map:
                        key, position = self._key(skip_blanks(text, position + 1))
                        stack.pop()
                        stack.append((container, key, True))
                    else:
                        position += 1
                    break
                if mark != ("}" if is_map else "]"):
                    raise MalformedJsonError(f"expected ',' or the container's end at character {position}")
                value, position = container, position + 1
                stack.pop()
            else:
                return value, position

    def _key(self, position: int) -> tuple[str, int]:
        if self._text[position : position + 1] != '"':
            raise MalformedJsonError(f"expected a key in double quotes at character {position}")
        key, position = self._scalar(position, '"')
        position = skip_blanks(self._text, position)
        if self._text[position : position + 1] != ":":
            raise MalformedJsonError(f"expected ':' at character {position}")
        return key, position + 1

    def _scalar(self, position: int, head: str) -> tuple[Any, int]:
        if head == '"':
            try:
                return _STRICT.raw_decode(self._text, position)
            except json.JSONDecodeError as error:
                raise MalformedJsonError(f"{error.msg} at character {error.pos}") from None
        for word, constant in _CONSTANTS:
            if self._text.startswith(word, position):
                return constant, position + len(word)
        number = _NUMBER.match(self._text, position)
        if number is None:
            raise MalformedJsonError(f"expected a value at character {position}")
        is_int = number.group(2) is None and number.group(3) is None
        return self._read_number(number.group(), is_int), number.end()


def corrupt(key: str, reason: str) -> CorruptObjectError:
    """Return the error for stored bytes that are no stored object."""
    return CorruptObjectError(f"object {key!r} is not a stored object: {reason}", key=key)
