"""JSON is read as Go's encoding/json reads it, except that integers keep their digits."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import DepthError
from bubu_storage.payload.codec import MAX_NESTING, encode
from bubu_storage.payload.decoder import MalformedJsonError, decode_json, decode_text, value_at


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b" \t\r\n1 \n", 1),
        (b"1E5", 100000.0),
        (b"1e-400", 0.0),
        (b"9007199254740993", 9007199254740993),
        (b"1" + b"2" * 304, int("1" + "2" * 304)),
        (b"[null,true,false]", [None, True, False]),
        (b'{"a":1,"a":2}', {"a": 2}),
        (rb'"\ud83d\ude00\/\u003c"', "😀/<"),
        (rb'"\ud800x\udc00\uD800"', "\ufffdx\ufffd\ufffd"),
        (rb'"\uD800"', "\ufffd"),
        (rb'{"\ud800":["\udfff"]}', {"\ufffd": ["\ufffd"]}),
        (b'"a\xff\xfeb"', "a\ufffd\ufffdb"),
        (b'"\xe2\x82"', "\ufffd\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"\xf4\x90\x80\x80"', "\ufffd" * 4),
        (b'"\xc0\xaf"', "\ufffd\ufffd"),
    ],
)
def test_accepted(text, value):
    """Blanks around, any case of exponent, duplicates, escapes, broken UTF-8 byte by byte."""
    assert decode_json(text) == value


def test_minus_zero_keeps_its_sign():
    """``-0`` has no integer form; it is written back as it was."""
    value = decode_json(b"[-0,-0.0,0]")

    assert [math.copysign(1, item) for item in value] == [-1, -1, 1]
    assert encode(value) == b"[-0,-0,0]"


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"{", b"[1,", b"[1,]", b'{"a":1,}', b'{"a"}', b'{"a":}', b"{a:1}", b"{'a':1}", b"nul"),
        *(
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b"[NaN]",
            b"01",
            b"1.",
            b".5",
            b"+1",
            b"-",
            b"1e",
            b"0x1",
            b"1_0",
        ),
        *(b'"', b'"\n"', b'"\x00"', rb'"\x"', rb'"\u12g4"', rb'"\u+123"', b"1 2", b"{} x", b"\xef\xbb\xbf1"),
        *(b"1e400", b"-1e400", b"1" * 310, b"[" + b"9" * 5000 + b"]", "\uff11".encode(), b"\xa01", b"\x0b1"),
    ],
)
def test_refused(text):
    """What Go refuses: Python's own extras, foreign digits and blanks, numbers over a float64."""
    with pytest.raises(MalformedJsonError):
        decode_json(text)


def test_messages_never_show_content():
    """The text may be a Secret's value."""
    with pytest.raises(MalformedJsonError) as caught:
        decode_json(b'{"password": hunter2}')

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("opening", ["[", '{"k":', '[{"k":['])
def test_deep_documents(opening):
    """Ten thousand levels are read whatever the interpreter's limit; more are refused."""
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    levels = MAX_NESTING // len(closing) - 1
    value = decode_json(opening * levels + " -1.5e1 " + closing * levels)

    for _ in range(levels * len(closing)):
        value = value[0] if isinstance(value, list) else value["k"]
    assert value == -15.0
    with pytest.raises(DepthError, match="10000 levels"):
        decode_json("[" * (MAX_NESTING + 2) + "]" * (MAX_NESTING + 2))


def test_siblings_deep_inside():
    """The iterative reader keeps every key and element, the last of duplicates included."""
    value = decode_json("[" * 3000 + '{"a": [ ] , "b":{}, "c":[1 , "x"], "a":null}' + "]" * 3000)

    for _ in range(3000):
        (value,) = value
    assert value == {"a": None, "b": {}, "c": [1, "x"]}


@pytest.mark.parametrize("inner", ['{"a" 1}', "{1:2}", "[1 2]", "[1}", "nulx", "-", '"\n"', "1e999", ""])
def test_faults_deep_inside_are_found(inner):
    """The iterative reader is as strict as the fast one."""
    with pytest.raises(MalformedJsonError):
        decode_json("[" * 3000 + inner + "," + "]" * 3000)


def test_values_that_are_read_over():
    """Of an ignored value only the grammar counts, at any depth."""
    assert value_at("[1e999]", 0, ignored=True)[1] == 7
    deep = "[" * 3000 + "1e999,null" + "]" * 3000
    assert value_at(deep, 0, ignored=True)[1] == len(deep)


@given(st.binary())
def test_any_bytes_decode_to_text(data):
    """Bytes never fail, and valid UTF-8 is taken as it is."""
    text = decode_text(data)

    try:
        assert text == data.decode("utf-8")
    except UnicodeDecodeError:
        assert "\ufffd" in text


@given(st.text(alphabet='{}[]",:0123456789.eE+-\\u \ntrufalsn', max_size=20))
def test_agrees_with_the_standard_library(text):
    """Where Python's own parser and ours both accept, they mean the same."""
    try:
        value = decode_json(text)
    except MalformedJsonError:
        return

    assert encode(value) == encode(json.loads(text)) or "-0" in text
