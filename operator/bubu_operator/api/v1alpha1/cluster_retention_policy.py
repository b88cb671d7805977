"""ClusterRetentionPolicy: what may be deleted from a cluster-wide store, namespace by namespace."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, Column, Resource, Rule
from bubu_operator.api.v1alpha1.retention_policy import (
    RetentionSpec,
    StorageKind,
    StorageRef,
    policy_columns,
)
from bubu_operator.api.v1alpha1.retention_status import RetentionPolicyStatus

__all__ = ["ClusterRetentionPolicy", "ClusterRetentionPolicySpec", "ClusterStorageRef"]


class ClusterStorageRef(StorageRef):
    """Names the cluster-wide config of the store that a policy is about."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.kind == 'ClusterStorageConfig'",
            message="a ClusterRetentionPolicy is about the store of a ClusterStorageConfig; for a "
            "StorageConfig write a RetentionPolicy in its namespace",
            holds=lambda self: self.kind is StorageKind.CLUSTER_STORAGE_CONFIG,
            field_path=".kind",
            reason="FieldValueForbidden",
        ),
    )

    kind: Annotated[Annotated[StorageKind, LAX], Field(description="ClusterStorageConfig.")] = (
        StorageKind.CLUSTER_STORAGE_CONFIG
    )


class ClusterRetentionPolicySpec(RetentionSpec):
    """What may be deleted, and how fast."""

    storage_ref: Annotated[
        ClusterStorageRef,
        Field(
            description="ClusterStorageConfig of the store to clean: the part of each namespace that its "
            "namespaceSelector selects. Cannot be changed after creation."
        ),
    ]


class ClusterRetentionPolicy(Resource):
    """Keeps the parts of many namespaces in a cluster-wide object store clean.

    Its rules hold in each namespace that the ClusterStorageConfig is offered to, as a
    RetentionPolicy of that namespace would state them. What a RetentionPolicy keeps stays kept.
    """

    KIND: ClassVar[str] = "ClusterRetentionPolicy"
    PLURAL: ClassVar[str] = "clusterretentionpolicies"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("cbrp",)
    NAMESPACED: ClassVar[bool] = False
    COLUMNS: ClassVar[tuple[Column, ...]] = policy_columns()

    spec: Annotated[ClusterRetentionPolicySpec, Field(description="What may be deleted, and how fast.")]
    status: Annotated[
        RetentionPolicyStatus,
        Field(description="What the operator did and will do next. Written by it only."),
    ] = RetentionPolicyStatus()
