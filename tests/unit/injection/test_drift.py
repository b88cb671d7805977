"""What a running pod carries against what it would be given now: the webhook's own answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.controllers.heal_proof import review_for
from bubu_operator.injection import inject_pod, load_config
from bubu_operator.injection.drift import DriftState, judge_pod, lacks_injection, template_problem
from bubu_operator.injection.names import MIRROR_ANNOTATION, RECORD_ANNOTATION, SYSTEM_NAMESPACES
from bubu_operator.webhook.mutate import decide
from bubu_operator.webhook.review import parse_review
from tests.unit.injection.builders import config, config_object, container, pod
from tests.unit.injection.strategies import pods

ASKING = {"bubustack.io/engram": "x"}


def living(made, labels=ASKING, namespace="flows", **metadata):
    """A pod as the API has it."""
    own = made["metadata"]
    return {
        **made,
        "metadata": {
            **own,
            "namespace": namespace,
            "labels": {**own.get("labels", {}), **labels},
            **metadata,
        },
    }


def judge(made, configs=(), shared=(), namespace_labels=None, left_out=SYSTEM_NAMESPACES):
    """Judge by metadata alone."""
    return judge_pod(
        made["metadata"], namespace_labels or {}, lambda: configs, lambda: shared, left_out=left_out
    )


def test_a_pod_that_was_injected_as_the_config_is_now_is_current():
    """The record names the config and its hash."""
    main = config()
    injected = inject_pod(living(pod()), main).pod

    judged = judge(injected, [main])

    assert judged.state is DriftState.CURRENT
    assert judged.carries == ("StorageConfig", "flows", "main")


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ([config(timeoutSeconds=7)], "the config has changed"),
        ([config("main"), config("other", default=True)], "another one is the default now"),
        ([config("other")], "it is gone, and another is there"),
    ],
)
def test_a_pod_that_would_get_something_else_now_is_stale(now, why):
    """By hash and by name."""
    injected = inject_pod(living(pod()), config()).pod

    assert judge(injected, now).state is DriftState.STALE, why


def test_a_new_generation_with_the_same_plan_is_no_drift():
    """As when only injection.rolloutOnChange was set."""
    injected = inject_pod(living(pod()), config()).pod
    later = config(metadata={"generation": 9}, injection={"rolloutOnChange": True})

    assert judge(injected, [later]).state is DriftState.CURRENT


@pytest.mark.parametrize(
    ("made", "namespace_labels"),
    [
        (living(pod(), {}), {}),
        (living(pod(), {**ASKING, "storage.bubustack.io/inject": "false"}), {}),
        (living(pod(), ASKING), {"storage.bubustack.io/inject": "false"}),
        (living(pod(), ASKING, "kube-system"), {}),
        (living(pod(), ASKING, annotations={MIRROR_ANNOTATION: "x"}), {}),
        (living(pod(), ASKING, deletionTimestamp="2026-01-01T00:00:00Z"), {}),
    ],
    ids=["not-asked", "opted-out", "namespace-out", "system", "mirror", "deleting"],
)
def test_pods_that_the_webhook_would_not_inject_are_not_concerned(made, namespace_labels):
    """Whatever configs there are; and no config is looked for."""

    def never():
        raise AssertionError("looked for a config")

    judged = judge_pod(made["metadata"], namespace_labels, never, never, left_out=SYSTEM_NAMESPACES)

    assert judged.state is DriftState.NOT_CONCERNED


@pytest.mark.parametrize(
    ("now", "state"),
    [
        ([config()], DriftState.CURRENT),
        ([config(timeoutSeconds=7)], DriftState.STALE),
        ([config(), config("other", default=True)], DriftState.CURRENT),
        ([config("other")], DriftState.NOT_CONCERNED),
    ],
)
def test_a_pod_that_does_not_ask_is_measured_by_what_it_carries(now, state):
    """It got that from its pod template, whose owner asked; another config is not for it to choose."""
    injected = inject_pod(living(pod(), {}), config()).pod

    judged = judge(injected, now)

    assert (judged.state, judged.carries) == (state, ("StorageConfig", "flows", "main"))


def test_a_pod_that_opted_out_still_counts_as_carrying():
    """Its environment has not changed, and it is no drift."""
    injected = inject_pod(living(pod()), config()).pod
    injected["metadata"]["labels"]["storage.bubustack.io/inject"] = "false"

    judged = judge(injected, [config(timeoutSeconds=7)])

    assert (judged.state, judged.carries) == (DriftState.NOT_CONCERNED, ("StorageConfig", "flows", "main"))


def test_a_pod_that_finds_no_config_is_drift_of_none():
    """The selection says why."""
    judged = judge(living(pod()))

    assert judged.state is DriftState.UNCONFIGURED
    assert judged.selection is not None
    assert judged.selection.reason == "NoConfig"


def test_a_damaged_record_counts_as_none():
    """The whole pod has to be looked at."""
    damaged = living(pod(), annotations={RECORD_ANNOTATION: "{"})

    assert judge(damaged, [config()]).state is DriftState.NO_RECORD
    assert lacks_injection(damaged, config())


@pytest.mark.parametrize(
    "chosen",
    [config(injection={"containers": ["other"]}), config(injection={"containers": ["gone", "too"]})],
)
def test_a_pod_with_no_container_for_the_config_lacks_nothing(chosen):
    """It would be let through as it is, every time."""
    assert not lacks_injection(living(pod(container("main"))), chosen)


@given(
    pods(),
    st.dictionaries(
        st.sampled_from(
            ["bubustack.io/engram", "storage.bubustack.io/inject", "storage.bubustack.io/config"]
        ),
        st.sampled_from(["true", "false", "main", "files"]),
    ),
    st.dictionaries(
        st.sampled_from(["storage.bubustack.io/inject", "storage.bubustack.io/config"]),
        st.sampled_from(["true", "false", "main"]),
    ),
    st.lists(
        st.sampled_from(
            [
                config_object("main"),
                config_object("files", file={"volumeClaimName": "claim"}),
                config_object("files", injection={"containers": ["main"], "conflictPolicy": "Override"}),
                config_object("broken", s3={"bucket": "B"}),
            ]
        ),
        max_size=2,
        unique_by=lambda item: item["metadata"]["name"],
    ),
)
def test_the_sweep_agrees_with_the_webhook(made, labels, namespace_labels, objects):
    """Missing is exactly what admission would have patched; what admission has done is current."""
    configs = [load_config(item) for item in objects]
    asking = living(made, labels)
    request = parse_review(json.dumps(review_for(asking, "flows")).encode())
    verdict = decide(request, namespace_labels, configs, [])

    judged = judge(asking, configs, namespace_labels=namespace_labels)

    match judged.state:
        case DriftState.NOT_CONCERNED:
            assert not verdict.wanted
        case DriftState.UNCONFIGURED:
            assert verdict.wanted
            assert not verdict.config
        case state:
            assert state is DriftState.NO_RECORD
            chosen = judged.config
            assert chosen is not None
            assert lacks_injection(asking, chosen) == bool(verdict.patch)
            injected = inject_pod(asking, chosen)
            if injected.changed:
                again = judge(injected.pod, configs, namespace_labels=namespace_labels)
                assert again.state is DriftState.CURRENT


@pytest.mark.parametrize(
    ("labels", "now", "words"),
    [
        (ASKING, [config()], ""),
        ({}, [config()], "does not ask"),
        (ASKING, [], "find no config"),
        (ASKING, [config("other")], "would get StorageConfig flows/other"),
        (ASKING, [config(injection={"containers": ["other"]})], "nothing to inject"),
    ],
)
def test_a_restart_helps_only_if_new_pods_get_the_config(labels, now, words):
    """Pods may be labelled by hand; then their template gives the same again."""
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}

    problem = template_problem(template, "flows", {}, now, [], config=config())

    assert words in problem
    assert bool(words) == bool(problem)
