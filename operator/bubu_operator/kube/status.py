"""Writing a status exactly: the difference only, and only onto the version that was read.

A merge patch cannot take a key out unless it is named with null, so a status is written
as the difference between what the object has and what it shall have (RFC 7396). Nothing is
sent when there is no difference: no write, no event, no loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from bubu_operator.errors import KubeConflictError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, Resource, key_of, metadata_of, section

__all__ = ["StatusRefusedError", "merge_difference", "write_status"]

MAX_ATTEMPTS: Final = 5


class StatusRefusedError(KubeConflictError):
    """The object is no longer one that this status is about; nothing was written."""


def merge_difference(old: JsonObject, new: JsonObject) -> JsonObject:
    """Return the merge patch that turns ``old`` into ``new``; empty when they are equal.

    ``new`` must hold no null: JSON merge patch cannot say "set to null".
    """
    patch: JsonObject = {}
    for key in old.keys() - new.keys():
        patch[key] = None
    value: Any
    for key, value in new.items():
        before: Any = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_difference(cast("JsonObject", before), cast("JsonObject", value))
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def write_status(
    client: KubeClient,
    resource: Resource,
    obj: JsonObject,
    make: Callable[[JsonObject], JsonObject | None],
) -> JsonObject:
    """Write the status that ``make`` derives, retrying on a conflict with a fresh object.

    Args:
        client: the API server.
        resource: which kind.
        obj: the object as last read.
        make: given the current object, the whole status that it shall have; None refuses
            (the spec has moved on, somebody else has taken over). Called again with the
            fresh object after a conflict.

    Returns:
        The object as it now is.

    Raises:
        StatusRefusedError: ``make`` refused, or the object was replaced by one of the same name.
        KubeNotFoundError: the object is gone.
        KubeApiError: any other; also a conflict that persisted.
    """
    key = key_of(obj)
    uid = metadata_of(obj).get("uid")
    for attempt in range(MAX_ATTEMPTS):
        status = make(obj)
        if status is None:
            raise StatusRefusedError(
                f"{resource.kind} {key} has changed; its status is left to what comes next"
            )
        patch = merge_difference(section(obj, "status"), status)
        if not patch:
            return obj
        version = str(metadata_of(obj).get("resourceVersion") or "")
        try:
            return client.patch_status(
                resource, key.name, patch, key.namespace or None, resource_version=version
            )
        except KubeConflictError:
            if attempt == MAX_ATTEMPTS - 1:
                raise
        obj = client.get(resource, key.name, key.namespace or None)
        if metadata_of(obj).get("uid") != uid:
            raise StatusRefusedError(f"{resource.kind} {key} was deleted and created again")
    raise AssertionError("unreachable: the last attempt returns or raises")
