"""``check`` tries a pod where the webhook is asked about it, and one that no cluster refuses for its user."""

from __future__ import annotations

import json
import types
from typing import Any

import pytest
from urllib3 import HTTPHeaderDict

from bubu_operator.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, STORAGE_CONFIGS
from bubu_operator.kubectl.check import Checker
from bubu_operator.kubectl.findings import Finding, Status
from bubu_operator.webhook.configuration import NAME_LABEL, render_webhook_configuration
from tests.unit.controllers.fake_api import FakeApi

Json = dict[str, Any]
SERVER = "https://api.test"


class Server(FakeApi):
    """An API server without a webhook: what is created comes back as it was sent.

    Attributes:
        created: the pods of dry runs.
    """

    server = SERVER

    def __init__(self, *objects: tuple[Any, Json]) -> None:
        super().__init__(*objects)
        self.created: list[Json] = []

    def send(self, method: str, path: str, *, body: Json | None = None, **_: object) -> types.SimpleNamespace:
        """Answer for the version, and for pods."""
        if method == "POST":
            assert body is not None
            assert path.endswith("/pods")
            self.created.append(body)
        return types.SimpleNamespace(headers=HTTPHeaderDict(), body=body or {"gitVersion": "v1.30.0"})

    def read(self, response: types.SimpleNamespace, _path: str) -> bytes:
        """The body."""
        return json.dumps(response.body).encode()


def team(name: str, **labels: str) -> list[tuple[Any, Json]]:
    """A namespace with a config for its pods."""
    metadata = {"name": name, "labels": {NAME_LABEL: name, **labels}}
    s3 = {"bucket": "flows", "authentication": {"secretRef": {"name": "keys"}}}
    config = {"metadata": {"name": "main", "namespace": name}, "spec": {"s3": s3}}
    return [
        (NAMESPACES, {"metadata": metadata, "status": {"phase": "Active"}}),
        (STORAGE_CONFIGS, config),
    ]


def registration(*excluded: str) -> tuple[Any, Json]:
    """The webhook's, told to leave further namespaces alone as the chart tells it."""
    made = render_webhook_configuration()
    for entry in made["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"][0]["values"] += excluded
    return MUTATING_WEBHOOKS, made


def dry_run(server: Server, namespace: str = "") -> Finding:
    """What the check says of the pod that it tried, or did not try."""
    findings = Checker(server, namespace).run()  # type: ignore[arg-type]
    return next(finding for finding in findings if finding.area == "dry run")


@pytest.mark.parametrize(
    ("excluded", "tried"), [((), "team-a"), (("team-a",), "team-b"), (("team-a", "team-b"), "")]
)
def test_a_namespace_that_the_webhook_leaves_alone_is_not_tried(excluded: tuple[str, ...], tried: str):
    """A pod there comes back as it was, and nothing is wrong with that."""
    server = Server(registration(*excluded), *team("team-a"), *team("team-b"))

    said = dry_run(server)

    assert [tried] * bool(tried) == [pod["metadata"]["namespace"] for pod in server.created]
    assert (Status.FAIL if tried else Status.WARN) is said.status
    assert tried in said.text


def test_a_scoped_registration_says_where_to_try():
    """It is asked about one namespace, whatever configs others have."""
    made = render_webhook_configuration(only_namespace="team-b")
    server = Server((MUTATING_WEBHOOKS, made), *team("team-a"), *team("team-b"))

    dry_run(server)

    assert ["team-b"] == [pod["metadata"]["namespace"] for pod in server.created]


def test_without_a_registration_a_pod_is_tried_all_the_same():
    """Another line says that it is missing; this one shows what comes of it."""
    server = Server(*team("team-a"))

    assert "comes back without it" in dry_run(server).text


def test_the_pod_asks_for_no_user_of_its_own():
    """Clusters with a range of user ids for each namespace refuse every other id."""
    server = Server(registration(), *team("team-a"))
    dry_run(server)

    spec = server.created[0]["spec"]
    for context in (spec["securityContext"], spec["containers"][0]["securityContext"]):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
