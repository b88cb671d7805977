"""The two kinds of retention policy as one: which API resource, which model, whose key.

Keys tell them apart: a ClusterRetentionPolicy's has no namespace, so that one lane, one queue for
stores and one reconciler serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    RETENTION_POLICIES,
    ObjectKey,
    Resource,
)

__all__ = ["CLUSTER_POLICIES", "NAMESPACED_POLICIES", "AnyPolicy", "PolicyKind", "kind_of"]

AnyPolicy: TypeAlias = RetentionPolicy | ClusterRetentionPolicy


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One of the kinds.

    Attributes:
        resource: in the API.
        model: of its objects.
    """

    resource: Resource
    model: type[RetentionPolicy | ClusterRetentionPolicy]


NAMESPACED_POLICIES: Final = PolicyKind(RETENTION_POLICIES, RetentionPolicy)
CLUSTER_POLICIES: Final = PolicyKind(CLUSTER_RETENTION_POLICIES, ClusterRetentionPolicy)


def kind_of(key: ObjectKey) -> PolicyKind:
    """Return the kind of policy that a key is of."""
    return NAMESPACED_POLICIES if key.namespace else CLUSTER_POLICIES
