"""RetentionPolicy: what may be deleted from a namespace's part of a store, and how fast.

What a namespaced and a cluster-wide policy have in common is `RetentionSpec`; they differ in
how they name their store.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, Column, ListMap, Resource, Rule, SpecModel
from bubu_operator.api.v1alpha1.retention_owners import (
    EACH_KIND_ONCE,
    MAX_OWNER_KINDS,
    OwnerKind,
)
from bubu_operator.api.v1alpha1.retention_status import RetentionCursor, RetentionPolicyStatus
from bubu_operator.api.v1alpha1.scalars import (
    Duration,
    ObjectName,
    RulePrefix,
    duration_at_least,
    duration_seconds,
)
from bubu_storage.wire import DEFAULT_RETENTION_MAX_DELETE, DEFAULT_RETENTION_MAX_SCAN

__all__ = [
    "Keep",
    "Limits",
    "OrphanAction",
    "Orphans",
    "RetentionCursor",
    "RetentionMode",
    "RetentionPolicy",
    "RetentionPolicySpec",
    "RetentionPolicyStatus",
    "RetentionRuleSpec",
    "RetentionSpec",
    "Safety",
    "StorageKind",
    "StorageRef",
    "policy_columns",
]

MIN_AGE_FLOOR: Final = "5m"
GRACE_FLOOR: Final = "5m"


class RetentionMode(StrEnum):
    """Whether a pass deletes."""

    DRY_RUN = "DryRun"
    ENFORCE = "Enforce"


class StorageKind(StrEnum):
    """Kinds of config that a policy can name."""

    STORAGE_CONFIG = "StorageConfig"
    CLUSTER_STORAGE_CONFIG = "ClusterStorageConfig"


class OrphanAction(StrEnum):
    """What to do with runs whose owner is gone, where keep.lastRuns cannot rank them."""

    REPORT = "Report"
    DELETE = "Delete"


class StorageRef(SpecModel):
    """Names the config of the store that a policy is about."""

    kind: Annotated[
        Annotated[StorageKind, LAX], Field(description="StorageConfig or ClusterStorageConfig.")
    ] = StorageKind.STORAGE_CONFIG
    name: Annotated[
        ObjectName,
        Field(description="Name of the config; a StorageConfig is looked up in the policy's namespace."),
    ]


class Limits(SpecModel):
    """Bounds of one pass; whatever is left waits for the next, which resumes where this one stopped."""

    max_scan: Annotated[
        int, Field(ge=1, le=10_000_000, description="Most objects that one pass looks at.")
    ] = DEFAULT_RETENTION_MAX_SCAN
    max_delete: Annotated[
        int, Field(ge=1, le=1_000_000, description="Most objects that one pass deletes.")
    ] = DEFAULT_RETENTION_MAX_DELETE
    budget_seconds: Annotated[int, Field(ge=1, le=3600, description="Longest time that one pass takes.")] = 60
    requests_per_second: Annotated[
        int, Field(ge=0, le=10_000, description="Most requests a second to the store; 0 for no limit.")
    ] = 0


class Safety(SpecModel):
    """What protects objects whatever the rules say."""

    min_age: Annotated[
        Duration,
        duration_at_least(MIN_AGE_FLOOR),
        Field(
            description="Nothing younger is ever deleted, by the store's own clock, whatever a rule says. At "
            "least 5m."
        ),
    ] = "24h"
    max_due_percent: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Most that may be due, in percent of all objects that a whole cycle decides. Above "
            "it nothing is deleted until the annotation storage.bubustack.io/approve has the value of "
            "status.planHash. 100: no limit.",
        ),
    ] = 50

    @property
    def min_age_seconds(self) -> int:
        """`min_age` in seconds."""
        return duration_seconds(self.min_age)


class Keep(SpecModel):
    """What a rule keeps; everything else below its prefix may be deleted."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.within) || has(self.lastRuns)",
            message="keep says nothing to keep: set within, lastRuns or both, as in within: 30d",
            holds=lambda self: self.within is not None or self.last_runs is not None,
            reason="FieldValueRequired",
        ),
    )

    within: Annotated[
        Duration | None,
        Field(
            description="Keep runs whose newest object is at most this old: a whole number above 0 and one "
            "unit of s, m, h, d, w."
        ),
    ] = None
    last_runs: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="Keep the newest runs of each story, this many, by the list of owners. Runs whose "
            "story is unknown are kept, too; see orphans for runs whose owner is gone.",
        ),
    ] = None

    @property
    def within_seconds(self) -> int | None:
        """`within` in seconds."""
        return None if self.within is None else duration_seconds(self.within)


class RetentionRuleSpec(SpecModel):
    """What to keep below one prefix. A run is kept if any rule of any policy on the store keeps it."""

    prefix: Annotated[
        RulePrefix,
        Field(
            description="Path of whole segments, ending with '/', as in outputs/. Its first segments are the "
            "store's outputPrefix or inputPrefix; the namespace is inserted after them, so that a policy "
            "never reaches another namespace's objects. Prefixes may lie inside each other: a run is kept if "
            "any rule that covers it keeps it. The longest one is only named as the reason."
        ),
    ]
    keep: Annotated[Keep, Field(description="What to keep; everything else below the prefix may be deleted.")]


