"""JSON text as Go's encoding/json writes it, with its exact length."""

from __future__ import annotations

import enum
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bubu_storage.errors import DepthError, EncodeError
from bubu_storage.payload.codec import (
    MAX_NESTING,
    encode,
    encode_measured,
    encode_string,
    measure,
    normalize,
    string_length,
)
from bubu_storage.payload.numbers import float_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1e15, "1000000000000000"),
        (1e16, "10000000000000000"),
        (1.5e16, "15000000000000000"),
        (123456789012345680.0, "123456789012345680"),
        (1e20, "100000000000000000000"),
        (9.999999999999999e20, "999999999999999900000"),
        (1e21, "1e+21"),
        (-1e21, "-1e+21"),
        (1.5e300, "1.5e+300"),
        (1e-6, "0.000001"),
        (-1.25e-5, "-0.0000125"),
        (9.99e-7, "9.99e-7"),
        (1e-7, "1e-7"),
        (2.5e-10, "2.5e-10"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_floats(value, text):
    """Plain decimals from 1e-6 to below 1e21, Go's exponent form elsewhere."""
    assert float_text(value) == text
    assert encode(value) == text.encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e21)
@example(1e-7)
def test_floats_read_back(value):
    """Whatever the layout, the number is the same, sign of zero included."""
    again = float(float_text(value))

    assert (again, math.copysign(1, again)) == (value, math.copysign(1, value))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<>&", r'"\u003c\u003e\u0026"'),
        ("\u2028\u2029", r'"\u2028\u2029"'),
        ('"\\/', r'"\"\\/"'),
        ("\b\f\n\r\t", r'"\b\f\n\r\t"'),
        ("\x00\x0b\x1f", r'"\u0000\u000b\u001f"'),
        ("\x7f\x80é\ufffe😀", '"\x7f\x80é\ufffe😀"'),
        ("\ud800a\udc00", '"\ufffda\ufffd"'),
    ],
)
def test_strings(value, text):
    """Escapes are Go's; everything else is literal UTF-8; a lone surrogate is U+FFFD."""
    assert encode(value) == text.encode("utf-8")
    assert encode({value: 1}) == b"{" + text.encode("utf-8") + b":1}"


def test_integers_keep_all_digits():
    """Beyond 2^53 and beyond 64 bits."""
    assert (
        encode([2**53 + 1, -(2**64), 10**29])
        == b"[9007199254740993,-18446744073709551616,1" + b"0" * 29 + b"]"
    )


def test_keys_are_sorted_by_code_point():
    """U+FFFF comes before an emoji, as its UTF-8 bytes do (and UTF-16 would not)."""
    assert (
        encode({"😀": 1, "\uffff": 2, "a": 3, "Z": 4, "é": 5})
        == '{"Z":4,"a":3,"é":5,"\uffff":2,"😀":1}'.encode()
    )


def test_surrogate_keys_are_replaced_before_sorting():
    """U+FFFD sorts after U+E000, the surrogate itself would come before."""
    assert encode({"\ud800": 1, "\ue000": 2}) == '{"\ue000":2,"\ufffd":1}'.encode()


class Colour(enum.StrEnum):
    """A text that is also an enum."""

    RED = "red"


class Size(enum.IntEnum):
    """A number that is also an enum."""

    BIG = 7


class Price(float):
    """A number of a type of its own."""


def test_subclasses_count_as_what_they_are():
    """Enums, float subclasses, tuples and dict subclasses need no conversion."""

    class Fields(dict):
        pass

    assert encode(Fields({Colour.RED: (Size.BIG, Price(1.5), True)})) == b'{"red":[7,1.5,true]}'
    assert normalize((Colour.RED,)) == ["red"]
    assert type(normalize((Colour.RED,))[0]) is str


def test_bytes_become_base64():
    """As Go writes a byte slice."""
    assert encode([b"\x00\xff", bytearray(b"a"), memoryview(b"bc")]) == b'["AP8=","YQ==","YmM="]'
    assert encode(memoryview(b"b-c")[::2]) == b'"YmM="'


