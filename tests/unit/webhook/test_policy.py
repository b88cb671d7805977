"""What the strict entry refuses, what it never refuses, and how both entries answer within their time."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bubu_operator.injection import apply_patch
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook import app as app_module
from bubu_operator.webhook.app import WebhookApp
from bubu_operator.webhook.fallback import LiveView
from tests.unit.injection.builders import config, container, pod
from tests.unit.injection.strategies import JSON_VALUES
from tests.unit.webhook.asgi import View, call, call_async, review_of

Json = dict[str, Any]
STRICT = "/mutate/strict"
ASKS = {"storage.bubustack.io/inject": "true"}
OUT = {"storage.bubustack.io/inject": "false", "bubustack.io/engram": "x"}


def labelled(labels: dict[str, str], **metadata: Any) -> Json:
    """A pod with labels."""
    item = pod()
    item["metadata"] = {"name": "p", "labels": labels, **metadata}
    return item


def app_of(view: View | None = None, **more: Any) -> WebhookApp:
    """An application that does not wait for the watch."""
    return WebhookApp(view or View(config()), **{"lag_seconds": 0.0, **more})


def counted(metrics: WebhookMetrics) -> dict[tuple[str, str, str], float]:
    """The reviews that were counted: entry, result, reason."""
    registry: CollectorRegistry = metrics.registry
    return {
        (sample.labels["entry"], sample.labels["result"], sample.labels["reason"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "bubu_webhook_reviews_total"
    }


class Broken(View):
    """A cache with a bug in it."""

    def storage_configs(self, namespace: str) -> Any:
        """Fail."""
        raise RuntimeError("planted fault", namespace)


def cold() -> View:
    """A cache that has not listed yet."""
    view = View(config())
    view.missing = ("storageconfigs",)
    return view


REFUSED: list[tuple[View, Json, int, str, str]] = [
    (View(), labelled(ASKS), 403, "NoConfig", "has no StorageConfig"),
    (View(), labelled({**ASKS, "storage.bubustack.io/config": "gone"}), 403, "ConfigNotFound", "gone"),
    (View(config("a"), config("b")), labelled(ASKS), 403, "Ambiguous", "a, b"),
    (View(namespaces={}), labelled(ASKS), 503, "UnknownNamespace", "not known"),
    (cold(), labelled(ASKS), 503, "NotReady", "just started"),
    (Broken(), labelled(ASKS), 500, "InternalError", "internal error"),
    (
        View(config(injection={"containers": ["other"]})),
        labelled(ASKS),
        403,
        "NoMatchingContainer",
        "strict",
    ),
]


@pytest.mark.parametrize(("view", "item", "code", "reason", "text"), REFUSED, ids=[row[3] for row in REFUSED])
def test_a_pod_that_asks_and_cannot_get_storage_is_refused(
    view: View, item: Json, code: int, reason: str, text: str
):
    """With the status that fits, the cause and the way out; the ordinary entry lets the same pod through."""
    metrics = WebhookMetrics()

    response = call(app_of(view, metrics=metrics), review_of(item), path=STRICT).review

    assert response["allowed"] is False
    assert response["status"]["code"] == code
    assert text in response["status"]["message"]
    assert "starts no pod without the storage that it asks for" in response["status"]["message"]
    assert ("details" in response["status"]) == (code == 503)
    assert "patch" not in response
    assert response["auditAnnotations"]["reason"] == reason
    assert counted(metrics) == {("strict", "denied", reason): 1}
    lenient = call(app_of(view), review_of(item)).review
    assert lenient["allowed"] is True
    assert lenient["warnings"]


@pytest.mark.parametrize("view", [View(), View(namespaces={}), cold(), Broken(), View(config())])
@pytest.mark.parametrize(
    ("item", "more"),
    [
        (labelled(OUT), {}),
        (labelled(ASKS, annotations={"kubernetes.io/config.mirror": "4d"}), {}),
        (labelled(ASKS), {"operation": "UPDATE"}),
        (labelled(ASKS), {"subResource": "ephemeralcontainers"}),
        (labelled(ASKS), {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}}),
    ],
    ids=["opted out", "mirror", "update", "subresource", "no pod"],
)
def test_what_does_not_ask_is_never_refused(view: View, item: Json, more: Json):
    """Whatever state the webhook is in."""
    response = call(app_of(view), review_of(item, **more), path=STRICT).review

    assert response["allowed"] is True
    assert "status" not in response


def test_a_pod_that_does_not_ask_passes_the_strict_entry():
    """And an engram of a namespace that opts out."""
    for labels, namespace in (
        ({}, {}),
        ({"bubustack.io/engram": "x"}, {"storage.bubustack.io/inject": "false"}),
    ):
        view = View(namespaces={"flows": namespace})
        assert call(app_of(view), review_of(labelled(labels)), path=STRICT).review["allowed"] is True
        # What is wrong with such a pod is for the API server to say.
        broken = labelled(labels)
        broken["spec"]["containers"] = [None]
        response = call(app_of(view), review_of(broken), path=STRICT).review
        assert (response["allowed"], response["auditAnnotations"]["reason"]) == (True, "MalformedPod")


def test_the_strict_entry_injects_as_the_other_one():
    """The same patch, and no warning that was not there."""
    body = review_of(labelled(ASKS))

    assert call(app_of(), body, path=STRICT).review == call(app_of(), body).review


def test_own_settings_are_no_lack_of_storage():
    """A container that has everything by itself is kept, and started."""
    names = ("BUBU_STORAGE_PROVIDER", "BUBU_STORAGE_S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    item = labelled(ASKS)
    item["spec"]["containers"] = [container(env=[{"name": name, "value": "x"} for name in names])]

    assert call(app_of(), review_of(item), path=STRICT).review["allowed"] is True


def test_a_namespaces_pods_without_a_chosen_container_are_started():
    """The config is for some containers; the pod did not ask by itself."""
    view = View(config(injection={"containers": ["other"]}), namespaces={"flows": ASKS})

    assert call(app_of(view), review_of(labelled({})), path=STRICT).review["allowed"] is True


@pytest.mark.parametrize(
    ("path", "entry", "result"), [("/mutate", "ignore", "error"), (STRICT, "strict", "denied")]
)
def test_a_fault_while_writing_the_answer_is_answered_too(
    path: str, entry: str, result: str, monkeypatch: pytest.MonkeyPatch
):
    """The last line of defence: the answer cannot be written, so another one is, by the entry's policy."""
    render, calls = app_module._render, []

    def broken_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("planted fault")
        return render(*arguments)

    monkeypatch.setattr(app_module, "_render", broken_once)
    metrics = WebhookMetrics()

    response = call(app_of(metrics=metrics), review_of(labelled(ASKS)), path=path).review

    assert response["allowed"] is (entry == "ignore")
    assert "planted" not in json.dumps(response)
    assert counted(metrics) == {(entry, result, "InternalError"): 1}


