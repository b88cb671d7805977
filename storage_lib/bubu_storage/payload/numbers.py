"""Numbers, booleans and null exactly as Go's ``encoding/json`` writes them.

Python's shortest digits are Go's; the layout is not (``1e+16``, ``1e-07``, ``1.0``). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

from bubu_storage.errors import EncodeError

__all__ = ["NotPlainError", "float_text", "scalar_text", "type_of"]

_MAX_INT_BITS: Final = 1024
_PLAIN_BOUND: Final = 1e21  # Go: plain decimals in 1e-6 <= |x| < 1e21, else an exponent
_PLAIN_FLOOR: Final = 1e-6

type_of: Final = cast("Callable[[Any], type[object]]", type)
"""``type`` with an answer that type checkers can compare."""


class NotPlainError(Exception):
    """A value holds something that `codec.normalize` must replace first. Internal."""


def float_text(value: float) -> str:
    """Return a finite float in Go's layout: shortest digits that read back the same."""
    text = repr(value)
    if "e" not in text:
        return text.removesuffix(".0")
    mantissa, _, exponent_text = text.partition("e")
    exponent = int(exponent_text)
    magnitude = abs(value)
    if not _PLAIN_FLOOR <= magnitude < _PLAIN_BOUND:
        return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent)}"
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = whole + fraction
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return sign + digits.ljust(exponent + 1, "0")


def scalar_text(value: Any) -> tuple[str, bool]:
    """Return the JSON form of null, a boolean or a number, and whether the C encoder agrees.

    Raises:
        EncodeError: NaN, an infinity, or an integer beyond the range of a float64, which no
            reader of the format can take. Without a path; callers add it.
        NotPlainError: any other type.
    """
    kind = type_of(value)
    if kind is int:
        if value.bit_length() > _MAX_INT_BITS or (value.bit_length() == _MAX_INT_BITS and _overflows(value)):
            raise EncodeError("an integer beyond the range of a 64-bit float cannot be read back")
        return str(value), True
    if kind is float:
        if not math.isfinite(value):
            raise EncodeError(f"{value!r} has no JSON form")
        text = repr(value)
        if "e" not in text and not text.endswith(".0"):
            return text, True
        return float_text(value), False
    if value is None:
        return "null", True
    if value is True:
        return "true", True
    if value is False:
        return "false", True
    raise NotPlainError


def _overflows(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return True
    return False
