"""A small cluster for tests of healing: pods in pages, workloads, configs, and what was written."""

from __future__ import annotations

import copy
import json
import threading
from datetime import UTC, datetime, timedelta

from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.heal_sweep import Sweeper
from bubu_operator.errors import KubeForbiddenError, KubeGoneError, KubeUnreachableError
from bubu_operator.injection import inject_pod, load_config
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    STORAGE_CONFIGS,
    key_of,
)
from bubu_operator.kube.scrub import Redactor
from tests.unit.controllers.fake_api import FakeApi, merge

ASKING = {"bubustack.io/engram": "x"}
NAMESPACE = "flows"


class Api(FakeApi):
    """The API server: `FakeApi` with pages, whole patches, and troubles on demand.

    Attributes:
        troubles: errors that the next calls of list_page for pods raise, None for none.
        pages: how many pages of pods were asked for.
        gets: (plural, name) of each single read.
    """

    def __init__(self, *objects):
        super().__init__(*objects)
        self.troubles = []
        self.pages = 0
        self.gets = []
        self.patches = []
        self.notes = []
        self.on_page = lambda: None

    def get(self, resource, name, namespace=None, *, metadata_only=False, **_):
        """Read one object."""
        self.gets.append((resource.plural, name))
        found = super().get(resource, name, namespace)
        return {"metadata": found["metadata"]} if metadata_only else found

    def list_page(
        self, resource, namespace=None, *, limit=500, continue_token="", metadata_only=False,
        field_selector="", **_,
    ):  # fmt: skip
        """Read one page, in order of namespace and name."""
        if resource is PODS:
            assert metadata_only
            assert "Succeeded" in field_selector
            self.pages += 1
            self.on_page()
            trouble = self.troubles.pop(0) if self.troubles else None
            if trouble is not None:
                raise trouble
        items = super().list(resource, namespace).items
        start = int(continue_token or 0)
        page = items[start : start + limit]
        if metadata_only:
            page = tuple({"metadata": item["metadata"]} for item in page)
        following = str(start + limit) if start + limit < len(items) else ""
        return ObjectList(page, "1", following)

    def patch(self, resource, name, body, namespace=None, **_):
        """Merge into a whole object."""
        obj = super().get(resource, name, namespace)
        self.patches.append((resource.kind, name))
        body = copy.deepcopy(body)
        body["metadata"].pop("resourceVersion")
        merge(obj, body)
        obj["metadata"]["generation"] = obj["metadata"].get("generation", 1) + 1
        self.put(resource, obj)
        return super().get(resource, name, namespace)

    def put_workload(self, obj):
        """Store a Deployment as its controller would."""
        self.put(DEPLOYMENTS, obj)

    def create(self, _resource, body, _namespace=None, **_):
        """Post an event."""
        self.events.append((body["regarding"]["kind"], body["regarding"]["name"], body["reason"]))
        self.notes.append(body["note"])
        return body


