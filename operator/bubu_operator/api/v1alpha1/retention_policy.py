"""RetentionPolicy: what may be deleted from a namespace's part of a store, and how fast.

Fields that belong to a later release (``keep.lastRuns``, ``orphans``,
``safety.maxDuePercent``) are known here only to be refused: an unknown field is pruned in
silence by the API server, and a policy that keeps less than its author wrote is a disaster.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from bubu_operator.api.v1alpha1.base import LAX, Column, ListMap, Resource, Rule, SpecModel, StatusModel
from bubu_operator.api.v1alpha1.common import Conditions
from bubu_operator.api.v1alpha1.scalars import (
    Duration,
    ObjectName,
    RulePrefix,
    Timestamp,
    duration_at_least,
    duration_seconds,
)
from bubu_storage.wire import DEFAULT_RETENTION_MAX_DELETE, DEFAULT_RETENTION_MAX_SCAN

__all__ = [
    "Keep",
    "LastPass",
    "Limits",
    "OrphanAction",
    "Orphans",
    "ReasonCount",
    "ResolvedStorage",
    "RetentionCursor",
    "RetentionCursorRun",
    "RetentionMode",
    "RetentionPolicy",
    "RetentionPolicySpec",
    "RetentionPolicyStatus",
    "RetentionRuleSpec",
    "RetentionTotals",
    "Safety",
    "StorageKind",
    "StorageRef",
]

MIN_AGE_FLOOR: Final = "5m"


class RetentionMode(StrEnum):
    """Whether a pass deletes."""

    DRY_RUN = "DryRun"
    ENFORCE = "Enforce"


class StorageKind(StrEnum):
    """Kinds of config that a policy can name."""

    STORAGE_CONFIG = "StorageConfig"
    CLUSTER_STORAGE_CONFIG = "ClusterStorageConfig"


class OrphanAction(StrEnum):
    """What to do with runs whose owner is gone."""

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

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.maxDuePercent)",
            message="maxDuePercent is not available in this version; "
            "use mode: DryRun to see what is due, and limits.maxDelete to bound a pass",
            holds=lambda self: self.max_due_percent is None,
            field_path=".maxDuePercent",
            reason="FieldValueForbidden",
        ),
    )

    min_age: Annotated[
        Duration,
        duration_at_least(MIN_AGE_FLOOR),
        Field(
            description="Nothing younger is ever deleted, by the store's own clock, whatever a rule says. At "
            "least 5m."
        ),
    ] = "24h"
    max_due_percent: Annotated[
        int | None,
        Field(ge=1, le=100, description="Not available in this version: refused. Use limits.maxDelete."),
    ] = None

    @property
    def min_age_seconds(self) -> int:
        """`min_age` in seconds."""
        return duration_seconds(self.min_age)


class Keep(SpecModel):
    """What a rule keeps; everything else below its prefix may be deleted."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lastRuns)",
            message="keep.lastRuns is not available in this version; use keep.within",
            holds=lambda self: self.last_runs is None,
            field_path=".lastRuns",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="has(self.within)",
            message="keep says nothing to keep: set within, as in within: 30d",
            holds=lambda self: self.within is not None,
            reason="FieldValueRequired",
        ),
    )

    within: Annotated[
        Duration | None,
        Field(
            description="Keep runs whose newest object is at most this old: a whole number above 0 and one "
            "unit "
            "of s, m, h, d, w. Required."
        ),
    ] = None
    last_runs: Annotated[
        int | None,
        Field(ge=1, le=100_000, description="Not available in this version: refused. Use within."),
    ] = None

    @property
    def within_seconds(self) -> int:
        """`within` in seconds."""
        if self.within is None:  # a parsed object always has it: see RULES
            raise ValueError("keep.within is not set")
        return duration_seconds(self.within)


class RetentionRuleSpec(SpecModel):
    """What to keep below one prefix. A run is kept if any rule of any policy on the store keeps it."""

    prefix: Annotated[
        RulePrefix,
        Field(
            description="Path of whole segments, ending with '/', as in outputs/. Its first segments are the "
            "store's outputPrefix or inputPrefix; the namespace is inserted after them, so that a policy "
            "never "
            "reaches another namespace's objects. The longest matching prefix decides."
        ),
    ]
    keep: Annotated[Keep, Field(description="What to keep; everything else below the prefix may be deleted.")]


