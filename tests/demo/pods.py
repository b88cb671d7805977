"""Pods of the demo: their manifests, their environment as a kubelet would resolve it, their process."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster import Cluster
from tests.demo.console import DemoFailedError, Narrator

__all__ = ["copy_of", "deployment", "engram_pod", "environment_of", "run_engram", "show_environment"]

ENGRAM_SECONDS = 180
IMAGE = "registry.example/engram:1"


def _pod_spec() -> dict[str, Any]:
    return {"containers": [{"name": "main", "image": IMAGE, "env": [{"name": "GREETING", "value": "hello"}]}]}


def engram_pod(namespace: str) -> dict[str, Any]:
    """Return a pod as BubuStack makes them: its label is all that asks for storage."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "engram",
            "namespace": namespace,
            "labels": {"bubustack.io/engram": "invoices"},
        },
        "spec": _pod_spec(),
    }


def deployment(namespace: str) -> dict[str, Any]:
    """Return a Deployment that asks for storage by its own label, for clusters without the webhook."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "worker",
            "namespace": namespace,
            "labels": {"storage.bubustack.io/inject": "true"},
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "worker"}},
            "template": {"metadata": {"labels": {"app": "worker"}}, "spec": _pod_spec()},
        },
    }


def copy_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Return an object to create that is the same pod under another name."""
    metadata = pod["metadata"]
    kept = {field: metadata[field] for field in ("namespace", "labels", "annotations") if field in metadata}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**kept, "name": f"{metadata['name']}-again"},
        "spec": {field: value for field, value in pod["spec"].items() if field != "nodeName"},
    }


def show_environment(narrator: Narrator, pod_spec: dict[str, Any]) -> None:
    """Print the variables of the first container, references as references."""
    rows = [
        (entry["name"], entry.get("value", "") or describe_source(entry.get("valueFrom", {})))
        for entry in pod_spec["containers"][0].get("env", [])
    ]
    narrator.table(("variable", "value"), rows)
    for mount in pod_spec["containers"][0].get("volumeMounts", []):
        if not mount["mountPath"].startswith("/var/run/secrets/"):
            narrator.say(f"volume {mount['name']} at {mount['mountPath']}")


def describe_source(source: dict[str, Any]) -> str:
    """Return where a value comes from, without looking at it."""
    if "secretKeyRef" in source:
        return f"secret {source['secretKeyRef']['name']}, key {source['secretKeyRef']['key']}"
    if "fieldRef" in source:
        return f"field {source['fieldRef']['fieldPath']}"
    return json.dumps(source)


def environment_of(cluster: Cluster, namespace: str, pod_spec: dict[str, Any]) -> dict[str, str]:
    """Resolve the first container's variables the way a kubelet does.

    Raises:
        DemoFailedError: a variable refers to something that is not there.
    """
    resolved: dict[str, str] = {}
    for entry in pod_spec["containers"][0].get("env", []):
        source = entry.get("valueFrom", {})
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            secret = cluster.get("secret", reference["name"], "-n", namespace).get("data", {})
            if reference["key"] in secret:
                resolved[entry["name"]] = base64.b64decode(secret[reference["key"]]).decode()
            elif not reference.get("optional"):
                raise DemoFailedError(f"secret {reference['name']} has no key {reference['key']}")
        elif "fieldRef" in source:
            if source["fieldRef"]["fieldPath"] != "metadata.namespace":
                raise DemoFailedError(f"unexpected field reference in {entry['name']}")
            resolved[entry["name"]] = namespace
        else:
            known = resolved
            resolved[entry["name"]] = re.sub(
                r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)",
                lambda match, known=known: known.get(match[1], match[0]),
                entry.get("value", ""),
            )
    return resolved


def run_engram(role: str, env: dict[str, str], stdin: str = "") -> dict[str, Any]:
    """Run the engram's process with exactly this environment and return its answer.

    Raises:
        DemoFailedError: it failed; its own words are in the message.
    """
    script = Path(__file__).with_name("engram.py")
    done = subprocess.run(
        [sys.executable, str(script), role],
        input=stdin,
        env=env,
        capture_output=True,
        text=True,
        timeout=ENGRAM_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise DemoFailedError(f"the engram's process ({role}) failed:\n{done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
