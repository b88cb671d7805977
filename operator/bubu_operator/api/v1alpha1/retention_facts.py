"""What a retention policy's status holds beyond one pass: cycles, owners, and others on the store."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from bubu_operator.api.v1alpha1.base import StatusModel
from bubu_operator.api.v1alpha1.retention_owners import MAX_OWNER_KINDS
from bubu_operator.api.v1alpha1.scalars import Timestamp

__all__ = [
    "MAX_RECENT_CYCLES",
    "MAX_SHARED_WITH",
    "CycleSample",
    "CycleSummary",
    "CycleTallyStatus",
    "OrphanCount",
    "OwnersStatus",
    "ReasonCount",
    "SharingCluster",
    "StoreClaim",
]

MAX_RECENT_CYCLES: Final = 6
MAX_SHARED_WITH: Final = 16


class ReasonCount(StatusModel):
    """Objects that were decided for one reason."""

    objects: Annotated[int, Field(ge=0, description="How many.")] = 0
    bytes: Annotated[int, Field(ge=0, description="Their size in all.")] = 0


class OrphanCount(StatusModel):
    """Runs without an owner."""

    objects: Annotated[int, Field(ge=0, description="Their objects.")] = 0
    bytes: Annotated[int, Field(ge=0, description="Their size in all.")] = 0


class CycleTallyStatus(StatusModel):
    """The sums of a cycle, `bubu_storage.retention.CycleTally`: they travel with the cursor."""

    decided: Annotated[int, Field(ge=0, description="Objects decided.")] = 0
    due: Annotated[int, Field(ge=0, description="Objects found due.")] = 0
    due_bytes: Annotated[int, Field(ge=0, description="Bytes of the objects found due.")] = 0
    digest: Annotated[str, Field(max_length=128, description="Chained over the runs found due.")] = ""
    orphans: Annotated[int, Field(ge=0, description="Objects of runs without an owner.")] = 0
    orphan_bytes: Annotated[
        int, Field(ge=0, description="Bytes of the objects of runs without an owner.")
    ] = 0


class CycleSummary(StatusModel):
    """What a complete cycle found."""

    fingerprint: Annotated[
        str | None,
        Field(max_length=63, description="Of the store and of what decides, see the cursor."),
    ] = None
    start_time: Annotated[Timestamp | None, Field(description="When its first pass began.")] = None
    complete_time: Annotated[Timestamp | None, Field(description="When its last pass ended.")] = None
    decided_objects: Annotated[int, Field(ge=0, description="Objects decided.")] = 0
    due_objects: Annotated[int, Field(ge=0, description="Objects found due.")] = 0
    due_bytes: Annotated[int, Field(ge=0, description="Bytes of the objects found due.")] = 0
    due_percent: Annotated[
        int, Field(ge=0, le=100, description="Objects due in percent of those decided, rounded up.")
    ] = 0
    plan_hash: Annotated[str | None, Field(max_length=63, description="Of what was found due.")] = None
    covered: Annotated[
        str | None,
        Field(
            max_length=60_000,
            description="Namespaces that a ClusterRetentionPolicy's cycle covered, as short digests.",
        ),
    ] = None


class CycleSample(StatusModel):
    """One complete cycle, for comparing it with the next."""

    complete_time: Annotated[Timestamp | None, Field(description="When it ended.")] = None
    seconds: Annotated[int, Field(ge=0, description="How long it took, waits between passes included.")] = 0
    decided_objects: Annotated[int, Field(ge=0, description="Objects decided.")] = 0
    due_objects: Annotated[int, Field(ge=0, description="Objects found due.")] = 0


class OwnersStatus(StatusModel):
    """The last complete list of owners that could be believed, and what is wrong with a newer one."""

    observed_time: Annotated[Timestamp | None, Field(description="When the list was made.")] = None
    live: Annotated[int, Field(ge=0, description="Owners that live: in none of their last phases.")] = 0
    existing: Annotated[int, Field(ge=0, description="Owners that exist, live ones included.")] = 0
    kinds: Annotated[
        tuple[Annotated[str, Field(max_length=400)], ...],
        Field(
            max_length=MAX_OWNER_KINDS + 2,
            description="Kinds that were listed, as StoryRun.v1alpha1.runs.bubustack.io.",
        ),
    ] = ()
    reason: Annotated[str | None, Field(max_length=63, description="One word for the problem.")] = None
    problem: Annotated[
        str | None,
        Field(
            max_length=4096,
            description="Why nothing is deleted: what a newer list lacks. Absent when all is well.",
        ),
    ] = None
    problem_hash: Annotated[
        str | None,
        Field(
            max_length=63,
            description="As the value of the annotation storage.bubustack.io/approve it says that the newer "
            "list is right.",
        ),
    ] = None
    problem_token: Annotated[
        str | None, Field(max_length=128, description="The same problem, as the operator knows it.")
    ] = None


class StoreClaim(StatusModel):
    """The claim object of the store, as last read."""

    holder: Annotated[
        str | None, Field(max_length=253, description="Cluster that holds it; absent if nobody does.")
    ] = None
    ours: Annotated[bool, Field(description="Whether that is this cluster.")] = False
    expire_time: Annotated[
        Timestamp | None, Field(description="When it ends unless it is renewed, by the store's clock.")
    ] = None
    observed_time: Annotated[Timestamp | None, Field(description="When it was read.")] = None


class SharingCluster(StatusModel):
    """Another cluster's operator on the same store."""

    cluster: Annotated[str, Field(max_length=253, description="Uid of its namespace kube-system.")]
    last_seen_time: Annotated[
        Timestamp | None, Field(description="When it registered itself last, by the store's clock.")
    ] = None