class Orphans(SpecModel):
    """Runs whose owner is gone."""

    action: Annotated[
        Annotated[OrphanAction, LAX] | None, Field(description="Not available in this version: refused.")
    ] = None
    grace: Annotated[Duration | None, Field(description="Not available in this version: refused.")] = None


class RetentionPolicySpec(SpecModel):
    """What may be deleted, and how fast."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.storageRef) == has(oldSelf.storageRef) "
            "&& (!has(self.storageRef) || self.storageRef == oldSelf.storageRef)",
            message="storageRef cannot be set, changed or removed after creation: the cursor and the totals "
            "belong "
            "to one store; create another policy instead",
            field_path=".storageRef",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.orphans)",
            message="orphans is not available in this version; remove it: runs without an owner are judged "
            "by the "
            "rules like all others",
            holds=lambda self: self.orphans is None,
            field_path=".orphans",
            reason="FieldValueForbidden",
        ),
    )

    storage_ref: Annotated[
        StorageRef | None,
        Field(
            description="Config of the store to clean. Absent: the one that injection would choose in this "
            "namespace. "
            "Cannot be changed after creation."
        ),
    ] = None
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
    orphans: Annotated[Orphans | None, Field(description="Not available in this version: refused.")] = None
    suspend: Annotated[bool, Field(description="Start no pass. What this policy keeps stays kept.")] = False

    @property
    def interval_seconds(self) -> int:
        """`interval` in seconds."""
        return duration_seconds(self.interval)


# --- status ------------------------------------------------------------------------------------


class ReasonCount(StatusModel):
    """Objects that were decided for one reason."""

    objects: Annotated[int, Field(ge=0, description="How many.")] = 0
    bytes: Annotated[int, Field(ge=0, description="Their size in all.")] = 0


class LastPass(StatusModel):
    """What one pass did."""

    start_time: Annotated[Timestamp | None, Field(description="When it began.")] = None
    finish_time: Annotated[Timestamp | None, Field(description="When it ended; absent while it runs.")] = None
    mode: Annotated[str | None, Field(max_length=63, description="DryRun or Enforce.")] = None
    observed_generation: Annotated[
        int | None, Field(ge=0, description="metadata.generation of the spec that it followed.")
    ] = None
    scanned: Annotated[int, Field(ge=0, description="Objects looked at; never over limits.maxScan.")] = 0
    kept: Annotated[int, Field(ge=0, description="Objects kept.")] = 0
    kept_bytes: Annotated[int, Field(ge=0, description="Bytes of the objects kept.")] = 0
    due: Annotated[int, Field(ge=0, description="Objects that the rules let go, deleted or not.")] = 0
    due_bytes: Annotated[int, Field(ge=0, description="Bytes of the objects due.")] = 0
    deleted: Annotated[int, Field(ge=0, description="Objects deleted.")] = 0
    deleted_bytes: Annotated[int, Field(ge=0, description="Bytes of the objects deleted.")] = 0
    failed: Annotated[int, Field(ge=0, description="Objects whose deletion failed; they stay due.")] = 0
    by_reason: Annotated[
        dict[str, ReasonCount],
        Field(max_length=64, description="Objects and bytes for each reason of a decision."),
    ] = Field(default_factory=dict[str, ReasonCount])
    stopped_by: Annotated[
        str | None,
        Field(
            max_length=63,
            description="What ended the pass: the end of the listing, a limit, the budget, an error.",
        ),
    ] = None
    complete_cycle: Annotated[
        bool, Field(description="Whether the pass reached the end of what the rules cover.")
    ] = False
    message: Annotated[
        str | None, Field(max_length=32768, description="The pass in one sentence. Never a secret.")
    ] = None
    error_samples: Annotated[
        tuple[Annotated[str, Field(max_length=4096)], ...],
        Field(max_length=10, description="The first of the errors, scrubbed of secrets."),
    ] = ()


class RetentionCursorRun(StatusModel):
    """A run directory in the middle of which the last pass ended."""

    prefix: Annotated[str, Field(max_length=4096, description="The run directory.")]
    phase: Annotated[
        str, Field(max_length=63, description="Scanning: being looked at. Sweeping: being deleted.")
    ]
    position: Annotated[str, Field(max_length=4096, description="Last member that was dealt with.")] = ""
    newest: Annotated[
        str | None,
        Field(
            max_length=63,
            description="Date of the newest member seen; null if none has one.",
            json_schema_extra={"nullable": True},
        ),
    ] = None
    objects: Annotated[int, Field(ge=0, description="Members seen, or left to delete.")] = 0
    bytes: Annotated[int, Field(ge=0, description="Their size in all.")] = 0
    undated: Annotated[int, Field(ge=0, description="Members without a usable date.")] = 0
    reserved: Annotated[int, Field(ge=0, description="Members that are the operator's own.")] = 0

    @model_serializer(mode="wrap")
    def _with_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {"newest": None} | data  # the store's library tells "no date" from "not said"


class RetentionCursor(StatusModel):
    """Where the next pass resumes: `bubu_storage.retention.cursor.Cursor`, and what it belongs to."""

    fingerprint: Annotated[
        str | None,
        Field(max_length=63, description="Of the store and the rules; a cursor of others is not used."),
    ] = None
    after: Annotated[str, Field(max_length=4096, description="Key of the last decided object.")] = ""
    run: Annotated[
        RetentionCursorRun | None,
        Field(description="The run directory in the middle of which the last pass ended, if it did."),
    ] = None


class RetentionTotals(StatusModel):
    """Sums since the policy was created."""

    passes: Annotated[int, Field(ge=0, description="Passes that ended.")] = 0
    deleted_objects: Annotated[int, Field(ge=0, description="Objects deleted.")] = 0
    deleted_bytes: Annotated[int, Field(ge=0, description="Bytes deleted.")] = 0


class ResolvedStorage(StatusModel):
    """The config that a policy is working on."""

    kind: Annotated[str, Field(max_length=63, description="StorageConfig or ClusterStorageConfig.")]
    name: Annotated[str, Field(max_length=253, description="Its name.")]


class RetentionPolicyStatus(StatusModel):
    """What the operator did and will do next."""

    observed_generation: Annotated[
        int | None, Field(ge=0, description="metadata.generation that this status is about.")
    ] = None
    conditions: Annotated[
        Conditions,
        Field(
            description="Ready: can passes run. Reconciled: did the last one succeed. Degraded: see its "
            "reason."
        ),
    ] = ()
    storage: Annotated[
        ResolvedStorage | None, Field(description="The config that the policy is working on.")
    ] = None
    last_pass: Annotated[LastPass | None, Field(description="What the last pass did.")] = None
    next_pass_time: Annotated[Timestamp | None, Field(description="When the next pass is due.")] = None
    cursor: Annotated[RetentionCursor | None, Field(description="Where the next Enforce pass resumes.")] = (
        None
    )
    dry_run_cursor: Annotated[
        RetentionCursor | None, Field(description="Where the next DryRun pass resumes.")
    ] = None
    totals: Annotated[RetentionTotals | None, Field(description="Sums since the policy was created.")] = None
    oldest_overdue_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="How overdue, at the end of the last pass, the run was that should have gone first; "
            "absent if none is left.",
        ),
    ] = None
    oldest_overdue_since: Annotated[
        Timestamp | None,
        Field(description="The same as a time, for kubectl get: since when that run is overdue."),
    ] = None
    last_run_now: Annotated[
        str | None,
        Field(max_length=1024, description="Value of the run-now annotation that was last acted on."),
    ] = None


class RetentionPolicy(Resource):
    """Keeps this namespace's part of an object store clean, in bounded passes that resume.

    A pass deletes whole runs that no rule keeps, never more than its limits allow. The default
    mode, DryRun, only reports.
    """

    KIND: ClassVar[str] = "RetentionPolicy"
    PLURAL: ClassVar[str] = "retentionpolicies"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("brp",)
    NAMESPACED: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[Column, ...]] = (
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

    spec: Annotated[RetentionPolicySpec, Field(description="What may be deleted, and how fast.")]
    status: Annotated[
        RetentionPolicyStatus,
        Field(description="What the operator did and will do next. Written by it only."),
    ] = RetentionPolicyStatus()
