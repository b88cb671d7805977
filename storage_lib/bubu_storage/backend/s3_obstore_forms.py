"""How obstore names what S3 says: attributes, ranges, facts of an object.

Pure; a thing that obstore has no exact form for is None here and goes to the reference engine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from bubu_storage.backend.types import ObjectInfo
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["attributes_of", "info_of", "md5_of", "range_options"]

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-([1-9][0-9]{0,14}))")
_OTHER_ATTRIBUTES: Final = frozenset(
    (
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "storage-class",
    )
)
"""Names that obstore takes for headers of HTTP and not for user metadata."""

_MD5_IN_SLICES_BYTES: Final = 64 * 1024
_MD5_SLICE_BYTES: Final = 2047
"""Above this length hashlib gives other threads a turn, which for a small body takes longer than the sum:
a quarter of a whole read of 4 KiB with 32 threads."""


def attributes_of(content_type: str, metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return what is stored with an object in obstore's form; None where it has none."""
    attributes = {"Content-Type": content_type} if content_type else {}
    if not content_type.isascii() or not content_type.isprintable():
        return None
    for name, value in (metadata or {}).items():
        text = name + value
        if name.lower() in _OTHER_ATTRIBUTES or not text.isascii() or not text.isprintable():
            return None
        attributes[name] = value
    return attributes


def range_options(range_header: str) -> dict[str, Any] | None:
    """Return obstore's form of a range, empty for the whole object; None where it has none."""
    if not range_header:
        return {}
    match = _RANGE.fullmatch(range_header)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return {"range": {"suffix": int(suffix)}}
    if last is None:
        return {"range": {"offset": int(first)}}
    return {"range": (int(first), int(last) + 1)} if int(first) <= int(last) else None


def info_of(key: str, answer: Any, size_bytes: int) -> ObjectInfo:
    """Return the facts of an object.

    Args:
        key: of the object.
        answer: obstore's ``GetResult``.
        size_bytes: length of this answer's body.
    """
    meta = answer.meta
    content_type = DEFAULT_BLOB_CONTENT_TYPE
    metadata: dict[str, str] = {}
    for name, value in answer.attributes.items():
        if name == "Content-Type":
            content_type = value or content_type
        elif name.islower() or name.lower() not in _OTHER_ATTRIBUTES:
            metadata[name.lower()] = value
    return ObjectInfo(
        key=key,
        size_bytes=size_bytes,
        content_type=content_type,
        etag=meta["e_tag"] or "",
        last_modified=meta["last_modified"],
        metadata=metadata,
    )


def md5_of(data: bytes) -> str:
    """Return the MD5 of a body in hex."""
    if len(data) > _MD5_IN_SLICES_BYTES:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(data), _MD5_SLICE_BYTES):
        digest.update(data[start : start + _MD5_SLICE_BYTES])
    return digest.hexdigest()
