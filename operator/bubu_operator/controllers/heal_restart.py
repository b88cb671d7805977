"""Restarts owners whose pods drift: one at a time, proved to help, and never in a loop.

What holds a restart back, in this order: the config does not ask for it; a restart would
not help this owner (`heal_decide`); one that was restarted for the same form of the config
still drifts (then no other owner of it is touched: whatever is wrong would be wrong for
them, too); the webhook cannot prove that it injects (`heal_proof`); another owner of the
config is rolling out (`RolloutGate`).
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.heal_decide import (
    Attempt,
    RestartAction,
    RestartDecision,
    decide_restart,
    past_attempt,
)
from bubu_operator.controllers.heal_proof import WebhookProof
from bubu_operator.controllers.heal_report import RESTARTABLE, Finding
from bubu_operator.controllers.heal_tally import MAX_RESTARTS_SEEN, Tally
from bubu_operator.controllers.heal_view import ClusterView
from bubu_operator.controllers.rollout import TOO_OFTEN, RolloutGate, config_key
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeNotFoundError,
)
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.drift import template_problem
from bubu_operator.injection.names import RESTARTED_ANNOTATION
from bubu_operator.injection.podspec import child
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.events import EventType
from bubu_operator.kube.owners import Owner
from bubu_operator.kube.resources import JsonObject, metadata_of

__all__ = ["Healed", "Restarter"]

logger = logging.getLogger(__name__)

MAX_WORKLOADS: Final = 500
"""Owners that one sweep reads whole; configs take turns."""

GATE_PATIENCE_SECONDS: Final = 5.0
MAX_REMEMBERED: Final = 4096


@dataclass(slots=True)
class Healed:
    """What came of one config.

    Attributes:
        notes: for the condition.
        under_way: something was restarted, or waits for its turn: look again soon.
        given_up: owners that are left alone after every allowed restart.
    """

    notes: list[str] = field(default_factory=list[str])
    under_way: bool = False
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class _Candidate:
    owner: Owner
    workload: JsonObject
    decision: RestartDecision
    past: Attempt | None


class Restarter:
    """Acts on the findings of whole sweeps."""

    def __init__(
        self,
        context: Context,
        gate: RolloutGate,
        stopping: threading.Event,
        proof: WebhookProof | None = None,
    ) -> None:
        self._context = context
        self._gate = gate
        self._stopping = stopping
        self._proof = proof or WebhookProof(context)
        self._known: OrderedDict[str, Attempt] = OrderedDict()
        self._helped: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._doubted: set[tuple[str, str]] = set()
        self._asked: dict[str, Owner] = {}
        self._turn = 0

    def heal(self, view: ClusterView, tally: Tally, findings: Sequence[Finding]) -> dict[int, Healed]:
        """Restart what may be restarted; answers by the findings' places.

        At most one owner of a config is restarted in a call.
        """
        self._doubted.clear()
        healed: dict[int, Healed] = {}
        self._turn += 1
        left = MAX_WORKLOADS
        asked, self._asked = self._asked, {}
        for place in range(len(findings)):
            index = (place + self._turn) % len(findings)
            finding = findings[index]
            if not finding.standing.rollout or self._stopping.is_set():
                continue
            config = view.config(finding.name)
            if config is None or config.plan is None:
                continue
            owners = [item.owner for item in finding.owners if item.owner.resource in RESTARTABLE][:left]
            left -= len(owners)
            try:
                healed[index] = self._heal(view, finding, config, owners)
            except KubeApiError as error:
                logger.warning("owners of %s could not be healed: %s", config, error)
                healed[index] = Healed(["the API server failed, trying again"], under_way=True)
        for key, owner in asked.items():
            if self._asked.get(key) != owner:
                self._gate.withdraw(owner.resource, owner.key)
        self._context.metrics.heal_given_up.set(sum(item.given_up for item in healed.values()))
        self._learn(tally)
        return healed

    def _learn(self, tally: Tally) -> None:
        """A restart has helped once its pods are there, all of them well, and its owner has no others.

        No drift alone says nothing: between the old pod and the new one an owner may have none. What
        the pods tell, the next process sees as well.
        """
        for restart, well in tally.restarts.items():
            if well and restart not in self._doubted:
                self._helped[restart] = None
                self._helped.move_to_end(restart)
        while len(self._helped) > MAX_RESTARTS_SEEN:
            self._helped.popitem(last=False)

    def _heal(
        self, view: ClusterView, finding: Finding, config: InjectionConfig, owners: Sequence[Owner]
    ) -> Healed:
        result = Healed()
        candidates: list[_Candidate] = []
        for owner in owners:
            candidate = self._judge(view, config, owner)
            if candidate is not None:
                candidates.append(candidate)
        blocked = False
        for item in candidates:
            decision = item.decision
            if decision.action is RestartAction.RESTART:
                continue
            result.notes.append(f"{item.owner}: {decision.note}")
            if decision.action is RestartAction.GIVE_UP:
                result.given_up += 1
                # A newer pod that has it shows that the trouble is this owner's alone.
                at = "" if item.past is None else format_time(item.past.at)
                blocked = blocked or finding.tally.newest_current <= at
            elif decision.action is not RestartAction.LEAVE:
                result.under_way = True
                blocked = blocked or decision.action is RestartAction.WAIT
        first = next((item for item in candidates if item.decision.action is RestartAction.RESTART), None)
        if first is None:
            return result
        if blocked:
            result.notes.append("no other owner is restarted until that has helped")
            return result
        self._restart(view, config, first, result)
        return result

    def _judge(self, view: ClusterView, config: InjectionConfig, owner: Owner) -> _Candidate | None:
        """Read an owner and decide about it; None when it is gone."""
        namespace = owner.key.namespace
        labels = view.labels(namespace)
        try:
            workload = self._context.client.get(owner.resource, owner.key.name, namespace)
        except KubeNotFoundError:
            return None
        if labels is None or metadata_of(workload).get("uid") != owner.uid or config.plan is None:
            return None
        problem = template_problem(
            _template(workload), namespace, labels, view.configs(namespace), view.shared, config=config
        )
        past = past_attempt(workload, self._known.get(owner.uid), config.plan.hash)
        restart = namespace, str(past)
        self._doubted.add(restart)
        decision = decide_restart(
            workload,
            owner.resource.kind,
            namespace_labels=labels,
            template_problem=problem,
            hash_=config.plan.hash,
            past=past,
            helped=restart in self._helped,
            now=self._context.clock(),
        )
        return _Candidate(owner, workload, decision, past)

    # -- act -----------------------------------------------------------------------------

    def _restart(self, view: ClusterView, config: InjectionConfig, item: _Candidate, result: Healed) -> None:
        namespace = item.owner.key.namespace
        problem = self._proof.problem(
            _template(item.workload), namespace, view.labels(namespace) or {}, config
        )
        if problem:
            result.notes.append(f"nothing is restarted: {problem}")
            return
        result.under_way = True
        scope, revision = config_key(config), "" if config.plan is None else config.plan.hash
        if not self._let_go(scope, item.owner, revision):
            self._asked[scope] = item.owner
            halted = self._gate.halted_by(scope, revision)
            why = "owners roll out one after the other"
            if halted:
                why = f"the roll-out of {halted} failed; mend it"
            elif self._gate.rests(item.owner.resource, item.owner.key):
                why = TOO_OFTEN
            result.notes.append(f"{item.owner} waits: {why}")
            return
        try:
            written = self._write(config, item, scope, revision)
        except (KubeForbiddenError, KubeInvalidError) as error:
            # Counts as an attempt that did not help: asking again at once would not either.
            self._gate.withdraw(item.owner.resource, item.owner.key)
            self._remember(item)
            logger.warning("%s: the API server refuses its restart: %s", item.owner, error)
            result.notes.append(f"{item.owner}: the API server refuses its restart: {error}")
        except KubeApiError:
            self._gate.withdraw(item.owner.resource, item.owner.key)
            raise
        else:
            if not written:
                self._gate.withdraw(item.owner.resource, item.owner.key)
            what = "was restarted" if written else "changed meanwhile and is judged again"
            result.notes.append(f"{item.owner} {what}")

    def _remember(self, item: _Candidate) -> None:
        if item.decision.attempt is None:
            return
        self._known[item.owner.uid] = item.decision.attempt
        self._known.move_to_end(item.owner.uid)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def _let_go(self, scope: str, owner: Owner, revision: str) -> bool:
        patience = self._context.monotonic() + GATE_PATIENCE_SECONDS
        while not self._stopping.is_set():
            wait = self._gate.request(scope, owner.resource, owner.key, revision=revision)
            if wait <= 0:
                return True
            if self._context.monotonic() + wait > patience:
                return False
            self._stopping.wait(wait)
        return False

    def _write(self, config: InjectionConfig, item: _Candidate, scope: str, revision: str) -> bool:
        """Restart the owner if it still is what was judged; tell whether it was."""
        attempt, owner = item.decision.attempt, item.owner
        if attempt is None:
            return False
        template_metadata: JsonObject = {"annotations": {RESTARTED_ANNOTATION: str(attempt)}}
        body: JsonObject = {
            "metadata": {
                "resourceVersion": metadata_of(item.workload).get("resourceVersion"),
                "annotations": self._gate.mark(scope, item.workload, revision=revision),
            },
            "spec": {"template": {"metadata": template_metadata}},
        }
        client = self._context.client
        try:
            written = client.patch(owner.resource, owner.key.name, body, owner.key.namespace)
        except (KubeConflictError, KubeNotFoundError):
            return False
        self._gate.began(scope, owner.resource, owner.key, written)
        self._remember(item)
        self._context.metrics.heal_restarts.labels(owner.resource.kind).inc()
        note = f"restarted so that its pods get {config} (restart {attempt.number} for this form of it)"
        logger.info("%s: %s", owner, note)
        self._context.events.emit(
            owner.resource,
            written,
            type_=EventType.NORMAL,
            reason=EventReason.RESTARTED.value,
            note=note,
            action="Restart",
        )
        return True


def _template(workload: JsonObject) -> JsonObject:
    return child(child(workload, "spec"), "template")
