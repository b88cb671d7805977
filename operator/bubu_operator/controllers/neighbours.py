"""Gathers what `bubu_operator.retention.overlap` judges: all configs, and who else keeps what.

Configs are read as they are, without the models: one that is invalid, or whose store does not
answer, still has objects. Their lists are kept for a few seconds, because many policies can be
due at once; policies are read anew for every pass. Which config a policy without storageRef is about is
told from these lists: the number of requests does not grow with the number of policies.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import StorageKind
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.policy_kinds import (
    CLUSTER_POLICIES,
    NAMESPACED_POLICIES,
    AnyPolicy,
    PolicyKind,
)
from bubu_operator.controllers.policy_store import ConfigRef, PolicyStore
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig, load_config
from bubu_operator.injection.select import select_config
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
    Resource,
    key_of,
    metadata_of,
    section,
)
from bubu_operator.retention.overlap import OtherPolicy, Place, guard_plan
from bubu_operator.retention.plan import PassPlan, PlanProblem
from bubu_storage.wire import DEFAULT_INPUT_PREFIX, DEFAULT_OUTPUT_PREFIX

__all__ = ["Neighbours", "place_of"]

LIST_SECONDS: Final = 10.0
"""A config younger than this may be missed; nothing under five minutes old is ever deleted."""

MISSING_SECONDS: Final = 1.0
"""A config that a policy names and that the list lacks is looked for again, at most so often."""


class Neighbours:
    """Adds to a plan what others protect; thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._snapshot = _Snapshot({}, {}, ())
        self._listed_at = float("-inf")

    def guard(
        self,
        plan: PassPlan,
        policy: AnyPolicy,
        store: PolicyStore,
        *,
        max_age_seconds: float = LIST_SECONDS,
    ) -> PassPlan | PlanProblem:
        """Return the plan that respects everybody else, or why the policy must not run.

        Args:
            plan: of the policy's own rules.
            policy: it is guarded from all others.
            store: of the policy.
            max_age_seconds: of the list of configs.

        Raises:
            KubeApiError: a list could not be read whole; nothing is guessed.
        """
        config = store.ref
        known = self._known(max_age_seconds)
        if config not in known.places:
            known = self._known(0.0)
        own = known.places.get(config)
        if own is None:
            return PlanProblem(
                Reason.STORAGE_CONFIG_NOT_FOUND, f"{config.kind} {config.key.name} has just been deleted"
            )
        others: list[OtherPolicy] = []
        for kind, item in self._all_policies(policy):
            name = f"{kind.resource.kind} {key_of(item)}"
            if key_of(item) == ObjectKey(policy.metadata.namespace, policy.metadata.name):
                continue
            try:
                other = kind.model.model_validate({**item, "status": {}})
            except ValidationError as error:
                return PlanProblem(
                    Reason.INVALID_SPEC,
                    f"{name} is invalid, so what it keeps is unknown: {describe_validation_error(error)}",
                )
            reference = self._config_of(other, known, policy)
            if reference is not None and not known.has(reference) and max_age_seconds > MISSING_SECONDS:
                # Perhaps it was made since. Once more, and it counts as missing.
                return self.guard(plan, policy, store, max_age_seconds=MISSING_SECONDS)
            # What a policy keeps that may be about any store is kept on this one; what a cluster-wide one
            # keeps is kept in every namespace, also where its config is not offered.
            place = known.place_of(reference, own)
            if place is not None:
                namespaces = (other.metadata.namespace,) if kind is NAMESPACED_POLICIES else None
                others.append(OtherPolicy(name, other.spec, place, namespaces))
        return guard_plan(plan, own, policy.metadata.namespace, known.places.values(), others)

    def _all_policies(self, policy: AnyPolicy) -> Iterator[tuple[PolicyKind, JsonObject]]:
        """Yield every policy of both kinds that may keep what this one covers; itself, too.

        Parts of namespaces do not overlap but where `guard_plan` refuses or keeps for ever, so only
        policies of the covered namespaces matter, and all cluster-wide ones.
        """
        client = self._context.client
        for item in client.list(RETENTION_POLICIES, policy.metadata.namespace or None).items:
            yield NAMESPACED_POLICIES, item
        try:
            cluster_wide = client.list(CLUSTER_RETENTION_POLICIES).items
        except KubeForbiddenError:
            # A controller for some namespaces may have no right to see what holds for all.
            if not self._context.options.namespaces:
                raise
            return
        for item in cluster_wide:
            yield CLUSTER_POLICIES, item

    def _config_of(self, policy: AnyPolicy, known: _Snapshot, guarded: AnyPolicy) -> ConfigRef | None:
        """Return which config a policy is about; None where that cannot be told."""
        reference, namespace = policy.spec.storage_ref, policy.metadata.namespace
        if reference is not None:
            cluster = reference.kind is StorageKind.CLUSTER_STORAGE_CONFIG
            return ConfigRef(reference.kind.value, ObjectKey("" if cluster else namespace, reference.name))
        with self._lock:
            if namespace not in known.chosen:
                known.chosen[namespace] = self._choose(namespace, known, guarded)
            return known.chosen[namespace]

    def _choose(self, namespace: str, known: _Snapshot, guarded: AnyPolicy) -> ConfigRef | None:
        """Choose as injection does."""
        client = self._context.client
        if namespace not in known.labels:
            try:
                if guarded.metadata.namespace:
                    known.labels[namespace] = _labels(client.get(NAMESPACES, namespace))
                elif not known.all_labels:
                    known.labels.update(
                        (str(metadata_of(item).get("name")), _labels(item))
                        for item in client.list(NAMESPACES).items
                    )
                    known.all_labels = True
            except (KubeForbiddenError, KubeNotFoundError):
                return None
        labels = known.labels.get(namespace)
        if labels is None:
            return None  # gone since its policies were listed
        own = (_load(STORAGE_CONFIGS, item) for item in known.configs.get(namespace, ()))
        chosen = select_config({}, namespace, labels, own, known.shared).config
        if chosen is None:
            return None
        return ConfigRef(chosen.kind, ObjectKey(chosen.namespace, chosen.name))

    def _known(self, max_age_seconds: float) -> _Snapshot:
        with self._lock:
            now = self._context.monotonic()
            if now - self._listed_at >= max_age_seconds:
                self._snapshot = _read(self._context)
                self._listed_at = now
            return self._snapshot


