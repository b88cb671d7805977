"""Reading the long answers of a store quickly: pages of a listing, and what a batch deleted.

The SDK walks its model for each of a thousand entries, which is most of what a listing costs a
processor. Here the entries are taken out of the answer before the SDK parses the rest: of a
listing the fields that the library uses, as the SDK would give them; what was deleted is dropped,
since only failures are looked at (a store that was asked to be quiet may tell all the same).

Invariant: an answer that is not exactly as expected is left to the SDK as it came.
"""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Any, Final
from xml.etree import ElementTree as ET

__all__ = ["register_quick_parsing"]

_TEXTS: Final = frozenset({"Key", "ETag"})


def register_quick_parsing(client: Any) -> None:
    """Let a client read listings and answers to batches in this way."""
    client.meta.events.register("before-parse.s3.ListObjectsV2", _take_entries)
    client.meta.events.register("before-parse.s3.DeleteObjects", _drop_deleted)


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    root = _root(response_dict, b"<Contents>")
    if root is None:
        return
    try:
        entries = [_entry(child) for child in _remove(root, "Contents")]
    except ValueError:
        return
    if entries:
        response_dict["body"] = ET.tostring(root, encoding="utf-8")
        customized_response_dict["Contents"] = entries


def _drop_deleted(response_dict: dict[str, Any], **_: Any) -> None:
    root = _root(response_dict, b"<Deleted>")
    if root is not None and _remove(root, "Deleted"):
        response_dict["body"] = ET.tostring(root, encoding="utf-8")


def _root(response_dict: dict[str, Any], needed: bytes) -> ET.Element | None:
    """Return the parsed answer; None if it is a failure, has no such entries, or is no XML."""
    body: bytes = response_dict["body"]
    if response_dict["status_code"] != HTTPStatus.OK or needed not in body:
        return None
    try:
        return ET.fromstring(body)  # noqa: S314 - as the SDK does; expat refuses entity bombs
    except ET.ParseError:
        return None


def _remove(root: ET.Element, name: str) -> list[ET.Element]:
    """Take the children of a name out of an element and return them."""
    kept: list[ET.Element] = []
    taken: list[ET.Element] = []
    for child in root:
        (taken if child.tag.rpartition("}")[2] == name else kept).append(child)
    root[:] = kept
    return taken


def _entry(element: ET.Element) -> dict[str, Any]:
    """Return one entry of a listing.

    Raises:
        ValueError: it has no key, or a field in another form than usual.
    """
    found: dict[str, Any] = {}
    for child in element:
        name, text = child.tag.rpartition("}")[2], child.text or ""
        if name in _TEXTS:
            found[name] = text
        elif name == "Size":
            found[name] = int(text)
        elif name == "LastModified":
            if not text.endswith("Z"):
                raise ValueError("not the usual form of a time")
            found[name] = datetime.fromisoformat(text)
    if "Key" not in found:
        raise ValueError("an entry without a key")
    return found
