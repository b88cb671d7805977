"""Injection into the pod templates of labelled workloads: the way that needs no webhook.

The workload's own label asks for it; `decide_template` says what its template shall be.
This module asks the API server, waits for a turn where pods restart for the sake of a
config alone (`RolloutGate`), stops where somebody keeps undoing it (`Fights`), writes, and
tells. A config that is gone leaves templates as they are.

Writes are JSON patches that test the resourceVersion: what was judged is what is changed,
and the API server notes us as the owner of exactly what we added (ADR 0013).
"""

from __future__ import annotations

import logging
import zlib
from typing import Final, cast

from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.rollout import TOO_OFTEN, RolloutGate, config_key
from bubu_operator.controllers.selection import select_for_workload
from bubu_operator.controllers.template_decision import (
    DIGEST_ANNOTATION,
    OUTDATED_ANNOTATION,
    TemplateAction,
    TemplateDecision,
    decide_template,
    template_is_outdated,
    wants_template,
    with_annotations,
)
from bubu_operator.controllers.template_fights import Fights
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeNotFoundError,
)
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.patch import make_patch
from bubu_operator.kube.client import PatchType
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import JsonObject, ObjectKey, Resource, metadata_of

__all__ = [
    "DIGEST_ANNOTATION",
    "FIELD_MANAGER",
    "OUTDATED_ANNOTATION",
    "TemplateAction",
    "TemplateDecision",
    "TemplateReconciler",
    "decide_template",
    "template_is_outdated",
    "wants_template",
]

logger = logging.getLogger(__name__)

FIELD_MANAGER: Final = "bubu-storage-controller"
"""Under this name the API server keeps which fields are ours."""

RECHECK_SECONDS: Final = 300.0
"""After a refusal, or where no config applies: what stands in the way may go without a word to us."""

RESYNC_SECONDS: Final = 900.0
"""A namespace's labels choose a config, too, and are not watched."""

MAX_ATTEMPTS: Final = 5

_NOTE: Final = "note"
"""Annotations alone; a policy that changes the template at every write must not make that endless."""