@dataclass(slots=True)
class _Snapshot:
    """All configs as they were listed, and what was found out by them since.

    Attributes:
        places: by config.
        configs: StorageConfigs by namespace.
        shared: ClusterStorageConfigs as injection sees them.
        placeless: those that exist, and whose pods have a store each.
        invalid: those that exist, and say of no store that it is theirs.
        labels: of namespaces.
        all_labels: of all namespaces.
        chosen: config of a namespace's policies that name none; None where that cannot be told.
    """

    places: dict[ConfigRef, Place]
    configs: dict[str, list[JsonObject]]
    shared: tuple[InjectionConfig, ...]
    placeless: frozenset[ConfigRef] = frozenset()
    invalid: frozenset[ConfigRef] = frozenset()
    labels: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    all_labels: bool = False
    chosen: dict[str, ConfigRef | None] = field(default_factory=dict[str, "ConfigRef | None"])

    def has(self, config: ConfigRef) -> bool:
        """Tell whether a config exists."""
        return config in self.places or config in self.placeless or config in self.invalid

    def place_of(self, config: ConfigRef | None, own: Place) -> Place | None:
        """Return where the keeps of a config's policies count; None for where nobody else has anything.

        A config that is missing, as while it is replaced, or invalid, may be about any store: what is kept
        by its policies is kept on ``own``, the one at hand.
        """
        if config in self.placeless:
            return None
        return own if config is None or config in self.invalid else self.places.get(config, own)


def _read(context: Context) -> _Snapshot:
    client = context.client
    try:
        configs = list(client.list(STORAGE_CONFIGS).items)
    except KubeForbiddenError:
        # A controller for some namespaces may have no right to see the others.
        watched = context.options.namespaces
        if not watched:
            raise
        configs = [item for each in watched for item in client.list(STORAGE_CONFIGS, each).items]
    try:
        cluster_configs = client.list(CLUSTER_STORAGE_CONFIGS).items
    except KubeForbiddenError:
        if not context.options.namespaces:
            raise
        cluster_configs = ()
    places: dict[ConfigRef, Place] = {}
    placeless: set[ConfigRef] = set()
    invalid: set[ConfigRef] = set()
    by_namespace: dict[str, list[JsonObject]] = {}
    for resource, items in ((STORAGE_CONFIGS, configs), (CLUSTER_STORAGE_CONFIGS, cluster_configs)):
        for item in items:
            key = key_of(item)
            # Tenants read this: another namespace is in the path that they wrote, its config's name is not.
            owner = (
                f"a {resource.kind} of namespace {key.namespace}"
                if key.namespace
                else f"{resource.kind} {key}"
            )
            spec, reference = section(item, "spec"), ConfigRef(resource.kind, key)
            place = place_of(spec, owner=owner, namespace=key.namespace)
            if place is not None:
                places[reference] = place
            elif "emptyDir" in section(spec, "file"):
                placeless.add(reference)
            if not _names_a_store(spec):
                invalid.add(reference)
            if key.namespace:
                by_namespace.setdefault(key.namespace, []).append(item)
    shared = tuple(_load(CLUSTER_STORAGE_CONFIGS, item) for item in cluster_configs)
    return _Snapshot(places, by_namespace, shared, frozenset(placeless - invalid), frozenset(invalid))


def _load(resource: Resource, item: JsonObject) -> InjectionConfig:
    return load_config({**item, "kind": resource.kind, "apiVersion": resource.api_version})


def _labels(namespace: JsonObject) -> dict[str, str]:
    return {str(key): str(value) for key, value in section(metadata_of(namespace), "labels").items()}


def _names_a_store(spec: JsonObject) -> bool:
    """Tell whether a spec says, in one way only, where objects are."""
    s3, file = section(spec, "s3"), section(spec, "file")
    if s3:
        return not file and bool(s3.get("bucket"))
    has_claim, is_empty = bool(file.get("volumeClaimName")), "emptyDir" in file
    return not (has_claim and is_empty) and (has_claim or is_empty or bool(file.get("path")))


def place_of(
    spec: JsonObject, *, owner: str, namespace: str, realpath: Callable[[str], str] = os.path.realpath
) -> Place | None:
    """Return where a config's objects are; None where every pod has a store of its own.

    Args:
        spec: as the API has it.
        owner: for messages.
        namespace: "" for a cluster-wide config.
        realpath: resolves links in a local path.
    """
    s3, file = section(spec, "s3"), section(spec, "file")
    if s3:
        base = f"s3:{s3.get('bucket')}/"
    elif file.get("volumeClaimName"):
        base = f"pvc:{namespace}/{file['volumeClaimName']}/"
    elif file.get("path") and "emptyDir" not in file:
        base = f"file:{realpath(str(file['path'])).rstrip('/')}/"
    else:
        return None
    output = str(spec.get("outputPrefix") or DEFAULT_OUTPUT_PREFIX).strip("/") + "/"
    input_ = str(spec.get("inputPrefix") or DEFAULT_INPUT_PREFIX).strip("/") + "/"
    return Place(owner, base, (output, input_), namespace)
