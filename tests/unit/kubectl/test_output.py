"""How answers are wrapped: for a terminal, and so that what is copied from it is whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.kubectl.output import LABEL_WIDTH, WIDTH, paragraph, row

WORDS = st.lists(st.sampled_from(["a", "to", "--webhook-configuration", "bubu-storage-webhook", "t-0a1b2c"]))


@given(words=WORDS)
def test_no_word_is_broken_and_no_line_is_too_long(words: list[str]):
    """Names of objects and options are full of hyphens."""
    lines = paragraph(" ".join(words), 4, first=2).split("\n")

    assert words == " ".join(lines).split()
    assert all(len(line) <= WIDTH for line in lines)


def test_a_row_stands_beside_its_title():
    """Its further lines, too."""
    first, *others = row("note", "word " * 60)

    assert first.startswith("note".ljust(LABEL_WIDTH) + "word")
    assert others
    assert all(line.startswith(" " * LABEL_WIDTH + "word") for line in others)
