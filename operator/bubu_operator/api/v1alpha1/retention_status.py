"""The status of a retention policy: what the last pass did, and where the next one resumes.

What passes have learnt over whole cycles, and who else is on the store, is in
`retention_facts`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from bubu_operator.api.v1alpha1.base import StatusModel
from bubu_operator.api.v1alpha1.common import Conditions
from bubu_operator.api.v1alpha1.retention_facts import (
    MAX_RECENT_CYCLES,
    MAX_SHARED_WITH,
    CycleSample,
    CycleSummary,
    CycleTallyStatus,
    OrphanCount,
    OwnersStatus,
    ReasonCount,
    SharingCluster,
    StoreClaim,
)
from bubu_operator.api.v1alpha1.scalars import Timestamp

__all__ = [
    "LastPass",
    "ReasonCount",
    "ResolvedStorage",
    "RetentionCursor",
    "RetentionCursorRun",
    "RetentionPolicyStatus",
    "RetentionTotals",
]


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
    duration_seconds: Annotated[
        int | None, Field(ge=0, description="How long it worked, in whole seconds.")
    ] = None
    requests: Annotated[int, Field(ge=0, description="Requests that it sent to the store.")] = 0
    relisted: Annotated[
        int, Field(ge=0, description="Of the objects looked at: listed again right before a deletion.")
    ] = 0
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
    cycle: Annotated[
        CycleTallyStatus | None, Field(description="What the present cycle has counted so far.")
    ] = None
    cycle_start_time: Annotated[
        Timestamp | None, Field(description="When the present cycle began; absent at its start.")
    ] = None
    covered: Annotated[
        str | None,
        Field(
            max_length=60_000,
            description="Namespaces that the present cycle of a ClusterRetentionPolicy has covered from its "
            "beginning, as short digests.",
        ),
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
    rehearsal: Annotated[
        CycleSummary | None,
        Field(
            description="The last complete dry cycle. One of the present spec precedes the first deletion, "
            "and follows every change of what decides: store, rules, minAge, owners, orphans."
        ),
    ] = None
    cycle: Annotated[
        CycleSummary | None,
        Field(description="The last complete cycle that deleted, since the last complete dry one."),
    ] = None
    plan_hash: Annotated[
        str | None,
        Field(
            max_length=63,
            description="Of what the last complete dry cycle found due. As the value of the annotation "
            "storage.bubustack.io/approve it lets a plan above safety.maxDuePercent go.",
        ),
    ] = None
    approved_plan: Annotated[
        str | None, Field(max_length=63, description="The plan that was approved last.")
    ] = None
    owners: Annotated[
        OwnersStatus | None, Field(description="The last complete list of the owners of runs.")
    ] = None
    orphans: Annotated[
        OrphanCount | None,
        Field(description="Runs without an owner that the last complete cycle found, dry or not."),
    ] = None
    claim: Annotated[
        StoreClaim | None, Field(description="Who may delete from the store, by the claim object in it.")
    ] = None
    shared_with: Annotated[
        tuple[SharingCluster, ...] | None,
        Field(
            max_length=MAX_SHARED_WITH,
            description="Other clusters whose operators registered themselves in the store of late.",
        ),
    ] = None
    estimated_cycle_seconds: Annotated[
        int | None,
        Field(ge=0, description="How long a whole cycle takes at the present limits and interval."),
    ] = None
    recent_cycles: Annotated[
        tuple[CycleSample, ...] | None,
        Field(
            max_length=MAX_RECENT_CYCLES,
            description="The last complete cycles that deleted, oldest first; see BacklogGrowing.",
        ),
    ] = None
