"""Every kind of unusable review: a status, a sentence, a count; never a traceback, a hang or a guess."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.app import WebhookApp
from bubu_operator.webhook.body import MAX_BODY_BYTES
from tests.unit.injection.builders import config, pod
from tests.unit.webhook.asgi import View, call, review_of

Json = dict[str, Any]
ASKS = {"storage.bubustack.io/inject": "true"}


def asking(**metadata: Any) -> Json:
    """A pod that asks for injection."""
    item = pod()
    item["metadata"] = {"name": "p", "labels": ASKS, **metadata}
    return item


def without(key: str) -> bytes:
    """A review whose request lacks a field."""
    review = json.loads(review_of(asking()))
    del review["request"][key]
    return json.dumps(review).encode()


def envelope(**more: Any) -> bytes:
    """A review with another envelope."""
    return json.dumps({**json.loads(review_of(asking())), **more}).encode()


GOOD = review_of(asking())
UNUSABLE: list[tuple[str, Any, Json, int, str, str]] = [
    ("empty", b"", {}, 400, "NotJson", "the body is empty"),
    ("broken JSON", GOOD[:-1], {}, 400, "NotJson", "not JSON"),
    ("two documents", GOOD + GOOD, {}, 400, "NotJson", "Extra data"),
    ("not UTF-8", GOOD.replace(b'"u-1"', b'"\xff"'), {}, 400, "NotJson", "not UTF-8"),
    ("UTF-16", GOOD.decode().encode("utf-16"), {}, 400, "NotJson", "not UTF-8"),
    ("byte order mark", b"\xef\xbb\xbf" + GOOD, {}, 400, "NotJson", "not JSON"),
    ("NaN", GOOD.replace(b'"u-1"', b"NaN"), {}, 400, "NotJson", "NaN is no JSON number"),
    ("infinity", GOOD.replace(b'"u-1"', b"-Infinity"), {}, 400, "NotJson", "-Infinity is no JSON number"),
    ("a long number", b"9" * 10_000, {}, 400, "NotJson", "a number is too long"),
    ("deep lists", b"[" * 200_000, {}, 400, "NotJson", "nested too deeply"),
    ("deep objects", b'{"a":' * 200_000, {}, 400, "NotJson", "nested too deeply"),
    ("deep in the pod", GOOD.replace(b'"u-1"', b"[" * 200_000), {}, 400, "NotJson", "nested too deeply"),
    ("a list", b"[]", {}, 400, "NotAReview", "no object"),
    ("null", b"null", {}, 400, "NotAReview", "no object"),
    ("another kind", envelope(kind="Pod"), {}, 400, "NotAReview", 'kind is "Pod"'),
    ("a kind of megabytes", envelope(kind="x" * 1_000_000), {}, 400, "NotAReview", "kind is"),
    ("no kind", envelope(kind=None), {}, 400, "NotAReview", "kind is missing"),
    ("v1beta1", envelope(apiVersion="admission.k8s.io/v1beta1"), {}, 400, "WrongVersion", "v1beta1"),
    ("no version", envelope(apiVersion=None), {}, 400, "WrongVersion", "apiVersion is missing"),
    ("no request", envelope(request=None), {}, 400, "NoRequest", "no request"),
    ("a list of requests", envelope(request=[]), {}, 400, "NoRequest", "no request"),
    ("no uid", without("uid"), {}, 400, "NoUid", "request.uid is missing"),
    ("an empty uid", review_of(asking(), uid=""), {}, 400, "NoUid", "request.uid is missing"),
    ("a number as uid", review_of(asking(), uid=1), {}, 400, "NoUid", "request.uid is missing"),
    ("a long uid", review_of(asking(), uid="u" * 10_000), {}, 400, "NoUid", "longer than"),
    ("YAML", b"kind: AdmissionReview", {"content_type": "application/yaml"}, 415, "WrongContentType", "yaml"),
    ("no content type", GOOD, {"content_type": None}, 415, "WrongContentType", "application/json"),
    ("too large", [GOOD, b" " * MAX_BODY_BYTES], {}, 413, "TooLarge", str(MAX_BODY_BYTES)),
    ("broken off", [GOOD[:10], None], {}, 400, "BrokenOff", "broke off"),
]


def rejections(metrics: WebhookMetrics) -> dict[tuple[str, ...], float]:
    """What was counted: entry, result, reason."""
    return {
        (sample.labels["entry"], sample.labels["result"], sample.labels["reason"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "bubu_webhook_reviews_total"
    }


@pytest.mark.parametrize(
    ("body", "more", "status", "reason", "text"),
    [row[1:] for row in UNUSABLE],
    ids=[row[0] for row in UNUSABLE],
)
@pytest.mark.parametrize(("path", "entry"), [("/mutate", "ignore"), ("/mutate/strict", "strict")])
def test_what_holds_no_request_is_explained_and_counted(  # noqa: PLR0917 - a row of the table
    path: str,
    entry: str,
    body: Any,
    more: Json,
    status: int,
    reason: str,
    text: str,
    caplog: pytest.LogCaptureFixture,
):
    """The API server shows the text, and does what the entry's failurePolicy says."""
    metrics = WebhookMetrics()
    with caplog.at_level(logging.DEBUG):
        answer = call(WebhookApp(View(config()), metrics=metrics), body, path=path, **more)

    said = answer.body.decode()
    assert (answer.status, text in said) == (status, True), said
    assert len(said) < 500
    assert said.count("\n") == 1
    assert rejections(metrics) == {(entry, "error", reason): 1}
    assert "Traceback" not in caplog.text


