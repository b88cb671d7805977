"""May an owner be restarted to heal its pods, and has it been tried before? Pure.

A restart is worth its price only when it helps: the kind replaces its pods by itself, its
new pods would get the config, nobody has opted out, and earlier restarts for the same form
of the config have not already failed to help. What was tried is written on the pod template
in the same write that restarts it, so it survives every restart of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from bubu_operator.controllers.rollout_state import RolloutState, does_not_roll, rollout_state
from bubu_operator.injection.names import (
    HEAL_NAME,
    INJECT_LABEL,
    RECORD_ANNOTATION,
    RESTARTED_ANNOTATION,
)
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.kube.conditions import format_time, parse_time
from bubu_operator.kube.resources import JsonObject, section

__all__ = ["MAX_RESTARTS", "Attempt", "RestartAction", "RestartDecision", "decide_restart", "past_attempt"]

MAX_RESTARTS: Final = 3
"""Of one owner for one form of a config that do not help; afterwards it is left alone."""

BACKOFF_SECONDS: Final = 600.0
"""Shortest time between two restarts of one owner; doubled after each that did not help."""

_ANNOTATION_WORDS: Final = 3
_MAX_NUMBER: Final = 1000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One restart of an owner, as its annotation remembers it.

    Attributes:
        at: when.
        hash: of the config's plan that new pods were to get.
        number: how many in a row this was that had not helped, itself included.
    """

    at: datetime
    hash: str
    number: int

    def __str__(self) -> str:
        """The annotation's value: ``2026-01-31T12:00:00Z 0123456789abcdef 1``."""
        return f"{format_time(self.at)} {self.hash} {self.number}"

    @classmethod
    def parse(cls, text: str | None) -> Attempt | None:
        """Read an annotation's value; None for anything that is none."""
        words = (text or "").split()
        if len(words) != _ANNOTATION_WORDS or not (words[2].isascii() and words[2].isdigit()):
            return None
        at = parse_time(words[0])
        if at is None or len(words[2]) > len(str(_MAX_NUMBER)):
            return None
        try:
            return cls(at.astimezone(UTC), words[1], int(words[2]))
        except OverflowError:
            # The first or the last day that there is, in another zone: nobody's restart.
            return None


class RestartAction(StrEnum):
    """What is done about one owner."""

    RESTART = "Restart"
    WAIT = "Wait"
    """It was restarted lately; whether that helps is not known yet."""
    ROLLING = "Rolling"
    """It is rolling out; the gate knows for how long others wait for that."""
    GIVE_UP = "GiveUp"
    LEAVE = "Leave"
    """A restart would not help, or is not wanted."""


@dataclass(frozen=True, slots=True)
class RestartDecision:
    """The answer of `decide_restart`.

    Attributes:
        action: see `RestartAction`.
        note: why, for people; without times, so that it does not change from sweep to sweep.
        attempt: what the annotation will say; set for `RestartAction.RESTART`.
    """

    action: RestartAction
    note: str
    attempt: Attempt | None = None


def past_attempt(workload: JsonObject, remembered: Attempt | None, hash_: str) -> Attempt | None:
    """Return the last restart for a form of a config.

    The annotation counts; where somebody has taken it away (a tool that resets the template),
    what this process remembers does.
    """
    template = child(child(workload, "spec"), "template")
    written = Attempt.parse(texts_of(child(template, "metadata"), "annotations").get(RESTARTED_ANNOTATION))
    for attempt in (written, remembered):
        if attempt is not None and attempt.hash == hash_:
            return attempt
    return None


def decide_restart(
    workload: JsonObject,
    kind: str,
    *,
    namespace_labels: Mapping[str, str],
    template_problem: str,
    hash_: str,
    past: Attempt | None,
    helped: bool,
    now: datetime,
) -> RestartDecision:
    """Decide about one owner with drifting pods.

    Args:
        workload: a Deployment, StatefulSet or DaemonSet as the API has it.
        kind: which of them.
        namespace_labels: labels of its namespace.
        template_problem: why new pods would not get the config; "" when they would.
        hash_: of the config's plan now.
        past: see `past_attempt`.
        helped: after that attempt the owner has been seen without drift.
        now: the time.
    """
    reason = _left_alone(workload, kind, namespace_labels) or template_problem
    if reason:
        return RestartDecision(RestartAction.LEAVE, reason)
    if past is not None:
        number = 0 if helped else past.number
        if number >= MAX_RESTARTS:
            return RestartDecision(
                RestartAction.GIVE_UP,
                f"given up after {number} restarts that did not help; see that the webhook is called, then "
                f"take the annotation {RESTARTED_ANNOTATION} off the pod template",
            )
        pause = timedelta(seconds=BACKOFF_SECONDS * 2 ** max(0, number - 1))
        # A time in the future is somebody's joke, or another clock's; it must not wait for ever.
        if timedelta(0) <= now - past.at < pause:
            return RestartDecision(
                RestartAction.WAIT,
                f"restarted lately ({number or 1} of {MAX_RESTARTS}), waiting for its effect",
            )
    state = rollout_state(workload, kind=kind)
    if state is RolloutState.FAILED:
        return RestartDecision(RestartAction.LEAVE, "its last roll-out failed; mend that first")
    if state is RolloutState.PROGRESSING:
        return RestartDecision(RestartAction.ROLLING, "it is rolling out")
    before = 0 if past is None or helped else past.number
    return RestartDecision(RestartAction.RESTART, "", Attempt(now, hash_, before + 1))


def _left_alone(
    workload: JsonObject,
    kind: str,
    namespace_labels: Mapping[str, str],
) -> str:
    metadata = section(workload, "metadata")
    labels, annotations = texts_of(metadata, "labels"), texts_of(metadata, "annotations")
    template = child(child(child(workload, "spec"), "template"), "metadata")
    if metadata.get("deletionTimestamp"):
        return "it is being deleted"
    if "false" in (labels.get(HEAL_NAME), annotations.get(HEAL_NAME)):
        return f"{HEAL_NAME} is false"
    if namespace_labels.get(HEAL_NAME) == "false":
        return f"{HEAL_NAME} of its namespace is false"
    if labels.get(INJECT_LABEL) == "false":
        return f"{INJECT_LABEL} is false"
    if namespace_labels.get(INJECT_LABEL) == "false":
        return f"{INJECT_LABEL} of its namespace is false"
    if labels.get(INJECT_LABEL) == "true" or RECORD_ANNOTATION in texts_of(template, "annotations"):
        return "its pod template is the operator's own to write"
    return does_not_roll(workload, kind=kind) or _held_back(workload, kind)


def _held_back(workload: JsonObject, kind: str) -> str:
    """A partition that holds back some pods only: a restart would leave those as they are, for ever."""
    rolling = child(child(child(workload, "spec"), "updateStrategy"), "rollingUpdate")
    if kind == "StatefulSet" and rolling.get("partition"):
        return "the partition of its updateStrategy holds back some pods"
    return ""
