"""Find the references in a document without following any.

Iterative, so a document may be as deep as the format allows. `hydrate` uses it to announce
what it will need, and to see whether a loaded document can be handed out as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from bubu_storage.errors import DepthError
from bubu_storage.payload.codec import MAX_NESTING
from bubu_storage.payload.kube import has_kube_ref_key
from bubu_storage.payload.refs import is_storage_ref
from bubu_storage.wire import STORAGE_REF_KEY

__all__ = ["Refs", "find_refs"]


@dataclass(slots=True)
class Refs:
    """What a document refers to.

    Attributes:
        paths: of objects, in the document's order, as they stand there.
        kube: whether something in it may be a ConfigMap or Secret reference.
    """

    paths: list[str]
    kube: bool = False


def find_refs(value: Any) -> Refs:
    """Find the references in a value.

    Raises:
        DepthError: nested deeper than the format allows, or containing itself.
    """
    refs = Refs([])
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if isinstance(item, dict):
                found = cast("dict[Any, Any]", item)
                if STORAGE_REF_KEY in found and is_storage_ref(found):
                    refs.paths.append(found[STORAGE_REF_KEY])
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
