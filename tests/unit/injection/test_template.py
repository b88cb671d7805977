"""Injection into pod templates of workloads."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bubu_operator.injection import (
    InjectionReason,
    inject_pod,
    inject_template,
    injected_record,
    pod_template,
    remove_from_template,
)
from bubu_operator.injection.template import injection_is_damaged
from tests.unit.injection.builders import S3, config, container, env

Json = dict[str, Any]


def workload(kind: str) -> Json:
    """A workload with one container."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container()]}}
    spec: Json = {"template": template, "replicas": 2}
    if kind == "CronJob":
        spec = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "w"}, "spec": spec}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "CronJob"])
def test_the_template_and_nothing_else_is_injected(kind: str):
    """Whatever the path to it; the input stays; a second time changes nothing; removal gives it back."""
    item = workload(kind)
    before = copy.deepcopy(item)

    result = inject_template(item, config())

    assert result.changed
    assert item == before
    assert env(pod_template(result.workload))["BUBU_STORAGE_PROVIDER"] == "s3"
    rest = copy.deepcopy(result.workload)
    pod_template(rest).update(pod_template(item))
    assert rest == item
    again = inject_template(result.workload, config())
    assert (again.changed, again.workload is result.workload) == (False, True)
    removed = remove_from_template(result.workload)
    assert removed.changed
    assert removed.workload == item


def test_pods_of_an_injected_template_pass_the_webhook_unchanged():
    """Both ways at once do not fight."""
    template = pod_template(inject_template(workload("Deployment"), config()).workload)

    assert inject_pod(template, config()).reason is InjectionReason.ALREADY_INJECTED


def test_a_new_generation_with_the_same_plan_does_not_roll():
    """Only what pods get matters; a changed plan, or another config, does roll."""
    injected = inject_template(workload("Deployment"), config()).workload

    same = inject_template(injected, config(metadata={"generation": 2}, default=True))
    assert (same.changed, same.workload is injected) == (False, True)
    assert same.reason is InjectionReason.ALREADY_INJECTED
    assert inject_template(injected, config("other")).changed
    other = inject_template(injected, config(s3={**S3, "bucket": "other"}, metadata={"generation": 2}))
    assert other.changed
    record = injected_record(other.workload)
    assert record is not None
    assert record.generation == 2


def test_an_edit_of_the_user_is_seen_although_the_generation_is_new_too():
    """A lost variable is healed whatever the generation says."""
    injected = inject_template(workload("Deployment"), config()).workload
    broken = copy.deepcopy(injected)
    pod_template(broken)["spec"]["containers"][0]["env"].pop(0)

    assert inject_template(broken, config(metadata={"generation": 2})).changed


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_damage_is_what_somebody_did_to_our_part(kind: str):
    """A variable, a mount or a volume of ours changed or gone; not what happens to the user's own."""
    file = {"path": "/data", "emptyDir": {}}
    injected = inject_template(workload(kind), config(s3=None, file=file)).workload
    assert not injection_is_damaged(injected)
    assert not injection_is_damaged(workload(kind))

    def changed(change: Any) -> bool:
        item = copy.deepcopy(injected)
        change(pod_template(item)["spec"])
        return injection_is_damaged(item)

    assert changed(lambda spec: spec["containers"][0]["env"].pop(0))
    assert changed(lambda spec: spec["containers"][0]["env"][0].update(value="other"))
    assert changed(lambda spec: spec["containers"][0]["volumeMounts"].pop())
    assert changed(lambda spec: spec["volumes"].pop())
    assert not changed(lambda spec: spec["containers"][0]["env"].append({"name": "OWN", "value": "1"}))
    assert not changed(lambda spec: spec["containers"].append({"name": "side", "image": "y"}))
    assert not changed(lambda spec: spec["containers"][0].update(name="renamed"))


def test_the_record_of_a_template():
    """None before, config and hash after."""
    assert injected_record(workload("Deployment")) is None
    record = injected_record(inject_template(workload("Deployment"), config()).workload)
    assert record is not None
    assert (record.name, record.hash) == ("main", getattr(config().plan, "hash", None))


def test_removal_from_a_template_that_is_not_injected():
    """Nothing to do."""
    item = workload("Deployment")

    result = remove_from_template(item)

    assert (result.workload is item, result.reason) == (True, InjectionReason.NOTHING_TO_REMOVE)


@pytest.mark.parametrize("kind", ["Job", "ReplicaSet", None, 3])
def test_other_kinds_are_refused(kind: Any):
    """A Job's template cannot be changed."""
    with pytest.raises(ValueError, match="no pod template"):
        inject_template({"kind": kind}, config())


def test_a_template_without_containers_stays_as_it_is():
    """The API server takes none; a file may have one."""
    item = workload("Deployment")
    pod_template(item)["spec"]["containers"] = []

    result = inject_template(item, config())

    assert (result.workload is item, result.changed) == (True, False)
    assert not injection_is_damaged(item)


@pytest.mark.parametrize("broken", [{}, {"spec": 3}, {"spec": {"template": []}}])
def test_a_workload_without_a_template_is_handed_back(broken: Json):
    """Reason and warning, no exception."""
    item = {"kind": "Deployment", **broken}

    result = inject_template(item, config())

    assert (result.workload is item, result.reason) == (True, InjectionReason.MALFORMED_POD)
    assert injected_record(item) is None
