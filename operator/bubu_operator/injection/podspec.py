"""Reading pods in the API's JSON form: typed access, and a check that it is safe.

`pod_problem` is run once, before anything else looks at a pod; everything after it may
rely on the shapes that it checked.
"""

from __future__ import annotations

from typing import Any, Final, cast

from bubu_storage.apply_env import Json

__all__ = [
    "CONTAINER_FIELDS",
    "all_containers",
    "child",
    "items_of",
    "outer_problem",
    "pod_problem",
    "texts_of",
]

CONTAINER_FIELDS: Final = ("initContainers", "containers")
"""In the order in which they start; native sidecars are init containers."""

_TEXT_MAPS: Final = ("labels", "annotations")
_NO_VARIABLE: Final = "a variable has a value that is no text, or a source that is no object"


def child(obj: Json, key: str) -> Json:
    """The object below a key; {} where there is none. Do not modify."""
    value = obj.get(key)
    return cast("Json", value) if isinstance(value, dict) else {}


def texts_of(obj: Json, key: str) -> dict[str, str]:
    """The map of texts below a key (labels, annotations); {} where there is none. Do not modify."""
    return cast("dict[str, str]", child(obj, key))


def items_of(obj: Json, key: str) -> list[Json]:
    """The list of objects below a key; [] where there is none. Do not modify."""
    value = obj.get(key)
    return cast("list[Json]", value) if isinstance(value, list) else []


def all_containers(pod: Json) -> list[Json]:
    """Init containers (native sidecars among them), then containers."""
    spec = child(pod, "spec")
    return [container for name in CONTAINER_FIELDS for container in items_of(spec, name)]


def pod_problem(pod: object) -> str:
    """Say why this is no pod (or pod template) that can be worked on; "" when it is one.

    The API server never sends such a thing; a person with curl may.
    """
    problem = outer_problem(pod)
    if problem:
        return problem
    spec = child(cast("Json", pod), "spec")
    if not is_list_of_named(spec.get("volumes")):
        return "spec.volumes is not a list of named objects"
    for name in CONTAINER_FIELDS:
        if not is_list_of_named(spec.get(name)):
            return f"spec.{name} is not a list of named objects"
        for container in items_of(spec, name):
            problem = _container_problem(container)
            if problem:
                return f"spec.{name}: {problem}"
    return ""


def outer_problem(pod: object) -> str:
    """`pod_problem` without a look at the containers and volumes."""
    if not isinstance(pod, dict):
        return "the object is not a pod"
    content = cast("Json", pod)
    metadata = content.get("metadata")
    if metadata is not None:
        if not isinstance(metadata, dict):
            return "metadata is not an object"
        for name in _TEXT_MAPS:
            texts = cast("Json", metadata).get(name)
            if texts is None:
                continue
            if not isinstance(texts, dict):
                return f"metadata.{name} is not a map"
            for value in cast("Json", texts).values():
                if not isinstance(value, str):
                    return f"metadata.{name} holds something else than texts"
    return "" if isinstance(content.get("spec"), dict) else "there is no spec"


# Plain loops: this runs over every variable of every pod that is created, and costs twice as much as
# generators and small functions.


def _container_problem(container: Json) -> str:
    env = container.get("env")
    if env is not None:
        if not isinstance(env, list):
            return "env is not a list of named objects"
        problem = ""
        for entry in cast("list[Any]", env):
            if not isinstance(entry, dict):
                return "env is not a list of named objects"
            fields: Json = entry  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(fields.get("name"), str):
                return "env is not a list of named objects"
            value = fields.get("value")
            if not isinstance(value, str) and value is not None:
                problem = _NO_VARIABLE
            source = fields.get("valueFrom")
            if source is not None and not isinstance(source, dict):
                problem = _NO_VARIABLE
        if problem:
            return problem
    return mounts_problem(container)


def mounts_problem(container: Json) -> str:
    """The part of `pod_problem` that is about what a container mounts; "" for none."""
    for name, path in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        items = container.get(name)
        if items is None:
            continue
        if not is_list_of_named(items):
            return f"{name} is not a list of named objects"
        for item in items:
            if not isinstance(item.get(path), str):
                return f"an entry of {name} lacks {path}"
    return ""


def is_list_of_named(value: object) -> bool:
    """Whether a value is a list of objects that each have a name; None is as good as an empty one."""
    if value is None:
        return True
    if not isinstance(value, list):
        return False
    for item in cast("list[Any]", value):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):  # pyright: ignore[reportUnknownMemberType]
            return False
    return True
