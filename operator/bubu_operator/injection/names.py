"""Labels and annotations that people and the operator write; all below one domain."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONFIG_LABEL",
    "DOMAIN",
    "ENGRAM_LABEL",
    "HEAL_NAME",
    "INJECTED_LABEL",
    "INJECT_LABEL",
    "MIRROR_ANNOTATION",
    "RECORD_ANNOTATION",
    "RESTARTED_ANNOTATION",
    "ROLLOUT_ANNOTATION",
    "STRICT_LABEL",
    "SYSTEM_NAMESPACES",
]

DOMAIN: Final = "storage.bubustack.io"

SYSTEM_NAMESPACES: Final = ("kube-system", "kube-public", "kube-node-lease")
"""The cluster's own; nothing in them is ever injected, whatever its labels say."""

ENGRAM_LABEL: Final = "bubustack.io/engram"
"""On pods: this is an engram's pod, whatever the value; it wants storage."""

INJECT_LABEL: Final = f"{DOMAIN}/inject"
"""On pods, workloads and namespaces: ``"true"`` asks for injection, ``"false"`` opts out."""

CONFIG_LABEL: Final = f"{DOMAIN}/config"
"""On pods, workloads and namespaces: name of the config to use."""

INJECTED_LABEL: Final = f"{DOMAIN}/injected"
"""On injected pods: name of the config (shortened where it is too long for a label)."""

STRICT_LABEL: Final = f"{DOMAIN}/strict"
"""On namespaces: ``"true"`` has a pod refused, not started without storage, when the webhook fails."""

RESTARTED_ANNOTATION: Final = f"{DOMAIN}/restarted-at"
"""On the pod template of a workload that was restarted to heal its pods."""

HEAL_NAME: Final = f"{DOMAIN}/heal"
"""On workloads (label or annotation) and namespaces (label): ``"false"`` keeps from restarts that heal."""

ROLLOUT_ANNOTATION: Final = f"{DOMAIN}/rollout"
"""On a workload that the operator has rolled: for which config and when, so that nothing is forgotten."""

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On mirror pods, which a kubelet creates to show its static pods; Kubernetes' own name."""

RECORD_ANNOTATION: Final = f"{DOMAIN}/injection"
"""On injected pods: what was injected, so that it can be replaced or taken out again."""
