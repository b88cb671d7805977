"""JSON schemas for kubeconform, made from what a real API server publishes; nothing is downloaded.

The server's OpenAPI says less than kubeconform wants: an unknown field is no error there, and a
quantity or a port name is a string only. Both are mended here, the first because a typing error in a
template is such a field.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["SCHEMA_LOCATION", "write_schemas"]

SCHEMA_LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
_PREFIX = "#/definitions/"
_TEXT_OR_NUMBER = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
}


def write_schemas(openapi: Mapping[str, Any], kinds: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write one schema for each kind.

    Args:
        openapi: what ``/openapi/v2`` answers.
        kinds: apiVersion and kind of each.
        folder: where to.

    Raises:
        LookupError: the server does not know a kind.
    """
    definitions: dict[str, Any] = dict(openapi["definitions"])
    known = {
        (found["group"], found["version"], found["kind"]): name
        for name, definition in definitions.items()
        for found in definition.get("x-kubernetes-group-version-kind", [])
    }
    for api_version, kind in kinds:
        group, _, version = api_version.rpartition("/")
        if (group, version, kind) not in known:
            raise LookupError(f"the API server does not publish {api_version} {kind}")
        needed: dict[str, Any] = {}
        _collect(known[group, version, kind], definitions, needed)
        suffix = "-".join(part for part in (group.split(".")[0], version) if part)
        schema = {"$ref": f"{_PREFIX}{known[group, version, kind]}", "definitions": needed}
        (folder / f"{kind.lower()}-{suffix}.json").write_text(json.dumps(schema))


def _collect(name: str, definitions: Mapping[str, Any], found: dict[str, Any]) -> None:
    if name in found:
        return
    definition: dict[str, Any] = dict(definitions[name])
    if name in _TEXT_OR_NUMBER:
        definition = {"type": _TEXT_OR_NUMBER[name]}
    elif "properties" in definition:
        definition["additionalProperties"] = False
    found[name] = definition
    for reference in _references(definition):
        _collect(reference, definitions, found)


def _references(node: Any) -> Iterable[str]:
    if isinstance(node, dict):
        for key, below in cast("dict[str, Any]", node).items():
            if key == "$ref" and isinstance(below, str):
                yield below.removeprefix(_PREFIX)
            else:
                yield from _references(below)
    elif isinstance(node, list):
        for below in cast("list[Any]", node):
            yield from _references(below)
