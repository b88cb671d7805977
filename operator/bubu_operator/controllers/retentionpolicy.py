"""RetentionPolicy: find its store, decide when a pass is due, run it, say what happened.

gather (policy, config, credentials) → decide (pure: `plan_pass`, `decide_due`) → act (a
pass in a process of its own) → report (status, events on transitions, when to look again).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.common import find_condition as find_parsed
from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy, StorageKind
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.neighbours import ConfigRef, Neighbours
from bubu_operator.controllers.parsing import parse_object
from bubu_operator.controllers.pass_access import DirectStores, NotYet, PassOrder, PassStores
from bubu_operator.controllers.passes import GRACE_SECONDS, PassJob, PassRunner
from bubu_operator.controllers.policy_kinds import kind_of
from bubu_operator.controllers.scheduler import StoreSlots
from bubu_operator.controllers.selection import select_for_namespace
from bubu_operator.controllers.store_access import AnyConfig, Refusal, store_identity
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.injection.select import SelectionReason
from bubu_operator.kube.conditions import ConditionStatus, find_condition, format_time
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
    Resource,
    metadata_of,
    section,
)
from bubu_operator.kube.scrub import shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
from bubu_operator.retention.plan import PassPlan, PlanProblem, plan_pass
from bubu_operator.retention.schedule import decide_due
from bubu_operator.retention.status import MAX_MESSAGE_CHARACTERS, conditions_with

__all__ = ["PolicyReconciler"]

logger = logging.getLogger(__name__)

RECHECK_SECONDS: Final = 60.0
"""A policy that cannot run is looked at this often, besides whenever its config changes."""

QUEUE_RECHECK_SECONDS: Final = 30.0
UNKNOWN_PAUSE_SECONDS: Final = 0.5
"""Right after the start, until the kill switch has been read."""


@dataclass(frozen=True, slots=True)
class _Store:
    """A config that was found and may be used."""

    config: AnyConfig
    resource: Resource

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.config.metadata.namespace, self.config.metadata.name)

    @property
    def ref(self) -> ConfigRef:
        return ConfigRef(self.resource.kind, self.key)


class PolicyReconciler:
    """Looks at one policy at a time; passes run in the calling thread."""

    def __init__(
        self,
        context: Context,
        slots: StoreSlots,
        runner: PassRunner,
        *,
        wake: Callable[[ObjectKey], None],
        stores: PassStores | None = None,
    ) -> None:
        self._context = context
        self._slots = slots
        self._runner = runner
        self._wake = wake
        self._stores = stores or DirectStores(context)
        self._neighbours = Neighbours(context)

    def __call__(self, key: ObjectKey) -> float | None:
        """Bring one policy on; see `Reconcile`."""
        keep_slot = False
        try:
            again, keep_slot = self._reconcile(key)
            return again
        finally:
            if not keep_slot:
                for waiting in self._slots.release(key):
                    self._wake(waiting)

    def _reconcile(self, key: ObjectKey) -> tuple[float | None, bool]:
        """Return when to look again, and whether the place in the store's queue is kept."""
        try:
            obj = self._context.client.get(RETENTION_POLICIES, key.name, key.namespace)
        except KubeNotFoundError:
            return None, False
        if metadata_of(obj).get("deletionTimestamp") or self._context.stopping.is_set():
            return None, False
        try:
            policy = parse_object(RetentionPolicy, obj)
        except ValidationError as error:
            self._refuse(obj, PlanProblem(Reason.INVALID_SPEC, describe_validation_error(error)), None)
            return None, False
        if policy.spec.suspend:
            suspended = PlanProblem(Reason.SUSPENDED, "spec.suspend is true: no pass is started", quiet=True)
            self._refuse(obj, suspended, None)
            return None, False
        if not self._context.pause.known:
            return UNKNOWN_PAUSE_SECONDS, False
        if why := self._context.pause.why:
            self._refuse(obj, PlanProblem(Reason.PASSES_PAUSED, why, quiet=True), None)
            return RECHECK_SECONDS, False
        try:
            return self._bring_on(key, obj, policy)
        except KubeForbiddenError as error:
            self._refuse(obj, PlanProblem(Reason.RECONCILE_FAILED, str(error)), None)
            return RECHECK_SECONDS, False

    def _bring_on(self, key: ObjectKey, obj: JsonObject, policy: RetentionPolicy) -> tuple[float, bool]:
        """Go on with a policy that is valid and not suspended; see `_reconcile`."""
        store = self._find_store(policy)
        if isinstance(store, PlanProblem):
            self._refuse(obj, store, None)
            return RECHECK_SECONDS, False
        prepared = self._prepare(policy, store)
        if isinstance(prepared, PlanProblem):
            self._refuse(obj, prepared, store)
            return RECHECK_SECONDS, False
        now = self._context.clock()
        due = decide_due(policy, now)
        wait = ((due.at or now) - now).total_seconds()
        if wait > 0:
            self._accept(obj, store, format_time(due.at or now))
            return wait, False
        guarded = self._neighbours.guard(prepared, policy, store.ref)
        if isinstance(guarded, PlanProblem):
            self._refuse(obj, guarded, store)
            return RECHECK_SECONDS, False
        obj = self._accept(obj, store, format_time(now))
        if not self._slots.acquire(store_identity(store.config), key):
            return QUEUE_RECHECK_SECONDS, True
        order = PassOrder(key, policy.metadata.uid or "", guarded.spec.scopes, guarded.spec.budget_seconds)
        access = self._stores.open(order, store.config)
        if isinstance(access, NotYet):
            self._refuse(obj, PlanProblem(access.reason, access.message, quiet=access.quiet), store)
            return access.again_seconds, access.quiet
        if isinstance(access, Refusal):
            self._refuse(obj, PlanProblem(access.reason, access.message), store)
            return RECHECK_SECONDS, False
        is_ours = self._runner.run(
            PassJob(
                kind=kind_of(key),
                obj=obj,
                policy=parse_object(RetentionPolicy, obj),
                plan=guarded,
                access=access,
                due=due,
                interrupted=self._watch_for_changes(key, policy, store),
            )
        )
        if not is_ours:
            # Coming back at once would take the pass over in turn, and neither would ever end.
            return prepared.spec.budget_seconds + GRACE_SECONDS, False
        # The next look reads what was written, so the wait is reckoned in one place only.
        return 0.0, False

    # -- gather --------------------------------------------------------------------------

    def _find_store(self, policy: RetentionPolicy) -> _Store | PlanProblem:
        """Return the config that the policy names, or that injection would choose here."""
        namespace = policy.metadata.namespace
        reference = policy.spec.storage_ref
        if reference is None:
            selection = select_for_namespace(self._context.client, namespace)
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
            return self._cluster_store(name, namespace)
        try:
            found = self._context.client.get(STORAGE_CONFIGS, name, namespace)
        except KubeNotFoundError:
            return PlanProblem(
                Reason.STORAGE_CONFIG_NOT_FOUND,
                f"StorageConfig {name} does not exist in namespace {namespace}; create it, and passes go on "
                "where they stopped",
            )
        return self._usable(found, StorageConfig, STORAGE_CONFIGS)

    def _cluster_store(self, name: str, namespace: str) -> _Store | PlanProblem:
        try:
            found = self._context.client.get(CLUSTER_STORAGE_CONFIGS, name)
        except KubeNotFoundError:
            return PlanProblem(
                Reason.STORAGE_CONFIG_NOT_FOUND, f"ClusterStorageConfig {name} does not exist; create it"
            )
        store = self._usable(found, ClusterStorageConfig, CLUSTER_STORAGE_CONFIGS)
        if isinstance(store, _Store) and isinstance(store.config, ClusterStorageConfig):
            labels = section(metadata_of(self._context.client.get(NAMESPACES, namespace)), "labels")
            if not store.config.spec.selects(labels):
                return PlanProblem(
                    Reason.STORAGE_CONFIG_NOT_FOUND,
                    f"ClusterStorageConfig {name} is not offered to namespace {namespace}: its "
                    "namespaceSelector does not match",
                )
        return store

    def _usable(
        self, obj: JsonObject, model: type[StorageConfig | ClusterStorageConfig], resource: Resource
    ) -> _Store | PlanProblem:
        what = f"{resource.kind} {metadata_of(obj).get('name')}"
        if metadata_of(obj).get("deletionTimestamp"):
            return PlanProblem(Reason.STORAGE_CONFIG_NOT_FOUND, f"{what} is being deleted")
        try:
            config = parse_object(model, obj)
        except ValidationError as error:
            return PlanProblem(
                Reason.STORAGE_NOT_READY, f"{what} is invalid: {describe_validation_error(error)}"
            )
        return _Store(config, resource)

    # -- decide --------------------------------------------------------------------------

    def _prepare(self, policy: RetentionPolicy, store: _Store) -> PassPlan | PlanProblem:
        config = store.config
        file = config.spec.file
        what = f"{store.resource.kind} {config.metadata.name}"
        if file is not None and file.empty_dir is not None:
            return PlanProblem(
                Reason.EMPTY_DIR,
                f"{what} is an empty directory of each pod's own: there is nothing to collect",
            )
        ready = find_parsed(config.status.conditions, ConditionType.READY)
        if ready is None or ready.observed_generation != config.metadata.generation:
            return PlanProblem(Reason.STORAGE_NOT_READY, f"{what} has not been looked at yet", quiet=True)
        if ready.status != ConditionStatus.TRUE.value:
            return PlanProblem(
                Reason.STORAGE_NOT_READY, f"{what} is not ready ({ready.reason}): {ready.message}"
            )
        return plan_pass(
            policy.spec,
            namespace=policy.metadata.namespace,
            output_prefix=config.spec.output_prefix,
            input_prefix=config.spec.input_prefix,
            store=store_identity(config),
        )

    def _watch_for_changes(
        self, key: ObjectKey, policy: RetentionPolicy, store: _Store
    ) -> Callable[[], str | None]:
        """Return a function that says why a pass of this policy on this store must end, or None."""
        cache = self._context.cache
        watched = (
            (RETENTION_POLICIES, key, policy.metadata.generation, "the policy"),
            (store.resource, store.key, store.config.metadata.generation, "its storage config"),
        )
        known = [cache.get(resource, its_key) is not None for resource, its_key, _, _ in watched]

        def interrupted() -> str | None:
            for was_known, (resource, its_key, generation, what) in zip(known, watched, strict=True):
                current = cache.get(resource, its_key)
                if current is None:
                    if was_known:
                        return f"{what} was deleted"
                    continue
                metadata = metadata_of(current)
                if metadata.get("deletionTimestamp"):
                    return f"{what} is being deleted"
                # The cache may lag behind what we have read: only a newer spec counts.
                if int(metadata.get("generation") or 0) > generation:
                    return f"{what} has changed"
            return None

        return interrupted

    # -- act and report ------------------------------------------------------------------

    def _refuse(self, obj: JsonObject, problem: PlanProblem, store: _Store | None) -> None:
        """Write down why no pass can run."""
        message = shorten(self._context.redactor.scrub(problem.message), MAX_MESSAGE_CHARACTERS)
        self._ready(obj, False, problem.reason, message, store=store, next_time=None, quiet=problem.quiet)

    def _accept(self, obj: JsonObject, store: _Store, next_time: str) -> JsonObject:
        message = f"{store.resource.kind} {store.config.metadata.name}"
        return self._ready(
            obj,
            True,
            Reason.STORAGE_FOUND,
            f"{message} is ready",
            store=store,
            next_time=next_time,
            quiet=True,
        )

    def _ready(
        self,
        obj: JsonObject,
        ready: bool,
        reason: Reason,
        message: str,
        *,
        store: _Store | None,
        next_time: str | None,
        quiet: bool,
    ) -> JsonObject:
        generation = int(metadata_of(obj).get("generation") or 0)
        now = self._context.clock()
        before = find_condition(section(obj, "status").get("conditions"), ConditionType.READY)

        def make(current: JsonObject) -> JsonObject | None:
            if metadata_of(current).get("generation") != generation:
                return None
            old = section(current, "status")
            entries: list[Any] = [(ConditionType.READY, ready, reason, message)]
            if find_condition(old.get("conditions"), ConditionType.RECONCILED) is None:
                pending = (ConditionType.RECONCILED, ConditionStatus.UNKNOWN, Reason.PASS_PENDING)
                entries.append((*pending, "no pass has run yet"))
            new: JsonObject = {
                **old,
                "observedGeneration": generation,
                "conditions": conditions_with(old, entries, generation=generation, now=now),
            }
            if store is not None:
                new["storage"] = {"kind": store.resource.kind, "name": store.config.metadata.name}
            if next_time is None:
                new.pop("nextPassTime", None)
            else:
                new["nextPassTime"] = next_time
            return new

        try:
            written = write_status(self._context.client, RETENTION_POLICIES, obj, make)
        except (StatusRefusedError, KubeNotFoundError):
            return obj
        was = ((before or {}).get("status"), (before or {}).get("reason"))
        if was != ("True" if ready else "False", reason.value):
            key = f"{metadata_of(obj).get('namespace')}/{metadata_of(obj).get('name')}"
            logger.info("RetentionPolicy %s: Ready is %s (%s): %s", key, ready, reason.value, message)
            if not (quiet and before is None):
                self._context.events.emit(
                    RETENTION_POLICIES,
                    obj,
                    type_=EventType.NORMAL if quiet else EventType.WARNING,
                    reason=reason.value,
                    note=message,
                    action="FindStorage",
                )
        return written
