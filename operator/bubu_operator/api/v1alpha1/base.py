"""What every model of this API is built from: rules judged twice, and three base classes.

A `Rule` states one demand in two languages, side by side: as CEL, which the API server
runs at ``kubectl apply``, and as Python, which runs when the operator parses an object
(a cluster may carry an older CRD, and unit tests need no cluster). The cluster tests
prove on a table of objects that both judge alike.

Invariants: specs are parsed strictly (no type is coerced) and refuse unknown fields;
statuses are read leniently, because an older or newer operator may have written them;
everything is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic import model_validator as pydantic_model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

__all__ = [
    "API_VERSION",
    "GROUP",
    "LAX",
    "VERSION",
    "Column",
    "ListMap",
    "ListSet",
    "ObjectMeta",
    "Resource",
    "Rule",
    "SpecModel",
    "StatusModel",
    "cel_string",
    "describe_validation_error",
    "exactly_one",
]

GROUP: Final = "storage.bubustack.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

LAX: Final = Field(strict=False)
"""Lets an enum be given by its value and a tuple by a list; what is inside stays strict."""

VALIDATIONS: Final = "x-kubernetes-validations"


def cel_string(text: str) -> str:
    """Quote ``text`` as a CEL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class Rule:
    """One demand on a value, for the API server and for Python.

    Used in a class's ``RULES`` (the value is the model) or inside ``Annotated`` (the value
    is the field's).

    Attributes:
        cel: expression over ``self``; true means fine. With ``oldSelf`` it judges updates
            only, and Python, which never sees the old object, leaves it to the server.
        message: what is wrong and what to do instead; without a trailing full stop.
        holds: the same judgement in Python; None for rules on updates.
        field_path: as ``.s3``, the field below the value that the error should name.
        reason: machine reason of the API error.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    field_path: str = ""
    reason: str = "FieldValueInvalid"

    def __post_init__(self) -> None:
        if (self.holds is None) != ("oldSelf" in self.cel):
            raise ValueError(f"a rule needs a Python twin exactly when it judges no update: {self.cel}")

    def to_schema(self) -> dict[str, str]:
        """Return the entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message, "reason": self.reason}
        if self.field_path:
            entry["fieldPath"] = self.field_path
        return entry

    def check(self, value: Any) -> Any:
        """Return ``value`` if the rule holds for it.

        Raises:
            PydanticCustomError: with the same message that the API server gives.
        """
        if self.holds is not None and not self.holds(value):
            # A template would read braces in the message as placeholders; a context value is taken as is.
            raise PydanticCustomError("rule", "{text}", {"text": self.message})
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema.setdefault(VALIDATIONS, []).append(self.to_schema())
        return json_schema


def exactly_one(names: tuple[str, ...], message: str, *, attributes: tuple[str, ...] | None = None) -> Rule:
    """Return a rule that exactly one of some fields is given.

    Args:
        names: as in the API.
        message: see `Rule`.
        attributes: as in Python, where they differ.
    """
    attributes = attributes or names
    terms = ", ".join(f"has(self.{name})" for name in names)
    return Rule(
        cel=f"[{terms}].filter(given, given).size() == 1",
        message=message,
        holds=lambda self: sum(getattr(self, name) is not None for name in attributes) == 1,
    )


@dataclass(frozen=True, slots=True)
class ListMap:
    """Marks a list whose items are told apart by ``key`` (``x-kubernetes-list-type: map``)."""

    key: str

    def _check(self, items: Any) -> Any:
        seen: set[Any] = set()
        for item in items:
            identity = getattr(item, self.key)
            if identity in seen:
                raise PydanticCustomError(
                    "duplicate", "Duplicate value: {key} {identity}", {"key": self.key, "identity": identity}
                )
            seen.add(identity)
        return items

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["x-kubernetes-list-type"] = "map"
        json_schema["x-kubernetes-list-map-keys"] = [self.key]
        return json_schema


@dataclass(frozen=True, slots=True)
class ListSet:
    """Marks a list of distinct scalars (``x-kubernetes-list-type: set``)."""

    def _check(self, items: Any) -> Any:
        if len(set(items)) != len(items):
            raise PydanticCustomError("duplicate", "Duplicate value")
        return items

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["x-kubernetes-list-type"] = "set"
        return json_schema


class _Model(BaseModel):
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @pydantic_model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.RULES:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        target = handler.resolve_ref_schema(json_schema)
        if cls.RULES:
            target[VALIDATIONS] = [rule.to_schema() for rule in cls.RULES]
        return json_schema

    def to_api(self) -> dict[str, Any]:
        """Return the JSON form the API server takes: camelCase keys, nothing that is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class SpecModel(_Model):
    """What users write: strict types, unknown fields refused, camelCase names only."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


class StatusModel(_Model):
    """What the operator writes: built by Python names, read back leniently."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore", frozen=True
    )


class ObjectMeta(BaseModel):
    """The part of an object's metadata that the operator reads."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] = Field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = Field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Column:
    """One column of ``kubectl get``.

    Attributes:
        name: header; kubectl prints it in capitals.
        json_path: where the value is.
        type: ``string``, ``integer``, ``boolean`` or ``date`` (printed as an age; a time in
            the future prints as ``<invalid>``, so future times are strings).
        description: shown by the API.
        priority: above 0 only with ``-o wide``.
    """

    name: str
    json_path: str
    type: str
    description: str
    priority: int = 0


class Resource(_Model):
    """A whole object of a kind, as the API server sends it.

    Parse with ``Kind.model_validate(obj)``; it raises ``pydantic.ValidationError``, which
    `describe_validation_error` turns into a sentence for a condition.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SHORT_NAMES: ClassVar[tuple[str, ...]]
    NAMESPACED: ClassVar[bool]
    COLUMNS: ClassVar[tuple[Column, ...]]

    api_version: str = API_VERSION
    kind: str = ""
    metadata: ObjectMeta

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone for a cluster-scoped kind; for messages and caches."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.NAMESPACED else self.metadata.name


def describe_validation_error(error: ValidationError) -> str:
    """Say in one line what is wrong with an object: each field's path and message.

    Values are left out: they may be long, and a status is read by more people than a spec.
    """
    parts: list[str] = []
    details = error.errors(include_url=False, include_context=False, include_input=False)
    for detail in details:
        loc = detail["loc"]
        inside = any(other["loc"][: len(loc)] == loc != other["loc"] for other in details)
        if detail["type"] == "too_short" and inside:
            continue  # pydantic counts only the items that are fine
        path = "".join(f"[{item}]" if isinstance(item, int) else f".{item}" for item in detail["loc"]).lstrip(
            "."
        )
        parts.append(f"{path}: {detail['msg']}" if path else detail["msg"])
    return "; ".join(parts)
