"""Events on owners: which pods lead to one, that they are few, and that they are never in the way."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.injection import InjectionReason, SelectionReason
from bubu_operator.kube.events import EventType
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.mutate import SkipReason, Verdict, decide
from bubu_operator.webhook.owner_events import QUEUE_LENGTH, OwnerEvents, controller_of
from bubu_operator.webhook.review import parse_review
from bubu_storage.wire import VOLUME_NAME
from tests.cluster.processes import wait_until
from tests.unit.injection.builders import config
from tests.unit.webhook.asgi import review_of

Json = dict[str, Any]
REFUSALS = (
    "ConfigNotFound",
    "ConfigDeleting",
    "NamespaceNotSelected",
    "Ambiguous",
    "InvalidConfig",
    "NoConfig",
)
NO_REFUSAL = {
    InjectionReason.INJECTED,
    InjectionReason.ALREADY_INJECTED,
    InjectionReason.ALL_KEPT,
    InjectionReason.REMOVED,
    InjectionReason.NOTHING_TO_REMOVE,
}
LET_THROUGH = {
    SkipReason.NOT_A_POD,
    SkipReason.NOT_A_CREATION,
    SkipReason.MIRROR_POD,
    SkipReason.OTHER_NAMESPACE,
}
OWNER: Json = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "name": "web-1",
    "uid": "u-rs",
    "controller": True,
}
NO_CONFIG = Verdict("NoConfig", "", ("no storage was injected: create one",), wanted=True, unserved=True)


class Recorder:
    """Notes what is posted; may be held up or fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.posted: list[Json] = []
        self.go = threading.Event()
        self.go.set()
        self._fails = fails

    def emit(
        self, resource: Any, obj: Json, *, type_: EventType, reason: str, note: str, action: str
    ) -> bool:
        """Note one."""
        assert self.go.wait(60)
        if self._fails:
            raise RuntimeError("planted fault")
        self.posted.append(
            {
                "api": resource.api_version,
                "kind": resource.kind,
                **obj["metadata"],
                "type": type_.value,
                "reason": reason,
                "note": note,
                "action": action,
            }
        )
        return True


def request(owners: Any, **more: Any) -> Any:
    """A review of a pod with these owner references."""
    pod = {"metadata": {"name": "p", "ownerReferences": owners}, "spec": {}}
    return parse_review(review_of(pod, **more))


