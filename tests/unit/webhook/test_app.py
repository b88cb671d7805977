"""The application: every request is answered, every answer to a review allows."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.injection import apply_patch, inject_pod
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook import body as body_module
from bubu_operator.webhook.app import WebhookApp
from bubu_operator.webhook.body import MAX_BODY_BYTES
from tests.unit.injection.builders import config, container, pod
from tests.unit.injection.strategies import JSON_VALUES
from tests.unit.webhook.asgi import View, call, call_async, review_of

Json = dict[str, Any]
POST = {
    "type": "http",
    "method": "POST",
    "path": "/mutate",
    "headers": [(b"content-type", b"application/json")],
}


def asking(**more: Any) -> Json:
    """A pod that asks for injection."""
    item = pod(**more)
    item["metadata"]["labels"] = {"storage.bubustack.io/inject": "true"}
    return item


def app_of(view: View | None = None, **more: Any) -> WebhookApp:
    """An application that does not wait for stragglers."""
    return WebhookApp(view or View(config()), **{"lag_seconds": 0.0, **more})


def patched(item: Json, response: Json) -> Json:
    """The pod after the answer's patch."""
    return apply_patch(item, json.loads(base64.b64decode(response["patch"])))


def test_a_pod_that_asks_is_injected():
    """The patch leads to exactly what injection gives; uid echoed, audit notes set, no warning."""
    item = asking()

    answer = call(app_of(), review_of(item))

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    response = answer.review
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    assert patched(item, response) == inject_pod(item, config()).pod
    assert response["auditAnnotations"] == {"reason": "Injected", "config": "StorageConfig flows/main"}
    assert "warnings" not in response


def test_a_body_in_chunks():
    """As the API server sends large ones."""
    body = review_of(asking())

    assert call(app_of(), [body[:10], b"", body[10:100], body[100:]]).review["patchType"] == "JSONPatch"


def test_a_pod_that_does_not_ask_is_let_through_in_silence():
    """No patch, no warning."""
    response = call(app_of(), review_of(pod())).review

    assert response == {"uid": "u-1", "allowed": True, "auditAnnotations": {"reason": "NotAsked"}}


def test_the_requests_namespace_counts():
    """What the pod's metadata says about it does not (it may say nothing, or lie)."""
    item = asking()
    item["metadata"]["namespace"] = "elsewhere"

    assert call(app_of(), review_of(item)).review["auditAnnotations"]["reason"] == "Injected"


