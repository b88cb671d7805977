"""From a config and a pass to the Job of its agent; pure.

The pod is a probe's pod with another command, and with one more thing: a token of its account that is
good for this controller's port for agents alone. It has no token of the API server.

Invariants: the name follows from the pass, the config and the controller that waits for the agent, so
that no Job is taken for another one's; nothing in it is a secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.probe_job import (
    MAX_NAME_CHARACTERS,
    RESULT_PATH,
    owned_job,
    restricted_pod,
)
from bubu_operator.injection.environment import InjectionPlan, canonical_json
from bubu_operator.injection.names import DOMAIN
from bubu_operator.jobpass.hello import AUDIENCE
from bubu_operator.jobpass.seam import PassOrder
from bubu_operator.kube.resources import JsonObject

__all__ = [
    "AGENT_CONTAINER",
    "PASS_LABEL",
    "START_SECONDS",
    "AgentCall",
    "agent_job",
    "agent_job_name",
    "pass_id_of",
]

PASS_LABEL: Final = f"{DOMAIN}/pass-of"
"""On the Job and its pod: name of the config whose store it serves."""

AGENT_CONTAINER: Final = "retention-agent"
START_SECONDS: Final = 300
"""Until then a pod may wait for a node or an image; a cluster that grows takes minutes."""

IDLE_SECONDS: Final = 300
"""An agent waits so long for its pass's turn, and for a pass that asks nothing."""

SPARE_SECONDS: Final = 60
TOKEN_SECONDS: Final = 600
"""The least that Kubernetes makes; the kubelet renews it, and it is shown once."""

_SHOWN_VOLUME: Final = "bubu-pass-token"
_SHOWN_AT: Final = "/var/run/bubu/pass"
_SHOWN_FILE: Final = "token"
_RESOURCES: Final[Mapping[str, JsonObject]] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "1", "memory": "512Mi"},
}


@dataclass(frozen=True, slots=True)
class AgentCall:
    """Whom an agent calls, and what it is.

    Attributes:
        address: ``https://HOST:PORT`` of the controller.
        pin: fingerprint of its certificate.
        image: one that has this package's command.
    """

    address: str
    pin: str
    image: str


def pass_id_of(
    order: PassOrder, config: StorageConfig, plan: InjectionPlan, call: AgentCall, nonce: str
) -> str:
    """Return what tells a pass's agent from every other one; nobody can tell the ``nonce`` beforehand."""
    metadata = config.metadata
    key = [
        order.policy.namespace,
        order.policy.name,
        order.policy_uid,
        list(order.scopes),
        order.budget_seconds,
        metadata.uid,
        metadata.generation,
        plan.hash,
        call.image,
        call.address,
        call.pin,
        nonce,
    ]
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()[:20]


def agent_job_name(config: StorageConfig, pass_id: str) -> str:
    """Return the Job's name."""
    # A Job's name becomes a label and the beginning of its pod's name.
    head = config.metadata.name[:MAX_NAME_CHARACTERS].rstrip("-.").replace(".", "-")
    return f"bubu-pass-{head}-{pass_id[:10]}"


def agent_job(
    order: PassOrder,
    config: StorageConfig,
    plan: InjectionPlan,
    *,
    call: AgentCall,
    pass_id: str,
    allow_loopback: bool = False,
) -> JsonObject:
    """Make the Job.

    Args:
        order: what the pass may do.
        config: whose store it serves, with its uid.
        plan: what injection gives to pods of this config.
        call: whom it calls.
        pass_id: see `pass_id_of`.
        allow_loopback: stores on the pod's own machine may be called.
    """
    # From the start of the pod: it may wait for its turn, then the pass has its budget.
    pod_seconds = IDLE_SECONDS + int(order.budget_seconds) + SPARE_SECONDS
    arguments = [
        *("--controller", call.address, "--pin", call.pin, "--pass", pass_id),
        *(word for scope in order.scopes for word in ("--scope", scope)),
        *("--token-file", f"{_SHOWN_AT}/{_SHOWN_FILE}", "--result", RESULT_PATH),
        *("--deadline-seconds", str(pod_seconds), "--idle-seconds", str(IDLE_SECONDS)),
    ]
    if config.spec.s3 is not None:
        arguments.append("--require-identity")
    if allow_loopback:
        arguments.append("--allow-loopback-endpoints")
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": _SHOWN_FILE}
    pod = restricted_pod(
        plan,
        {
            "name": AGENT_CONTAINER,
            "image": call.image,
            "command": ["bubu-operator", "retention-agent"],
            "args": [_literal(argument) for argument in arguments],
            "volumeMounts": [{"name": _SHOWN_VOLUME, "mountPath": _SHOWN_AT, "readOnly": True}],
        },
        [{"name": _SHOWN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}],
        **_RESOURCES,
    )
    return owned_job(
        config,
        agent_job_name(config, pass_id),
        AGENT_CONTAINER,
        {PASS_LABEL: config.metadata.name},
        {"activeDeadlineSeconds": START_SECONDS + pod_seconds, "template": {"spec": pod}},
    )


def _literal(argument: str) -> str:
    """Keep Kubernetes from expanding references in what a prefix may hold."""
    return argument.replace("$", "$$")
