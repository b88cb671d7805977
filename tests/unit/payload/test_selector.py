"""The grammar of selectors; how they are applied is in the vectors and in test_hydrate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import SelectorError
from bubu_storage.payload.selector import WILDCARD, Selection, parse_selector


@pytest.mark.parametrize(
    ("selector", "steps"),
    [
        ("", ()),
        (" . ..", None),
        ("...", ()),
        ("a.b[0].c", ("a", "b", 0, "c")),
        ("..a..b", ("a", "b")),
        ("a[*][-1]", ("a", WILDCARD, -1)),
        ("a[ +01 ]", ("a", 1)),
        ("[2]b", (2, "b")),
        (" a . b ", ("a", "b")),
        ("a]b", ("a]b",)),
        ("*.$", ("*", "$")),
        ("[9223372036854775807]", (9223372036854775807,)),
    ],
)
def test_steps(selector, steps):
    """Dots are skipped, brackets are indices, the rest are names."""
    if steps is None:
        with pytest.raises(SelectorError):
            parse_selector(selector)
    else:
        assert parse_selector(selector) == steps


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("a[", "has no ']'"),
        ("a[1", "has no ']'"),
        ("a[]", "empty index"),
        ("a[ ]", "empty index"),
        *((f"a[{index}]", "invalid index") for index in ("x", "1_0", "1.0", "'k'", "--1", "**", "\u0661")),
        ("a[9223372036854775808]", "invalid index"),
        ("a[" + "9" * 5000 + "]", "invalid index"),
        ("a. .b", "blank field name"),
    ],
)
def test_malformed(selector, reason):
    """The error quotes the selector and says what is wrong."""
    with pytest.raises(SelectorError, match=reason) as caught:
        parse_selector(selector)
    assert repr(selector[:100])[:-1] in str(caught.value)
    assert len(str(caught.value)) < 500


@given(st.text(alphabet="ab.[]*+-01 \t", max_size=15))
def test_total(selector):
    """Every text is a list of steps or a SelectorError; names are never blank."""
    try:
        steps = parse_selector(selector)
    except SelectorError:
        return

    assert all(step.strip() for step in steps if isinstance(step, str))


def test_descriptions():
    """Steps are named in messages as people write them."""
    errors = [Selection("s", "k").error(step, "is odd") for step in ("a", 3, WILDCARD)]
    assert [error.message.partition(": ")[2] for error in errors] == [
        "field 'a' is odd",
        "index [3] is odd",
        "wildcard [*] is odd",
    ]
    assert {error.key for error in errors} == {"k"}