def test_without_a_config_the_pod_is_let_through_with_a_warning():
    """The sentence comes from the selection."""
    response = call(app_of(View()), review_of(asking())).review

    assert response["allowed"] is True
    assert response["warnings"][0].startswith("bubu-storage: no storage was injected: namespace flows has no")
    assert response["auditAnnotations"] == {"reason": "NoConfig"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"resource": {"group": "apps", "version": "v1", "resource": "deployments"}}, "NotAPod"),
        ({"resource": {}}, "NotAPod"),
        ({"resource": "pods"}, "NotAPod"),
        ({"subResource": "ephemeralcontainers"}, "NotAPod"),
        ({"operation": "UPDATE"}, "NotACreation"),
        ({"operation": None}, "NotACreation"),
        ({"object": None}, "MalformedPod"),
        ({"object": {"metadata": {}}}, "MalformedPod"),
        ({"object": {"spec": {"containers": [{"name": 1}]}}}, "MalformedPod"),
    ],
)
def test_other_requests_are_let_through_with_a_warning(more: Json, reason: str):
    """A webhook that is registered for too much must not stand in the way."""
    response = call(app_of(), review_of(asking(), **more)).review

    assert (response["uid"], response["allowed"]) == ("u-1", True)
    assert "patch" not in response
    assert response["auditAnnotations"]["reason"] == reason
    assert response["warnings"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is empty"),
        (b"{", "not JSON: Expecting property name"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 10_000, "a number is too long"),
        (b"3", "no object"),
        (b"{}", "kind is missing"),
        (b'{"kind":"Pod"}', 'kind is "Pod"'),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}', "v1beta1"),
        (b'{"kind":"AdmissionReview","apiVersion":3}', "apiVersion is no text"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', "no request"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":[]}', "no request"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}', "uid is missing"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":""}}',
            "uid is missing",
        ),
        (review_of({}, uid=7), "uid is missing"),
        (review_of({}, uid="u" * 300), "longer than"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(body: bytes, text: str):
    """No id, no review: a 400 whose text the API server shows."""
    answer = call(app_of(), body)

    assert answer.status == 400
    assert text in answer.body.decode()


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/yaml", "application/json2"])
def test_other_content_types_are_refused(content_type: str | None):
    """415, whatever the body holds."""
    assert call(app_of(), review_of(pod()), content_type=content_type).status == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_the_content_type_do_not_matter(content_type: str):
    """As HTTP says."""
    assert call(app_of(), review_of(pod()), content_type=content_type).status == 200


def test_the_limit_of_a_body():
    """At the limit it is read; one byte more is a 413 that closes the connection."""
    body = review_of(pod())
    full = body + b" " * (MAX_BODY_BYTES - len(body))

    assert call(app_of(), full).status == 200
    answer = call(app_of(), [full, b" "])
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert str(MAX_BODY_BYTES) in answer.body.decode()


def test_an_endless_body_is_not_read_to_its_end():
    """Enough is discarded for the sender to see the answer, then it is enough."""
    taken: list[int] = []

    async def endless() -> int:
        sent: list[Any] = []

        async def receive() -> Json:
            taken.append(1)
            return {"type": "http.request", "body": b"x" * (1024 * 1024), "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        await app_of()(POST, receive, send)
        return sent[0]["status"]

    assert asyncio.run(endless()) == 413
    assert len(taken) < 40


def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """408 after the time, not a connection held for ever."""
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.01)

    async def stalled() -> int:
        sent: list[Any] = []

        async def receive() -> Json:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        await app_of()(POST, receive, send)
        return sent[0]["status"]

    assert asyncio.run(stalled()) == 408


def test_a_client_that_leaves_is_no_fault():
    """The connection breaks off in the middle of the body."""
    assert call(app_of(), [b"{", None]).status == 400  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/mutate", 405),
        ("PUT", "/mutate", 405),
        ("POST", "/readyz", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/", 404),
        ("POST", "/mutate/", 404),
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
    ],
)
def test_paths_and_methods(method: str, path: str, status: int):
    """What exists answers; what does not says so."""
    answer = call(app_of(), method=method, path=path)

    assert answer.status == status
    assert ("allow" in answer.headers) == (status == 405)


def test_readiness_needs_caches_a_certificate_and_no_shutdown():
    """Each missing thing is named; health does not depend on them."""
    view = View()
    problem = ["no serving certificate: /tls/tls.crt cannot be read"]
    app = WebhookApp(view, lambda: problem[0])

    answer = call(app, method="GET", path="/readyz")
    assert (answer.status, "no serving certificate" in answer.body.decode()) == (503, True)
    problem[0] = ""
    view.missing = ("storageconfigs", "namespaces")
    answer = call(app, method="GET", path="/readyz")
    assert (answer.status, answer.body) == (503, b"not listed yet: storageconfigs, namespaces\n")
    assert call(app, method="GET", path="/healthz").status == 200
    view.missing = ()
    assert call(app, method="GET", path="/readyz").status == 200
    app.draining = True
    answer = call(app, method="GET", path="/readyz")
    assert (answer.status, answer.headers["connection"]) == (503, "close")


def test_a_cold_cache_lets_pods_through_with_a_warning():
    """It must never look as if there were no configs."""
    view = View(config())
    view.missing = ("storageconfigs",)

    response = call(app_of(view), review_of(asking())).review

    assert (response["allowed"], response["auditAnnotations"]["reason"]) == (True, "NotReady")
    assert "just started" in response["warnings"][0]


def test_requests_are_still_answered_while_draining():
    """And told to come over another connection next time."""
    app = app_of()
    app.draining = True

    answer = call(app, review_of(asking()))

    assert answer.review["patchType"] == "JSONPatch"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("late", ["config", "namespace"])
