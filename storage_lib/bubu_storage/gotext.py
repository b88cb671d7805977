"""Numbers and boolean words as Go reads them from the environment.

Python's ``int`` accepts more than Go does (``1_0``, blanks, non-ASCII digits). A value
that one language takes and the other refuses makes two engrams of one workflow behave
differently, so these helpers follow Go to the letter. Pure; durations are in `goduration`.
"""

from __future__ import annotations

import re
from typing import Final

from bubu_storage.goduration import trim_go_space

__all__ = ["parse_go_bool", "parse_go_int"]

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_MAX_DIGITS: Final = 19
_LIMIT: Final = 1 << 63
_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})


def parse_go_int(text: str) -> int:
    """Read a decimal integer as ``strconv.Atoi`` does: ASCII digits, optional sign, 64 bits.

    Raises:
        ValueError: anything else, blanks included.
    """
    if not _INTEGER.fullmatch(text):
        raise ValueError("not a decimal integer")
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS:
        raise ValueError("out of the range of 64 bits")
    value = -int(digits) if text[0] == "-" else int(digits)
    if not -_LIMIT <= value < _LIMIT:
        raise ValueError("out of the range of 64 bits")
    return value


def parse_go_bool(text: str) -> bool:
    """Read a boolean word: 1 true t yes y on, 0 false f no n off; any case, trimmed.

    Raises:
        ValueError: any other word, also a blank one.
    """
    word = trim_go_space(text).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("use true or false (also 1/0, yes/no, on/off)")
