"""Find the references in a document without following any, or copy one that has none.

`find_refs` is iterative, so a document may be as deep as the format allows. `hydrate` uses it
to announce what it will need, and to see whether a loaded document can be handed out as it is.
`copy_plain` is the short way for the many documents without any reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_storage.errors import DepthError
from bubu_storage.payload.codec import MAX_NESTING
from bubu_storage.payload.kube import has_kube_ref_key
from bubu_storage.payload.numbers import type_of
from bubu_storage.payload.refs import is_storage_ref
from bubu_storage.wire import STORAGE_PATH_KEY, STORAGE_REF_KEY

__all__ = ["NotPlainDataError", "Refs", "copy_plain", "find_refs"]

_LEAVES: Final = frozenset[type]((str, int, float, bool, type(None)))
_MAX_PLAIN_NESTING: Final = 64
"""Deeper data takes the iterative way; this one calls itself."""


class NotPlainDataError(Exception):
    """Data that `copy_plain` does not copy. Internal."""


@dataclass(slots=True)
class Refs:
    """What a document refers to.

    Attributes:
        targets: path and selector ("" for none) of each different reference, in the document's
            order, as they stand there.
        kube: whether something in it may be a ConfigMap or Secret reference.
    """

    targets: dict[tuple[str, str], None]
    kube: bool = False


def find_refs(value: Any) -> Refs:
    """Find the references in a value.

    Raises:
        DepthError: nested deeper than the format allows, or containing itself.
    """
    refs = Refs({})
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if type_of(item) in _LEAVES:
                continue
            if isinstance(item, dict):
                found = cast("dict[Any, Any]", item)
                if STORAGE_REF_KEY in found and is_storage_ref(found):
                    refs.targets[found[STORAGE_REF_KEY], found.get(STORAGE_PATH_KEY, "")] = None
                    continue
                refs.kube = refs.kube or has_kube_ref_key(found)
                stack.append(iter(found.values()))
            elif isinstance(item, (list, tuple)):
                stack.append(iter(cast("list[Any]", item)))
            else:
                continue
            if len(stack) > MAX_NESTING:
                raise DepthError(f"the data is nested {MAX_NESTING} levels deep or more, or contains itself")
            break
        else:
            stack.pop()
    return refs


def copy_plain(value: Any, levels: int = _MAX_PLAIN_NESTING) -> Any:
    """Copy data of exact JSON types in which nothing is, or looks like, a reference.

    Args:
        value: what to copy.
        levels: how deep it may be nested.

    Raises:
        NotPlainDataError: there is a reference, another type, or it is too deep.
    """
    kind = type_of(value)
    if kind in _LEAVES:
        return value
    if levels and kind is list:
        items = cast("list[Any]", value)
        return [item if type_of(item) in _LEAVES else copy_plain(item, levels - 1) for item in items]
    if levels and kind is dict and STORAGE_REF_KEY not in value and not has_kube_ref_key(value):
        pairs = cast("dict[Any, Any]", value).items()
        return {
            key: item if type_of(item) in _LEAVES else copy_plain(item, levels - 1) for key, item in pairs
        }
    raise NotPlainDataError
