"""References to stored objects, as they stand inside documents.

A map is a reference only if its keys say so exactly; anything that merely looks like one
is data and stays untouched. The test that dehydrate uses ("does this hold a reference?")
differs a little from the one hydrate uses, on the wire too, so both are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from bubu_storage.payload.codec import encode_string
from bubu_storage.payload.paths import check_path
from bubu_storage.wire import (
    STORAGE_CONTENT_TYPE_KEY,
    STORAGE_PATH_KEY,
    STORAGE_REF_KEY,
    STORAGE_REF_KEYS,
    STORAGE_SCHEMA_KEY,
    STORAGE_SCHEMA_VERSION_KEY,
)

__all__ = ["RefWriter", "contains_ref", "is_storage_ref", "ref_verdict", "storage_ref"]


def is_storage_ref(value: dict[Any, Any]) -> bool:
    """Tell whether hydrate takes a map as a reference to a stored object."""
    return (
        isinstance(value.get(STORAGE_REF_KEY), str)
        and isinstance(value.get(STORAGE_PATH_KEY, ""), str)
        and value.keys() <= STORAGE_REF_KEYS
    )


def ref_verdict(value: dict[Any, Any]) -> bool | None:
    """Tell whether dehydrate counts a map as a reference; None: look into its children."""
    if STORAGE_REF_KEY in value and value.keys() <= STORAGE_REF_KEYS:
        return isinstance(value[STORAGE_REF_KEY], str)
    return None


def contains_ref(value: Any, max_depth: int) -> bool:
    """Tell whether a value holds a reference at most ``max_depth`` levels down."""
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if isinstance(item, dict):
                verdict = ref_verdict(cast("dict[Any, Any]", item))
                if verdict:
                    return True
                children: Iterator[Any] = iter(cast("dict[Any, Any]", item).values())
                if verdict is False:
                    continue
            elif isinstance(item, (list, tuple)):
                children = iter(cast("list[Any]", item))
            else:
                continue
            if len(stack) <= max_depth:
                stack.append(children)
                break
        else:
            stack.pop()
    return False


def storage_ref(
    path: str, *, selector: str = "", content_type: str = "", schema: str = "", schema_version: str = ""
) -> dict[str, str]:
    """Build a reference to a stored object.

    Args:
        path: of the object, as returned by or given to the manager.
        selector: part of the stored document, as ``items[0].name`` or ``items[*].name``.
        content_type: informative, as ``application/json``.
        schema: informative.
        schema_version: informative.

    Returns:
        A map to put into a document; the optional keys only where given.

    Raises:
        InvalidKeyError: the path could not be read.
    """
    ref = {STORAGE_REF_KEY: check_path(path, "storage path")}
    optional = (
        (STORAGE_PATH_KEY, selector),
        (STORAGE_CONTENT_TYPE_KEY, content_type),
        (STORAGE_SCHEMA_KEY, schema),
        (STORAGE_SCHEMA_VERSION_KEY, schema_version),
    )
    ref.update((key, value) for key, value in optional if value)
    return ref


class RefWriter:
    """Makes the references of one call: content type, path and the schema of the context.

    Args:
        schema, schema_version: trimmed; "" leaves the key out.
    """

    def __init__(self, schema: str = "", schema_version: str = "") -> None:
        self._schema: dict[str, str] = {}
        if schema:
            self._schema[STORAGE_SCHEMA_KEY] = schema
        if schema_version:
            self._schema[STORAGE_SCHEMA_VERSION_KEY] = schema_version
        fields = {STORAGE_CONTENT_TYPE_KEY: "", STORAGE_REF_KEY: "", **self._schema}
        # Braces and commas, then key, colon and value of each field but the two that vary.
        self._fixed_length = len(fields) + 1
        for key, value in fields.items():
            self._fixed_length += len(key) + 3
            if key in self._schema:
                self._fixed_length += len(encode_string(value).encode("utf-8"))

    def make(self, path: str, content_type: str) -> dict[str, str]:
        """Return a new reference."""
        return {STORAGE_CONTENT_TYPE_KEY: content_type, STORAGE_REF_KEY: path, **self._schema}

    def length(self, path: str, content_type: str) -> int:
        """Return the bytes of the JSON form of what `make` returns."""
        return self._fixed_length + len(encode_string(path).encode("utf-8")) + len(content_type) + 2
