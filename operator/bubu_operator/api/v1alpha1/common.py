"""Parts that several kinds share: conditions, label selectors, references into a namespace."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, ListMap, Rule, SpecModel, StatusModel, cel_string
from bubu_operator.api.v1alpha1.scalars import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    LabelKey,
    LabelValue,
    Timestamp,
)

__all__ = [
    "Condition",
    "Conditions",
    "LabelSelector",
    "LabelSelectorOperator",
    "LabelSelectorRequirement",
    "find_condition",
    "requirement_holds",
]


class Condition(StatusModel):
    """One observation of the object's state, in the standard form of Kubernetes conditions."""

    type: Annotated[
        str, Field(max_length=316, description="What is observed, in CamelCase, for example Ready.")
    ]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="True, False or Unknown.")]
    observed_generation: Annotated[
        int | None,
        Field(
            default=None, ge=0, description="metadata.generation of the object that the observation is about."
        ),
    ] = None
    last_transition_time: Annotated[
        Timestamp, Field(description="When the status last changed from one value to another.")
    ]
    reason: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            description="Why the status is what it is: one fixed word, listed in "
            "docs/reference/conditions.md.",
        ),
    ]
    message: Annotated[
        str,
        Field(
            max_length=32768,
            description="The same for people: what was found and what to do. Never a secret.",
        ),
    ]


Conditions: TypeAlias = Annotated[tuple[Condition, ...], Field(max_length=32), ListMap("type")]


def find_condition(conditions: tuple[Condition, ...], condition_type: str) -> Condition | None:
    """Return the condition of a type, or None."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


class LabelSelectorOperator(StrEnum):
    """How a selector's requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


_WITH_VALUES = frozenset({LabelSelectorOperator.IN, LabelSelectorOperator.NOT_IN})


def requirement_holds(operator: str, key: str, values: Container[str], labels: Mapping[str, str]) -> bool:
    """Tell whether a set of labels meets one demand, as the API server would judge.

    Args:
        operator: a `LabelSelectorOperator`, or its word; what is none holds for nothing.
        key: of the label.
        values: for In and NotIn.
        labels: of the object. One without the label meets NotIn.
    """
    match operator:
        case LabelSelectorOperator.IN:
            return key in labels and labels[key] in values
        case LabelSelectorOperator.NOT_IN:
            return key not in labels or labels[key] not in values
        case LabelSelectorOperator.EXISTS:
            return key in labels
        case LabelSelectorOperator.DOES_NOT_EXIST:
            return key not in labels
        case _:
            return False


class LabelSelectorRequirement(SpecModel):
    """One demand on a label."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 "
            ": !has(self.values) || self.values.size() == 0",
            message="operators In and NotIn need values; Exists and DoesNotExist take none",
            holds=lambda self: (self.operator in _WITH_VALUES) == bool(self.values),
        ),
    )

    key: Annotated[LabelKey, Field(description="The label's key.")]
    operator: Annotated[
        Annotated[LabelSelectorOperator, LAX], Field(description="In, NotIn, Exists or DoesNotExist.")
    ]
    values: Annotated[
        Annotated[tuple[LabelValue, ...], LAX],
        Field(max_length=64, description="Values for In and NotIn; none for the other operators."),
    ] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a set of labels meets this requirement, as the API server would judge."""
        return requirement_holds(self.operator, self.key, self.values, labels)


def _labels_valid(labels: Mapping[str, str]) -> bool:
    return all(
        re.fullmatch(LABEL_KEY_PATTERN, key) and re.fullmatch(LABEL_VALUE_PATTERN, value)
        for key, value in labels.items()
    )


class LabelSelector(SpecModel):
    """Selects by labels; all of its demands must hold, and an empty selector selects everything."""

    match_labels: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]],
        Field(max_length=32),
        Rule(
            cel=f"self.all(key, key.matches({cel_string(f'^({LABEL_KEY_PATTERN})$')}) "
            f"&& self[key].matches({cel_string(f'^({LABEL_VALUE_PATTERN})$')}))",
            message="must map label keys to label values, as in team: flows",
            holds=_labels_valid,
        ),
        Field(description="Labels that must be present with exactly these values."),
    ] = Field(default_factory=dict[str, str])
    match_expressions: Annotated[
        Annotated[tuple[LabelSelectorRequirement, ...], LAX],
        Field(max_length=32, description="Further demands on labels."),
    ] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a set of labels is selected, as the API server would judge."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )
