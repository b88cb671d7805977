"""Gathers what `bubu_operator.retention.overlap` judges: all configs, and who else keeps what.

Configs are read as they are, without the models: one that is invalid, or whose store does not
answer, still has objects. Their list is kept for a few seconds, because many policies can be
due at once; policies are read anew for every pass.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
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
from bubu_operator.controllers.selection import select_for_namespace
from bubu_operator.errors import KubeForbiddenError
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
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


class Neighbours:
    """Adds to a plan what others protect; thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._places: dict[ConfigRef, Place] = {}
        self._listed_at = float("-inf")

    def guard(self, plan: PassPlan, policy: AnyPolicy, store: PolicyStore) -> PassPlan | PlanProblem:
        """Return the plan that respects everybody else, or why the policy must not run.

        Raises:
            KubeApiError: a list could not be read whole; nothing is guessed.
        """
        config = store.ref
        places = self._known()
        own = places.get(config)
        if own is None:
            places = self._known(anew=True)
            own = places.get(config)
        if own is None:
            return PlanProblem(
                Reason.STORAGE_CONFIG_NOT_FOUND, f"{config.kind} {config.key.name} has just been deleted"
            )
        others: list[OtherPolicy] = []
        for kind, item in self._all_policies(policy):
            name = str(metadata_of(item).get("name"))
            if key_of(item) == ObjectKey(policy.metadata.namespace, policy.metadata.name):
                continue
            try:
                other = kind.model.model_validate({**item, "status": {}})
            except ValidationError as error:
                where = "of this namespace " if kind is NAMESPACED_POLICIES else ""
                return PlanProblem(
                    Reason.INVALID_SPEC,
                    f"{kind.resource.kind} {name} {where}is invalid, so what it keeps is unknown: "
                    f"{describe_validation_error(error)}",
                )
            # What a policy keeps that may be about any store is kept on this one; what a cluster-wide one
            # keeps is kept in every namespace, also where its config is not offered.
            place = places.get(self._config_of(other) or config)
            if place is not None:
                namespaces = (other.metadata.namespace,) if kind is NAMESPACED_POLICIES else None
                others.append(OtherPolicy(name, other.spec, place, namespaces))
        return guard_plan(plan, own, policy.metadata.namespace, places.values(), others)

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

    def _config_of(self, policy: AnyPolicy) -> ConfigRef | None:
        """Return which config a policy is about; None where that cannot be told."""
        reference, namespace = policy.spec.storage_ref, policy.metadata.namespace
        if reference is None:
            try:
                chosen = select_for_namespace(self._context.client, namespace).config
            except KubeForbiddenError:
                return None
            if chosen is None:
                return None
            kind, name = chosen.kind, chosen.name
        else:
            kind, name = reference.kind.value, reference.name
        cluster = kind == StorageKind.CLUSTER_STORAGE_CONFIG.value
        return ConfigRef(kind, ObjectKey("" if cluster else namespace, name))

    def _known(self, *, anew: bool = False) -> dict[ConfigRef, Place]:
        with self._lock:
            now = self._context.monotonic()
            if anew or now - self._listed_at >= LIST_SECONDS:
                self._places = _read_places(self._context)
                self._listed_at = now
            return self._places


def _read_places(context: Context) -> dict[ConfigRef, Place]:
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
    for resource, items in ((STORAGE_CONFIGS, configs), (CLUSTER_STORAGE_CONFIGS, cluster_configs)):
        for item in items:
            metadata = metadata_of(item)
            key = ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
            # Tenants read this: another namespace is in the path that they wrote, its config's name is not.
            owner = (
                f"a {resource.kind} of namespace {key.namespace}"
                if key.namespace
                else f"{resource.kind} {key}"
            )
            place = place_of(section(item, "spec"), owner=owner, namespace=key.namespace)
            if place is not None:
                places[ConfigRef(resource.kind, key)] = place
    return places


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
