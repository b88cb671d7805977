"""Who owns the runs that a policy covers: opened for every look, asked by the pass.

Invariants: a policy of one namespace lists owners of that namespace only; what cannot be told for
certain is a problem with a reason, and no pass starts; the finding that somebody may approve is
written down with its hash before anybody is asked to.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.neighbour_owners import JoinedPlan, join_neighbours, without_orphan_rules
from bubu_operator.controllers.policy_kinds import AnyPolicy
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.owners.belief import Belief
from bubu_operator.owners.census import Anomaly, Census, key_of_name
from bubu_operator.owners.gather import Discovery, Gatherer, Traffic
from bubu_operator.owners.joined import NOTHING_JOINED, JoinedKinds
from bubu_operator.owners.kinds import OwnerKind, wanted_kinds
from bubu_operator.owners.served import OwnersAnomalyError
from bubu_operator.owners.source import ApiOwnerSource, open_owners
from bubu_operator.retention.cycle import acknowledged_owners
from bubu_operator.retention.overlap import owner_kinds
from bubu_operator.retention.owners_status import census_of, owners_status
from bubu_operator.retention.plan import PassPlan, PlanProblem
from bubu_storage.errors import OwnersUnknownError

__all__ = ["OwnersOpener", "OwnersTrouble", "PolicyOwners", "open_policy_owners", "owners_after"]


MOST_POLICIES: Final = 1_000
CHECK_SECONDS: Final = 15.0
"""For finding out which kinds of neighbours can be listed."""


@dataclass(frozen=True, slots=True)
class PolicyOwners:
    """Who knows the owners.

    Attributes:
        source: asked by passes; None where nobody owns runs in this cluster.
        before: the last list that was believed, of an earlier pass.
        is_cached: which kinds are served was not asked just now; a pass asks first.
    """

    source: ApiOwnerSource | None
    before: Census
    is_cached: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the policy's own kinds that are listed."""
        return () if self.source is None else tuple(sorted(self.source.kinds))

    @property
    def anomaly(self) -> Anomaly | None:
        """Why the last list was not believed; None if it was."""
        return None if self.source is None else self.source.anomaly

    def after_pass(self, context: Context) -> Callable[[JsonObject], JsonObject]:
        """Return a function that writes into a status what a pass has learnt of owners."""
        source = self.source
        if source is None or not source.kinds:
            # Nobody owns runs (any more, and somebody has approved that): nothing is compared with the past.
            return lambda status: {name: value for name, value in status.items() if name != "owners"}
        census = source.census if source.census is not self.before else None
        return owners_after(source.anomaly, context, census)


@dataclass(frozen=True, slots=True)
class OwnersTrouble:
    """It cannot be told who owns runs.

    Attributes:
        problem: for the Ready condition.
        anomaly: what somebody may approve; None where only the cause can be mended.
    """

    problem: PlanProblem
    anomaly: Anomaly | None


