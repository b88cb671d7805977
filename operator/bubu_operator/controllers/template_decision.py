"""What a workload's pod template shall be, decided without asking anybody.

A template is written when it lacks the injection or a part of it, or when its user changed
it since; a config that changed does so only with ``rolloutOnChange``, because writing
restarts pods. To
tell the two apart without a memory of our own, the workload carries a digest of the template
as its user wrote it, without our part; it follows each change of the user's, outside of the
template, so that it restarts nothing. A CronJob restarts nothing and always follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bubu_operator.controllers.rollout_state import does_not_roll
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.environment import canonical_json
from bubu_operator.injection.names import (
    CONFIG_LABEL,
    DOMAIN,
    INJECT_LABEL,
    RESTARTED_ANNOTATION,
    ROLLOUT_ANNOTATION,
    SYSTEM_NAMESPACES,
)
from bubu_operator.injection.template import (
    inject_template,
    injected_record,
    injection_is_damaged,
    pod_template,
    remove_from_template,
    with_pod_template,
)
from bubu_operator.kube.resources import JsonObject, metadata_of, section

__all__ = [
    "DIGEST_ANNOTATION",
    "OUTDATED_ANNOTATION",
    "TemplateAction",
    "TemplateDecision",
    "decide_template",
    "template_is_outdated",
    "wants_template",
    "with_annotations",
]

DIGEST_ANNOTATION: Final = f"{DOMAIN}/template-digest"
"""On a workload that we injected: digest of what its user wrote."""

OUTDATED_ANNOTATION: Final = f"{DOMAIN}/outdated"
"""On a workload whose config has changed and must not roll it: which config, and the hash of its plan."""

_WITHOUT_OURS: Final[Mapping[str, str | None]] = {
    DIGEST_ANNOTATION: None,
    OUTDATED_ANNOTATION: None,
    ROLLOUT_ANNOTATION: None,
}


class TemplateAction(StrEnum):
    """What is done with a template, and why; also events' reasons and a metric's label."""

    INJECTED = "Injected"
    REMOVED = "InjectionRemoved"
    CONFIG_CHANGED = "ConfigChanged"
    """The config has changed and must not roll the workload (``rolloutOnChange`` is false)."""
    UP_TO_DATE = "UpToDate"
    NOT_ASKED = "NotAsked"


@dataclass(frozen=True, slots=True)
class TemplateDecision:
    """The answer of `decide_template`.

    Attributes:
        action: see `TemplateAction`.
        workload: as it shall be; the very input where nothing is to be written.
        note: for the event.
        queued: the write restarts pods for the sake of the config alone; it waits for its turn.
        intent: equal for two writes that want the same of the same; "" where nothing is written.
    """

    action: TemplateAction
    workload: JsonObject
    note: str = ""
    queued: bool = False
    intent: str = ""


def wants_template(workload: JsonObject) -> bool:
    """Tell whether the workload's own label asks for injection into its template.

    As at admission, a pod that opts out is left alone, and so are the cluster's own namespaces.
    """
    metadata = metadata_of(workload)
    if metadata.get("namespace") in SYSTEM_NAMESPACES:
        return False
    pods = section(section(pod_template(workload), "metadata"), "labels")
    return section(metadata, "labels").get(INJECT_LABEL) == "true" and pods.get(INJECT_LABEL) != "false"


def template_is_outdated(workload: JsonObject, config: InjectionConfig) -> bool:
    """Tell whether an injected template holds something else than ``config`` would put there."""
    return injected_record(workload) is not None and inject_template(workload, config).changed


def decide_template(workload: JsonObject, config: InjectionConfig | None) -> TemplateDecision:
    """Decide what a workload shall be; pure.

    Args:
        workload: in the API's form, ``kind`` set.
        config: what is injected; None to take out what was.
    """
    annotations = section(metadata_of(workload), "annotations")
    if config is None:
        return _without_injection(workload)
    result = inject_template(workload, config)
    if not result.changed:
        warnings = "; ".join(result.warnings)
        marks: dict[str, str | None] = {OUTDATED_ANNOTATION: None}
        if injected_record(workload) is not None:
            # What the user has changed since is noted now: it must not make a later config roll at once.
            marks[DIGEST_ANNOTATION] = _digest(workload)
        kept = with_annotations(workload, marks)
        return TemplateDecision(TemplateAction.UP_TO_DATE, kept, warnings)
    digest = _digest(workload)
    for_config_alone = (
        injected_record(workload) is not None
        and annotations.get(DIGEST_ANNOTATION) == digest
        and not injection_is_damaged(workload)
    )
    plan_hash = config.plan.hash if config.plan is not None else ""
    rolls = workload.get("kind") != "CronJob"
    if for_config_alone and rolls and not config.rollout_on_change:
        marked = with_annotations(workload, {OUTDATED_ANNOTATION: f"{config} {plan_hash}"})
        note = (
            f"{config} differs from what was injected; it is applied when the pod template changes, as by "
            "kubectl rollout restart (injection.rolloutOnChange is false)"
        )
        return TemplateDecision(TemplateAction.CONFIG_CHANGED, marked, note)
    written = with_annotations(result.workload, {DIGEST_ANNOTATION: digest, OUTDATED_ANNOTATION: None})
    notes = [f"{config} was written into the pod template", *result.warnings]
    if why := does_not_roll(workload):
        notes.append(why)
    return TemplateDecision(
        TemplateAction.INJECTED,
        written,
        "; ".join(notes),
        queued=for_config_alone and rolls,
        intent=f"{config} {plan_hash} {digest}",
    )


def _without_injection(workload: JsonObject) -> TemplateDecision:
    removed = remove_from_template(workload)
    template = pod_template(removed.workload)
    bare = with_annotations(removed.workload, _WITHOUT_OURS)
    if bare is workload:
        return TemplateDecision(TemplateAction.NOT_ASKED, workload)
    # A restart's mark alone is no reason to restart once more.
    if removed.changed:
        bare = with_pod_template(bare, with_annotations(template, {RESTARTED_ANNOTATION: None}))
    note = "the pod template is as its user wrote it again"
    return TemplateDecision(TemplateAction.REMOVED, bare, note, intent="removed")


def _digest(workload: JsonObject) -> str:
    """Digest what the user wrote: the template without our part, and which config they ask for."""
    template = pod_template(remove_from_template(workload).workload)
    users = with_annotations(template, {RESTARTED_ANNOTATION: None})
    # Empty and absent are one: what is taken out leaves nothing empty behind.
    metadata = {name: value for name, value in metadata_of(users).items() if value}
    users = {name: value for name, value in users.items() if name != "metadata"} | {"metadata": metadata}
    asked = section(metadata_of(workload), "labels").get(CONFIG_LABEL, "")
    return hashlib.sha256(canonical_json({"template": users, "config": asked}).encode()).hexdigest()[:16]


def with_annotations(obj: JsonObject, changes: Mapping[str, str | None]) -> JsonObject:
    """Return an object with annotations set or, where None, taken off; the very object if none differs."""
    before = section(metadata_of(obj), "annotations")
    after: dict[str, Any] = {key: value for key, value in before.items() if key not in changes}
    after |= {key: value for key, value in changes.items() if value is not None}
    if after == before:
        return obj
    metadata = dict(metadata_of(obj))
    if after:
        metadata["annotations"] = after
    else:
        del metadata["annotations"]
    return {**obj, "metadata": metadata}
