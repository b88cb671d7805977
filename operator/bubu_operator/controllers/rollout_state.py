"""What a workload's status says about its last roll-out; pure.

The rules are those of ``kubectl rollout status``. What does not roll by itself (a paused
Deployment, ``OnDelete``, a partition that holds back all pods) is told apart from what is
done, so that nobody waits for it and people are told.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, cast

from bubu_operator.kube.resources import JsonObject, metadata_of, section

__all__ = ["RolloutState", "does_not_roll", "rollout_done", "rollout_state", "waits_longer"]

VERDICT_SECONDS: Final = 30.0
"""What the deployment controller may need to say that a progress deadline has passed."""


class RolloutState(StrEnum):
    """How far a roll-out is."""

    DONE = "Done"
    PROGRESSING = "Progressing"
    FAILED = "Failed"
    """The Deployment's progress deadline passed; other kinds have none."""
    NOT_ROLLING = "NotRolling"
    """Pods are replaced when somebody deletes them, or resumes the workload."""


def rollout_done(workload: JsonObject, *, kind: str = "") -> bool:
    """Tell whether nothing is to be waited for: the roll-out is done, or pods do not roll by themselves."""
    return rollout_state(workload, kind=kind) in (RolloutState.DONE, RolloutState.NOT_ROLLING)


def rollout_state(workload: JsonObject, *, kind: str = "") -> RolloutState:
    """Judge a workload as the API has it.

    Args:
        workload: with its status.
        kind: where the object lacks it, as the items of a list do.
    """
    kind = kind or str(workload.get("kind"))
    if does_not_roll(workload, kind=kind):
        return RolloutState.NOT_ROLLING
    status = section(workload, "status")
    if _number(status, "observedGeneration") < _number(metadata_of(workload), "generation"):
        return RolloutState.PROGRESSING
    match kind:
        case "Deployment":
            return _deployment(section(workload, "spec"), status)
        case "StatefulSet":
            return _done(_stateful_set_done(section(workload, "spec"), status))
        case _:
            wanted = _number(status, "desiredNumberScheduled")
            return _done(
                _number(status, "updatedNumberScheduled") >= wanted
                and _number(status, "numberAvailable") >= wanted
            )


def does_not_roll(workload: JsonObject, *, kind: str = "") -> str:
    """Say why a changed template does not replace the pods by itself; "" when it does."""
    kind = kind or str(workload.get("kind"))
    spec = section(workload, "spec")
    if kind == "CronJob":
        return "running jobs go on as they are; the next ones get it"
    if kind == "Deployment":
        return (
            "the Deployment is paused; its pods are replaced once it is resumed" if spec.get("paused") else ""
        )
    strategy = section(spec, "updateStrategy")
    if strategy.get("type") == "OnDelete":
        return "updateStrategy is OnDelete; each pod gets it when somebody deletes it"
    if kind == "StatefulSet" and 0 < _replicas(spec) <= _partition(spec):
        return "the partition of its updateStrategy holds back all pods"
    return ""


def waits_longer(workload: JsonObject, timeout_seconds: float) -> float:
    """Return the seconds after a timeout in which Kubernetes may still say that a roll-out failed.

    A Deployment's progress deadline that equals the timeout, as both defaults do, would
    otherwise pass just too late to be heard.
    """
    spec = section(workload, "spec")
    if "progressDeadlineSeconds" not in spec:
        return 0.0
    return VERDICT_SECONDS if _number(spec, "progressDeadlineSeconds") <= timeout_seconds else 0.0


def _deployment(spec: JsonObject, status: JsonObject) -> RolloutState:
    conditions: Any = status.get("conditions")
    for condition in cast("list[JsonObject]", conditions or []):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return RolloutState.FAILED
    updated = _number(status, "updatedReplicas")
    return _done(
        updated >= _replicas(spec)
        and _number(status, "replicas") <= updated
        and _number(status, "availableReplicas") >= updated
    )


def _stateful_set_done(spec: JsonObject, status: JsonObject) -> bool:
    replicas = _replicas(spec)
    if _number(status, "availableReplicas") < replicas:
        return False
    if _partition(spec) > 0:
        return _number(status, "updatedReplicas") >= replicas - _partition(spec)
    return status.get("updateRevision") == status.get("currentRevision")


def _done(done: bool) -> RolloutState:
    return RolloutState.DONE if done else RolloutState.PROGRESSING


def _replicas(spec: JsonObject) -> int:
    return _number(spec, "replicas") if "replicas" in spec else 1


def _partition(spec: JsonObject) -> int:
    return _number(section(section(spec, "updateStrategy"), "rollingUpdate"), "partition")


def _number(obj: JsonObject, name: str) -> int:
    value: Any = obj.get(name)
    return value if isinstance(value, int) else 0
