"""Generated files are what the models say, and the generator refuses what it cannot express."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from bubu_operator.api import crds, reference
from bubu_operator.api.crds import check_crds, openapi_schema, render_crds, write_crds
from bubu_operator.api.v1alpha1 import GROUP, KINDS, Resource
from bubu_operator.api.v1alpha1.base import Column, ListMap, ListSet, SpecModel

REPOSITORY = Path(__file__).parents[3]


def test_crds_in_the_repository_are_up_to_date():
    """Change a model, then run ``make generate``."""
    assert check_crds(REPOSITORY / "crds") == []


def test_reference_in_the_repository_is_up_to_date():
    """Change a model or a reason, then run ``python -m bubu_operator.api.reference docs/reference``."""
    assert reference.check_reference(REPOSITORY / "docs" / "reference") == []


def test_written_files_pass_the_check(tmp_path: Path):
    """What is written into a new folder is what is checked."""
    paths = write_crds(tmp_path / "a" / "crds")
    pages = reference.write_reference(tmp_path / "b")

    assert [path.name for path in paths] == [f"{kind.PLURAL}.yaml" for kind in KINDS]
    assert [path.name for path in pages] == ["api.md", "conditions.md", "operator-metrics.md"]
    assert check_crds(tmp_path / "a" / "crds") == []
    assert reference.check_reference(tmp_path / "b") == []


def test_drift_is_named_file_by_file(tmp_path: Path):
    """A missing, a changed and a foreign file are each one sentence."""
    write_crds(tmp_path)
    (tmp_path / "storageconfigs.yaml").unlink()
    (tmp_path / "retentionpolicies.yaml").write_text("changed", encoding="utf-8")
    (tmp_path / "buckets.yaml").touch()

    assert check_crds(tmp_path) == [
        f"{tmp_path}/storageconfigs.yaml is missing",
        f"{tmp_path}/retentionpolicies.yaml differs from the models in operator/bubu_operator/api",
        f"{tmp_path}/buckets.yaml belongs to no kind of the models",
    ]


def test_drift_of_the_reference_is_named(tmp_path: Path):
    """The same for the pages."""
    (tmp_path / "api.md").write_text("changed", encoding="utf-8")

    assert reference.check_reference(tmp_path) == [
        f"{tmp_path}/api.md differs from the models in operator/bubu_operator/api",
        f"{tmp_path}/conditions.md is missing",
        f"{tmp_path}/operator-metrics.md is missing",
    ]


def test_rendering_is_deterministic_and_says_that_it_is_generated():
    """The same models give the same bytes; the first line says where they come from."""
    assert render_crds() == render_crds()
    assert {text.splitlines()[0] for text in render_crds().values()} == {
        "# Generated from operator/bubu_operator/api by `bubu-operator crds --write crds`. Do not edit."
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_definition_names_and_subresource(kind: type[Resource]):
    """Group, names, categories and the status subresource are those of the design."""
    document = yaml.safe_load(render_crds()[f"{kind.PLURAL}.yaml"])
    version = document["spec"]["versions"][0]

    assert document["metadata"]["name"] == f"{kind.PLURAL}.{GROUP}"
    assert document["spec"]["names"]["shortNames"] == list(kind.SHORT_NAMES)
    assert document["spec"]["names"]["categories"] == ["bubu", "storage"]
    assert document["spec"]["scope"] == ("Namespaced" if kind.NAMESPACED else "Cluster")
    assert version["subresources"] == {"status": {}}


def walk(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every node of a schema with its path."""
    found = [(path, schema)]
    for name, field in schema.get("properties", {}).items():
        found += walk(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += walk(schema[key], f"{path}[]")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_every_field_has_a_description(kind: type[Resource]):
    """Items of lists and maps are described by their list; metadata by Kubernetes."""
    bare = [
        path
        for path, node in walk(openapi_schema(kind))
        if not node.get("description") and not path.endswith("[]") and path != ".metadata"
    ]

    assert bare == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_every_text_list_and_map_of_a_spec_is_bounded(kind: type[Resource]):
    """The API server bounds the cost of rules by these limits, and etcd the size of objects."""
    spec = openapi_schema(kind)["properties"]["spec"]
    unbounded = [
        path
        for path, node in walk(spec)
        if (node["type"] == "string" and not {"maxLength", "enum"} & node.keys())
        or (node["type"] == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
        or (node["type"] == "integer" and not {"minimum", "maximum"} <= node.keys())
    ]

    assert unbounded == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_a_status_has_no_defaults(kind: type[Resource]):
    """A default there would claim a fact that nobody observed."""
    status = openapi_schema(kind)["properties"]["status"]

    assert [path for path, node in walk(status) if "default" in node] == []


class _WithChoice(SpecModel):
    choice: Annotated[int | str, Field(description="Either.")] = 1


class _WithFloat(SpecModel):
    ratio: Annotated[float, Field(description="A number.")] = 1.0


class _WithMultiple(SpecModel):
    count: Annotated[int, Field(multiple_of=2, description="Even.")] = 2


class _Undescribed(SpecModel):
    name: str = ""


class _WrongBound(SpecModel):
    names: Annotated[tuple[str, ...], ListSet(), Field(max_length=2, description="Names.")] = ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_WithChoice, "spec.choice: a structural schema cannot express a choice of types"),
        (_WithFloat, "spec.ratio: no structural form is known for type number"),
        (_WithMultiple, r"spec.count: no structural form of type integer is known for \['multipleOf'\]"),
        (_Undescribed, "spec.name has no description"),
        (_WrongBound, r"spec.names: no structural form of type array is known for \['maxLength'\]"),
    ],
)
def test_generator_stops_at_what_it_cannot_express(spec: type[SpecModel], message: str):
    """Nothing that a model demands is dropped in silence on the way to the API server."""
    kind = type(
        "Bad",
        (Resource,),
        {
            "__annotations__": {
                "spec": Annotated[spec, Field(description="Spec.")],
                "status": Annotated[_Empty, Field(description="Status.")],
            },
            "__module__": __name__,
            "KIND": "Bad",
            "NAMESPACED": True,
            "COLUMNS": (Column("Age", ".metadata.creationTimestamp", "date", "Age."),),
        },
    )

    with pytest.raises(ValueError, match=message):
        openapi_schema(kind)


class _Empty(SpecModel):
    """Nothing."""


def test_list_map_needs_distinct_keys():
    """The marker's own check, as the API server does it."""

    class Item(SpecModel):
        name: str

    class Holder(SpecModel):
        items: Annotated[tuple[Item, ...], Field(strict=False), ListMap("name")]

    with pytest.raises(ValueError, match="Duplicate value: name a"):
        Holder.model_validate({"items": [{"name": "a"}, {"name": "a"}]})


def test_public_names():
    """What other modules may import."""
    assert set(crds.__all__) == {"check_crds", "openapi_schema", "render_crds", "write_crds"}
    assert set(reference.__all__) == {"check_reference", "render_reference", "write_reference"}
