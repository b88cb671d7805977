"""What a sweep says: the condition InjectionDrift, the PODS column, metrics, events on owners.

Texts are made to stand still: no times, names in a fixed order. A status is written only
when it would change, and events are posted when an owner begins to drift, not while it
drifts. A sweep that was not whole reports nothing, so the last whole one stays.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.conditions import ConditionType, EventReason, Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.heal_tally import ConfigTally, Tally
from bubu_operator.controllers.heal_view import ClusterView, Standing
from bubu_operator.errors import KubeApiError, KubeNotFoundError
from bubu_operator.injection.config import ConfigName
from bubu_operator.kube.conditions import ConditionStatus, set_condition
from bubu_operator.kube.events import EventType
from bubu_operator.kube.owners import Owner, OwnerLookup
from bubu_operator.kube.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    JsonObject,
    metadata_of,
    section,
)
from bubu_operator.kube.scrub import credential_scope, shorten
from bubu_operator.kube.status import StatusRefusedError, write_status

__all__ = ["Finding", "OwnerCount", "Reporter", "Said", "describe", "findings_of", "forbidden"]

logger = logging.getLogger(__name__)

LISTED_OWNERS: Final = 5
LISTED_NOTES: Final = 3
MAX_MESSAGE_CHARACTERS: Final = 1000
MAX_EVENTS: Final = 100
"""Of one sweep; owners that were not told of now are told of by the next."""

MAX_WRITES: Final = 500
"""Statuses that one sweep writes, those with drift first."""

RESTARTABLE: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS)


@dataclass(frozen=True, slots=True)
class OwnerCount:
    """Drifting pods of one top controller.

    Attributes:
        owner: the controller.
        missing, stale: how many pods.
        certain: False where the top could not be looked up now.
    """

    owner: Owner
    missing: int
    stale: int
    certain: bool = True

    @property
    def pods(self) -> int:
        """All of them."""
        return self.missing + self.stale


@dataclass(frozen=True, slots=True)
class Finding:
    """What a sweep found about one config that has drift.

    Attributes:
        name: the config's.
        standing: its object's present words.
        tally: its counts.
        owners: in the order of namespace, kind and name.
    """

    name: ConfigName
    standing: Standing
    tally: ConfigTally
    owners: tuple[OwnerCount, ...]

    @property
    def whole(self) -> bool:
        """Whether every drifting pod's owner is among the owners."""
        return sum(item.pods for item in self.owners) == self.tally.drifting


@dataclass(frozen=True, slots=True)
class Said:
    """The condition's content."""

    status: ConditionStatus
    reason: Reason
    message: str

    def as_tuple(self) -> tuple[str, str, str]:
        """For comparison with `Standing.said`."""
        return self.status.value, self.reason.value, self.message


UP_TO_DATE: Final = Said(
    ConditionStatus.FALSE,
    Reason.PODS_UP_TO_DATE,
    "every pod that this config is meant for carries it as it is now",
)


def findings_of(view: ClusterView, tally: Tally, lookup: OwnerLookup) -> list[Finding]:
    """Gather the drift of each config by top controllers."""
    findings: list[Finding] = []
    for name, counts in tally.drifting_configs():
        standing = view.standing.get(name)
        if standing is None:
            continue
        merged: dict[str, OwnerCount] = {}
        for group in counts.groups.values():
            owner, certain = _top(lookup, group.owner)
            before = merged.get(owner.uid, OwnerCount(owner, 0, 0))
            merged[owner.uid] = OwnerCount(
                owner, before.missing + group.missing, before.stale + group.stale, before.certain and certain
            )
        ordered = sorted(merged.values(), key=lambda item: _order(item.owner))
        findings.append(Finding(name, standing, counts, tuple(ordered)))
    return findings


def _top(lookup: OwnerLookup, owner: Owner) -> tuple[Owner, bool]:
    try:
        return lookup.top(owner), True
    except KubeApiError as error:
        logger.info("who is behind %s is not known now: %s", owner, error)
        return owner, False


def _order(owner: Owner) -> tuple[str, str, str]:
    return owner.key.namespace, owner.resource.kind, owner.key.name


