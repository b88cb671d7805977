"""The ``Range`` header, as object stores read it; shared by the backends that have no server.

Only one range of unit ``bytes`` counts. Anything else (another unit, several ranges,
malformed text, an end before its start) is ignored, as RFC 9110 asks and S3 does: the
answer is then the whole object, and callers see it from the empty content range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bubu_storage.errors import RangeNotSatisfiableError

__all__ = ["ByteRange", "resolve_range"]

_ONE_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]*)-(?P<last>[0-9]*)", re.ASCII)


_LONG_NUMBER: Final = re.compile(r"[0-9]{20,}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The part of an object that a response carries.

    Attributes:
        start: offset of the first byte.
        length: number of bytes.
        content_range: value of the ``Content-Range`` header, "" for the whole object.
    """

    start: int
    length: int
    content_range: str


def resolve_range(range_header: str, *, size_bytes: int, key: str) -> ByteRange:
    """Say which bytes of an object of ``size_bytes`` a range header means.

    Args:
        range_header: as sent, for example ``bytes=0-99``; "" is the whole object.
        size_bytes: length of the whole object.
        key: for the message.

    Raises:
        RangeNotSatisfiableError: the range is well formed and lies outside the object.
    """
    whole = ByteRange(0, size_bytes, "")
    # Longer numbers say nothing more, and Python refuses to read very long ones.
    match = _ONE_RANGE.fullmatch(_LONG_NUMBER.sub(_shortened, range_header.strip()))
    if match is None or (not match["first"] and not match["last"]):
        return whole
    if match["first"]:
        start = int(match["first"])
        stop = min(int(match["last"]) + 1, size_bytes) if match["last"] else size_bytes
        if match["last"] and int(match["last"]) < start:
            return whole
    else:
        start = max(0, size_bytes - int(match["last"]))
        stop = size_bytes
    if start >= size_bytes:
        raise RangeNotSatisfiableError(
            f"range {range_header[:80]!r} lies outside object {key!r} of {size_bytes} bytes",
            key=key,
            status=416,
            code="InvalidRange",
        )
    return ByteRange(start, stop - start, f"bytes {start}-{stop - 1}/{size_bytes}")


def _shortened(number: re.Match[str]) -> str:
    return number[0].lstrip("0")[:20] or "0"
