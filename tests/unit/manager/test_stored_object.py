"""Stored objects by hand: the same bytes as the manager's, read as tolerantly."""

from __future__ import annotations

import pytest

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.errors import CorruptObjectError, EncodeError
from bubu_storage.stored_object import StoredObject


@pytest.mark.parametrize(
    "value",
    ["x" * 2000, "é<\u2028" * 900, {"b": "y" * 900, "c": "z" * 900, "a": 1.0}, [None] * 500, "\ud800" * 600],
)
def test_the_same_bytes_as_dehydrate(value):
    """And back again."""
    with StorageManager.in_memory(ManagerSettings(max_inline_size_bytes=1000)) as storage:
        path = storage.dehydrate(value, run_id="r")["$bubuStorageRef"]
        stored = storage.read_blob(path)
    found = StoredObject.from_bytes(stored, key=path)
    assert found.content_type == ("raw" if isinstance(value, str) else "json")
    assert found.to_bytes() == stored == StoredObject(found.content_type, value).to_bytes()


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ('{"contentType":"json","data":"text"}', "json", "text"),
        ('{"contentType":"raw","data":"text"}', "raw", "text"),
        (' { "DATA" : null , "x" : [1] , "ContentType" : "raw" } ', "raw", ""),
        ('{"contentType":"raw","data":"a","CONTENTTYPE":"json"}', "json", "a"),
    ],
)
def test_reading(text, kind, data):
    """Kind and value."""
    assert StoredObject.from_bytes(text.encode()) == StoredObject(kind, data)


def test_what_is_no_stored_object():
    """The message has the key."""
    with pytest.raises(CorruptObjectError, match="some/key"):
        StoredObject.from_bytes(b"{}", key="some/key")


@pytest.mark.parametrize(
    "bad", [StoredObject("raw", 1), StoredObject("text", ""), StoredObject("json", {1: 2})]
)
def test_what_cannot_be_stored(bad):
    """Is an encode error."""
    with pytest.raises(EncodeError):
        bad.to_bytes()
