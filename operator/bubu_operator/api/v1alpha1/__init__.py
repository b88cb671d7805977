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
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig, ClusterStorageConfigSpec
from bubu_operator.api.v1alpha1.common import Condition, LabelSelector, find_condition
from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_policy import (
    RetentionMode,
    RetentionPolicy,
    RetentionPolicySpec,
    RetentionRuleSpec,
    StorageKind,
    StorageRef,
)
from bubu_operator.api.v1alpha1.retention_status import (
    LastPass,
    ReasonCount,
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
    "ClusterStorageConfig",
    "ClusterStorageConfigSpec",
    "Condition",
    "ConditionType",
    "ConflictPolicy",
    "FileSpec",
    "InjectionSpec",
    "LabelSelector",
    "LastPass",
    "ObjectMeta",
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
    "RetentionTotals",
    "StorageConfig",
    "StorageConfigSpec",
    "StorageConfigStatus",
    "StorageKind",
    "StorageRef",
    "StoreSpec",
    "describe_validation_error",
    "duration_seconds",
    "find_condition",
    "format_timestamp",
]

KINDS: tuple[type[Resource], ...] = (StorageConfig, ClusterStorageConfig, RetentionPolicy)
"""Every kind of this version, in the order in which docs and ``crds`` list them."""