def test_a_fault_while_reading_is_a_500(monkeypatch: pytest.MonkeyPatch):
    """No id is known: the API server applies the entry's failurePolicy; nothing internal is told."""

    def broken(_body: bytes) -> None:
        raise RuntimeError("planted fault")

    monkeypatch.setattr(app_module, "parse_review", broken)
    metrics = WebhookMetrics()

    answer = call(app_of(metrics=metrics), review_of(labelled(ASKS)))

    assert (answer.status, b"planted" in answer.body) == (500, False)
    assert counted(metrics) == {("ignore", "error", "InternalError"): 1}


@given(value=JSON_VALUES, where=st.sampled_from(["metadata", "spec", "labels"]))
def test_whatever_a_pod_holds_the_strict_entry_answers(value: Any, where: str):
    """Allowed, or refused with a message; never something else."""
    item: Any = labelled(ASKS)
    if where == "labels":
        item["metadata"]["labels"] = value
    else:
        item[where] = value
    response = call(app_of(), review_of(item), path=STRICT).review

    assert response["allowed"] or response["status"]["message"]


def test_results_are_told_apart():
    """Injected, unchanged, skipped: by entry and reason."""
    metrics = WebhookMetrics()
    app = app_of(metrics=metrics)

    first = call(app, review_of(labelled(ASKS))).review
    call(app, review_of(apply_patch(labelled(ASKS), json.loads(b64decode(first["patch"])))))
    call(app, review_of(labelled({})))

    assert counted(metrics) == {
        ("ignore", "injected", "Injected"): 1,
        ("ignore", "unchanged", "AlreadyInjected"): 1,
        ("ignore", "skipped", "NotAsked"): 1,
    }


def live(*configs: Any, labels: dict[str, str] | None = None, calls: list[Any] | None = None) -> Any:
    """A live look that finds these configs."""

    async def look(namespace: str, name: str, deadline: float) -> LiveView:
        if calls is not None:
            calls.append((namespace, name, deadline))
        return LiveView({} if labels is None else labels, tuple(configs))

    return look