def test_what_was_created_just_before_the_pod_is_waited_for(late: str):
    """The watch may be some milliseconds behind: config and pod of one ``kubectl apply``."""
    view = View(config(), namespaces={"flows": {"storage.bubustack.io/inject": "true"}})
    configs, namespaces = view.configs, view.namespaces
    if late == "config":
        view.configs = []
    else:
        view.namespaces = {}

    async def run() -> Json:
        app = WebhookApp(view, lag_seconds=30.0)
        pending = asyncio.ensure_future(call_async(app, review_of(pod())))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not pending.done()
        view.configs, view.namespaces = configs, namespaces
        return (await asyncio.wait_for(pending, 29)).review

    assert asyncio.run(run())["auditAnnotations"]["reason"] == "Injected"


def test_what_is_not_there_is_not_waited_for_long():
    """The pod is answered after the lag, with the explanation."""
    response = call(app_of(View(), lag_seconds=0.02), review_of(asking())).review

    assert response["auditAnnotations"]["reason"] == "NoConfig"


def test_an_unknown_namespace_is_no_namespace_without_labels():
    """It may opt out, or name a config: a cluster-wide config would be a guess."""
    view = View(config("shared", "", namespaceSelector={}), namespaces={})

    response = call(app_of(view), review_of(asking())).review
    assert response["auditAnnotations"] == {"reason": "UnknownNamespace"}
    assert "namespace flows is not known to the webhook yet" in response["warnings"][0]
    assert "patch" not in response

    view.namespaces = {"flows": {}}
    assert call(app_of(view), review_of(asking())).review["auditAnnotations"]["reason"] == "Injected"


def test_a_pod_that_opts_out_is_let_through_in_silence_wherever_it_is():
    """It needs no knowledge of its namespace."""
    item = pod()
    item["metadata"]["labels"] = {"storage.bubustack.io/inject": "false"}

    response = call(app_of(View(namespaces={})), review_of(item)).review

    assert response == {"uid": "u-1", "allowed": True, "auditAnnotations": {"reason": "PodOptedOut"}}


