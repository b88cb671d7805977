"""Injection into the pod templates of labelled Deployments: the way that needs no webhook.

The Deployment's own label asks for it. A template is written when it lacks the injection,
or when its user changed it since; a config that changed does so only with
``rolloutOnChange``, because writing a template restarts its pods. To tell the two apart
without a memory of our own, the Deployment carries a digest of the template as its user
wrote it, without our part. A config that is gone leaves templates as they are.

Writes are JSON patches that test the resourceVersion: what was judged is what is changed.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bubu_operator.controllers.context import Context
from bubu_operator.controllers.selection import select_for_namespace
from bubu_operator.errors import KubeApiError, KubeConflictError, KubeInvalidError, KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.environment import canonical_json
from bubu_operator.injection.names import CONFIG_LABEL, DOMAIN, INJECT_LABEL, SYSTEM_NAMESPACES
from bubu_operator.injection.patch import make_patch
from bubu_operator.injection.template import (
    inject_template,
    injected_record,
    pod_template,
    remove_from_template,
)
from bubu_operator.kube.client import PatchType
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import DEPLOYMENTS, JsonObject, ObjectKey, metadata_of, section

__all__ = ["DIGEST_ANNOTATION", "TemplateAction", "TemplateReconciler", "decide_template", "wants_template"]

logger = logging.getLogger(__name__)

DIGEST_ANNOTATION: Final = f"{DOMAIN}/template-digest"
"""On a Deployment that we injected: digest of what its user wrote."""

RECHECK_SECONDS: Final = 300.0
MAX_ATTEMPTS: Final = 5


class TemplateAction(StrEnum):
    """What is done with a template, and why; the first two are events' reasons, too."""

    INJECTED = "Injected"
    REMOVED = "InjectionRemoved"
    UP_TO_DATE = "UpToDate"
    CONFIG_CHANGED = "ConfigChanged"
    """The config has changed and must not roll the workload (``rolloutOnChange`` is false)."""
    REFUSED = "InjectionRefused"
    NOT_ASKED = "NotAsked"


@dataclass(frozen=True, slots=True)
class TemplateDecision:
    """The answer of `decide_template`.

    Attributes:
        action: see `TemplateAction`.
        workload: as it shall be; the very input where nothing is to be written.
        note: for the event.
    """

    action: TemplateAction
    workload: JsonObject
    note: str = ""


def wants_template(deployment: JsonObject) -> bool:
    """Tell whether the Deployment's own label asks for injection into its template.

    As at admission, a pod that opts out is left alone, and so are the cluster's own namespaces.
    """
    metadata = metadata_of(deployment)
    if metadata.get("namespace") in SYSTEM_NAMESPACES:
        return False
    pods = section(section(pod_template(deployment), "metadata"), "labels")
    return section(metadata, "labels").get(INJECT_LABEL) == "true" and pods.get(INJECT_LABEL) != "false"


def decide_template(deployment: JsonObject, config: InjectionConfig | None) -> TemplateDecision:
    """Decide what a Deployment's template shall be; pure.

    Args:
        deployment: in the API's form, ``kind`` set.
        config: what is injected; None to take out what was.
    """
    digested = section(metadata_of(deployment), "annotations").get(DIGEST_ANNOTATION)
    if config is None:
        removed = remove_from_template(deployment)
        if not removed.changed and digested is None:
            return TemplateDecision(TemplateAction.NOT_ASKED, deployment)
        bare = _with_digest(removed.workload, None)
        return TemplateDecision(
            TemplateAction.REMOVED, bare, "the pod template is as its user wrote it again"
        )
    result = inject_template(deployment, config)
    digest = _digest(deployment)
    if not result.changed:
        return TemplateDecision(TemplateAction.UP_TO_DATE, deployment, "; ".join(result.warnings))
    record = injected_record(deployment)
    if record is not None and digested == digest and not config.rollout_on_change:
        return TemplateDecision(
            TemplateAction.CONFIG_CHANGED,
            deployment,
            f"{config} differs from what was injected; it is applied when the pod template changes "
            "(injection.rolloutOnChange is false)",
        )
    note = "; ".join((f"{config} was written into the pod template", *result.warnings))
    return TemplateDecision(TemplateAction.INJECTED, _with_digest(result.workload, digest), note)


