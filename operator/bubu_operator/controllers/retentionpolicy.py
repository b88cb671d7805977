"""Retention policies: find the store, decide when a pass is due, run it, say what happened.

gather (policy, config, neighbours, owners) → decide (pure: plan, schedule, cycle) → act (a
pass in a process of its own) → report (status, events on transitions, when to look again). One
reconciler serves RetentionPolicy and ClusterRetentionPolicy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.neighbour_changes import NeighbourChanges, neighbours_now
from bubu_operator.controllers.neighbours import Neighbours
from bubu_operator.controllers.parsing import parse_object
from bubu_operator.controllers.pass_access import DirectStores, NotYet, PassOrder, PassStores
from bubu_operator.controllers.pass_job import PassJob
from bubu_operator.controllers.passes import GRACE_SECONDS, PassRunner
from bubu_operator.controllers.policy_changes import watch_for_changes
from bubu_operator.controllers.policy_kinds import AnyPolicy, PolicyKind, kind_of
from bubu_operator.controllers.policy_owners import (
    OwnersOpener,
    OwnersTrouble,
    PolicyOwners,
    owners_after,
)
from bubu_operator.controllers.policy_report import PolicyReport
from bubu_operator.controllers.policy_store import PolicyStore, find_store, store_problem
from bubu_operator.controllers.scheduler import StoreSlots
from bubu_operator.controllers.store_access import Refusal, scope_of, store_identity
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.resources import JsonObject, ObjectKey, key_of, metadata_of
from bubu_operator.retention.cycle import decide_stage, staged_plan
from bubu_operator.retention.plan import PassPlan, PlanProblem, plan_cluster_pass, plan_pass
from bubu_operator.retention.schedule import decide_due

__all__ = ["PolicyReconciler"]

OpenOwners: TypeAlias = Callable[[KubeClient, AnyPolicy], PolicyOwners | OwnersTrouble]

RECHECK_SECONDS: Final = 60.0
"""A policy that cannot run is looked at this often, besides whenever its config changes."""

QUEUE_RECHECK_SECONDS: Final = 30.0
UNKNOWN_PAUSE_SECONDS: Final = 0.5
"""Right after the start, until the kill switch has been read."""


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
        open_owners: OpenOwners | None = None,
    ) -> None:
        self._context = context
        self._slots = slots
        self._runner = runner
        self._wake = wake
        self._stores = stores or DirectStores(context)
        self._owners = OwnersOpener()
        self._open_owners = open_owners or self._owners
        self._neighbours = Neighbours(context)
        self._report = PolicyReport(context)
        # Policies whose status says why there is no way to their store yet; found anew after a restart.
        self._waiting: set[ObjectKey] = set()

    def __call__(self, key: ObjectKey) -> float | None:
        """Bring one policy on; see `Reconcile`."""
        keep_slot = False
        try:
            again, keep_slot = self._reconcile(kind_of(key), key)
            return again
        finally:
            if not keep_slot:
                for waiting in self._slots.release(key):
                    self._wake(waiting)

    def _reconcile(self, kind: PolicyKind, key: ObjectKey) -> tuple[float | None, bool]:
        """Return when to look again, and whether the place in the store's queue is kept."""
        try:
            obj = self._context.client.get(kind.resource, key.name, key.namespace or None)
        except KubeNotFoundError:
            self._context.metrics.retention.forget((key.namespace, key.name))
            self._runner.forget(key)
            self._waiting.discard(key)
            return None, False
        if metadata_of(obj).get("deletionTimestamp") or self._context.stopping.is_set():
            return None, False
        try:
            policy = parse_object(kind.model, obj)
        except ValidationError as error:
            invalid = PlanProblem(Reason.INVALID_SPEC, describe_validation_error(error))
            self._report.refuse(kind, obj, invalid, None)
            return None, False
        if policy.spec.suspend:
            suspended = PlanProblem(Reason.SUSPENDED, "spec.suspend is true: no pass is started", quiet=True)
            self._report.refuse(kind, obj, suspended, None)
            return None, False
        if not self._context.pause.known:
            return UNKNOWN_PAUSE_SECONDS, False
        if why := self._context.pause.why:
            reason = self._context.pause.reason
            # A pause is somebody's wish; a controller that cannot know is something to mend.
            quiet = reason is Reason.PASSES_PAUSED
            return self._refuse(kind, obj, PlanProblem(reason, why, quiet=quiet))
        try:
            return self._bring_on(kind, key, obj, policy)
        except KubeForbiddenError as error:
            return self._refuse(kind, obj, PlanProblem(Reason.RECONCILE_FAILED, str(error)))

    def _bring_on(
        self, kind: PolicyKind, key: ObjectKey, obj: JsonObject, policy: AnyPolicy
    ) -> tuple[float, bool]:
        """Go on with a policy that is valid and not suspended; see `_reconcile`."""
        store = find_store(self._context.client, policy)
        if isinstance(store, PlanProblem):
            return self._refuse(kind, obj, store)
        if problem := store_problem(store):
            return self._refuse(kind, obj, problem, store)
        owners = self._open_owners(self._context.client, policy)
        if isinstance(owners, OwnersTrouble):
            self._report.refuse(kind, obj, owners.problem, store, owners_after(owners.anomaly, self._context))
            return RECHECK_SECONDS, False
        plan = _plan(policy, store, owners)
        if isinstance(plan, PlanProblem):
            return self._refuse(kind, obj, plan, store)
        stage, now = decide_stage(policy, plan), self._context.clock()
        due = decide_due(policy, now, stage)
        if due.at is None:
            blocked = PlanProblem(stage.reason or Reason.SUSPENDED, stage.message)
            return self._refuse(kind, obj, blocked, store)
        wait = (due.at - now).total_seconds()
        if wait > 0:
            self._report.accept(kind, obj, store, stage, format_time(due.at))
            return wait, False
        guarded_now = self._guard(staged_plan(plan, stage), policy, store)
        if isinstance(guarded_now, PlanProblem):
            return self._refuse(kind, obj, guarded_now, store)
        guarded, neighbours = guarded_now
        for_pass = self._owners.for_pass(self._context.client, policy, owners, guarded)
        if isinstance(for_pass, OwnersTrouble):
            more = owners_after(for_pass.anomaly, self._context)
            self._report.refuse(kind, obj, for_pass.problem, store, more)
            return RECHECK_SECONDS, False
        asked, joined = for_pass
        if asked.kinds != owners.kinds:
            return 0.0, False  # the plan is of other kinds than are served by now
        owners, guarded = asked, joined.plan
        # Why there was no way to the store stands until there is one: a look alone changes nothing of it.
        is_waiting = key in self._waiting
        if not is_waiting:
            obj = self._report.accept(kind, obj, store, stage, format_time(now))
        if not self._slots.acquire(store_identity(store.config), key):
            return QUEUE_RECHECK_SECONDS, True
        order = PassOrder(key, policy.metadata.uid, guarded.spec.scopes, guarded.spec.budget_seconds)
        access = self._stores.open(order, store.config)
        if isinstance(access, NotYet):
            if not access.quiet:
                self._report.refuse(kind, obj, PlanProblem(access.reason, access.message), store)
                self._waiting.add(key)
            return access.again_seconds, access.keeps_turn
        if isinstance(access, Refusal):
            self._report.refuse(kind, obj, PlanProblem(access.reason, access.message), store)
            self._waiting.add(key)
            return RECHECK_SECONDS, False
        try:
            if is_waiting:
                self._waiting.discard(key)
                obj = self._report.accept(kind, obj, store, stage, format_time(now))
            job = PassJob(
                kind=kind,
                obj=obj,
                policy=parse_object(kind.model, obj),
                plan=guarded,
                store=store_identity(store.config),
                scope=scope_of(store.config),
                access=access,
                due=due,
                owners=owners,
                interrupted=watch_for_changes(self._context, kind, key, policy, store, neighbours=neighbours),
            )
        except BaseException:
            access.close(good=False)
            raise
        is_ours = self._runner.run(job)
        if not is_ours:
            # Coming back at once would take the pass over in turn, and neither would ever end.
            return guarded.spec.budget_seconds + GRACE_SECONDS, False
        # The next look reads what was written, so the wait is reckoned in one place only.
        return 0.0, False

    def _guard(
        self, plan: PassPlan, policy: AnyPolicy, store: PolicyStore
    ) -> tuple[PassPlan, NeighbourChanges] | PlanProblem:
        """Return the plan that respects everybody else, and what looks whether it still does later."""
        cache, namespace = self._context.cache, policy.metadata.namespace
        # First what is known, then what is listed: what comes in between is seen as a change later.
        seen = neighbours_now(cache, namespace)
        guarded = self._neighbours.guard(plan, policy, store)
        if isinstance(guarded, PlanProblem):
            return guarded

        def again() -> PassPlan | PlanProblem:
            return self._neighbours.guard(plan, policy, store, max_age_seconds=0.0)

        # A controller for some namespaces does not watch what holds for all.
        is_watched = not self._context.options.namespaces
        return guarded, NeighbourChanges(cache, namespace, seen, guarded, again, is_watched=is_watched)

    def _refuse(
        self, kind: PolicyKind, obj: JsonObject, problem: PlanProblem, store: PolicyStore | None = None
    ) -> tuple[float, bool]:
        self._waiting.discard(key_of(obj))
        self._report.refuse(kind, obj, problem, store)
        return RECHECK_SECONDS, False


def _plan(policy: AnyPolicy, store: PolicyStore, owners: PolicyOwners) -> PassPlan | PlanProblem:
    spec, identity = store.config.spec, store_identity(store.config)
    if isinstance(policy, ClusterRetentionPolicy):
        return plan_cluster_pass(
            policy.spec,
            namespaces=store.namespaces,
            output_prefix=spec.output_prefix,
            input_prefix=spec.input_prefix,
            store=identity,
            owner_kinds=owners.kinds,
        )
    return plan_pass(
        policy.spec,
        namespace=policy.metadata.namespace,
        output_prefix=spec.output_prefix,
        input_prefix=spec.input_prefix,
        store=identity,
        owner_kinds=owners.kinds,
    )
