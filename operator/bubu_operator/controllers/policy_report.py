"""Writes down whether a policy's passes can run, and tells of it when that changes.

Invariants: a status is written only onto the spec that was judged; nothing is written when nothing
has changed; an event is posted when the Ready condition changes its status or its reason, and not
for what is only the usual beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.policy_kinds import PolicyKind
from bubu_operator.controllers.policy_store import PolicyStore
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.conditions import ConditionStatus, find_condition
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import JsonObject, key_of, metadata_of, section
from bubu_operator.kube.scrub import shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
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

    def refuse(
        self,
        kind: PolicyKind,
        obj: JsonObject,
        problem: PlanProblem,
        store: PolicyStore | None,
        more: More | None = None,
    ) -> JsonObject:
        """Write down why no pass can run; return the policy as it is now."""
        message = shorten(self._context.redactor.scrub(problem.message), MAX_MESSAGE_CHARACTERS)
        condition = (ConditionType.READY, False, problem.reason, message)
        return self._ready(kind, obj, condition, store=store, next_time=None, quiet=problem.quiet, more=more)

    def accept(
        self, kind: PolicyKind, obj: JsonObject, store: PolicyStore, next_time: str, more: More | None = None
    ) -> JsonObject:
        """Write down that passes can run and when the next one does; return the policy as it is now."""
        condition = (ConditionType.READY, True, Reason.STORAGE_FOUND, f"{store.text} is ready")
        return self._ready(kind, obj, condition, store=store, next_time=next_time, quiet=True, more=more)

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
        self._context.metrics.retention.show((key.namespace, key.name), {"ready": ready})
        try:
            written = write_status(self._context.client, kind.resource, obj, make)
        except (StatusRefusedError, KubeNotFoundError):
            return obj
        was = ((before or {}).get("status"), (before or {}).get("reason"))
        if was != ("True" if ready else "False", reason.value):
            logger.info("%s %s: Ready is %s (%s): %s", kind.resource.kind, key, ready, reason.value, message)
            if not (quiet and before is None):
                self._context.events.emit(
                    kind.resource,
                    obj,
                    type_=EventType.NORMAL if quiet else EventType.WARNING,
                    reason=reason.value,
                    note=message,
                    action="FindStorage",
                )
        return written
