"""The patch of an injection as text, made from what injection knows that it has added.

Nearly every pod is new and sets nothing of ours. Then no comparison is needed, and most of the
text is there already (`EnvPart`): that is a third of a review's time. For everything else there
is `make_patch`, and in effect both are the same.
"""

from __future__ import annotations

from typing import Any, cast

from bubu_operator.injection.containers import EnvPart
from bubu_operator.injection.inject import InjectionResult
from bubu_operator.injection.patch import JsonPatch, compact_json, make_patch
from bubu_operator.injection.podspec import CONTAINER_FIELDS, items_of
from bubu_storage.apply_env import Json

__all__ = ["patch_text", "variables_text"]


def patch_text(pod: Json, result: InjectionResult) -> str:
    """The JSON patch (RFC 6902) that turns a pod into the one that `inject_pod` made of it.

    Args:
        pod: what was handed to `inject_pod`.
        result: what came out.

    Returns:
        ASCII; ``[]`` where nothing changed.
    """
    text = _of_additions(pod, result)
    return compact_json(make_patch(pod, result.pod)) if text is None else text


def _of_additions(pod: Json, result: InjectionResult) -> str | None:
    """The patch of a pod to which things were only added; None where that is not known."""
    metadata: Any = pod.get("metadata")
    if not result.parts or not isinstance(metadata, dict):
        return None
    operations = make_patch(metadata, result.pod["metadata"], "/metadata")
    variables: list[str] = []
    old_spec, new_spec = cast("Json", pod["spec"]), cast("Json", result.pod["spec"])
    parts = iter(result.parts)
    for field in CONTAINER_FIELDS:
        pairs = zip(items_of(old_spec, field), items_of(new_spec, field), strict=True)
        for index, (old, new) in enumerate(pairs):
            part = next(parts)
            if old is new:
                continue
            if part is None:
                return None
            path = f"/spec/{field}/{index}"
            variables.append(variables_text(part, f"{path}/env", bool(old.get("env"))))
            operations += _appended(old, new, "volumeMounts", path)
    operations += _appended(old_spec, new_spec, "volumes", "/spec")
    return f"[{','.join([*map(compact_json, operations), *variables])}]"


def variables_text(part: EnvPart, path: str, has_own: bool) -> str:
    """Put a part before a container's own variables: the last one first, each at the very front."""
    if not has_own:
        entries = ",".join(reversed(part.texts))
        return f'{{"op":"add","path":"{path}","value":[{entries}]}}'
    head = f'{{"op":"add","path":"{path}/0","value":'
    return head + f"}},{head}".join(part.texts) + "}"


def _appended(old: Json, new: Json, key: str, path: str) -> JsonPatch:
    """Add what a list has at its end, or the list."""
    before, after = items_of(old, key), items_of(new, key)
    if len(before) == len(after):
        return []
    if not before:
        return [{"op": "add", "path": f"{path}/{key}", "value": after}]
    start = len(before)
    return [
        {"op": "add", "path": f"{path}/{key}/{index}", "value": item}
        for index, item in enumerate(after[start:], start)
    ]
