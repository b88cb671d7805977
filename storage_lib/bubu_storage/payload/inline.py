"""The short way for what stays inline: short, shallow data of exact JSON types, without references.

Most of what engrams return is small. Such a value needs no decision about its parts, only a
copy and its length, and the C encoder of the standard library tells the length: it differs
from Go's form in five escapes, which can be counted, and in floats without a fraction, which
are counted while copying. Whatever is not certain is left to the walk of `dehydrate`.

Invariants: the answer is the walk's own, or None; the work for a value that does not stay
inline is limited by the room that it did not fit into, and in sum by `_CREDIT`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

from bubu_storage.payload.numbers import type_of
from bubu_storage.wire import STORAGE_REF_KEY

__all__ = ["InlineCopier", "compact_encoder"]

_MAX_LEVELS: Final = 64  # it calls itself
_MAX_BYTES: Final = 1 << 22  # all of it is in memory twice for a moment
_CREDIT: Final = 10_000
_INT_BOUND: Final = 1 << 1023
_PLAIN_FLOAT: Final = 1e16  # from here on, and below 1e-4, repr has an exponent
_PLAIN_FLOAT_FLOOR: Final = 1e-4
_ESCAPED: Final = (("<", 5), (">", 5), ("&", 5), ("\u2028", 3), ("\u2029", 3))


class _NotInlineError(Exception):
    """The walk must decide."""


def compact_encoder(*, sort_keys: bool) -> Callable[[Any], str]:
    """Return a function that writes compact JSON, like ``json.JSONEncoder(…).encode``.

    The encoder object of the standard library is made once instead of once a call where the
    interpreter lets us, and only if it gives the same.
    """
    slow = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=sort_keys, separators=(",", ":")
    ).encode
    parts = json.encoder
    probe: dict[str, Any] = {"b": [1, -1.5, None, True, "\n<é\U0001f600"], "a": {}}
    try:
        make: Any = getattr(parts, "c_make_encoder")  # noqa: B009 - not in the type stubs
        write = make(None, _refuse, parts.encode_basestring, None, ":", ",", sort_keys, False, False)
        if "".join(write(probe, 0)) != slow(probe):
            return slow
    except (AttributeError, TypeError):
        return slow
    return lambda value: "".join(write(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encode: Final = compact_encoder(sort_keys=False)


class InlineCopier:
    """Copies what stays inline; for one walk.

    Args:
        max_bytes: longest JSON form that stays inline.
    """

    __slots__ = ("_credit", "_fraction_bytes", "_max_bytes", "_room", "_simple", "_visited")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = min(max_bytes, _MAX_BYTES)
        self._credit = _CREDIT
        self._room = 0
        self._visited = 0
        self._fraction_bytes = 0
        self._simple = True

    def copy(self, container: Any, levels: int) -> tuple[Any, int, bool] | None:
        """Copy a map or list if it stays inline as it is.

        Args:
            container: of type ``dict`` or ``list``.
            levels: how many levels of values may lie below it.

        Returns:
            The copy, the bytes of its JSON form, and whether the C encoder writes that form
            (see `codec.Measure`); None where the walk must decide.
        """
        if self._credit <= 0:
            return None
        self._room = self._max_bytes
        self._visited = 1
        self._fraction_bytes = 0
        self._simple = True
        try:
            copied = self._copy(container, min(levels, _MAX_LEVELS))
            text = _encode(copied)
            length = len(text) if text.isascii() else len(text.encode("utf-8"))
        except (_NotInlineError, ValueError):
            # ValueError: a lone surrogate, NaN, or an integer too long to be written.
            self._credit -= self._visited
            return None
        for character, extra in _ESCAPED:
            if character in text:
                length += extra * text.count(character)
        length -= self._fraction_bytes
        if length > self._max_bytes:
            self._credit -= self._visited
            return None
        self._credit += self._visited
        return copied, length, self._simple

    def _copy(self, container: Any, levels: int) -> Any:
        size = len(container)
        room = self._room - 2 * size  # a value and its comma or bracket at least
        if room < 0 or (size and levels <= 0):
            raise _NotInlineError
        self._visited += size
        is_map = type_of(container) is dict
        if is_map:
            if STORAGE_REF_KEY in container:
                raise _NotInlineError
            for key in container:
                if type_of(key) is not str:
                    raise _NotInlineError
        values: list[Any] = []
        for item in container.values() if is_map else container:
            kind = type_of(item)
            value = item
            if kind is str:
                room -= len(item)
                if room < 0:
                    raise _NotInlineError
            elif kind is int:
                if not -_INT_BOUND < item < _INT_BOUND:
                    raise _NotInlineError
            elif kind is dict or kind is list:
                self._room = room
                value = self._copy(item, levels - 1)
                room = self._room
            elif kind is float:
                if item.is_integer():
                    self._simple = False
                    self._fraction_bytes += 2  # Go leaves out ".0"
                if item and not _PLAIN_FLOAT_FLOOR <= abs(item) < _PLAIN_FLOAT:
                    raise _NotInlineError
            elif item is not None and kind is not bool:
                raise _NotInlineError
            values.append(value)
        self._room = room
        return dict(zip(container, values, strict=True)) if is_map else values