class OwnersOpener:
    """Opens the owners of policies, and remembers from look to look who was live; thread-safe.

    Args:
        most_policies: how many are remembered, the latest first: of each the names of its live runs.
    """

    def __init__(self, most_policies: int = MOST_POLICIES) -> None:
        self._most_policies = most_policies
        self._lock = threading.Lock()
        self._beliefs: OrderedDict[str, Belief] = OrderedDict()
        self._discovery = Discovery()

    def __call__(self, client: KubeClient, policy: AnyPolicy) -> PolicyOwners | OwnersTrouble:
        """See `open_policy_owners`; what was asked of the API server just now is not asked again."""
        return self._open(client, policy, believes=True)

    def for_pass(
        self, client: KubeClient, policy: AnyPolicy, owners: PolicyOwners, plan: PassPlan
    ) -> tuple[PolicyOwners, JoinedPlan] | OwnersTrouble:
        """Return who a pass asks for owners, those of its neighbours included, and the pass as that has it.

        Args:
            client: of the API server.
            policy: the policy.
            owners: as they were opened.
            plan: of the pass, with its neighbours.
        """
        if owners.is_cached:
            anew = self._open(client, policy, believes=False)
            if isinstance(anew, OwnersTrouble):
                return anew
            owners = anew
        if not any(neighbour.kinds for neighbour in plan.neighbours) and not policy.spec.owners:
            return owners, JoinedPlan(plan)
        namespace = policy.metadata.namespace or None
        own = () if owners.source is None else owners.source.own
        deadline = time.monotonic() + CHECK_SECONDS
        # By what is remembered, too, while a pass waits for its store: its own lists notice what is not so.
        gatherer = Gatherer(
            client, deadline=deadline, traffic=Traffic(), discovery=self._discovery, believes=True
        )
        joined = join_neighbours(plan, own, gatherer, namespace=namespace)
        if isinstance(joined, PlanProblem):
            return OwnersTrouble(joined, None)
        if not joined.joined:
            return owners, joined
        if owners.source is None:
            joined = replace(joined, plan=without_orphan_rules(joined.plan))
        opened = self._open(client, policy, believes=False, joined=joined.joined)
        return opened if isinstance(opened, OwnersTrouble) else (opened, joined)

    def _open(
        self, client: KubeClient, policy: AnyPolicy, *, believes: bool, joined: JoinedKinds = NOTHING_JOINED
    ) -> PolicyOwners | OwnersTrouble:
        uid = policy.metadata.uid
        with self._lock:
            remembered = self._beliefs.get(uid)
        opened = open_policy_owners(
            client, policy, remembered, joined=joined, discovery=self._discovery, believes=believes
        )
        if uid and isinstance(opened, PolicyOwners) and opened.source is not None:
            with self._lock:
                self._beliefs[uid] = opened.source.belief
                self._beliefs.move_to_end(uid)
                while len(self._beliefs) > self._most_policies:
                    self._beliefs.popitem(last=False)
        return opened


def open_policy_owners(
    client: KubeClient,
    policy: AnyPolicy,
    remembered: Belief | None = None,
    *,
    joined: JoinedKinds = NOTHING_JOINED,
    discovery: Discovery | None = None,
    believes: bool = False,
) -> PolicyOwners | OwnersTrouble:
    """Find the kinds of owners that a policy lists; the list itself is made by the pass.

    Args:
        client: of the API server.
        policy: the policy.
        remembered: what is known of its owners from the last pass; None for nothing.
        joined: kinds of other policies.
        discovery: what the API server said lately of its kinds.
        believes: do not ask what ``discovery`` knows.
    """
    kinds = owner_kinds(policy.spec)
    before = _of_wanted(census_of(policy.status.owners), kinds)
    try:
        source = open_owners(
            client,
            kinds,
            namespace=policy.metadata.namespace or None,
            before=before,
            acknowledged=acknowledged_owners(policy),
            remembered=remembered,
            joined=joined,
            discovery=discovery,
            believes=believes,
        )
    except OwnersUnknownError as error:
        anomaly = error.anomaly if isinstance(error, OwnersAnomalyError) else None
        return OwnersTrouble(PlanProblem(_reason_of(error), error.message), anomaly)
    return PolicyOwners(source, before, is_cached=believes)


def _of_wanted(census: Census, named: Sequence[OwnerKind]) -> Census:
    """Return a census without kinds that the policy has ceased to name: these have not vanished."""
    must, may = wanted_kinds(named)
    wanted = {kind.key for kind in (*must, *may)}
    return replace(census, kinds=frozenset(name for name in census.kinds if key_of_name(name) in wanted))


def owners_after(
    anomaly: Anomaly | None, context: Context, census: Census | None = None
) -> Callable[[JsonObject], JsonObject]:
    """Return a function that writes into a status what was found of owners; see `owners_status`."""
    now = context.clock()

    def more(status: JsonObject) -> JsonObject:
        if anomaly is None and census is None:
            return status
        return {**status, "owners": owners_status(section(status, "owners"), census, anomaly, now=now)}

    return more


def _reason_of(error: OwnersUnknownError) -> Reason:
    try:
        return Reason(error.code or "")  # pyright: ignore[reportCallIssue]  # by value, as of any enum
    except ValueError:
        return Reason.OWNERS_UNKNOWN
