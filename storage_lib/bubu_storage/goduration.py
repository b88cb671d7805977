"""Durations and blanks as Go reads them: ``300s``, ``1h2m3s``, ``1.5h``.

Environment variables and ApplyEnv's timeout are read by Go and by us; both must accept
and refuse the same texts. Values are whole nanoseconds inside the signed 64-bit range.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GO_BLANKS", "parse_go_duration", "parse_go_duration_seconds", "trim_go_space"]

GO_BLANKS: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's ``strings.TrimSpace`` takes off (Python's ``str.strip()`` also takes U+001C to U+001F)."""

_UNIT_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT: Final = 1 << 63
_MAX_DIGITS: Final = 30
"""Beyond 64 bits already; bounds the work on a hostile text."""
_NANOSECONDS_PER_SECOND: Final = 1_000_000_000


def trim_go_space(text: str) -> str:
    """Take blanks off both ends, by Go's idea of a blank."""
    return text.strip(GO_BLANKS)


def parse_go_duration(text: str) -> int:
    """Read a Go duration.

    Args:
        text: optional sign, then one or more decimal numbers each with a unit of
            ``ns us µs ms s m h``; ``0`` may stand alone. Blanks are not allowed.

    Returns:
        Whole nanoseconds, negative for a negative duration.

    Raises:
        ValueError: the text is no duration, or is over 64-bit nanoseconds.
    """
    rest = text
    negative = False
    if rest[:1] in ("+", "-"):
        negative = rest[0] == "-"
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"invalid duration {text!r}")
    total = 0
    while rest:
        nanoseconds, rest = _read_term(text, rest)
        total += nanoseconds
        if total > _LIMIT:
            raise ValueError(f"duration {text!r} is out of range")
    if negative:
        return -total
    if total == _LIMIT:
        raise ValueError(f"duration {text!r} is out of range")
    return total


def parse_go_duration_seconds(text: str) -> float:
    """Read a Go duration as seconds; see `parse_go_duration`.

    Raises:
        ValueError: the text is no duration.
    """
    return parse_go_duration(text) / _NANOSECONDS_PER_SECOND


def _read_term(text: str, rest: str) -> tuple[int, str]:
    """Take one number with its unit off the front; returns its nanoseconds and what follows."""
    whole, rest = _take_digits(rest)
    fraction = ""
    if rest[:1] == ".":
        fraction, rest = _take_digits(rest[1:])
    if not whole and not fraction:
        raise ValueError(f"invalid duration {text!r}")
    length = 0
    while length < len(rest) and rest[length] != "." and rest[length] not in "0123456789":
        length += 1
    if not length:
        raise ValueError(f"missing unit in duration {text!r}")
    unit, rest = rest[:length], rest[length:]
    scale = _UNIT_NANOSECONDS.get(unit)
    if scale is None:
        raise ValueError(f"unknown unit {unit!r} in duration {text!r}")
    if len(whole.lstrip("0")) > _MAX_DIGITS:
        raise ValueError(f"duration {text!r} is out of range")
    nanoseconds = int(whole or "0") * scale
    if fraction:
        digits = fraction[:_MAX_DIGITS]
        nanoseconds += int(digits) * scale // 10 ** len(digits)
    if nanoseconds > _LIMIT:
        raise ValueError(f"duration {text!r} is out of range")
    return nanoseconds, rest


def _take_digits(text: str) -> tuple[str, str]:
    """Split leading ASCII digits off."""
    length = 0
    while length < len(text) and text[length] in "0123456789":
        length += 1
    return text[:length], text[length:]