ODD: list[tuple[str, Any, Json, str]] = [
    ("a deployment", asking(), {"resource": {"group": "apps", "resource": "deployments"}}, "NotAPod"),
    ("no resource", asking(), {"resource": None}, "NotAPod"),
    ("no object", None, {}, "MalformedPod"),
    ("a list", [], {}, "MalformedPod"),
    ("a text", "pod", {}, "MalformedPod"),
    ("no spec", {"metadata": {"labels": ASKS}}, {}, "MalformedPod"),
    ("a null spec", {**asking(), "spec": None}, {}, "MalformedPod"),
    ("a list as spec", {**asking(), "spec": []}, {}, "MalformedPod"),
    ("containers of text", {**asking(), "spec": {"containers": "x"}}, {}, "MalformedPod"),
    ("a container without a name", {**asking(), "spec": {"containers": [{}]}}, {}, "MalformedPod"),
    ("metadata of text", {**asking(), "metadata": "x"}, {}, "MalformedPod"),
    ("labels of numbers", asking(labels={"storage.bubustack.io/inject": 1}), {}, "MalformedPod"),
    ("an update", asking(), {"operation": "UPDATE"}, "NotACreation"),
    ("another operation", asking(), {"operation": "EAT"}, "NotACreation"),
    ("annotations at the limit", asking(annotations={"a": "x" * 262_100}), {}, "RecordTooLarge"),
    ("a namespace that is a path", asking(), {"namespace": "../../secrets"}, "UnknownNamespace"),
    ("no namespace", asking(), {"namespace": None}, "UnknownNamespace"),
    (
        "a patch beyond what is stored",
        {**asking(), "spec": {"containers": [{"name": "c", "args": ["x" * 1_571_000]}]}},
        {},
        "PodTooLarge",
    ),
]


@pytest.mark.parametrize(("item", "more", "reason"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_odd_requests_are_answered_with_a_review(item: Any, more: Json, reason: str):
    """Let through with a warning by the ordinary entry; counted by their reason; uid echoed."""
    metrics = WebhookMetrics()

    answer = call(WebhookApp(View(config()), metrics=metrics, lag_seconds=0.0), review_of(item, **more))

    response = answer.review
    assert (answer.status, response["uid"], response["allowed"]) == (200, "u-1", True)
    assert response["auditAnnotations"]["reason"] == reason
    assert response["warnings"]
    assert "patch" not in response
    assert rejections(metrics) == {("ignore", "skipped", reason): 1}


def test_of_duplicate_keys_the_last_one_counts():
    """As for the API server, so both mean the same pod."""
    body = GOOD.replace(b'"uid": "u-1"', b'"uid": "first", "uid": "u-1"')
    assert body != GOOD

    assert call(WebhookApp(View(config())), body).review["uid"] == "u-1"