class Orphans(SpecModel):
    """Runs whose owner is gone."""

    action: Annotated[
        Annotated[OrphanAction, LAX],
        Field(
            description="What a rule with keep.lastRuns does with a run that has no owner any more. Report: "
            "keep and count it. Delete: let it go after the grace, unless keep.within still keeps it. Rules "
            "with keep.within alone judge such runs by their age, like all others."
        ),
    ] = OrphanAction.REPORT
    grace: Annotated[
        Duration,
        duration_at_least(GRACE_FLOOR),
        Field(
            description="How long a run must have been seen without an owner, by the store's clock, before "
            "action Delete applies. At least 5m."
        ),
    ] = "24h"

    @property
    def grace_seconds(self) -> int:
        """`grace` in seconds."""
        return duration_seconds(self.grace)


STORAGE_REF_IS_FIXED: Final = Rule(
    cel="has(self.storageRef) == has(oldSelf.storageRef) "
    "&& (!has(self.storageRef) || self.storageRef == oldSelf.storageRef)",
    message="storageRef cannot be set, changed or removed after creation: the cursor and the totals "
    "belong to one store; create another policy instead",
    field_path=".storageRef",
    reason="FieldValueForbidden",
)


class RetentionSpec(SpecModel):
    """What may be deleted, and how fast; the store is named by the kind."""

    RULES: ClassVar[tuple[Rule, ...]] = (STORAGE_REF_IS_FIXED, EACH_KIND_ONCE)

    mode: Annotated[
        Annotated[RetentionMode, LAX],
        Field(
            description="DryRun reports what is due and writes nothing to the store; Enforce deletes it.",
        ),
    ] = RetentionMode.DRY_RUN
    interval: Annotated[Duration, Field(description="Time between two passes, as in 2m.")] = "2m"
    limits: Annotated[Limits, Field(description="Bounds of one pass.")] = Limits()
    safety: Annotated[Safety, Field(description="What protects objects whatever the rules say.")] = Safety()
    rules: Annotated[
        Annotated[tuple[RetentionRuleSpec, ...], LAX, Field(min_length=1, max_length=64)],
        ListMap("prefix"),
        Field(
            description="What to keep, prefix by prefix. What no rule matches is kept.",
        ),
    ]
    orphans: Annotated[Orphans, Field(description="Runs whose owner is gone.")] = Orphans()
    owners: Annotated[
        Annotated[tuple[OwnerKind, ...], LAX] | None,
        Field(
            min_length=1,
            max_length=MAX_OWNER_KINDS,
            description="Further kinds whose objects own runs, or how to read the usual ones otherwise. "
            "StoryRun and StepRun of runs.bubustack.io count in any case, where the API server serves them; "
            "a kind that is named here must be served, or nothing is deleted. Kinds of other policies that "
            "reach the same part of the store count, too.",
        ),
    ] = None
    suspend: Annotated[bool, Field(description="Start no pass. What this policy keeps stays kept.")] = False

    @property
    def interval_seconds(self) -> int:
        """`interval` in seconds."""
        return duration_seconds(self.interval)


class RetentionPolicySpec(RetentionSpec):
    """What may be deleted, and how fast."""

    storage_ref: Annotated[
        StorageRef | None,
        Field(
            description="Config of the store to clean. Absent: the one that injection would choose in this "
            "namespace. "
            "Cannot be changed after creation."
        ),
    ] = None


def policy_columns() -> tuple[Column, ...]:
    """Return what ``kubectl get`` shows of a policy."""
    return (
        Column("Mode", ".spec.mode", "string", "DryRun or Enforce."),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "string", "Whether passes can run."),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", "Why."),
        Column("Last", ".status.lastPass.finishTime", "date", "Time since the last pass ended."),
        Column("Next", ".status.nextPassTime", "string", "When the next pass is due."),
        Column("Due", ".status.lastPass.due", "integer", "Objects that the last pass found due."),
        Column("Deleted", ".status.totals.deletedObjects", "integer", "Objects deleted so far."),
        Column(
            "Oldest-Overdue",
            ".status.oldestOverdueSince",
            "date",
            "How long the object that should have gone first is overdue.",
        ),
        Column("Age", ".metadata.creationTimestamp", "date", "Time since the object was created."),
    )


class RetentionPolicy(Resource):
    """Keeps this namespace's part of an object store clean, in bounded passes that resume.

    A pass deletes whole runs that no rule keeps, never more than its limits allow. The default
    mode, DryRun, only reports.
    """

    KIND: ClassVar[str] = "RetentionPolicy"
    PLURAL: ClassVar[str] = "retentionpolicies"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("brp",)
    NAMESPACED: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[Column, ...]] = policy_columns()

    spec: Annotated[RetentionPolicySpec, Field(description="What may be deleted, and how fast.")]
    status: Annotated[
        RetentionPolicyStatus,
        Field(description="What the operator did and will do next. Written by it only."),
    ] = RetentionPolicyStatus()