class World:
    """A namespace with one config; pods of Deployments that have it or lack it."""

    def __init__(self, *, namespaces=(), exclude_namespaces=(), page_size=500, max_looks=500, **spec):
        self.api = Api((NAMESPACES, {"metadata": {"name": NAMESPACE, "labels": {}}}))
        self.now = datetime(2026, 1, 31, 12, tzinfo=UTC)
        self.monotonic = 0.0
        self.stopping = threading.Event()
        self.page_size = page_size
        self.max_looks = max_looks
        events = EventRecorder(
            self.api, Redactor(), controller="c", instance="i", monotonic=lambda: self.monotonic
        )
        self.context = Context(
            client=self.api,
            events=events,
            redactor=Redactor(),
            options=ControllerOptions(
                namespaces=namespaces, exclude_namespaces=exclude_namespaces, heal_interval_seconds=60
            ),
            clock=lambda: self.now,
            monotonic=lambda: self.monotonic,
        )
        self.configure(**spec)

    def configure(self, name="main", generation=1, **spec):
        """Create or change a config."""
        before = self.api.objects.get(
            ("storageconfigs", key_of({"metadata": {"name": name, "namespace": NAMESPACE}}))
        )
        obj = {
            "apiVersion": STORAGE_CONFIGS.api_version,
            "kind": "StorageConfig",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid-{name}",
                "generation": generation,
            },
            "spec": {"file": {"volumeClaimName": "claim"}, **spec},
            "status": (before or {}).get("status", {}),
        }
        self.api.put(STORAGE_CONFIGS, obj)
        self.config = load_config(obj)
        return self.config

    def deployment(self, name, pods=2, *, injected=False, created="2026-01-01T00:00:00Z", **metadata):
        """Create a Deployment, its ReplicaSet and pods."""
        template = {
            "metadata": {"labels": {"app": name, **ASKING}},
            "spec": {"containers": [{"name": "main"}]},
        }
        uid = f"uid-{name}"
        self.api.put(
            DEPLOYMENTS,
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": 1, **metadata},
                "spec": {"replicas": pods, "template": template},
                "status": {
                    "observedGeneration": 1,
                    **dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), pods),
                },
            },
        )
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid, "controller": True}
        self.api.put(
            REPLICA_SETS,
            {
                "metadata": {
                    "name": f"{name}-1", "namespace": NAMESPACE,
                    "uid": f"rs-{name}", "ownerReferences": [owner],
                }
            },
        )  # fmt: skip
        self.pods(name, pods, injected=injected, created=created)

    def pods(self, name, number, *, injected, created="2026-01-01T00:00:00Z"):
        """Create, or replace, a Deployment's pods, as its template has them now."""
        template = self.workload(name)["spec"]["template"]
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": f"{name}-1",
            "uid": f"rs-{name}",
            "controller": True,
        }
        for index in range(number):
            pod = {
                "metadata": {
                    "name": f"{name}-{index}",
                    "namespace": NAMESPACE,
                    "uid": f"pod-{name}-{index}",
                    "labels": {"app": name, **ASKING},
                    "annotations": dict(template["metadata"].get("annotations", {})),
                    "creationTimestamp": created,
                    "ownerReferences": [owner],
                },
                "spec": {"containers": [{"name": "main"}]},
            }
            self.api.put(PODS, inject_pod(pod, self.config).pod if injected else pod)

    def delete_pods(self):
        """Leave no pod, as between the old and the new one of an owner that has one only."""
        for key in [key for key in self.api.objects if key[0] == PODS.plural]:
            del self.api.objects[key]

    def roll_out(self, name):
        """Let a Deployment's controller say that its roll-out is done."""
        obj = self.workload(name)
        obj["status"]["observedGeneration"] = obj["metadata"]["generation"]
        self.api.put_workload(obj)

    def sweeper(self):
        """A sweeper without pauses."""
        return Sweeper(
            self.context,
            self.stopping,
            page_size=self.page_size,
            page_pause_seconds=0.0,
            max_looks=self.max_looks,
        )

    def workload(self, name):
        """Return a Deployment as it is now."""
        return self.api.get(DEPLOYMENTS, name, NAMESPACE)

    def annotation(self, name):
        """Return what a restart left on a Deployment's template."""
        annotations = self.workload(name)["spec"]["template"]["metadata"].get("annotations", {})
        return annotations.get("storage.bubustack.io/restarted-at", "")

    def status(self, name="main"):
        """Return a config's status."""
        return self.api.get(STORAGE_CONFIGS, name, NAMESPACE)["status"]

    def drift(self, name="main"):
        """Return reason and message of the condition."""
        found = [item for item in self.status(name).get("conditions", []) if item["type"] == "InjectionDrift"]
        return (found[0]["reason"], found[0]["message"]) if found else ("", "")

    def metric(self, sample, /, **labels):
        """Return a sample of the registry."""
        return self.context.metrics.registry.get_sample_value(sample, labels)

    def pass_time(self, seconds):
        """Let the clock run."""
        self.now += timedelta(seconds=seconds)
        self.monotonic += seconds


def gone():
    """A continue token that has expired."""
    return KubeGoneError("expired", status=410)


def broken():
    """An API server that is away."""
    return KubeUnreachableError("away", status=503)


def denied():
    """A right that is missing."""
    return KubeForbiddenError("pods is forbidden", status=403)


def compact(obj):
    """An object as bytes, as the API sends it."""
    return json.dumps(obj, separators=(",", ":")).encode()
