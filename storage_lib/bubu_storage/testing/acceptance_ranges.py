"""The part of the acceptance suite about ranges: which bytes come, and what the answer says about them.

Used through `bubu_storage.testing.acceptance.BackendAcceptance`.
"""

from __future__ import annotations

import random
from typing import ClassVar, Final

import pytest

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import RangeNotSatisfiableError

__all__ = ["IGNORED_RANGES", "RANGES", "RangeAcceptance"]

RANGES: Final[tuple[tuple[str, int, int, bool], ...]] = (
    ("", 0, 1000, False),
    ("bytes=0-99", 0, 100, True),
    ("bytes=0-0", 0, 1, True),
    ("bytes=900-", 900, 100, True),
    ("bytes=-100", 900, 100, True),
    ("bytes=999-", 999, 1, True),
    ("bytes=990-5000", 990, 10, True),
    ("bytes=-5000", 0, 1000, True),
)
"""Range header, first byte, length and whether it is honoured, for an object of 1,000 bytes."""

IGNORED_RANGES: Final = ("bytes=10-5", "lines=0-1", "bytes=0-1,5-6", "bytes=a-b", "bytes", "bytes=-")
"""Range headers that stores ignore: malformed, of another unit, or more than one range."""


class RangeAcceptance:
    """What a read of a part of an object must be seen to do; see `BackendAcceptance`.

    Attributes:
        ignored_ranges: senseless headers to try; leave out only what a store of others cannot bear.
    """

    ignored_ranges: ClassVar[tuple[str, ...]] = IGNORED_RANGES

    @pytest.mark.parametrize(("header", "start", "length", "honoured"), RANGES)
    def test_range(
        self, backend: ObjectBackend, header: str, start: int, length: int, honoured: bool
    ) -> None:
        """A range gives that part, its length, and says which part it is."""
        data = random.Random(3).randbytes(1000)
        backend.put_object("thousand", data)
        with backend.get_object("thousand", range_header=header) as found:
            assert found.read() == data[start : start + length]
            assert found.info.size_bytes == length
            expected = f"bytes {start}-{start + length - 1}/1000" if honoured else ""
            assert found.content_range == expected
        assert found.info.etag == backend.head_object("thousand").etag

    def test_range_that_makes_no_sense(self, backend: ObjectBackend) -> None:
        """It is ignored: the answer is the whole object, and says so."""
        backend.put_object("thousand", bytes(1000))
        for header in self.ignored_ranges:
            with backend.get_object("thousand", range_header=header) as found:
                assert (found.info.size_bytes, found.content_range) == (1000, ""), header
                assert found.read() == bytes(1000)

    def test_range_of_an_empty_object(self, backend: ObjectBackend) -> None:
        """There is no first byte, so no range lies inside."""
        backend.put_object("empty", b"")
        for header in ("bytes=0-0", "bytes=0-", "bytes=0-99"):
            with pytest.raises(RangeNotSatisfiableError):
                backend.get_object("empty", range_header=header)

    def test_range_outside_is_refused(self, backend: ObjectBackend) -> None:
        """A range that starts past the end is an error of its own, and the store goes on."""
        backend.put_object("thousand", bytes(1000))
        for header in ("bytes=1000-", "bytes=1000-1001", "bytes=5000-"):
            with pytest.raises(RangeNotSatisfiableError) as caught:
                backend.get_object("thousand", range_header=header)
            assert caught.value.status == 416
        assert backend.head_object("thousand").size_bytes == 1000