@pytest.mark.parametrize("before", [{}, {"storage.bubustack.io/inject": "false"}])
def test_a_label_that_the_api_server_has_seen_first_is_waited_for(before: dict[str, str]):
    """It asks about pods that ask only; if this one does not, then our copy is behind."""
    view = View(config(), namespaces={"flows": before})
    item = pod()
    item["metadata"]["labels"] = {"bubustack.io/engram": "x"} if before else {}

    async def run() -> Json:
        pending = asyncio.ensure_future(call_async(WebhookApp(view, lag_seconds=30.0), review_of(item)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not pending.done()
        view.namespaces = {"flows": {"storage.bubustack.io/inject": "true"}}
        return (await asyncio.wait_for(pending, 29)).review

    assert asyncio.run(run())["auditAnnotations"]["reason"] == "Injected"


def test_a_large_review_does_not_wait():
    """Hundreds of them, parsed and waiting, would not fit into memory."""
    item = asking()
    item["metadata"]["annotations"] = {"filler": "x" * 300_000}

    async def run() -> Json:
        app = WebhookApp(View(), lag_seconds=600.0)
        return (await asyncio.wait_for(call_async(app, review_of(item)), 29)).review

    assert asyncio.run(run())["auditAnnotations"]["reason"] == "NoConfig"


def test_a_mirror_pod_is_let_through_in_silence():
    """A kubelet's picture of a static pod: the API server refuses one that refers to a Secret."""
    item = asking()
    item["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "4d9d"}

    response = call(app_of(), review_of(item)).review

    assert response == {"uid": "u-1", "allowed": True, "auditAnnotations": {"reason": "MirrorPod"}}


def test_a_pod_is_not_made_too_large_to_be_stored():
    """It is created without injection, with a warning; a little smaller, it is injected."""
    item = asking()

    def answer(filler_bytes: int) -> Json:
        item["spec"]["containers"][0]["args"] = ["x" * filler_bytes]
        return call(app_of(), review_of(item)).review

    limit = 1536 * 1024
    response = answer(limit - 2000)
    assert (response["allowed"], response["auditAnnotations"]["reason"]) == (True, "PodTooLarge")
    assert "patch" not in response
    assert "make the pod smaller" in response["warnings"][0]
    assert answer(limit - 10_000)["auditAnnotations"]["reason"] == "Injected"


@pytest.mark.parametrize(
    ("containers", "annotation"), [(1001, ""), (1, "x" * 1536 * 1024)], ids=["containers", "bytes"]
)
def test_a_pod_that_cannot_be_stored_anyway_is_not_worked_on(
    containers: int, annotation: str, monkeypatch: pytest.MonkeyPatch
):
    """Thousands of containers times our variables would hold up every other review for seconds."""

    def never(*_: object) -> None:
        raise AssertionError("worked on")

    monkeypatch.setattr("bubu_operator.webhook.mutate.inject_pod", never)
    item = asking()
    item["spec"]["containers"] = [{"name": f"c{number}"} for number in range(containers)]
    item["metadata"]["annotations"] = {"a": annotation}

    for path, allowed in (("/mutate", True), ("/mutate/strict", False)):
        response = call(app_of(), review_of(item), path=path).review
        assert response["allowed"] is allowed
        assert response["auditAnnotations"]["reason"] == "PodTooLarge"
        assert "StorageConfig flows/main was not injected" in str(response)


def test_large_reviews_do_not_hold_up_small_ones():
    """Fifty at once: one is read in each round of the loop, and others come in between."""
    item = asking()
    item["metadata"]["annotations"] = {"a": "x" * 100 * 1024}
    large, small = review_of(item), review_of(asking())
    app, order = app_of(), list[str]()

    async def one(body: bytes, name: str) -> None:
        await asyncio.sleep(0 if name == "large" else 0.001)
        answer = await call_async(app, body)
        assert answer.status == 200
        order.append(name)

    async def all_at_once() -> None:
        await asyncio.gather(*(one(large, "large") for _ in range(50)), one(small, "small"))

    assert len(large) > body_module.FREE_BYTES
    asyncio.run(all_at_once())

    assert order.index("small") < 10


def test_reviews_that_wait_are_not_too_much_memory_together():
    """Beyond a few MiB of them, the next one is answered from what is known; later ones wait again."""
    item = asking()
    item["metadata"]["annotations"] = {"a": "x" * 200 * 1024}

    async def waiting_of(app: WebhookApp, number: int) -> int:
        """How many of so many at once wait; the gate is opened in the end."""
        gate.clear()

        async def one() -> None:
            answer = await call_async(app, review_of(item))
            assert answer.review["auditAnnotations"]["reason"] == "NoConfig"
            await settled.put("answered")

        tasks = [asyncio.create_task(one()) for _ in range(number)]
        words = [await settled.get() for _ in range(number)]
        gate.set()
        await asyncio.gather(*tasks)
        while not settled.empty():
            settled.get_nowait()
        return words.count("waits")

    async def look(*_: object) -> None:
        await settled.put("waits")
        await gate.wait()

    async def twice() -> tuple[int, int]:
        app = app_of(View(), look=look, budget_seconds=60.0)
        return await waiting_of(app, 60), await waiting_of(app, 1)

    settled, gate = asyncio.Queue[str](), asyncio.Event()
    many, one_more = asyncio.run(twice())

    assert 0 < many * 200 * 1024 <= 4 * 1024 * 1024
    assert one_more == 1


def test_a_fault_of_ours_lets_the_pod_through_and_is_logged(caplog: pytest.LogCaptureFixture):
    """Allowed, a warning without internals, a traceback in the log, nothing of the pod's content there."""

    class Broken(View):
        def storage_configs(self, namespace: str) -> Any:
            raise RuntimeError("planted fault", namespace)

    item = asking()
    item["spec"]["containers"] = [container(env=[{"name": "PASSWORD", "value": "planted-secret"}])]
    with caplog.at_level(logging.DEBUG):
        response = call(app_of(Broken()), review_of(item)).review

    assert (response["uid"], response["allowed"]) == ("u-1", True)
    assert response["auditAnnotations"]["reason"] == "InternalError"
    assert "internal error" in response["warnings"][0]
    assert "planted fault" not in json.dumps(response)
    assert "planted fault" in caplog.text
    assert "planted-secret" not in caplog.text


def test_the_log_has_one_line_a_pod_and_no_values(caplog: pytest.LogCaptureFixture):
    """Namespace, name, reason, config; no environment."""
    item = asking()
    item["metadata"] = {"generateName": "job-", "labels": item["metadata"]["labels"]}
    item["spec"]["containers"] = [container(env=[{"name": "AWS_ACCESS_KEY_ID", "value": "planted-secret"}])]
    with caplog.at_level(logging.INFO):
        call(app_of(), review_of(item, dryRun=True))

    (record,) = caplog.records
    fields = vars(record)
    assert (fields["namespace"], fields["pod"], fields["reason"]) == ("flows", "job-", "Injected")
    assert (fields["config"], fields["dry_run"], fields["patched"]) == (
        "StorageConfig flows/main",
        True,
        True,
    )
    assert "planted-secret" not in repr(fields)


def test_names_in_the_log_are_bounded(caplog: pytest.LogCaptureFixture):
    """A review comes before the pod is validated: a name may have megabytes."""
    item = asking()
    item["metadata"]["name"] = "n" * 1_000_000
    with caplog.at_level(logging.INFO):
        call(app_of(), review_of(item))

    (record,) = caplog.records
    assert vars(record)["pod"] == "n" * 253


def test_warnings_are_bounded():
    """A pod with very many containers does not flood its creator."""
    many = [container(f"c{n}", env=[{"name": "AWS_ACCESS_KEY_ID", "value": "k"}]) for n in range(100)]

    response = call(app_of(), review_of({**asking(), "spec": {"containers": many}})).review

    assert len(response["warnings"]) == 16
    assert response["warnings"][-1] == "bubu-storage: 85 more warnings are not shown"
    assert all(len(text) <= 1024 and "\n" not in text for text in response["warnings"])


def test_a_long_warning_is_cut():
    """The name of a container may have any length before the pod is validated."""
    item = asking()
    item["spec"]["containers"] = [container("n" * 5000, env=[{"name": "AWS_ACCESS_KEY_ID", "value": "k"}])]

    (warning,) = call(app_of(), review_of(item)).review["warnings"]

    assert len(warning) == 1024
    assert warning.endswith("nnn...")


@given(
    value=JSON_VALUES,
    where=st.sampled_from(["object", "resource", "namespace", "operation", "dryRun", "name"]),
)
def test_no_request_with_an_id_goes_unanswered(value: Any, where: str):
    """Whatever stands in a field: 200, allowed."""
    answer = call(app_of(), review_of(asking(), **{where: value}))

    assert answer.status == 200
    assert answer.review["allowed"] is True


@given(value=JSON_VALUES)
def test_no_pod_that_asks_goes_unanswered(value: Any):
    """Whatever its spec and metadata hold."""
    labels = {"labels": {"storage.bubustack.io/inject": "true"}}
    for item in ({"metadata": labels, "spec": value}, {"metadata": labels, "spec": {"containers": value}}):
        assert call(app_of(), review_of(item)).review["allowed"] is True


def test_other_protocols_are_ignored():
    """No WebSockets, no lifespan."""

    async def run() -> None:
        async def never(*_: Any) -> Any:
            raise AssertionError

        await app_of()({"type": "lifespan"}, never, never)

    asyncio.run(run())


def test_an_installation_for_one_namespace_lets_pods_elsewhere_alone():
    """Whatever is known of them: no patch, no warning, no refusal by a strict entry, one count."""
    metrics = WebhookMetrics()
    elsewhere = View(config("main", "other"), namespaces={"other": {}})
    app = app_of(elsewhere, only_namespace="flows", metrics=metrics)
    for path in ("/mutate", "/mutate/strict"):
        answer = call(app, review_of(asking(), namespace="other"), path=path)
        assert answer.review == {
            "uid": "u-1",
            "allowed": True,
            "auditAnnotations": {"reason": "OtherNamespace"},
        }
    for entry in ("ignore", "strict"):
        counted = {"entry": entry, "result": "skipped", "reason": "OtherNamespace"}
        assert metrics.registry.get_sample_value("bubu_webhook_reviews_total", counted) == 1
    assert "patch" in call(app_of(only_namespace="flows"), review_of(asking())).review
