"""Finds the store that a policy is about, and the namespaces whose part of it the policy may clean.

A namespaced policy: the config that it names, or that injection would choose in its namespace, and
that namespace alone. A cluster-wide one: a ClusterStorageConfig, and every namespace that its
namespaceSelector selects by a complete list. Invariants: a namespaced policy never gets another
namespace; a list that could not be read whole is an error, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.common import find_condition
from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy, StorageKind
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.parsing import parse_object
from bubu_operator.controllers.policy_kinds import AnyPolicy
from bubu_operator.controllers.selection import select_for_namespace
from bubu_operator.controllers.store_access import AnyConfig
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.injection.select import SelectionReason
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.conditions import ConditionStatus
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
    Resource,
    metadata_of,
    section,
)
from bubu_operator.retention.plan import PlanProblem
from bubu_storage.backend.probe import VERSIONED, VERSIONED_MEANING

__all__ = ["ConfigRef", "PolicyStore", "find_store", "is_offered", "selected_namespaces", "store_problem"]

Config = TypeVar("Config", StorageConfig, ClusterStorageConfig)


@dataclass(frozen=True, slots=True)
class ConfigRef:
    """Names a config: `StorageKind`'s value, and its key."""

    kind: str
    key: ObjectKey


@dataclass(frozen=True, slots=True)
class PolicyStore:
    """A config that was found, and what of its store the policy may clean.

    Attributes:
        config: parsed.
        resource: its kind.
        namespaces: whose part; sorted.
    """

    config: AnyConfig
    resource: Resource
    namespaces: tuple[str, ...]

    @property
    def key(self) -> ObjectKey:
        """Of the config."""
        return ObjectKey(self.config.metadata.namespace, self.config.metadata.name)

    @property
    def ref(self) -> ConfigRef:
        """Of the config, as neighbours are told apart."""
        return ConfigRef(self.resource.kind, self.key)

    @property
    def text(self) -> str:
        """What to call it in a message."""
        return f"{self.resource.kind} {self.config.metadata.name}"

    @property
    def remark(self) -> str:
        """What to know of the store although passes can run; "" if nothing."""
        return f". The store {VERSIONED_MEANING}" if VERSIONED in self.config.status.capabilities else ""


def find_store(client: KubeClient, policy: AnyPolicy) -> PolicyStore | PlanProblem:
    """Return the store of a policy, or why there is none.

    Raises:
        KubeApiError: something could not be read, other than by "not found".
    """
    if isinstance(policy, ClusterRetentionPolicy):
        config = _cluster_config(client, policy.spec.storage_ref.name)
        if isinstance(config, PlanProblem):
            return config
        return PolicyStore(config, CLUSTER_STORAGE_CONFIGS, selected_namespaces(client, config))
    return _for_namespace(client, policy)


def store_problem(store: PolicyStore) -> PlanProblem | None:
    """Return why no pass can run on a config as it is, None if one can."""
    config = store.config
    file = config.spec.file
    if file is not None and file.empty_dir is not None:
        return PlanProblem(
            Reason.EMPTY_DIR,
            f"{store.text} is an empty directory of each pod's own: there is nothing to collect",
        )
    ready = find_condition(config.status.conditions, ConditionType.READY)
    if ready is None or ready.observed_generation != config.metadata.generation:
        return PlanProblem(Reason.STORAGE_NOT_READY, f"{store.text} has not been looked at yet", quiet=True)
    if ready.status != ConditionStatus.TRUE.value:
        return PlanProblem(
            Reason.STORAGE_NOT_READY, f"{store.text} is not ready ({ready.reason}): {ready.message}"
        )
    return None


def _for_namespace(client: KubeClient, policy: RetentionPolicy) -> PolicyStore | PlanProblem:
    """Return the config that the policy names, or that injection would choose here."""
    namespace = policy.metadata.namespace
    reference = policy.spec.storage_ref
    if reference is None:
        selection = select_for_namespace(client, namespace)
        if selection.config is None:
            reasons = {
                SelectionReason.AMBIGUOUS: Reason.AMBIGUOUS_STORAGE,
                SelectionReason.INVALID_CONFIG: Reason.STORAGE_NOT_READY,
            }
            reason = reasons.get(selection.reason, Reason.STORAGE_CONFIG_NOT_FOUND)
            return PlanProblem(reason, selection.message)
        kind, name = selection.config.kind, selection.config.name
    else:
        kind, name = reference.kind.value, reference.name
    if kind == StorageKind.CLUSTER_STORAGE_CONFIG.value:
        config = _cluster_config(client, name)
        if isinstance(config, PlanProblem):
            return config
        if not config.spec.selects(_labels(client.get(NAMESPACES, namespace))):
            return PlanProblem(
                Reason.STORAGE_CONFIG_NOT_FOUND,
                f"ClusterStorageConfig {name} is not offered to namespace {namespace}: its "
                "namespaceSelector does not match",
            )
        return PolicyStore(config, CLUSTER_STORAGE_CONFIGS, (namespace,))
    try:
        found = client.get(STORAGE_CONFIGS, name, namespace)
    except KubeNotFoundError:
        return PlanProblem(
            Reason.STORAGE_CONFIG_NOT_FOUND,
            f"StorageConfig {name} does not exist in namespace {namespace}; create it, and passes go on "
            "where they stopped",
        )
    parsed = _usable(found, StorageConfig, STORAGE_CONFIGS)
    return parsed if isinstance(parsed, PlanProblem) else PolicyStore(parsed, STORAGE_CONFIGS, (namespace,))


def _cluster_config(client: KubeClient, name: str) -> ClusterStorageConfig | PlanProblem:
    try:
        found = client.get(CLUSTER_STORAGE_CONFIGS, name)
    except KubeNotFoundError:
        return PlanProblem(
            Reason.STORAGE_CONFIG_NOT_FOUND, f"ClusterStorageConfig {name} does not exist; create it"
        )
    return _usable(found, ClusterStorageConfig, CLUSTER_STORAGE_CONFIGS)


def selected_namespaces(client: KubeClient, config: ClusterStorageConfig) -> tuple[str, ...]:
    """Return the namespaces that a cluster-wide config is offered to, by a complete list.

    Raises:
        KubeApiError: the list could not be read whole.
    """
    return tuple(
        sorted(
            str(metadata_of(item).get("name"))
            for item in client.list(NAMESPACES).items
            if config.spec.selects(_labels(item))
        )
    )


def is_offered(client: KubeClient, config: ClusterStorageConfig, namespace: str) -> bool:
    """Tell whether a cluster-wide config is offered to a namespace, which may be gone.

    Raises:
        KubeApiError: the namespace could not be read, other than by "not found".
    """
    try:
        return config.spec.selects(_labels(client.get(NAMESPACES, namespace)))
    except KubeNotFoundError:
        return False


def _labels(namespace: JsonObject) -> Mapping[str, str]:
    return {str(key): str(value) for key, value in section(metadata_of(namespace), "labels").items()}


def _usable(obj: JsonObject, model: type[Config], resource: Resource) -> Config | PlanProblem:
    what = f"{resource.kind} {metadata_of(obj).get('name')}"
    if metadata_of(obj).get("deletionTimestamp"):
        return PlanProblem(Reason.STORAGE_CONFIG_NOT_FOUND, f"{what} is being deleted")
    try:
        return parse_object(model, obj)
    except ValidationError as error:
        return PlanProblem(Reason.STORAGE_NOT_READY, f"{what} is invalid: {describe_validation_error(error)}")
