"""Generates the CustomResourceDefinitions from the pydantic models.

pydantic writes JSON Schema; the API server wants a *structural* one: no references, no
``anyOf``, no ``null``, no titles, ``additionalProperties`` only for maps. The translation
accepts exactly the keywords listed here and stops at any other, so that a new kind of field
is thought about instead of being dropped in silence.

Invariants: the same models give the same bytes; every field has a description; statuses
carry no defaults, for the API server would write them into every object.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Final, cast

import yaml

from bubu_operator.api.v1alpha1 import GROUP, KINDS, VERSION, Resource
from bubu_operator.api.v1alpha1.base import VALIDATIONS

__all__ = ["check_crds", "openapi_schema", "render_crds", "write_crds"]

HEADER: Final = (
    "# Generated from operator/bubu_operator/api by `bubu-operator crds --write crds`. Do not edit.\n"
)
CATEGORIES: Final = ("bubu", "storage")

_TRANSLATED: Final = frozenset({"title", "default", "additionalProperties", "const"})
_KEPT: Final = frozenset({"description", "enum", "nullable", "type", VALIDATIONS})
_KEPT_BY_TYPE: Final = {
    "object": frozenset({"properties", "required", "maxProperties"}),
    "array": frozenset(
        {"items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"}
    ),
    "string": frozenset({"format", "minLength", "maxLength", "pattern"}),
    "integer": frozenset({"minimum", "maximum"}),
    "boolean": frozenset[str](),
}
_ORDER: Final = (
    "description",
    "type",
    "format",
    "enum",
    "nullable",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    VALIDATIONS,
    "required",
    "properties",
    "additionalProperties",
    "items",
)

Schema = dict[str, Any]


def render_crds() -> dict[str, str]:
    """Return the text of each file of ``crds/`` by its name."""
    return {f"{kind.PLURAL}.yaml": HEADER + _to_yaml(_definition(kind)) for kind in KINDS}


def write_crds(directory: Path) -> list[Path]:
    """Write the files into ``directory``, made where missing, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in render_crds().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def check_crds(directory: Path) -> list[str]:
    """Return one sentence for each file of ``directory`` that differs from the models; [] is good."""
    drift: list[str] = []
    rendered = render_crds()
    for name, text in rendered.items():
        path = directory / name
        if not path.is_file():
            drift.append(f"{path} is missing")
        elif path.read_text(encoding="utf-8") != text:
            drift.append(f"{path} differs from the models in operator/bubu_operator/api")
    drift.extend(
        f"{path} belongs to no kind of the models"
        for path in sorted(directory.glob("*.yaml"))
        if path.name not in rendered
    )
    return drift


def openapi_schema(kind: type[Resource]) -> Schema:
    """Return the structural schema of a kind, as it stands in its CRD."""
    raw = kind.model_json_schema(by_alias=True, mode="validation")
    definitions = cast("dict[str, Schema]", raw.get("$defs", {}))
    properties = cast("dict[str, Schema]", raw["properties"])
    schema: Schema = {
        "description": _paragraphs(kind),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "description": f"Version of the schema of this object: {GROUP}/{VERSION}.",
                "type": "string",
            },
            "kind": {"description": f"Kind of this object: {kind.KIND}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": _structural(properties["spec"], definitions, "spec", defaults=True),
            "status": _structural(properties["status"], definitions, "status", defaults=False),
        },
    }
    if VALIDATIONS in raw:
        schema[VALIDATIONS] = raw[VALIDATIONS]
    return _ordered(schema)


def _definition(kind: type[Resource]) -> Schema:
    singular = kind.KIND.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.NAMESPACED else "Cluster",
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": singular,
                "shortNames": list(kind.SHORT_NAMES),
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": column.name,
                            "type": column.type,
                            "jsonPath": column.json_path,
                            "description": column.description,
                            **({"priority": column.priority} if column.priority else {}),
                        }
                        for column in kind.COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": openapi_schema(kind)},
                }
            ],
        },
    }


def _structural(raw: Schema, definitions: dict[str, Schema], path: str, *, defaults: bool) -> Schema:
    """Translate one node of pydantic's schema; ``path`` is for messages."""
    node = _resolve(raw, definitions, path)
    kind = str(node.get("type"))
    if kind not in _KEPT_BY_TYPE:
        raise ValueError(f"{path}: no structural form is known for type {kind}")
    kept = _KEPT | _KEPT_BY_TYPE[kind]
    unknown = node.keys() - kept - _TRANSLATED
    if unknown:
        raise ValueError(f"{path}: no structural form of type {kind} is known for {sorted(unknown)}")
    result: Schema = {key: value for key, value in node.items() if key in kept}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "description" in result:
        result["description"] = " ".join(str(result["description"]).split())
    if kind == "object":
        _translate_object(node, result, definitions, path, defaults=defaults)
    elif kind == "array":
        result["items"] = _structural(node["items"], definitions, f"{path}[]", defaults=defaults)
    elif kind == "integer":
        result["format"] = "int64"
    default = node.get("default")
    if defaults and default not in (None, []):
        # The API server judges a default object by its rules before it fills in the defaults of its fields.
        result["default"] = _filled(result) if kind == "object" else default
    return _ordered(result)


def _translate_object(
    node: Schema, result: Schema, definitions: dict[str, Schema], path: str, *, defaults: bool
) -> None:
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        result["additionalProperties"] = _structural(
            cast("Schema", extra), definitions, f"{path}{{}}", defaults=defaults
        )
        return
    properties = cast("dict[str, Schema]", node.get("properties", {}))
    if not properties:
        result.pop("properties", None)
        return
    translated: dict[str, Schema] = {}
    for name, field in properties.items():
        translated[name] = _structural(field, definitions, f"{path}.{name}", defaults=defaults)
        if "description" not in translated[name]:
            raise ValueError(f"{path}.{name} has no description")
    result["properties"] = translated


def _resolve(raw: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Follow a reference and unwrap an optional value; what stands beside it wins."""
    outer = {key: value for key, value in raw.items() if key not in {"$ref", "anyOf"}}
    if "$ref" in raw:
        inner = definitions[str(raw["$ref"]).rsplit("/", 1)[-1]]
    elif "anyOf" in raw:
        choices = [choice for choice in raw["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise ValueError(f"{path}: a structural schema cannot express a choice of types")
        inner = cast("Schema", choices[0])
    else:
        return outer
    resolved = _resolve(inner, definitions, path)
    rules = [*resolved.get(VALIDATIONS, []), *outer.get(VALIDATIONS, [])]
    merged = resolved | outer
    if rules:
        merged[VALIDATIONS] = rules
    return merged


def _filled(schema: Schema) -> Schema:
    properties = cast("dict[str, Schema]", schema.get("properties", {}))
    return {name: field["default"] for name, field in properties.items() if "default" in field}


def _ordered(schema: Schema) -> Schema:
    return {key: schema[key] for key in _ORDER if key in schema}


def _paragraphs(kind: type[Resource]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out; the API server reads no YAML anchors from people."""
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        del indentless
        super().increase_indent(flow, indentless=False)


def _to_yaml(document: Schema) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
