"""JSON Patch (RFC 6902): the difference of two documents, and applying one.

Only ``add``, ``remove`` and ``replace`` are made and understood. Equality is JSON's:
``true`` is not ``1``. Values that are the same Python object are skipped unread, which
makes patches of pods cheap: injection shares what it did not change.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias, cast

__all__ = ["JsonPatch", "PatchError", "apply_patch", "compact_json", "make_patch", "text_json"]

JsonPatch: TypeAlias = list[dict[str, Any]]
"""Operations, in order; ``[]`` when nothing differs."""


class PatchError(ValueError):
    """A patch does not fit its document."""


text_json: Final = json.encoder.encode_basestring_ascii
"""`compact_json` of a text."""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def compact_json(value: Any) -> str:
    """JSON text without spaces, in the order of the keys; ASCII only."""
    return _encode(value)


def make_patch(before: Any, after: Any, path: str = "") -> JsonPatch:
    """Operations that turn `before` into `after`; neither is modified.

    Lists are compared after their common beginning and end, so that entries put in front
    cost one operation each.

    Args:
        before: a document, or a part of one.
        after: what it shall become.
        path: where the part is, as a JSON pointer.
    """
    operations: JsonPatch = []
    _diff(before, after, path, operations)
    return operations


def apply_patch(document: Any, patch: JsonPatch) -> Any:
    """Return a changed copy of the document.

    Raises:
        PatchError: a path does not exist, or an operation is none of ours.
    """
    result = _unshared(document)
    for operation in patch:
        result = _apply(result, operation)
    return result


def _unshared(value: Any) -> Any:
    """A copy in which no object stands twice, as it may in an injected pod (deepcopy would keep that)."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_unshared(item) for item in cast("list[Any]", value)]
    return value


def _diff(before: Any, after: Any, path: str, operations: JsonPatch) -> None:
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        _diff_objects(cast("dict[str, Any]", before), cast("dict[str, Any]", after), path, operations)
    elif isinstance(before, list) and isinstance(after, list):
        _diff_lists(cast("list[Any]", before), cast("list[Any]", after), path, operations)
    elif not _same(before, after):
        operations.append({"op": "replace", "path": path, "value": after})


def _diff_objects(before: dict[str, Any], after: dict[str, Any], path: str, operations: JsonPatch) -> None:
    for key, value in before.items():
        below = f"{path}/{_escape(key)}"
        if key in after:
            _diff(value, after[key], below, operations)
        else:
            operations.append({"op": "remove", "path": below})
    operations.extend(
        {"op": "add", "path": f"{path}/{_escape(key)}", "value": value}
        for key, value in after.items()
        if key not in before
    )


def _diff_lists(before: list[Any], after: list[Any], path: str, operations: JsonPatch) -> None:
    shorter = min(len(before), len(after))
    # What injection leaves alone is the very same object: most of a pod needs no look inside.
    head = 0
    while head < shorter and (before[head] is after[head] or _same(before[head], after[head])):
        head += 1
    tail = 0
    while tail < shorter - head:
        old, new = before[-1 - tail], after[-1 - tail]
        if old is not new and not _same(old, new):
            break
        tail += 1
    old_end, new_end = len(before) - tail, len(after) - tail
    paired = min(old_end, new_end)
    for index in range(head, paired):
        _diff(before[index], after[index], f"{path}/{index}", operations)
    operations.extend(
        {"op": "remove", "path": f"{path}/{index}"} for index in range(old_end - 1, paired - 1, -1)
    )
    operations.extend(
        {"op": "add", "path": f"{path}/{index}", "value": after[index]} for index in range(paired, new_end)
    )


def _same(before: Any, after: Any) -> bool:
    """JSON equality, to any depth."""
    if before is after:
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        return old.keys() == new.keys() and all(_same(value, new[key]) for key, value in old.items())
    if isinstance(before, list) and isinstance(after, list):
        first, second = cast("list[Any]", before), cast("list[Any]", after)
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(before == after) and isinstance(before, bool) == isinstance(after, bool)


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescape(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    kind, path = operation["op"], operation["path"]
    if kind not in ("add", "remove", "replace"):
        raise PatchError(f"operation {kind!r} is not supported")
    value = _unshared(operation.get("value"))
    if not path:
        if kind == "remove":
            raise PatchError("the document itself cannot be removed")
        return value
    *parents, last = [_unescape(token) for token in path.split("/")[1:]]
    target: Any = document
    try:
        for token in parents:
            target = _step(target, token)
        if isinstance(target, dict):
            _apply_to_object(cast("dict[str, Any]", target), kind, last, value)
        else:
            _apply_to_list(target, kind, last, value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise PatchError(f"{kind} {path}: there is no such place in the document") from error
    return document


def _step(target: Any, token: str) -> Any:
    return cast("dict[str, Any]", target)[token] if isinstance(target, dict) else target[int(token)]


def _apply_to_object(target: dict[str, Any], kind: str, key: str, value: Any) -> None:
    if kind != "add" and key not in target:
        raise KeyError(key)
    if kind == "remove":
        del target[key]
    else:
        target[key] = value


def _apply_to_list(target: list[Any], kind: str, position: str, value: Any) -> None:
    index = len(target) if position == "-" else int(position)
    if not 0 <= index <= len(target) - (kind != "add"):
        raise IndexError(index)
    if kind == "remove":
        del target[index]
    elif kind == "add":
        target.insert(index, value)
    else:
        target[index] = value
