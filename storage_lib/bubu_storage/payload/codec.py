"""JSON text exactly as Go's ``encoding/json`` writes it, and how long it is.

Compact, keys sorted by code point, ``<`` ``>`` ``&`` U+2028 U+2029 escaped, everything else
beyond ASCII literal, floats in Go's layout, integers with all their digits. Sizes are UTF-8
bytes of that form; they decide what is offloaded, so they must be exact.

The C encoder of the standard library does the work wherever its output is provably the
same: given only exact JSON types, valid Unicode and floats whose ``repr`` has Go's layout,
it differs in the five escapes only, and those characters occur in strings alone. Everything
else (other floats, very deep values) takes the iterative path below.

Invariants: nothing here recurses, so depth is limited by `MAX_NESTING` and not by the
interpreter; a value that has no JSON form is an `EncodeError` that names its JSON path.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_storage.errors import DepthError, EncodeError
from bubu_storage.payload.inline import compact_encoder
from bubu_storage.payload.numbers import NotPlainError, scalar_text, type_of
from bubu_storage.payload.paths import format_json_path

__all__ = [
    "MAX_NESTING",
    "Default",
    "Measure",
    "encode",
    "encode_measured",
    "encode_string",
    "measure",
    "normalize",
    "string_length",
]

Default = Callable[[Any], Any]
"""Turns a value of an unknown type into one that has a JSON form, like json's ``default``."""

MAX_NESTING: Final = 10_000
"""Deepest nesting of one document. Go's decoder stops here too; a stored object's own
braces count, so data inside one has a level less."""

_MAX_DEFAULT_CALLS: Final = 8
_encode_c: Final = compact_encoder(sort_keys=True)
_quote: Final[Callable[[str], str]] = json.encoder.encode_basestring
_LINE_SEPARATORS: Final = ("\u2028", "\u2029")


@dataclass(frozen=True, slots=True)
class Measure:
    """What is known about a value after one walk.

    Attributes:
        length: bytes of its JSON form.
        simple: whether the C encoder writes it correctly.
    """

    length: int
    simple: bool


def _escape(text: str) -> str:
    """Add the escapes that Go has and the C encoder lacks; also fine for whole documents."""
    if "<" in text:
        text = text.replace("<", "\\u003c")
    if ">" in text:
        text = text.replace(">", "\\u003e")
    if "&" in text:
        text = text.replace("&", "\\u0026")
    if not text.isascii():
        if "\u2028" in text:
            text = text.replace("\u2028", "\\u2028")
        if "\u2029" in text:
            text = text.replace("\u2029", "\\u2029")
    return text


def encode_string(text: str) -> str:
    """Return a string's JSON form with its quotes; lone surrogates are the caller's affair."""
    return _escape(_quote(text))


