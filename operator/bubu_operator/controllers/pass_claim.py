"""Which claims an agent mounts: those that exist, are bound, and may be mounted on any node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.probe_jobs import CLAIMS
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import section

__all__ = ["ClaimProblem", "claim_problem"]


@dataclass(frozen=True, slots=True)
class ClaimProblem:
    """Why a claim is not mounted.

    Attributes:
        reason: for the Ready condition.
        message: for people.
    """

    reason: Reason
    message: str


def claim_problem(client: KubeClient, config: StorageConfig) -> ClaimProblem | None:
    """Say why the config's claim is not mounted for a pass; None where it is, or where there is none.

    Raises:
        KubeApiError: it cannot be looked at.
    """
    name = config.spec.file.volume_claim_name if config.spec.file is not None else None
    if name is None:
        return None
    namespace = config.metadata.namespace
    try:
        claim = client.get(CLAIMS, name, namespace)
    except KubeNotFoundError:
        return ClaimProblem(
            Reason.CLAIM_NOT_FOUND,
            f"PersistentVolumeClaim {namespace}/{name} does not exist; create it, or correct its name",
        )
    phase = section(claim, "status").get("phase")
    if phase != "Bound":
        return ClaimProblem(
            Reason.PASS_JOB_REFUSED,
            f"claim {name} is {phase or 'new'}: a pass would decide where its volume is made, so it waits "
            "for the first pod of the team",
        )
    modes = cast("list[Any]", section(claim, "spec").get("accessModes") or [])
    if "ReadWriteMany" not in modes:
        return ClaimProblem(
            Reason.PASS_JOB_REFUSED,
            f"claim {name} can be mounted on one node at a time ({', '.join(map(str, modes))}): a pass could "
            "keep it from the team's pods. Use ReadWriteMany to share it",
        )
    return None
