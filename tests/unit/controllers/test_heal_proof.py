"""The proof that the webhook injects: asked over TLS as the API server would, judged strictly."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.controllers.heal_proof import WebhookProof, proof_problem, review_for
from bubu_operator.injection import inject_pod, make_patch
from bubu_operator.kube.resources import MUTATING_WEBHOOKS
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster.certs import write_serving_files
from tests.unit.controllers.heal_world import ASKING, NAMESPACE, World
from tests.unit.injection.builders import config

TEMPLATE = {"metadata": {"labels": ASKING}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
NAMESPACE_LABELS = {"kubernetes.io/metadata.name": NAMESPACE}


def answer(review, chosen, **response):
    """What a webhook answers that injects a config."""
    pod = review["request"]["object"]
    patch = make_patch(pod, inject_pod(pod, chosen).pod)
    body = {
        "uid": review["request"]["uid"],
        "allowed": True,
        "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        **response,
    }
    return json.dumps({"response": body}).encode()


@contextlib.contextmanager
def serving(folder, respond, *, names=("localhost",)):
    """An HTTPS server on loopback; yields its port and its authority."""
    files = write_serving_files(folder, list(names), ["127.0.0.1"])
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(review)
            status, body = respond(review)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "https://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(files.certificate), str(files.key))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], files.ca.read_text(encoding="ascii"), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def problem_at(port, ca, chosen=None, template=TEMPLATE, labels=NAMESPACE_LABELS):
    """Ask the webhook that is registered at a port."""
    world = World()
    world.api.put(
        MUTATING_WEBHOOKS,
        render_webhook_configuration(url=f"https://127.0.0.1:{port}/mutate", ca_bundle_pem=ca),
    )
    return WebhookProof(world.context).problem(template, NAMESPACE, labels, chosen or config())


def test_a_webhook_that_injects_the_config_as_it_is_now_is_proof(tmp_path):
    """It gets a dry-run review of a pod of the very template."""
    with serving(tmp_path, lambda review: (200, answer(review, config()))) as (port, ca, asked):
        assert problem_at(port, ca) == ""

    (review,) = asked
    assert review["request"]["dryRun"] is True
    assert review["request"]["namespace"] == NAMESPACE
    assert review["request"]["object"]["spec"] == TEMPLATE["spec"]


@pytest.mark.parametrize(
    ("respond", "words"),
    [
        (
            lambda review: (200, answer(review, config(timeoutSeconds=7))),
            "does not know the config as it is now",
        ),
        (lambda review: (200, answer(review, config("other"))), "does not know the config as it is now"),
        (lambda review: (200, answer(review, config(), patch=None)), "does not inject"),
        (lambda review: (200, answer(review, config(), allowed=False)), "refuses"),
        (lambda review: (200, answer(review, config(), patch="AAAA")), "cannot be understood"),
        (lambda _: (200, b"<html>"), "cannot be understood"),
        (lambda _: (503, b""), "status 503"),
        (lambda _: (302, b""), "status 302"),
    ],
)
def test_any_other_answer_is_none(tmp_path, respond, words):
    """And the reason is said; a redirect is not followed."""
    with serving(tmp_path, respond) as (port, ca, asked):
        assert words in problem_at(port, ca)

    assert len(asked) == 1


def test_a_certificate_that_the_api_server_would_not_trust_is_no_proof(tmp_path):
    """The authority is the one of caBundle and no other."""
    (tmp_path / "other").mkdir()
    other = write_serving_files(tmp_path / "other", ["localhost"], ["127.0.0.1"]).ca.read_text(
        encoding="ascii"
    )
    with serving(tmp_path, lambda review: (200, answer(review, config()))) as (port, _, asked):
        assert "cannot be asked" in problem_at(port, other)

    assert asked == []


def test_nobody_at_the_address_is_no_proof(tmp_path):
    """As while the webhook is away."""
    with serving(tmp_path, lambda _: (200, b"")) as (port, ca, _):
        pass

    assert "cannot be asked" in problem_at(port, ca)


@pytest.mark.parametrize(
    ("template", "labels"),
    [
        ({**TEMPLATE, "metadata": {"labels": {}}}, NAMESPACE_LABELS),
        (TEMPLATE, {"kubernetes.io/metadata.name": "kube-system"}),
        (TEMPLATE, {**NAMESPACE_LABELS, "storage.bubustack.io/inject": "false"}),
    ],
)
def test_pods_that_no_entry_matches_are_no_proof(template, labels):
    """The API server would not call the webhook for them."""
    assert "no entry" in problem_at(1, "", template=template, labels=labels)


def test_without_a_configuration_there_is_no_proof():
    """As with template injection alone."""
    world = World()

    problem = WebhookProof(world.context).problem(TEMPLATE, NAMESPACE, {}, config())

    assert problem == "there is no MutatingWebhookConfiguration bubu-storage-webhook"


@given(
    st.binary(max_size=64)
    | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(
        lambda value: json.dumps({"response": value}).encode()
    )
)
def test_no_answer_breaks_it(body):
    """Whatever is sent is judged in words."""
    assert proof_problem(review_for(TEMPLATE, NAMESPACE), 200, body, config())