class TemplateReconciler:
    """Looks at one Deployment at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, key: ObjectKey) -> float | None:
        """Bring one pod template to what it should be; see `Reconcile`."""
        for _ in range(MAX_ATTEMPTS):
            try:
                deployment = self._context.client.get(DEPLOYMENTS, key.name, key.namespace)
            except KubeNotFoundError:
                return None
            if metadata_of(deployment).get("deletionTimestamp"):
                return None
            config: InjectionConfig | None = None
            if wants_template(deployment):
                selection = self._select(key, deployment)
                if selection is None:
                    return RECHECK_SECONDS
                config = selection
            decision = decide_template(deployment, config)
            if decision.workload is deployment:
                logger.debug("Deployment %s: %s %s", key, decision.action.value, decision.note)
                return None
            if self._write(key, deployment, decision):
                return None
        raise KubeConflictError(f"Deployment {key} changes faster than it can be patched", status=409)

    def _select(self, key: ObjectKey, deployment: JsonObject) -> InjectionConfig | None:
        """Choose the config as the webhook would for the pods; the Deployment's own label counts, too."""
        own = section(metadata_of(deployment), "labels")
        labels: dict[str, Any] = {CONFIG_LABEL: own[CONFIG_LABEL]} if CONFIG_LABEL in own else {}
        labels |= section(section(pod_template(deployment), "metadata"), "labels")
        selection = select_for_namespace(self._context.client, key.namespace, labels)
        if selection.config is None:
            self._emit(deployment, EventType.WARNING, selection.reason.value, selection.message)
        return selection.config

    def _write(self, key: ObjectKey, deployment: JsonObject, decision: TemplateDecision) -> bool:
        """Patch; False when the Deployment has changed meanwhile and must be judged again."""
        version = metadata_of(deployment).get("resourceVersion")
        operations: list[JsonObject] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *make_patch(deployment, decision.workload),
        ]
        try:
            written = self._context.client.patch(
                DEPLOYMENTS, key.name, operations, key.namespace, patch_type=PatchType.JSON
            )
        except KubeNotFoundError:
            return True
        except KubeConflictError:
            return False
        except KubeInvalidError as error:
            # A failed test is answered like any other refusal; only the version tells them apart.
            current = self._context.client.get(DEPLOYMENTS, key.name, key.namespace)
            if metadata_of(current).get("resourceVersion") != version:
                return False
            self._refused(key, deployment, error)
            return True
        logger.info("Deployment %s: %s", key, decision.note)
        self._emit(written, EventType.NORMAL, decision.action.value, decision.note)
        return True

    def _refused(self, key: ObjectKey, deployment: JsonObject, error: KubeApiError) -> None:
        logger.warning("Deployment %s: the API server refuses the injected template: %s", key, error)
        self._emit(deployment, EventType.WARNING, TemplateAction.REFUSED.value, str(error))

    def _emit(self, obj: JsonObject, type_: EventType, reason: str, note: str) -> None:
        self._context.events.emit(
            DEPLOYMENTS, obj, type_=type_, reason=reason, note=note, action="InjectTemplate"
        )


def _digest(deployment: JsonObject) -> str:
    """Digest what the user wrote: the template without our part, and which config they ask for."""
    users = pod_template(remove_from_template(deployment).workload)
    asked = section(metadata_of(deployment), "labels").get(CONFIG_LABEL, "")
    return hashlib.sha256(canonical_json({"template": users, "config": asked}).encode()).hexdigest()[:16]


def _with_digest(deployment: JsonObject, digest: str | None) -> JsonObject:
    metadata = dict(metadata_of(deployment))
    annotations = {k: v for k, v in section(metadata, "annotations").items() if k != DIGEST_ANNOTATION}
    if digest is not None:
        annotations[DIGEST_ANNOTATION] = digest
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    return {**deployment, "metadata": metadata}
