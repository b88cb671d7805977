"""The API ``storage.bubustack.io/v1alpha1``, one module a kind.

The CRDs in ``crds/`` are generated from these models; change a model and run
``make generate``. Controllers and injection parse objects with ``Kind.model_validate``.
"""

from __future__ import annotations

from bubu_operator.api.v1alpha1.base import (
    API_VERSION,
    GROUP,
    VERSION,
    ObjectMeta,
    Resource,
    describe_validation_error,
)
from bubu_operator.api.v1alpha1.cluster_retention_policy import (
    ClusterRetentionPolicy,
    ClusterRetentionPolicySpec,
)
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig, ClusterStorageConfigSpec
from bubu_operator.api.v1alpha1.common import Condition, LabelSelector, find_condition
from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_facts import (
    CycleSample,
    CycleSummary,
    CycleTallyStatus,
    OrphanCount,
    OwnersStatus,
    ReasonCount,
    SharingCluster,
    StoreClaim,
)
from bubu_operator.api.v1alpha1.retention_owners import OwnerKind
from bubu_operator.api.v1alpha1.retention_policy import (
    OrphanAction,
    RetentionMode,
    RetentionPolicy,
    RetentionPolicySpec,
    RetentionRuleSpec,
    RetentionSpec,
    StorageKind,
    StorageRef,
)
from bubu_operator.api.v1alpha1.retention_status import (
    LastPass,
    ResolvedStorage,
    RetentionCursor,
    RetentionCursorRun,
    RetentionPolicyStatus,
    RetentionTotals,
)
from bubu_operator.api.v1alpha1.scalars import duration_seconds, format_timestamp
from bubu_operator.api.v1alpha1.storage_config import StorageConfig, StorageConfigSpec, StorageConfigStatus
from bubu_operator.api.v1alpha1.store import ConflictPolicy, FileSpec, InjectionSpec, Provider, StoreSpec

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "ClusterRetentionPolicy",
    "ClusterRetentionPolicySpec",
    "ClusterStorageConfig",
    "ClusterStorageConfigSpec",
    "Condition",
    "ConditionType",
    "ConflictPolicy",
    "CycleSample",
    "CycleSummary",
    "CycleTallyStatus",
    "FileSpec",
    "InjectionSpec",
    "LabelSelector",
    "LastPass",
    "ObjectMeta",
    "OrphanAction",
    "OrphanCount",
    "OwnerKind",
    "OwnersStatus",
    "Provider",
    "Reason",
    "ReasonCount",
    "ResolvedStorage",
    "Resource",
    "RetentionCursor",
    "RetentionCursorRun",
    "RetentionMode",
    "RetentionPolicy",
    "RetentionPolicySpec",
    "RetentionPolicyStatus",
    "RetentionRuleSpec",
    "RetentionSpec",
    "RetentionTotals",
    "SharingCluster",
    "StorageConfig",
    "StorageConfigSpec",
    "StorageConfigStatus",
    "StorageKind",
    "StorageRef",
    "StoreClaim",
    "StoreSpec",
    "describe_validation_error",
    "duration_seconds",
    "find_condition",
    "format_timestamp",
]

KINDS: tuple[type[Resource], ...] = (
    StorageConfig,
    ClusterStorageConfig,
    RetentionPolicy,
    ClusterRetentionPolicy,
)
"""Every kind of this version, in the order in which docs and ``crds`` list them."""
