"""Who may own a run: the kinds whose objects keep it alive, and how their last phases are told.

A run directory bears the name of an object in its namespace, its owner. StoryRun and StepRun of
the workflow engine are asked for in any case where the API server serves them: a policy can add
kinds, or say otherwise of these, and never leave one out, for that would let data of live runs go.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from bubu_operator.api.v1alpha1.base import LAX, ListSet, Rule, SpecModel
from bubu_operator.api.v1alpha1.scalars import matches

__all__ = [
    "EACH_KIND_ONCE",
    "ENDED_PHASES",
    "MAX_OWNER_KINDS",
    "OwnerKind",
]

MAX_OWNER_KINDS: Final = 16

ENDED_PHASES: Final = (
    "Succeeded",
    "Failed",
    "Finished",
    "Canceled",
    "Compensated",
    "Timeout",
    "Aborted",
    "Skipped",
)
"""Phases in which an owner has come to its end; in any other, or none, it is live."""

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_FIELD: Final = "[A-Za-z_][A-Za-z0-9_-]*"


class OwnerKind(SpecModel):
    """One kind whose objects own runs: an object NAME owns the run directory NAME of its namespace."""

    group: Annotated[
        str,
        StringConstraints(max_length=253),
        matches(f"({_SUBDOMAIN})?", "must be an API group, as in runs.bubustack.io; '' is the core group"),
        Field(description="API group, as in runs.bubustack.io; '' for the core group."),
    ]
    version: Annotated[
        str,
        StringConstraints(max_length=63),
        matches("v[a-z0-9]([-a-z0-9]*[a-z0-9])?", "must be a version of an API, as in v1 or v1alpha1"),
        Field(description="Version that the API server serves, as in v1alpha1."),
    ]
    kind: Annotated[
        str,
        StringConstraints(max_length=63),
        matches("[A-Z][A-Za-z0-9]*", "must be a kind in CamelCase, as in StoryRun"),
        Field(description="Kind, as in StoryRun."),
    ]
    phase_path: Annotated[
        str,
        StringConstraints(max_length=253),
        matches(
            rf"{_FIELD}(\.{_FIELD})*",
            "must be a path of fields joined by dots, as in status.phase; no lists, no leading dot",
        ),
        Field(
            description="Where an object's phase is, as names of fields joined by dots. An object that has "
            "nothing there is live."
        ),
    ] = "status.phase"
    ended_phases: Annotated[
        Annotated[
            tuple[
                Annotated[
                    str,
                    StringConstraints(max_length=63),
                    matches("[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", "must be a phase, as in Succeeded"),
                ],
                ...,
            ],
            LAX,
            Field(max_length=32),
        ],
        ListSet(),
        Field(
            description="Phases in which an owner has come to its end. In any other, or none, it is live, "
            "and so is all of its run. Empty: an owner is live as long as it exists.",
        ),
    ] = ENDED_PHASES


EACH_KIND_ONCE: Final = Rule(
    cel="!has(self.owners) || self.owners.all(a, "
    "self.owners.exists_one(b, b.group == a.group && b.kind == a.kind))",
    message="owners names a kind twice: each group and kind once, in one version",
    holds=lambda self: (
        self.owners is None or len({(owner.group, owner.kind) for owner in self.owners}) == len(self.owners)
    ),
    field_path=".owners",  # with reason FieldValueDuplicate the API server leaves the message out
)
"""For a spec that has ``owners``."""
