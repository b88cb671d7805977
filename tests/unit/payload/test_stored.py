"""Stored objects: one form when written, tolerance when read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import CorruptObjectError, DepthError
from bubu_storage.payload.codec import measure
from bubu_storage.payload.stored import decode_stored_object, encode_stored_json, encode_stored_text


def read(text):
    """Decode a stored object given as text or bytes."""
    return decode_stored_object(text.encode() if isinstance(text, str) else text, "dir/x.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"contentType":"json","data":{"a":[1]}}', {"a": [1]}),
        (' {"data" : [1] , "contentType" : "json" } \n', [1]),
        ('{"CONTENTTYPE":"json","Data":1}', 1),
        ('{"contentType":"json","data":1,"x":{"data":2},"y":1e999}', 1),
        ('{"contentType":"json","data":1,"Data":2}', 2),
        ('{"contentType":"json","Data":1,"data":2,"DATA":3}', 3),
        ('{"contentType":"raw","contentType":"json","data":1}', 1),
        ('{"contentType":"json","contentType":null,"data":1}', 1),
        ('{"contentType":"json","data":null}', None),
        ('{"contentType":"raw","data":null}', ""),
        (r'{"contentType":"raw","data":"\ud800"}', "\ufffd"),
        (r'{"content\u0054ype":"json","d\u0061ta":1}', 1),
        (b'{"contentType":"raw","data":"\xff"}', "\ufffd"),
    ],
)
def test_tolerant_reading(text, value):
    """Order, blanks, case, extra fields and duplicates do not matter; the last field wins."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("  \n", "it is empty"),
        ("null", "unknown content type ''"),
        ("{}", "unknown content type ''"),
        ("[]", "JSON array"),
        ("true", "JSON boolean"),
        ('"x"', "string or number"),
        ("5", "string or number"),
        ('{"data":1}', "unknown content type ''"),
        ('{"contentType":"JSON","data":1}', "unknown content type 'JSON'"),
        ('{"contentType":" json","data":1}', "unknown content type ' json'"),
        ('{"contentType":5,"data":1}', "content type is not a string"),
        ('{"contentType":["json"],"data":1}', "content type is not a string"),
        ('{"contentType":true,"data":1}', "content type is not a string"),
        ('{"contentType":"json"}', "no data"),
        ('{"contentType":"raw"}', "no data"),
        ('{"contentType":"raw","data":5}', "not a string"),
        ('{"contentType":"json","data":NaN}', "NaN is not JSON"),
        ('{"contentType":"json","data":1e400}', "beyond the range"),
        ('{"contentType":"json","data":1} x', "something follows"),
        ("null x", "something follows"),
        ("{} x", "something follows"),
        ('{"contentType":"json","data":1', "expected"),
        ('{"contentType":"json" "data":1}', "expected"),
        ('{"contentType":"json",}', "field name"),
        ('{"contentType"}', "expected ':'"),
        ("{'contentType':'json'}", "field name"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
        ("{", "field name"),
    ],
)
def test_corrupt_objects(text, reason):
    """The error names the object and the reason, for any bytes that may lie there."""
    with pytest.raises(CorruptObjectError, match=reason) as caught:
        read(text)

    assert "'dir/x.json'" in str(caught.value)
    assert caught.value.key == "dir/x.json"


def test_messages_never_show_content():
    """A stored object may hold a secret; so may the place where it breaks."""
    for text in (
        '{"contentType":"raw","data":"hunter2}',
        '{"contentType":"json","data":hunter2}',
        '"hunter2"',
    ):
        with pytest.raises(CorruptObjectError) as caught:
            read(text)
        assert "hunter2" not in str(caught.value)


def test_deep_objects_are_read_or_refused():
    """Never a crash of the interpreter's stack."""
    text = '{"contentType":"json","data":' + "[" * 9_999 + "]" * 9_999 + "}"
    assert isinstance(read(text), list)

    with pytest.raises(DepthError):
        read('{"contentType":"json","data":' + "[" * 20_000 + "]" * 20_000 + "}")


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_corrupt(data):
    """Reading is total."""
    with contextlib.suppress(CorruptObjectError):
        decode_stored_object(data, "k")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_come_back(text):
    """Kind raw keeps every character."""
    assert read(bytes(encode_stored_text(text))) == text


def test_long_texts_are_encoded_in_pieces_to_the_same_bytes():
    """Escapes and characters of several bytes may lie on the border of two pieces."""
    text = "é<\n\u2028😀x" * 600_000
    body = encode_stored_text(text)

    assert len(body) > 3 << 20
    assert (
        bytes(body[:60]) == b'{"contentType":"raw","data":"' + encode_stored_text("é<\n\u2028😀x" * 9)[29:60]
    )
    assert read(bytes(body)) == text


def test_the_written_form():
    """Compact, content type first, no newline at the end."""
    assert encode_stored_text("a<") == rb'{"contentType":"raw","data":"a\u003c"}'
    value = {"b": 1.0, "a": None}
    assert encode_stored_json(value, simple=measure(value).simple) == (
        b'{"contentType":"json","data":{"a":null,"b":1}}'
    )
