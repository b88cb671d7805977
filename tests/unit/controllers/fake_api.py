"""An API server in memory, as far as status writes go: versions, conflicts, merge patches."""

from __future__ import annotations

import copy

from bubu_operator.errors import KubeConflictError, KubeNotFoundError
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.resources import ObjectKey, key_of


def merge(target, patch):
    """Apply a JSON merge patch in place."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


class FakeApi:
    """Stands in for `KubeClient`; `events` holds (reason, note) of what was posted."""

    def __init__(self, *objects):
        self.objects = {}
        self.events = []
        self.lists = []
        self.before_patch = lambda: None
        for resource, obj in objects:
            self.put(resource, obj)

    def put(self, resource, obj):
        """Store an object as a new version."""
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        self.objects[resource.plural, key_of(obj)] = obj

    def get(self, resource, name, namespace=None, **_):
        """Read one object."""
        try:
            return copy.deepcopy(self.objects[resource.plural, ObjectKey(namespace or "", name)])
        except KeyError:
            raise KubeNotFoundError(f"{resource.kind} {name} not found", status=404) from None

    def list(self, resource, namespace=None, **_):
        """Read all objects of a kind."""
        self.lists.append((resource.plural, namespace))
        return ObjectList(
            tuple(
                copy.deepcopy(obj)
                for (plural, key), obj in sorted(self.objects.items())
                if plural == resource.plural and namespace in (None, key.namespace)
            ),
            "1",
        )

    def patch_status(self, resource, name, status, namespace=None, *, resource_version="", **_):
        """Merge into a status, unless the version is an old one."""
        self.before_patch()
        obj = self.get(resource, name, namespace)
        if resource_version and obj["metadata"]["resourceVersion"] != resource_version:
            raise KubeConflictError("changed meanwhile", status=409)
        obj.setdefault("status", {})
        merge(obj["status"], status)
        self.put(resource, obj)
        return self.get(resource, name, namespace)

    def create(self, _resource, body, _namespace=None, **_):
        """Post an event."""
        self.events.append((body["reason"], body["note"]))
        return body
