"""The patch of a fresh pod in one go: no copy of the pod, no record of what became of it.

Nearly every pod that is created is fresh: it carries no injection, sets no variable of ours, and its
config brings no volume. A review that comes after a pause pays for every step three to four times
over, so these get their patch in as few as there can be.

Invariant: what comes out is the very text that `inject_pod` and `patch_text` make, letter by letter,
for a pod that is injected without a warning; where that is not certain, nothing comes out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, cast

from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.containers import CLAIMED_VARIABLES, EnvPart, part_of
from bubu_operator.injection.environment import NAMESPACE_VARIABLES, Group
from bubu_operator.injection.inject import MAX_ANNOTATIONS_BYTES, label_value
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.ownership import InjectionRecord, dump_record
from bubu_operator.injection.patch import text_json
from bubu_operator.injection.patch_text import variables_text
from bubu_operator.injection.podspec import CONTAINER_FIELDS, is_list_of_named, mounts_problem
from bubu_storage.apply_env import Json

__all__ = ["fresh_patch"]

MAX_CONFIGS: Final = 256
MAX_CHARACTER_BYTES: Final = 4
_KEYS: Final = ("annotations", "labels")
_RECORD_TOKEN: Final = RECORD_ANNOTATION.replace("/", "~1")
_LABEL_TOKEN: Final = INJECTED_LABEL.replace("/", "~1")
_NO_GROUPS: Final[frozenset[Group]] = frozenset()
_NO_NAMES: Final[frozenset[str]] = frozenset()
_TEXT: Final = frozenset({str, type(None)})
_OBJECT: Final = frozenset({dict, type(None)})
_MOUNTS: Final = frozenset({"volumeMounts", "volumeDevices"})
_OURS: Final = CLAIMED_VARIABLES | NAMESPACE_VARIABLES


def fresh_patch(pod: Json, config: InjectionConfig) -> str | None:
    """The patch that injects a config into a fresh pod, or None: then `inject_pod` has to look.

    Args:
        pod: one that `outer_problem` finds no fault with; never modified.
        config: what to inject.
    """
    plan = config.plan
    metadata: Any = pod.get("metadata")
    spec: Json = pod["spec"]
    if plan is None or plan.volumes or plan.mounts or not isinstance(metadata, dict):
        return None
    if plan.service_account and (spec.get("serviceAccountName") or "default") != plan.service_account:
        return None
    if not is_list_of_named(spec.get("volumes")):
        return None
    owned: dict[str, EnvPart] = {}
    variables: list[str] = []
    for field in CONTAINER_FIELDS:
        containers: Any = spec.get(field)
        if containers is None:
            continue
        if not is_list_of_named(containers):
            return None
        for index, container in enumerate(containers):
            env: Any = container.get("env")
            theirs = _names_of_ours(env)
            if theirs is None or (not _MOUNTS.isdisjoint(container) and mounts_problem(container)):
                return None
            name: str = container["name"]
            if plan.containers is not None and name not in plan.containers:
                continue
            owned[name] = part = part_of(plan, _NO_GROUPS, theirs)
            if not part.texts:
                return None
            variables.append(variables_text(part, f"/spec/{field}/{index}/env", bool(env)))
    if not owned:
        return None
    begin, end = _record_around(config.kind, config.namespace, config.name, config.generation, plan.hash)
    containers = ",".join(
        [f'{text_json(name)}:{{"env":{part.record.env_text}}}' for name, part in sorted(owned.items())]
    )
    record = f"{begin}{containers}{end}"
    operations = _metadata_operations(cast("Json", metadata), record, label_value(config.name))
    return None if operations is None else f"[{','.join([*operations, *variables])}]"


def _names_of_ours(env: Any) -> frozenset[str] | None:
    """Which of the namespace's names a container sets; None where it sets more of ours, or is malformed."""
    if env is None:
        return _NO_NAMES
    if not isinstance(env, list):
        return None
    theirs = _NO_NAMES
    entry: Any
    for entry in cast("list[Any]", env):
        if type(entry) is not dict:
            return None
        variable: Json = entry  # pyright: ignore[reportUnknownVariableType]
        name = variable.get("name")
        if type(name) is not str:
            return None
        if type(variable.get("value")) not in _TEXT or type(variable.get("valueFrom")) not in _OBJECT:
            return None
        if name in _OURS:
            if name in CLAIMED_VARIABLES:
                return None
            theirs |= {name}
    return theirs


def _metadata_operations(metadata: Json, record: str, label: str) -> list[str] | None:
    """Write the record and the label, in the order in which `make_patch` finds them; None where it must."""
    annotations: Any = metadata.get("annotations")
    others = sum([len(name) + len(text) for name, text in annotations.items()]) if annotations else 0
    if len(RECORD_ANNOTATION) + len(record) + MAX_CHARACTER_BYTES * others > MAX_ANNOTATIONS_BYTES:
        return None
    present: list[str] = []
    absent: list[str] = []
    for key, name, token, value in (
        ("annotations", RECORD_ANNOTATION, _RECORD_TOKEN, record),
        ("labels", INJECTED_LABEL, _LABEL_TOKEN, label),
    ):
        text = text_json(value)
        if key not in metadata:
            absent.append(f'{{"op":"add","path":"/metadata/{key}","value":{{"{name}":{text}}}}}')
            continue
        texts = metadata[key]
        if texts is None or name in texts:
            return None
        present.append(f'{{"op":"add","path":"/metadata/{key}/{token}","value":{text}}}')
    if len(present) == len(_KEYS) and next(key for key in metadata if key in _KEYS) == "labels":
        present.reverse()
    return present + absent


@lru_cache(maxsize=MAX_CONFIGS)
def _record_around(kind: str, namespace: str, name: str, generation: int, plan_hash: str) -> tuple[str, str]:
    """A record's text before and after its containers."""
    text = dump_record(InjectionRecord(kind, namespace, name, generation, plan_hash))
    # Within a JSON string the quotes would be escaped, so this is the field itself.
    begin, field, end = text.partition('"containers":{')
    return begin + field, end