def counts(metrics: WebhookMetrics) -> dict[str, float]:
    """Events by outcome, as far as there were any."""
    return {
        sample.labels["outcome"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "bubu_webhook_events_total" and sample.value
    }


def test_the_owner_is_named_from_the_reference_alone():
    """Kind, name, uid and the pod's namespace; a warning with the reason and the sentence."""
    recorder, metrics = Recorder(), WebhookMetrics()
    events = OwnerEvents(recorder, metrics)
    events.start()
    events.offer(request([{"kind": "Other"}, OWNER]), NO_CONFIG)
    wait_until(lambda: bool(recorder.posted), 10, "the event")
    events.stop()

    assert recorder.posted == [
        {
            "api": "apps/v1",
            "kind": "ReplicaSet",
            "namespace": "flows",
            "name": "web-1",
            "uid": "u-rs",
            "type": "Warning",
            "reason": "NoConfig",
            "note": "no storage was injected: create one",
            "action": "Inject",
        }
    ]
    assert counts(metrics) == {"posted": 1}


def test_the_event_says_why_and_quotes_nothing_of_the_pod():
    """What is in the pod may be text of somebody who only reached the webhook; the reason is ours."""
    chosen = config(
        file={"volumeClaimName": "data"},
        injection={"containers": ["worker"]},
    )
    pod = {
        "metadata": {
            "name": "p",
            "labels": {"storage.bubustack.io/inject": "true"},
            "ownerReferences": [OWNER],
        },
        "spec": {
            "containers": [{"name": "main", "image": "i"}],
            "volumes": [{"name": VOLUME_NAME, "CALL +1-555 your storage is gone": {}}],
        },
    }
    asked = parse_review(review_of(pod))
    verdict = decide(asked, {}, [chosen], [])
    recorder = Recorder()
    events = OwnerEvents(recorder, WebhookMetrics())
    events.start()
    events.offer(asked, verdict)
    wait_until(lambda: bool(recorder.posted), 10, "the event")
    events.stop()

    assert any("CALL" in warning for warning in verdict.warnings)
    (posted,) = recorder.posted
    assert "names no container of this pod" in posted["note"]
    assert "CALL" not in posted["note"]


@pytest.mark.parametrize(
    ("owners", "more", "verdict"),
    [
        ([OWNER], {"dryRun": True}, NO_CONFIG),
        ([OWNER], {}, Verdict("Injected", "[]", wanted=True)),
        ([OWNER], {}, Verdict(SkipReason.MALFORMED_POD, "", unserved=True)),
        ([OWNER], {"namespace": ""}, NO_CONFIG),
        ([], {}, NO_CONFIG),
        ([{**OWNER, "controller": False}], {}, NO_CONFIG),
    ],
    ids=["dry run", "injected", "malformed", "no namespace", "no owner", "no controller"],
)
def test_no_event(owners: Any, more: Json, verdict: Verdict):
    """Dry runs leave nothing; who got what was asked for is no news; without an owner the creator is told."""
    metrics = WebhookMetrics()
    events = OwnerEvents(Recorder(), metrics)

    events.offer(request(owners, **more), verdict)

    assert counts(metrics) == {}


@pytest.mark.parametrize(
    "owners",
    [
        None,
        3,
        "x",
        {},
        [None],
        [3],
        [[]],
        [{}],
        [{**OWNER, "uid": 3}],
        [{**OWNER, "name": ""}],
        [{**OWNER, "kind": "k" * 300}],
    ],
)
def test_references_that_cannot_be_used_are_none(owners: Any):
    """A review comes before the pod is validated."""
    assert controller_of({"metadata": {"ownerReferences": owners}}) is None
    assert controller_of(owners) is None


def test_one_event_for_many_pods_of_one_owner():
    """Again after a while, at once for another reason or owner."""
    now = [0.0]
    recorder, metrics = Recorder(), WebhookMetrics()
    events = OwnerEvents(recorder, metrics, monotonic=lambda: now[0])
    for _ in range(100):
        events.offer(request([OWNER]), NO_CONFIG)
    events.offer(request([{**OWNER, "uid": "u-2"}]), NO_CONFIG)
    events.offer(request([OWNER]), Verdict("Ambiguous", "", ("x",), wanted=True, unserved=True))
    now[0] = 601.0
    events.offer(request([OWNER]), NO_CONFIG)
    events.start()
    wait_until(lambda: len(recorder.posted) == 4, 10, "the events")
    events.stop()

    assert counts(metrics) == {"posted": 4, "repeated": 99}


def test_a_full_queue_drops_and_counts():
    """The API server is away: reviews do not wait for it, memory does not grow."""
    recorder, metrics = Recorder(), WebhookMetrics()
    events = OwnerEvents(recorder, metrics)
    for number in range(QUEUE_LENGTH + 5):
        events.offer(request([{**OWNER, "uid": f"u-{number}"}]), NO_CONFIG)

    assert counts(metrics) == {"dropped": 5}


def test_what_waits_in_the_queue_is_short():
    """A label that is not validated yet may be a MiB, and stands in the sentence; many of them wait."""
    recorder, metrics = Recorder(), WebhookMetrics()
    events = OwnerEvents(recorder, metrics)
    long = replace(NO_CONFIG, warnings=("no StorageConfig " + "x" * 1_000_000,))
    tracemalloc.start()
    try:
        for number in range(QUEUE_LENGTH):
            # Each review's text is one of its own.
            events.offer(
                request([{**OWNER, "uid": f"u-{number}"}]),
                replace(long, warnings=(long.warnings[0] + str(number),)),
            )
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 4 * 1024 * 1024


def test_a_failure_ends_nothing(caplog: pytest.LogCaptureFixture):
    """It is counted and logged; the next event is tried."""
    metrics = WebhookMetrics()
    events = OwnerEvents(Recorder(fails=True), metrics)
    events.start()
    for uid in ("u-1", "u-2"):
        events.offer(request([{**OWNER, "uid": uid}]), NO_CONFIG)
    wait_until(lambda: counts(metrics).get("failed") == 2, 10, "both to fail")
    events.stop()

    assert "could not be posted" in caplog.text
    assert json.dumps(counts(metrics)) == '{"failed": 2.0}'


def test_stopping_does_not_wait_for_the_queue():
    """What is queued is given up; an event is not worth a slow shutdown."""
    recorder = Recorder()
    recorder.go.clear()
    events = OwnerEvents(recorder, WebhookMetrics())
    events.start()
    for number in range(QUEUE_LENGTH):
        events.offer(request([{**OWNER, "uid": f"u-{number}"}]), NO_CONFIG)
    stopper = threading.Thread(target=events.stop)
    stopper.start()
    recorder.go.set()
    stopper.join(60)

    assert not stopper.is_alive()


def test_every_reason_is_documented():
    """Whatever a pod goes without storage for is among the reasons of events, and so in the reference."""
    reasons = {
        *REFUSALS,
        *(word.value for word in InjectionReason if word not in NO_REFUSAL),
        *(word.value for word in SkipReason if word not in LET_THROUGH),
    }

    assert {*REFUSALS} <= {word.value for word in SelectionReason}
    assert reasons - {word.value for word in EventReason} == set()
