"""`StoredObject`: the form in which offloaded values lie in the store, for people who look there.

`StorageManager.dehydrate` and `hydrate` write and read it by themselves. This class is for
tools, tests and repairs: bytes in, content type and value out, and back to the same bytes that
the Go SDK writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from bubu_storage.errors import EncodeError
from bubu_storage.payload.codec import encode, normalize
from bubu_storage.payload.stored import encode_stored_text, read_stored_object
from bubu_storage.wire import KIND_JSON, KIND_RAW

__all__ = ["StoredObject"]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A value as it is offloaded (Go: StoredObject).

    Attributes:
        content_type: ``raw`` for a text that was too long itself, ``json`` for anything else.
        data: the value; always a text where the content type is ``raw``.
    """

    content_type: str
    data: Any

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, key: str = "") -> Self:
        """Read what lies in the store.

        Args:
            data: the object's bytes.
            key: where they come from, for messages.

        Raises:
            CorruptObjectError: they are not a stored object; the message has the reason.
            DepthError: nested too deeply.
        """
        return cls(*read_stored_object(data, key))

    def to_bytes(self) -> bytes:
        """Return the bytes to store, exactly as the Go SDK writes them.

        Raises:
            EncodeError: the content type is neither ``json`` nor ``raw``, or the data does not
                fit it.
        """
        if self.content_type == KIND_JSON:
            return b"".join((b'{"contentType":"json","data":', encode(self.data), b"}"))
        if self.content_type != KIND_RAW:
            raise EncodeError(f"content_type is {self.content_type[:40]!r}; it must be 'json' or 'raw'")
        if not isinstance(self.data, str):
            raise EncodeError(f"content_type is 'raw' and data is a {type(self.data).__name__}, not a str")
        return bytes(encode_stored_text(normalize(self.data)))
