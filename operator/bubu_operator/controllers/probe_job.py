"""From a config to the Job that probes its store; pure.

Some stores the controller must not, or cannot, look at itself: those reached by the identity of
a ServiceAccount that a *user* bound to a cloud's role (the controller never lends its own), and
those on a claim. A pod in the config's own namespace can: it runs under that account, or mounts
that claim, with exactly the environment that injection gives to the team's pods.

Invariants: equal config and options give equal manifests, the name included, so that a controller
that starts again finds the Job of the one before; the pod gets no token of the API server and
passes the restricted pod security level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.injection.environment import InjectionPlan, canonical_json
from bubu_operator.injection.names import DOMAIN, INJECT_LABEL, SYSTEM_NAMESPACES
from bubu_operator.kube.resources import STORAGE_CONFIGS, JsonObject

__all__ = [
    "ACTIVE_DEADLINE_SECONDS",
    "CONTAINER",
    "PROBE_LABEL",
    "RESULT_PATH",
    "job_manifest",
    "job_name",
    "owned_job",
    "place_problem",
    "restricted_pod",
    "wants_job",
]

PROBE_LABEL: Final = f"{DOMAIN}/probe-of"
"""On the Job and its pod: name of the config that is looked at."""

CONTAINER: Final = "probe"
RESULT_PATH: Final = "/dev/termination-log"

ACTIVE_DEADLINE_SECONDS: Final = 300
"""Until then a pod may wait for a node or an image; a cluster that grows takes minutes."""

FINISHED_TTL_SECONDS: Final = 300
"""The controller deletes Jobs itself; this is for when it is not there."""

PROBE_DEADLINE_SECONDS: Final = 60
GRACE_SECONDS: Final = 5
MAX_NAME_CHARACTERS: Final = 40

_TMP_VOLUME: Final = "bubu-probe-tmp"
_TMP_PATH: Final = "/var/run/bubu/tmp"

_Json: TypeAlias = JsonObject


def wants_job(config: StorageConfig) -> bool:
    """Tell whether the store is one that only a pod can look at."""
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        return s3.authentication.service_account is not None
    return file is not None and file.volume_claim_name is not None


def place_problem(namespace: str, operator_namespace: str) -> str:
    """Say why no Job is created in a namespace; "" where one may be."""
    if namespace in SYSTEM_NAMESPACES:
        return f"no pods of the operator's are started in the system namespace {namespace}"
    if namespace == operator_namespace:
        return "no pods of a tenant's account are started in the operator's own namespace"
    return ""


def job_name(config: StorageConfig, plan: InjectionPlan, image: str) -> str:
    """Return the Job's name: the same for the same object, spec and image, and only then."""
    metadata = config.metadata
    key = canonical_json([metadata.uid, metadata.generation, plan.hash, image])
    # A Job's name becomes a label and the beginning of its pod's name.
    head = metadata.name[:MAX_NAME_CHARACTERS].rstrip("-.").replace(".", "-")
    return f"bubu-probe-{head}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def job_manifest(
    config: StorageConfig,
    plan: InjectionPlan,
    *,
    image: str,
    allow_loopback: bool = False,
    cluster_uid: str = "",
) -> JsonObject:
    """Make the Job.

    Args:
        config: one of those that `wants_job` is about, with its uid.
        plan: what injection gives to pods of this config.
        image: one that has this package's command.
        allow_loopback: stores on the pod's own machine may be called.
        cluster_uid: under which the store learns that this cluster uses it; "" for not at all.
    """
    pod = restricted_pod(
        plan,
        {
            "name": CONTAINER,
            "image": image,
            "command": ["bubu-operator", "probe"],
            "args": _arguments(config, allow_loopback=allow_loopback, cluster_uid=cluster_uid),
        },
    )
    return owned_job(
        config,
        job_name(config, plan, image),
        CONTAINER,
        {PROBE_LABEL: config.metadata.name},
        {"activeDeadlineSeconds": ACTIVE_DEADLINE_SECONDS, "template": {"spec": pod}},
    )


def owned_job(
    config: StorageConfig, name: str, component: str, labels: Mapping[str, str], spec: JsonObject
) -> JsonObject:
    """Make a Job of one try that goes with its config, and whose pod is not injected.

    Args:
        config: the owner.
        name: of the Job.
        component: what it is, for its labels.
        labels: by which it is found again; its pod has them, too.
        spec: deadline and template of the Job.
    """
    metadata = config.metadata
    labels = {
        "app.kubernetes.io/name": "bubu-storage-operator",
        "app.kubernetes.io/component": component,
        **labels,
    }
    return {
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": labels,
            # Without blockOwnerDeletion: a config's deletion waits for nothing.
            "ownerReferences": [
                {
                    "apiVersion": STORAGE_CONFIGS.api_version,
                    "kind": STORAGE_CONFIGS.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                }
            ],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": FINISHED_TTL_SECONDS,
            **spec,
            # It gets its environment here; the webhook must not add another config's.
            "template": {**spec["template"], "metadata": {"labels": {**labels, INJECT_LABEL: "false"}}},
        },
    }


def restricted_pod(
    plan: InjectionPlan, container: JsonObject, volumes: Sequence[JsonObject] = (), **resources: JsonObject
) -> JsonObject:
    """Make a pod that passes the restricted security level, with injection's environment for its container.

    Args:
        plan: environment, volumes, mounts and account.
        container: its name, image, command, arguments, and mounts of ``volumes``.
        volumes: besides the plan's.
        resources: other requests and limits than a probe's.
    """
    spec: _Json = {
        "restartPolicy": "Never",
        # The cloud's webhook mounts a token of its own; one of the API server is of no use here.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        # The image is for Linux; a cluster may have nodes of other systems, without a taint.
        "nodeSelector": {"kubernetes.io/os": "linux"},
        # The image has a numeric user; a cluster with a range of ids for each namespace refuses all others.
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            *(volume for _, volume in plan.volumes),
            {"name": _TMP_VOLUME, "emptyDir": {"sizeLimit": "16Mi"}},
            *volumes,
        ],
        "containers": [
            {
                **container,
                "env": [
                    *(item.entry for item in plan.env),
                    {"name": "HOME", "value": _TMP_PATH},
                    {"name": "TMPDIR", "value": _TMP_PATH},
                ],
                "volumeMounts": [
                    *(mount for _, mount in plan.mounts),
                    {"name": _TMP_VOLUME, "mountPath": _TMP_PATH},
                    *container.get("volumeMounts", []),
                ],
                "resources": {
                    "requests": {"cpu": "50m", "memory": "96Mi"},
                    "limits": {"cpu": "1", "memory": "256Mi"},
                    **resources,
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": RESULT_PATH,
                "terminationMessagePolicy": "File",
            }
        ],
    }
    if plan.service_account:
        spec["serviceAccountName"] = plan.service_account
    return spec


def _arguments(config: StorageConfig, *, allow_loopback: bool, cluster_uid: str) -> list[str]:
    arguments = ["--result", RESULT_PATH, "--deadline-seconds", str(PROBE_DEADLINE_SECONDS)]
    if config.spec.s3 is not None:
        arguments.append("--require-identity")
    if allow_loopback:
        arguments.append("--allow-loopback-endpoints")
    if cluster_uid:
        arguments += ["--cluster-uid", cluster_uid]
    return arguments
