"""Every place of a pod, with every kind of wrong value in it: answered, allowed, and still converging."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bubu_operator.injection import apply_patch, inject_pod
from bubu_operator.webhook.app import WebhookApp
from tests.unit.injection.builders import config
from tests.unit.webhook.asgi import View, call, review_of

Json = dict[str, Any]
CONFIG = config(injection={"conflictPolicy": "Override"})
POD: Json = {
    "metadata": {
        "name": "p",
        "labels": {"storage.bubustack.io/inject": "true", "app": "x"},
        "annotations": {"note": "x"},
    },
    "spec": {
        "serviceAccountName": "runner",
        "volumes": [{"name": "bubu-storage", "emptyDir": {}}, {"name": "files", "configMap": {"name": "x"}}],
        "initContainers": [
            {"name": "proxy", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}
        ],
        "containers": [
            {
                "name": "main",
                "env": [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}, {"name": "B", "value": "$(A)"}],
                "envFrom": [{"secretRef": {"name": "more"}}],
                "volumeMounts": [{"name": "files", "mountPath": "/var/run/bubu/ca"}],
                "volumeDevices": [{"name": "disk", "devicePath": "/d"}],
            }
        ],
    },
}
WRONG = (
    None,
    1,
    -1.5,
    True,
    "",
    "x",
    "\ud800",
    "9" * 50,
    [],
    {},
    [None],
    [[]],
    [{}],
    [{"name": 1}],
    {"a": None},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything below a value, itself included."""
    yield path
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in below:
        yield from places(item, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    """A copy in which something else stands at a path."""
    if not path:
        return wrong
    result = target = copy.deepcopy(value)
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = wrong
    return result


@pytest.mark.parametrize("start", ["fresh", "injected"])
def test_wrong_values_anywhere(start: str):
    """No internal error; where there is a patch it applies, and the result is injected already."""
    pod = POD if start == "fresh" else json.loads(json.dumps(inject_pod(POD, CONFIG).pod))
    app = WebhookApp(View(CONFIG), lag_seconds=0.0)
    reasons: set[str] = set()

    for path in places(pod):
        for wrong in WRONG:
            item = with_value(pod, path, wrong)
            response = call(app, review_of(item)).review
            reasons.add(response["auditAnnotations"]["reason"])
            assert response["allowed"] is True
            assert response["auditAnnotations"]["reason"] != "InternalError", (path, wrong)
            if "patch" in response:
                result = apply_patch(item, json.loads(base64.b64decode(response["patch"])))
                assert not inject_pod(result, CONFIG).changed, (path, wrong)

    assert {"Injected", "MalformedPod", "NotAsked"} <= reasons
