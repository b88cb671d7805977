"""StorageConfig: the store of one namespace's pods."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from bubu_operator.api.v1alpha1.base import Column, Resource, Rule, StatusModel
from bubu_operator.api.v1alpha1.common import Conditions
from bubu_operator.api.v1alpha1.scalars import Timestamp
from bubu_operator.api.v1alpha1.store import S3Spec, StoreSpec

__all__ = ["NAME_FITS_A_LABEL", "StorageConfig", "StorageConfigSpec", "StorageConfigStatus"]

MAX_LABEL_LENGTH: Final = 63

NAME_FITS_A_LABEL: Final = Rule(
    cel=f"self.metadata.name.size() <= {MAX_LABEL_LENGTH}",
    message="the name of a storage config becomes a label of injected pods: at most 63 characters",
    holds=lambda self: len(self.metadata.name) <= MAX_LABEL_LENGTH,
)


class StorageConfigSpec(StoreSpec):
    """What is wanted: one store, and how pods are given it."""

    s3: Annotated[S3Spec | None, Field(description="A bucket as the store; exactly one of s3 and file.")] = (
        None
    )
    default: Annotated[
        bool,
        Field(description="Choose this one where a namespace has several and a pod names none."),
    ] = False


class StorageConfigStatus(StatusModel):
    """What the operator found."""

    observed_generation: Annotated[
        int | None, Field(ge=0, description="metadata.generation that this status is about.")
    ] = None
    conditions: Annotated[
        Conditions,
        Field(description="Ready: can the store be used. Reconciled: did the operator finish its work."),
    ] = ()
    provider: Annotated[str | None, Field(max_length=63, description="s3 or file.")] = None
    bucket: Annotated[
        str | None,
        Field(
            max_length=2048,
            description="The bucket; for a file store pvc/<claim>, emptyDir, or the path.",
        ),
    ] = None
    store_identity: Annotated[
        str | None,
        Field(
            max_length=2048,
            description="What two configs have in common exactly when they mean the same store; no secrets "
            "in it.",
        ),
    ] = None
    last_probe_time: Annotated[
        Timestamp | None, Field(description="When the store was last tried, with or without success.")
    ] = None
    probe_latency_milliseconds: Annotated[
        int | None, Field(ge=0, description="How long the last successful probe took in all.")
    ] = None
    capabilities: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        Field(
            max_length=32,
            description="What the last successful probe could do, as in Read, Write, List, Delete; Versioned "
            "where the store keeps old versions, so that a deletion alone frees nothing.",
        ),
    ] = ()
    injected_pods: Annotated[
        int | None, Field(ge=0, description="Pods that now carry the environment of this config.")
    ] = None


def config_columns() -> tuple[Column, ...]:
    """Return the columns that both kinds of config share."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    return (
        Column("Ready", f"{ready}.status", "string", "Whether the store can be used."),
        Column("Reason", f"{ready}.reason", "string", "Why."),
        Column("Provider", ".status.provider", "string", "s3 or file."),
        Column("Bucket", ".status.bucket", "string", "The bucket, or where the files are."),
        Column("Default", ".spec.default", "boolean", "Chosen where a namespace has several."),
        Column("Pods", ".status.injectedPods", "integer", "Pods that carry this config."),
        Column("Last-Probe", ".status.lastProbeTime", "date", "Time since the store was last tried."),
        Column("Age", ".metadata.creationTimestamp", "date", "Time since the object was created."),
    )


class StorageConfig(Resource):
    """Describes the object store that the pods of this namespace use.

    Pods that are selected for injection get its BUBU_* environment, and its credentials by
    reference to a Secret of their own namespace. The operator probes the store and says in the
    conditions whether it can be used.
    """

    KIND: ClassVar[str] = "StorageConfig"
    PLURAL: ClassVar[str] = "storageconfigs"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("bsc",)
    NAMESPACED: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[Column, ...]] = config_columns()
    RULES: ClassVar[tuple[Rule, ...]] = (NAME_FITS_A_LABEL,)

    spec: Annotated[
        StorageConfigSpec, Field(description="What is wanted: one store, and how pods are given it.")
    ]
    status: Annotated[
        StorageConfigStatus, Field(description="What the operator found. Written by the operator only.")
    ] = StorageConfigStatus()