class TemplateReconciler:
    """Looks at one workload of a kind at a time."""

    def __init__(self, context: Context, resource: Resource, gate: RolloutGate) -> None:
        self._context = context
        self._resource = resource
        self._gate = gate
        self._left_out = context.options.left_out
        self._fights = Fights(context.monotonic)
        self._notes = Fights(context.monotonic)
        self._differing: dict[ObjectKey, str] = {}

    def __call__(self, key: ObjectKey) -> float | None:
        """Bring one pod template to what it should be; see `Reconcile`."""
        if key.namespace in self._left_out:
            return None
        for _ in range(MAX_ATTEMPTS):
            try:
                workload = self._context.client.get(self._resource, key.name, key.namespace)
            except KubeNotFoundError:
                self._fights.forget(key)
                self._notes.forget(key)
                self._differing.pop(key, None)
                return self._leave(key)
            if metadata_of(workload).get("deletionTimestamp"):
                return self._leave(key)
            config: InjectionConfig | None = None
            if wants_template(workload):
                config = self._select(key, workload)
                if config is None:
                    return self._leave(key, RECHECK_SECONDS)
            else:
                self._differing.pop(key, None)
            decision = decide_template(workload, config)
            again = None if config is None else _spread(key)
            if decision.workload is workload:
                logger.debug("%s %s: %s %s", self._resource.kind, key, decision.action, decision.note)
                return self._leave(key, again)
            if decision.action is TemplateAction.UP_TO_DATE and self._notes.pause(key, _NOTE) > 0:
                return self._leave(key, again)
            wait = self._wait(key, workload, decision, config)
            if wait > 0:
                return wait
            try:
                if self._write(key, workload, decision, config):
                    return again
            except KubeNotFoundError:
                return self._leave(key)
            except (KubeInvalidError, KubeForbiddenError) as error:
                self._refused(key, workload, error)
                return self._leave(key, RECHECK_SECONDS)
        raise KubeConflictError(
            f"{self._resource.kind} {key} changes faster than it can be patched", status=409
        )

    def _leave(self, key: ObjectKey, again: float | None = None) -> float | None:
        """Need no roll-out; return ``again``."""
        self._gate.withdraw(self._resource, key)
        return again

    def _select(self, key: ObjectKey, workload: JsonObject) -> InjectionConfig | None:
        """Choose the config; where admission makes something else of the pods, say so once."""
        # A controller for some namespaces may have no right to what is for all.
        choice = select_for_workload(
            self._context.client,
            key.namespace,
            workload,
            may_lack_shared=bool(self._context.options.namespaces),
        )
        selection = choice.selection
        if selection.config is None:
            self._emit(workload, EventType.WARNING, selection.reason.value, selection.message)
        if not choice.admission:
            self._differing.pop(key, None)
        elif self._differing.get(key) != choice.admission:
            self._differing[key] = choice.admission
            self._emit(workload, EventType.WARNING, EventReason.ADMISSION_DIFFERS.value, choice.admission)
        return selection.config

    # -- waiting -------------------------------------------------------------------------

    def _wait(
        self, key: ObjectKey, workload: JsonObject, decision: TemplateDecision, config: InjectionConfig | None
    ) -> float:
        """Return the seconds before which this must not be written; 0.0 for "now"."""
        pause = self._fights.pause(key, decision.intent) if decision.intent else 0.0
        if pause > 0:
            self._leave(key)
            note = (
                "what the operator writes into the pod template is undone again and again"
                f"{_suspects(workload)}; next try after a pause. Take the label away, or let the other "
                "one leave alone what it does not own"
            )
            self._emit(workload, EventType.WARNING, EventReason.INJECTION_REVERTED.value, note)
            return pause
        if not decision.queued or config is None:
            return 0.0
        name, revision = config_key(config), _revision(config)
        wait = self._gate.request(name, self._resource, key, revision=revision)
        halted = self._gate.halted_by(name, revision) if wait > 0 else ""
        if halted:
            note = f"{config} is not rolled out any further, because the roll-out of {halted} failed"
            self._emit(workload, EventType.WARNING, EventReason.ROLLOUT_HALTED.value, note)
        elif self._gate.rests(self._resource, key):
            note = f"{config} changes all the time: {TOO_OFTEN}"
            self._emit(workload, EventType.WARNING, EventReason.ROLLOUT_HALTED.value, note)
        return wait

    # -- writing -------------------------------------------------------------------------

    def _write(
        self, key: ObjectKey, workload: JsonObject, decision: TemplateDecision, config: InjectionConfig | None
    ) -> bool:
        """Patch; False when the workload has changed meanwhile and must be judged again.

        Raises:
            KubeApiError: refused, gone, or no answer.
        """
        version = metadata_of(workload).get("resourceVersion")
        wanted = decision.workload
        queued = config if decision.queued else None
        if queued is not None:
            mark = self._gate.mark(config_key(queued), workload, revision=_revision(queued))
            wanted = with_annotations(wanted, mark)
        operations: list[JsonObject] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *make_patch(workload, wanted),
        ]
        try:
            written = self._context.client.patch(
                self._resource,
                key.name,
                operations,
                key.namespace,
                patch_type=PatchType.JSON,
                field_manager=FIELD_MANAGER,
            )
        except KubeConflictError:
            return False
        except KubeInvalidError:
            # A failed test is answered like any other refusal; only the version tells them apart.
            current = self._context.client.get(self._resource, key.name, key.namespace)
            if metadata_of(current).get("resourceVersion") != version:
                return False
            raise
        if queued is not None:
            self._gate.began(config_key(queued), self._resource, key, written)
        if decision.intent:
            self._fights.wrote(key, decision.intent)
        elif decision.action is TemplateAction.UP_TO_DATE:
            self._notes.wrote(key, _NOTE)
        if queued is None:
            self._leave(key)
        metrics = self._context.metrics
        metrics.templates_written.labels(self._resource.kind, decision.action.value).inc()
        logger.info("%s %s: %s", self._resource.kind, key, decision.note or decision.action.value)
        if decision.action is not TemplateAction.UP_TO_DATE:
            self._emit(written, EventType.NORMAL, decision.action.value, decision.note)
        return True

    def _refused(self, key: ObjectKey, workload: JsonObject, error: KubeApiError) -> None:
        logger.warning("%s %s: the API server refuses the pod template: %s", self._resource.kind, key, error)
        self._emit(workload, EventType.WARNING, EventReason.INJECTION_REFUSED.value, str(error))

    def _emit(self, obj: JsonObject, type_: EventType, reason: str, note: str) -> None:
        self._context.events.emit(
            self._resource, obj, type_=type_, reason=reason, note=note, action="InjectTemplate"
        )


def _revision(config: InjectionConfig) -> str:
    return config.plan.hash if config.plan is not None else ""


def _spread(key: ObjectKey) -> float:
    """Spread what was found at once, as after a start, over half the time."""
    return RESYNC_SECONDS * (0.75 + 0.5 * zlib.crc32(str(key).encode()) / 2**32)


def _suspects(workload: JsonObject) -> str:
    """Name who may have undone it: the workload's own controller, and whoever wrote to it."""
    metadata = metadata_of(workload)
    words = [
        f"it is managed by {owner.get('kind')} {owner.get('name')}"
        for owner in cast("list[JsonObject]", metadata.get("ownerReferences") or [])
        if owner.get("controller")
    ]
    entries = cast("list[JsonObject]", metadata.get("managedFields") or [])
    others = {
        str(entry.get("manager"))
        for entry in entries
        if entry.get("manager") != FIELD_MANAGER and not entry.get("subresource")
    }
    if others:
        words.append(f"written to by {', '.join(sorted(others))}")
    return f" ({', '.join(words)})" if words else ""