@pytest.mark.parametrize(
    "view", [cold(), View(), View(namespaces={})], ids=["cold", "no config", "no namespace"]
)
def test_what_the_cache_does_not_know_is_read_live(view: View):
    """Once, for the namespace and the config that the pod names; then the pod is injected as always."""
    calls: list[Any] = []
    item = labelled({**ASKS, "storage.bubustack.io/config": "main"})

    response = call(app_of(view, look=live(config(), calls=calls)), review_of(item), path=STRICT).review

    assert response["auditAnnotations"]["reason"] == "Injected"
    assert [(namespace, name) for namespace, name, _ in calls] == [("flows", "main")]


def test_what_is_known_is_not_read_live():
    """The ordinary review costs the API server nothing."""
    calls: list[Any] = []

    call(app_of(look=live(calls=calls)), review_of(labelled(ASKS)))
    call(app_of(cold(), look=live(calls=calls)), review_of(labelled(OUT)))

    assert calls == []


def test_a_namespace_that_is_gone_is_said_to_be():
    """The live read says so."""

    async def look(*_: Any) -> LiveView:
        return LiveView(None)

    response = call(app_of(View(), look=look), review_of(labelled(ASKS))).review

    assert "does not exist any more" in response["warnings"][0]


@pytest.mark.parametrize("view", [cold(), View()], ids=["cold", "no config"])
@pytest.mark.parametrize("path", ["/mutate", STRICT])
def test_an_answer_never_takes_longer_than_its_budget(view: View, path: str):
    """Watch and API server hang: the policy decides in time, all waiting together."""
    asked: list[tuple[float, float]] = []

    async def hanging(_namespace: str, _name: str, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        asked.append((loop.time(), deadline))
        await asyncio.sleep(max(0.0, deadline - loop.time()))

    async def run() -> tuple[Json, float]:
        loop = asyncio.get_running_loop()
        app = WebhookApp(view, look=hanging, lag_seconds=0.05, budget_seconds=0.15)
        start = loop.time()
        answer = await call_async(app, review_of(labelled(ASKS)), path=path)
        ((asked_at, deadline),) = asked
        # Counted from when the review came, which was between these two moments.
        assert start + 0.15 <= deadline <= asked_at + 0.15
        return answer.review, loop.time() - start

    response, seconds = asyncio.run(run())

    assert response["allowed"] is (path == "/mutate")
    assert seconds < 60


def test_a_slow_body_leaves_no_time_for_waiting():
    """The time counts from the head: what is known then is answered at once."""
    calls: list[Any] = []

    async def run() -> Json:
        app = WebhookApp(View(), look=live(config(), calls=calls), lag_seconds=600.0, budget_seconds=0.0)
        return (await asyncio.wait_for(call_async(app, review_of(labelled(ASKS))), 60)).review

    start = time.monotonic()
    assert asyncio.run(run())["auditAnnotations"]["reason"] == "NoConfig"
    assert time.monotonic() - start < 60
    assert calls == []


def test_a_config_that_has_just_vanished_is_explained():
    """The pod comes a moment after the deletion of what it names."""
    app = app_of(
        View(), lately_deleted=lambda namespace: (f"StorageConfig {namespace}/main was deleted 2 s ago",)
    )

    response = call(
        app, review_of(labelled({**ASKS, "storage.bubustack.io/config": "main"})), path=STRICT
    ).review

    assert "StorageConfig flows/main was deleted 2 s ago" in response["status"]["message"]


def test_the_owner_is_told_of_pods_that_go_without():
    """Of those, and of no others."""
    told: list[str] = []
    app = app_of(View(), on_unserved=lambda _request, verdict: told.append(str(verdict.reason)))

    for path in ("/mutate", STRICT):
        call(app, review_of(labelled(ASKS)), path=path)
        call(app, review_of(labelled({})), path=path)
        call(app, review_of(labelled(OUT)), path=path)

    assert told == ["NoConfig", "NoConfig"]


def test_health_says_what_is_wrong():
    """A stuck loop is a reason to be restarted; readiness does not look at it."""
    problem = ["the event loop has been stuck for 9 s"]
    app = app_of(health=lambda: problem[0])

    answer = call(app, method="GET", path="/healthz")
    assert (answer.status, answer.body) == (503, b"the event loop has been stuck for 9 s\n")
    problem[0] = ""
    assert call(app, method="GET", path="/healthz").status == 200


def test_annotations_are_not_made_too_large():
    """Kubernetes allows 256 KiB of them: a pod near the limit must not be refused because of ours."""

    def response(size: int) -> Json:
        return call(app_of(), review_of(labelled(ASKS, annotations={"a": "x" * size}))).review

    near = response(256 * 1024 - 50)
    assert near["auditAnnotations"]["reason"] == "RecordTooLarge"
    assert "patch" not in near
    assert near["warnings"]
    assert response(200_000)["auditAnnotations"]["reason"] == "Injected"
