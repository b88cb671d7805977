"""Durations are read as Go's ``time.ParseDuration`` reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.goduration import parse_go_duration, parse_go_duration_seconds, trim_go_space


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("300s", 300_000_000_000),
        ("1h2m3s", 3_723_000_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("-5s", -5_000_000_000),
        ("3us", 3_000),
        ("3\u00b5s", 3_000),
        ("3\u03bcs", 3_000),
        ("9223372036854775807ns", 2**63 - 1),
        ("-9223372036854775808ns", -(2**63)),
        ("0000000000000000000000000000000000001s", 1_000_000_000),
    ],
)
def test_accepted(text: str, nanoseconds: int):
    """Each unit, sign and fraction form."""
    assert parse_go_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+", "5", "1d", "1w", "s", ".s", ".", "1 s", " 1s", "1s ", "--1s", "1s-1s", "1S", "٣s"),
        *("9223372036854775808ns", "9999999h", "9" * 5000 + "s"),
    ],
)
def test_refused(text: str):
    """No unit, unknown units, blanks, foreign digits and 64-bit overflow are errors."""
    with pytest.raises(ValueError, match="duration"):
        parse_go_duration(text)


@given(st.text(alphabet="0123456789.hmsunµ +-", max_size=12))
def test_total(text: str):
    """Any text gives a number inside 64 bits or a ValueError."""
    try:
        value = parse_go_duration(text)
    except ValueError:
        return

    assert -(2**63) <= value < 2**63
    assert parse_go_duration_seconds(text) == value / 1e9


def test_blanks_are_gos():
    """U+0085 and U+3000 are blanks for Go; U+001F is one for Python only."""
    assert trim_go_space("\x85\u3000 a \t") == "a"
    assert trim_go_space("\x1fa") == "\x1fa"
