"""Writes down whether a policy's passes can run, and tells of it when that changes.

Invariants: a status is written only onto the spec that was judged; nothing is written when nothing
has changed; an event is posted when the Ready condition changes its status or its reason, and not
for what is only the usual beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from bubu_operator.api.v1alpha1.conditions import ConditionType, EventReason, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.policy_kinds import PolicyKind
from bubu_operator.controllers.policy_store import PolicyStore
from bubu_operator.controllers.store_access import scope_of
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.conditions import ConditionStatus, find_condition
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import JsonObject, ObjectKey, key_of, metadata_of, section
from bubu_operator.kube.scrub import shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
from bubu_operator.retention.cycle import Stage, StageKind
from bubu_operator.retention.plan import PlanProblem
from bubu_operator.retention.status import MAX_MESSAGE_CHARACTERS, conditions_with

__all__ = ["PolicyReport"]

logger = logging.getLogger(__name__)

More = Callable[[JsonObject], JsonObject]
"""Given a status, the same with more in it."""


class PolicyReport:
    """Reports on policies of both kinds; thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Of which nothing bad was said so far: their config is new, too, and has not been looked at.
        self._beginning: set[ObjectKey] = set()

    def refuse(
        self,
        kind: PolicyKind,
        obj: JsonObject,
        problem: PlanProblem,
        store: PolicyStore | None,
        more: More | None = None,
    ) -> JsonObject:
        """Write down why no pass can run; return the policy as it is now."""
        scope = key_of(obj).namespace if store is None else scope_of(store.config)
        message = shorten(self._context.redactor.of(scope).scrub(problem.message), MAX_MESSAGE_CHARACTERS)
        if problem.quiet and problem.reason is Reason.STORAGE_NOT_READY:
            self._beginning.add(key_of(obj))
        else:
            self._beginning.discard(key_of(obj))
        condition = (ConditionType.READY, False, problem.reason, message)
        return self._ready(kind, obj, condition, store=store, next_time=None, quiet=problem.quiet, more=more)

    def accept(
        self, kind: PolicyKind, obj: JsonObject, store: PolicyStore, stage: Stage, next_time: str
    ) -> JsonObject:
        """Write down that passes can run and when the next one does; return the policy as it is now."""
        reason = stage.reason or Reason.STORAGE_FOUND
        message = f"{store.text} is ready" + (f": {stage.message}" if stage.reason is not None else "")
        message += store.remark
        condition = (ConditionType.READY, True, reason, message)
        if stage.kind is StageKind.ENFORCE and _is_blocked(obj):
            self._announce(
                kind, obj, EventType.NORMAL, EventReason.APPROVED.value, f"plan {stage.plan_hash} is approved"
            )
        return self._ready(kind, obj, condition, store=store, next_time=next_time, quiet=True, more=None)

    def _ready(
        self,
        kind: PolicyKind,
        obj: JsonObject,
        condition: tuple[ConditionType, bool, Reason, str],
        *,
        store: PolicyStore | None,
        next_time: str | None,
        quiet: bool,
        more: More | None,
    ) -> JsonObject:
        generation = int(metadata_of(obj).get("generation") or 0)
        now = self._context.clock()
        key = key_of(obj)
        before = find_condition(section(obj, "status").get("conditions"), ConditionType.READY)

        def make(current: JsonObject) -> JsonObject | None:
            if metadata_of(current).get("generation") != generation:
                return None
            old = section(current, "status")
            entries: list[Any] = [condition]
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
            return new if more is None else more(new)

        _, ready, reason, message = condition
        approval = not ready and reason is Reason.APPROVAL_REQUIRED
        shown = {
            "ready": ready,
            "approval": approval,
            "suspended": not ready and reason is Reason.SUSPENDED,
            "enforces": section(obj, "spec").get("mode") == RetentionMode.ENFORCE.value,
        }
        self._context.metrics.retention.show((key.namespace, key.name), {**shown, **_remembered(obj, now)})
        try:
            written = write_status(self._context.client, kind.resource, obj, make)
        except (StatusRefusedError, KubeNotFoundError):
            return obj
        was = ((before or {}).get("status"), (before or {}).get("reason"))
        status = "True" if ready else "False"
        if was != (status, reason.value):
            logger.info("%s %s: Ready is %s (%s): %s", kind.resource.kind, key, ready, reason.value, message)
            # Between two reasons for which all is well the passes themselves tell what has happened.
            is_begun = before is None or (ready and (was[0] == status or key in self._beginning))
            if not (quiet and (is_begun or _is_blocked(obj))):
                type_ = EventType.NORMAL if quiet else EventType.WARNING
                self._announce(kind, obj, type_, reason.value, message)
        if ready:
            self._beginning.discard(key)
        return written

    def _announce(self, kind: PolicyKind, obj: JsonObject, type_: EventType, reason: str, note: str) -> None:
        self._context.events.emit(
            kind.resource, obj, type_=type_, reason=reason, note=note, action="FindStorage"
        )


def _is_blocked(obj: JsonObject) -> bool:
    """Tell whether the policy waits for an approval, by its status."""
    ready = find_condition(section(obj, "status").get("conditions"), ConditionType.READY)
    return ready is not None and ready.get("reason") == Reason.APPROVAL_REQUIRED.value


def _remembered(obj: JsonObject, now: datetime) -> dict[str, float]:
    """Return what the status tells of the last pass: also after a restart, and while no pass runs."""
    status = section(obj, "status")
    last = section(status, "lastPass")
    values = {
        name: float(last[field])
        for name, field in (("due", "due"), ("due_bytes", "dueBytes"), ("kept", "kept"))
        if isinstance(last.get(field), int)
    }
    since = _time(status.get("oldestOverdueSince"))
    degraded = find_condition(status.get("conditions"), ConditionType.DEGRADED) or {}
    values["degraded"] = float(degraded.get("status") == ConditionStatus.TRUE.value)
    values["lag"] = 0.0 if since is None else max(0.0, (now - since).total_seconds())
    reconciled = find_condition(status.get("conditions"), ConditionType.RECONCILED) or {}
    finished = _time(last.get("finishTime"))
    if finished is not None and reconciled.get("status") == ConditionStatus.TRUE.value:
        values["success"] = finished.timestamp()
    return values


def _time(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None  # edited by hand; the next pass writes it anew
    return when if when is not None and when.tzinfo is not None else None