def test_default_converts_unknown_types():
    """Its answer is encoded like any value, also when that holds unknown types again."""
    assert encode({"a": {1, 2}}, default=sorted) == b'{"a":[1,2]}'
    assert encode(Exception("x"), default=lambda item: item.args) == b'["x"]'
    assert (
        encode(3 + 0j, default=lambda item: {item} if isinstance(item, complex) else [str(item)])
        == b'["{(3+0j)}"]'
    )


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (math.nan, "$", "nan has no JSON form"),
        ({"a": [1, {"b c": math.inf}]}, '$.a[1]["b c"]', "inf has no JSON form"),
        ([[-math.inf]], "$[0][0]", "-inf"),
        ({"a": {1, 2}}, "$.a", "type set"),
        ([object()], "$[0]", "type object"),
        ({"a": {1: 2}}, "$.a", "key of type int"),
        ({None: 1}, "$", "key of type NoneType"),
        ({"n": 10**400}, "$.n", "beyond the range"),
        ([2**1024], "$[0]", "beyond the range"),
        ([2**1024 - 1], "$[0]", "beyond the range"),
        ({"t": (math.nan,)}, "$.t[0]", "nan"),
    ],
)
def test_what_has_no_json_form(value, path, words):
    """The error names the place and the reason, and suggests what to do about types."""
    with pytest.raises(EncodeError, match=words) as caught:
        encode(value)

    assert caught.value.json_path == path
    assert str(caught.value).startswith(path)


def test_default_that_does_not_help():
    """A default that gives back what it got is named as the culprit."""
    with pytest.raises(EncodeError, match="what default= returned"):
        encode({1}, default=lambda item: item)


def test_integers_at_the_edge_of_a_float():
    """The largest integer that every reader can take is written, one more is not."""
    largest = int(1.7976931348623157e308)
    assert encode(largest) == str(largest).encode()


def deep(levels, kind=list):
    """Nested lists or maps of one element."""
    value = kind()
    for _ in range(levels - 1):
        value = [value] if kind is list else {"k": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_deep_values(kind):
    """As deep as a Go reader takes, beyond Python's recursion limit; not deeper."""
    deepest = MAX_NESTING - 1
    text = encode(deep(deepest, kind))
    assert len(text) == (2 * deepest if kind is list else 2 * deepest + 4 * (deepest - 1))

    with pytest.raises(DepthError, match="10000 levels"):
        encode(deep(MAX_NESTING, kind))
    with pytest.raises(DepthError):
        normalize(deep(MAX_NESTING, kind))


def test_a_value_that_contains_itself():
    """Ends in an error instead of never."""
    value = []
    value.append((value, b""))
    with pytest.raises(DepthError, match="contains itself"):
        encode(value)


@given(JSON)
def test_length_is_exact(value):
    """The measured length is the length of the text, for values and for strings."""
    assert measure(value).length == len(encode(value))


@given(st.text())
def test_string_length_is_exact(text):
    """Also for lone surrogates, once replaced."""
    valid = normalize(text)
    assert string_length(valid) == len(encode_string(valid).encode("utf-8"))


@given(JSON)
def test_both_encoders_agree(value):
    """The C encoder is only used where it writes what our own would."""
    facts = measure(value)

    assert encode_measured(value, simple=facts.simple) == encode_measured(value, simple=False)


@given(JSON)
def test_other_readers_understand(value):
    """The text is JSON to any parser and means the same value."""
    again = json.loads(encode(value), parse_int=lambda text: -0.0 if text == "-0" else int(text))

    # Compared as text: an integral float has no fraction there and comes back as an integer.
    assert encode(again) == encode(value)


@given(JSON)
def test_normalize_changes_nothing_that_is_exact(value):
    """And what it returns is a copy."""
    copy = normalize(value)

    assert copy == value
    if isinstance(value, (list, dict)):
        assert copy is not value