def describe(finding: Finding, notes: Sequence[str]) -> Said:
    """Put a config's drift into words; pure.

    Args:
        finding: with at least one drifting pod.
        notes: what healing did or why not; shown in place of the advice.
    """
    counts = finding.tally
    parts: list[str] = []
    if counts.missing:
        parts.append(
            f"{counts.missing} of {_pods(counts.meant)} that this config is meant for "
            f"{'runs' if counts.missing == 1 else 'run'} without it"
        )
    if counts.stale:
        parts.append(
            f"{counts.stale} of {_pods(counts.meant)} that this config is meant for "
            f"{'carries' if counts.stale == 1 else 'carry'} an older form of it, or another config"
        )
    listed = ", ".join(f"{item.owner} ({_pods(item.pods)})" for item in finding.owners[:LISTED_OWNERS])
    if len(finding.owners) > LISTED_OWNERS or not finding.whole:
        listed += " and more"
    way_out = _way_out(finding, notes)
    text = f"{'; '.join(parts)}: {listed}" + (f"; {way_out}" if way_out else "")
    reason = Reason.PODS_NOT_INJECTED if counts.missing else Reason.PODS_STALE
    return Said(ConditionStatus.TRUE, reason, shorten(text, MAX_MESSAGE_CHARACTERS))


def _way_out(finding: Finding, notes: Sequence[str]) -> str:
    restartable = [item.owner for item in finding.owners if item.owner.resource in RESTARTABLE]
    others = len(restartable) < len(finding.owners)
    advice: list[str] = []
    if finding.standing.rollout:
        advice += notes[:LISTED_NOTES]
        if len(notes) > LISTED_NOTES:
            advice.append(f"and {len(notes) - LISTED_NOTES} more")
    elif restartable:
        first = restartable[0]
        advice.append(
            f"restart them, as by kubectl rollout restart {first.resource.kind.lower()}/{first.key.name} "
            f"-n {first.key.namespace}, or set injection.rolloutOnChange"
        )
    if others:
        advice.append("pods of Jobs, of other controllers and of none get it when they are created anew")
    return "; ".join(advice)


def _pods(number: int) -> str:
    return "1 pod" if number == 1 else f"{number} pods"


def _verb(number: int, of_one: str, of_many: str) -> str:
    return of_one if number == 1 else of_many


def forbidden(error: KubeApiError) -> Said:
    """What is said where the controller lacks the right to look."""
    text = f"pods are not checked: {error}; grant the controller what controller-rbac.yaml lists"
    return Said(ConditionStatus.UNKNOWN, Reason.PODS_FORBIDDEN, shorten(text, MAX_MESSAGE_CHARACTERS))