def string_length(text: str) -> int:
    """Return the bytes of a string's JSON form, quotes included.

    Raises:
        NotPlainError: a lone surrogate, which has no UTF-8 form.
    """
    encoded = _quote(text)
    if encoded.isascii():
        length = len(encoded)
    else:
        try:
            length = len(encoded.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise NotPlainError from error
        for separator in _LINE_SEPARATORS:
            if separator in encoded:
                length += 3 * encoded.count(separator)
    for character in "<>&":
        if character in encoded:
            length += 5 * encoded.count(character)
    return length


def measure(value: Any) -> Measure:
    """Measure a value of exact JSON types (dict, list, str, int, float, bool, None).

    Raises:
        NotPlainError: another type, a key that is no ``str``, or a lone surrogate: use `normalize`.
        EncodeError: a number without a JSON form.
        DepthError: nested deeper than `MAX_NESTING`, or containing itself.
    """
    length = 0
    simple = True
    keys: list[Any] = []
    stack: list[Iterator[tuple[Any, Any]]] = [iter([(None, value)])]
    key_lengths: dict[str, int] = {}
    while stack:
        for key, item in stack[-1]:
            kind = type_of(item)
            if kind is str:
                length += string_length(item)
            elif kind is dict or kind is list:
                keys.append(key)
                if len(keys) >= MAX_NESTING:
                    raise too_deep(keys)
                length += container_overhead(item, key_lengths)
                stack.append(pairs_of(item))
                break
            else:
                try:
                    text, plain = scalar_text(item)
                except EncodeError as error:
                    raise located(error, [*keys[1:], key] if keys else []) from None
                length += len(text)
                simple = simple and plain
        else:
            stack.pop()
            if keys:
                keys.pop()
    return Measure(length, simple)


def container_overhead(container: dict[Any, Any] | list[Any], key_lengths: dict[str, int]) -> int:
    """Return the bytes of a map or list without its values; ``key_lengths`` is a cache.

    Raises:
        NotPlainError: a key that is no ``str`` or has a lone surrogate.
    """
    size = len(container)
    length = size + 1 if size else 2
    if isinstance(container, dict):
        length += size
        for key in container:
            known = key_lengths.get(key)
            if known is None:
                if type(key) is not str:
                    raise NotPlainError
                known = key_lengths[key] = string_length(key)
            length += known
    return length


def pairs_of(container: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over a map's keys and values, or a list's indices and elements."""
    if isinstance(container, dict):
        return iter(cast("dict[Any, Any]", container).items())
    return iter(enumerate(cast("list[Any]", container)))


def encode(value: Any, *, default: Default | None = None) -> bytes:
    """Return the JSON form of any value.

    Tuples count as lists, bytes become base64 text, lone surrogates become U+FFFD, and
    subclasses of the JSON types count as what they derive from.

    Args:
        value: what to encode.
        default: see `Default`.

    Raises:
        EncodeError: something in it has no JSON form; names its path.
        DepthError: nested deeper than `MAX_NESTING`, or containing itself.
    """
    try:
        facts = measure(value)
    except NotPlainError:
        value = normalize(value, default=default)
        facts = measure(value)
    return encode_measured(value, simple=facts.simple).encode("utf-8")


def encode_measured(value: Any, *, simple: bool) -> str:
    """Encode a value that has been measured; ``simple`` is what `measure` said."""
    if simple:
        try:
            return _escape(_encode_c(value))
        except RecursionError:
            pass
    return _encode_iteratively(value)


def _encode_iteratively(value: Any) -> str:
    parts: list[str] = []
    stack: list[tuple[Iterator[tuple[Any, Any]], str]] = [(iter([(None, value)]), "")]
    key_texts: dict[str, str] = {}
    first = True
    while stack:
        pairs, closing = stack[-1]
        for key, item in pairs:
            if not first:
                parts.append(",")
            first = False
            if closing == "}":
                text = key_texts.get(key)
                if text is None:
                    text = key_texts[key] = encode_string(key) + ":"
                parts.append(text)
            kind = type_of(item)
            if kind is str:
                parts.append(encode_string(item))
            elif kind is dict:
                parts.append("{")
                stack.append((iter(sorted(item.items(), key=_first)), "}"))
                first = True
                break
            elif kind is list:
                parts.append("[")
                stack.append((pairs_of(item), "]"))
                first = True
                break
            else:
                parts.append(scalar_text(item)[0])
        else:
            stack.pop()
            parts.append(closing)
            first = False
    return "".join(parts)


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def normalize(value: Any, *, default: Default | None = None) -> Any:
    """Copy a value into exact JSON types with valid Unicode.

    Args:
        value: JSON types and their subclasses, tuples, bytes-likes, and what ``default`` knows.
        default: called once for each value of another type; its answer is normalized too.

    Raises:
        EncodeError: an unknown type, a key that is no string; names its path.
        DepthError: nested deeper than `MAX_NESTING`, or containing itself.
    """
    holder: list[Any] = []
    keys: list[Any] = []
    stack: list[tuple[Iterator[tuple[Any, Any]], Any]] = [(iter([(None, value)]), holder)]
    while stack:
        pairs, out = stack[-1]
        for key, given in pairs:
            where = [*keys[1:], key] if keys else []
            item, container = _normalize_one(given, default, where)
            if isinstance(out, dict):
                if not isinstance(key, str):
                    raise EncodeError(
                        f"{format_json_path(keys[1:])}: a key of type {type(key).__name__} has no JSON form; "
                        "make it a string",
                        json_path=format_json_path(keys[1:]),
                    )
                cast("dict[str, Any]", out)[_valid_text(key)] = container if container is not None else item
            else:
                cast("list[Any]", out).append(container if container is not None else item)
            if container is not None:
                keys.append(key)
                if len(keys) >= MAX_NESTING:
                    raise too_deep(keys)
                stack.append((pairs_of(item), container))
                break
        else:
            stack.pop()
            if keys:
                keys.pop()
    return holder[0]


def _normalize_one(item: Any, default: Default | None, where: list[Any]) -> tuple[Any, Any]:
    """Return a scalar and None, or a container and the empty one that receives its copy."""
    for _ in range(_MAX_DEFAULT_CALLS + 1):
        if isinstance(item, str):
            return _valid_text(item), None
        if isinstance(item, dict):
            return cast("dict[Any, Any]", item), {}
        if isinstance(item, (list, tuple)):
            return cast("list[Any]", item), []
        if item is None or isinstance(item, bool):
            return item, None
        if isinstance(item, int):
            return int(item), None
        if isinstance(item, float):
            return float(item), None
        if isinstance(item, (bytes, bytearray, memoryview)):
            return base64.b64encode(bytes(cast("bytes", item))).decode("ascii"), None
        if default is None:
            break
        item = default(item)
    path = format_json_path(where)
    hint = (
        "convert it first, or pass default= to convert it"
        if default is None
        else "what default= returned for it has none either"
    )
    raise EncodeError(
        f"{path}: a value of type {type(item).__name__} has no JSON form; {hint}", json_path=path
    )


def _valid_text(text: str) -> str:
    """Return an exact ``str`` in which U+FFFD stands for each lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return str.__str__(text)


def located(error: EncodeError, keys: list[Any]) -> EncodeError:
    """Return the error with its place in the document in front."""
    path = format_json_path(keys)
    return EncodeError(f"{path}: {error.message}", json_path=path)


def too_deep(keys: list[Any]) -> DepthError:
    """Return the error for a value nested beyond `MAX_NESTING`."""
    path = format_json_path(keys[1:8])
    return DepthError(
        f"the value at {path}… is nested {MAX_NESTING} levels deep or more, or contains itself",
        json_path=path,
    )