class Reporter:
    """Writes what a sweep found; remembers which owners have been told."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._told: set[tuple[str, str, str]] = set()
        self._series: set[tuple[str, str, str, str]] = set()
        self._reasons: set[str] = set()
        self._written_last: ConfigName = ("", "", "")

    # -- status --------------------------------------------------------------------------

    def write(self, view: ClusterView, tally: Tally, said: Mapping[ConfigName, Said]) -> None:
        """Write the statuses of all configs that changed; ``said`` holds those with drift."""
        left = MAX_WRITES
        nothing = ConfigTally()
        names = sorted(view.standing)
        # Beyond the limit configs take turns, or those whose pods come and go would keep out the others.
        start = bisect_right(names, self._written_last)
        for name in sorted([*names[start:], *names[:start]], key=lambda name: name not in said):
            standing = view.standing[name]
            counts = tally.configs.get(name, nothing)
            words = said.get(name)
            if words is None and not counts.unchecked:
                words = UP_TO_DATE
            if left > 0 and self._differs(standing, words, counts.carried):
                left -= 1
                self._written_last = name
                self._write(name, standing, words, counts.carried)

    def write_words(self, view: ClusterView, said: Mapping[ConfigName, Said]) -> None:
        """Write conditions alone, where how many pods carry what is not known."""
        differing = [name for name, words in said.items() if self._differs(view.standing[name], words, None)]
        for name in differing[:MAX_WRITES]:
            self._write(name, view.standing[name], said[name], None)

    def _differs(self, standing: Standing, words: Said | None, pods: int | None) -> bool:
        if not self._writable(standing):
            return False
        if pods is not None and pods != standing.pods:
            return True
        if words is None:
            return False
        return words.as_tuple() != standing.said or standing.said_of != standing.generation

    def _writable(self, standing: Standing) -> bool:
        # Who minds some namespaces does not know all pods of a cluster-wide config.
        return standing.resource.namespaced or not self._context.options.namespaces

    def _write(self, name: ConfigName, standing: Standing, words: Said | None, pods: int | None) -> None:
        """Write one status; a config that changed or went meanwhile is left to the next sweep."""
        client, now = self._context.client, self._context.clock()

        def make(current: JsonObject) -> JsonObject | None:
            metadata = metadata_of(current)
            if metadata.get("generation") != standing.generation or metadata.get("uid") != standing.uid:
                return None
            new = dict(section(current, "status"))
            if pods is not None:
                new["injectedPods"] = pods
            if words is not None:
                new["conditions"] = set_condition(
                    new.get("conditions"),
                    ConditionType.INJECTION_DRIFT,
                    words.status,
                    reason=words.reason,
                    message=self._context.redactor.of(credential_scope(*name)).scrub(words.message),
                    generation=standing.generation,
                    now=now,
                )
            return new

        try:
            obj = client.get(standing.resource, name[2], name[1] or None)
            write_status(client, standing.resource, obj, make)
        except (StatusRefusedError, KubeNotFoundError):
            return
        except KubeApiError as error:
            logger.warning("what was found about %s was not written: %s", " ".join(name).strip(), error)
            return
        if words is not None and words.as_tuple()[:2] != standing.said[:2]:
            level = logging.INFO if words.status is ConditionStatus.FALSE else logging.WARNING
            logger.log(level, "%s %s: %s", standing.resource.kind, name[2], words.message)

    # -- metrics -------------------------------------------------------------------------

    def count(self, view: ClusterView, tally: Tally) -> None:
        """Show the numbers of a whole sweep; configs without pods have no series."""
        metrics = self._context.metrics
        shown: set[tuple[str, str, str, str]] = set()
        for name, counts in tally.configs.items():
            if name not in view.standing or not counts.meant:
                continue
            for state in ("current", "stale", "missing", "unchecked"):
                shown.add((*name, state))
                metrics.injection_pods.labels(*name, state).set(getattr(counts, state))
        for gone in self._series - shown:
            metrics.injection_pods.remove(*gone)
        self._series = shown
        for reason in self._reasons - tally.unconfigured.keys():
            metrics.unconfigured_pods.remove(reason)
        for reason, pods in tally.unconfigured.items():
            metrics.unconfigured_pods.labels(reason).set(pods)
        self._reasons = set(tally.unconfigured)
        metrics.heal_pods.set(tally.pods)

    # -- events --------------------------------------------------------------------------

    def tell(self, tally: Tally, findings: Sequence[Finding], lookup: OwnerLookup) -> None:
        """Post events about owners that have begun to drift."""
        now: set[tuple[str, str, str]] = set()
        left = MAX_EVENTS
        for finding in findings:
            for item in finding.owners:
                reason = EventReason.INJECTION_MISSING if item.missing else EventReason.INJECTION_STALE
                number = item.missing or item.stale
                verb = _verb(number, "runs", "run") if item.missing else _verb(number, "carries", "carry")
                what = "without" if item.missing else "an older form of"
                note = f"{_pods(number)} {verb} {what} {_full(finding.name)}"
                left = self._once(
                    now, item.owner, reason.value, _full(finding.name), note, left, item.certain
                )
        for group in tally.lost.values():
            owner, certain = _top(lookup, group.owner)
            selection = group.selection
            asks = _verb(group.pods, "asks", "ask")
            note = f"{_pods(group.pods)} {asks} for storage: {selection.message}"
            left = self._once(now, owner, selection.reason.value, selection.message, note, left, certain)
        self._told = now

    def _once(  # noqa: PLR0917 - the parts of one event
        self,
        now: set[tuple[str, str, str]],
        owner: Owner,
        reason: str,
        about: str,
        note: str,
        left: int,
        certain: bool,
    ) -> int:
        key = owner.uid, reason, about
        if key in now or not certain:
            return left
        if key in self._told:
            now.add(key)
            return left
        if left <= 0:
            return 0
        now.add(key)
        self._context.events.emit(
            owner.resource,
            owner.as_object(),
            type_=EventType.WARNING,
            reason=reason,
            note=note,
            action="Sweep",
        )
        return left - 1


def _full(name: ConfigName) -> str:
    kind, namespace, plain = name
    return f"{kind} {namespace}/{plain}" if namespace else f"{kind} {plain}"
