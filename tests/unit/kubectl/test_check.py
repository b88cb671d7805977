"""``check`` tries a pod where the webhook is asked about it, and one that no cluster refuses for its user."""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from typing import Any

import pytest
from urllib3 import HTTPHeaderDict

from bubu_operator.errors import KubeApiError, KubeForbiddenError, kube_error
from bubu_operator.injection.names import CONFIG_LABEL
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    STORAGE_CONFIGS,
)
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
        refusal: what they are refused with; None lets them pass.
    """

    server = SERVER
    refusal: KubeApiError | None = None

    def __init__(self, *objects: tuple[Any, Json]) -> None:
        super().__init__(*objects)
        self.created: list[Json] = []

    def send(self, method: str, path: str, *, body: Json | None = None, **_: object) -> types.SimpleNamespace:
        """Answer for the version, and for pods."""
        if method == "POST":
            assert body is not None
            assert path.endswith("/pods")
            self.created.append(body)
            if self.refusal is not None:
                raise self.refusal
        return types.SimpleNamespace(headers=HTTPHeaderDict(), body=body or {"gitVersion": "v1.30.0"})

    def read(self, response: types.SimpleNamespace, _path: str) -> bytes:
        """The body."""
        return json.dumps(response.body).encode()


S3 = {"bucket": "flows", "authentication": {"secretRef": {"name": "keys"}}}


def team(
    name: str, labels: dict[str, str] | None = None, *, configs: Sequence[str] = ("main",), **spec: Any
) -> list[tuple[Any, Json]]:
    """A namespace with configs for its pods."""
    metadata = {"name": name, "labels": {NAME_LABEL: name, **(labels or {})}}
    return [
        (NAMESPACES, {"metadata": metadata, "status": {"phase": "Active"}}),
        *(
            (STORAGE_CONFIGS, {"metadata": {"name": config, "namespace": name}, "spec": {"s3": S3, **spec}})
            for config in configs
        ),
    ]


def shared(name: str) -> tuple[Any, Json]:
    """A config that is offered to every namespace."""
    return CLUSTER_STORAGE_CONFIGS, {
        "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {},
            "s3": {
                "bucket": "all",
                "authentication": {"secretRef": {"name": "keys", "controllerNamespace": "storage-system"}},
            },
        },
    }


def registration(*excluded: str) -> tuple[Any, Json]:
    """The webhook's, told to leave further namespaces alone as the chart tells it."""
    made = render_webhook_configuration()
    for entry in made["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"][0]["values"] += excluded
    return MUTATING_WEBHOOKS, made


def said_of(server: Server, area: str, namespace: str = "") -> list[Finding]:
    """What the check says of something."""
    findings = Checker(server, namespace).run()  # type: ignore[arg-type]
    return [finding for finding in findings if finding.area == area]


def dry_run(server: Server, namespace: str = "") -> Finding:
    """What the check says of the pod that it tried, or did not try."""
    (finding,) = said_of(server, "dry run", namespace)
    return finding


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


@pytest.mark.parametrize("namespace", ["two", ""])
@pytest.mark.parametrize(
    ("default", "said", "way_out"),
    [
        (
            False,
            "namespace two has several StorageConfigs and none is marked default: aa, bb",
            (
                f"set spec.default on one, or name one by the label {CONFIG_LABEL} "
                "of the pod, or of its namespace"
            ),
        ),
        (
            True,
            "several StorageConfigs of namespace two are marked default: aa, bb",
            "keep the mark on one",
        ),
    ],
)
def test_a_namespace_whose_pods_must_name_a_config_is_told(
    namespace: str, said: str, way_out: str, *, default: bool
):
    """With the configs and the way out; the pod that is tried names one, which shows that the rest works."""
    server = Server(registration(), *team("two", configs=("aa", "bb"), default=default))

    (told,) = said_of(server, "selection", namespace)

    text = f"pods in two that name no config are refused storage (Ambiguous): {said}"
    assert (Status.WARN, text, way_out) == (told.status, told.text, told.remedy)
    assert ["aa"] == [pod["metadata"]["labels"].get(CONFIG_LABEL) for pod in server.created]
    assert "a pod in two that names aa" in dry_run(server, namespace).text


def test_a_pod_that_need_name_no_config_is_tried_first():
    """An ambiguous namespace is told all the same, wherever it stands."""
    server = Server(
        registration(),
        *team("a-two", configs=("aa", "bb")),
        *team("main"),
        *team("two", configs=("aa", "bb")),
    )

    told = said_of(server, "selection")

    assert ["a-two", "two"] == [finding.text.split()[2] for finding in told]
    assert [("main", None)] == [
        (pod["metadata"]["namespace"], pod["metadata"]["labels"].get(CONFIG_LABEL)) for pod in server.created
    ]


def test_a_namespace_that_names_its_config_is_not_ambiguous():
    """Its label decides, as it does for the webhook."""
    server = Server(registration(), *team("two", {CONFIG_LABEL: "bb"}, configs=("aa", "bb")))

    assert [] == said_of(server, "selection", "two")
    assert CONFIG_LABEL not in server.created[0]["metadata"]["labels"]


def test_cluster_wide_configs_count_for_the_namespace_that_was_named():
    """One is tried; two of them are ambiguous, too."""
    one = Server(registration(), *team("bare", configs=()), shared("all"))
    two = Server(registration(), *team("bare", configs=()), shared("all"), shared("more"))

    assert ([], "bare") == (said_of(one, "selection", "bare"), one.created[0]["metadata"]["namespace"])
    (told,) = said_of(two, "selection", "bare")
    assert "several ClusterStorageConfigs select namespace bare: all, more" in told.text
    assert "all" == two.created[0]["metadata"]["labels"][CONFIG_LABEL]


def test_cluster_wide_configs_that_may_not_be_listed_are_no_missing_ones(monkeypatch: pytest.MonkeyPatch):
    """Own configs are tried without them; where there are none the missing right is named."""

    def listed(server: Server, resource: Any, namespace: str | None = None, **words: Any) -> Any:
        if resource is CLUSTER_STORAGE_CONFIGS:
            raise KubeForbiddenError("no", status=403)
        return FakeApi.list(server, resource, namespace, **words)

    monkeypatch.setattr(Server, "list", listed)
    server = Server(registration(), *team("bare", configs=()), *team("main"))

    assert "you may not look at it" in dry_run(server, "bare").text
    assert [] == server.created
    dry_run(server, "main")
    assert ["main"] == [pod["metadata"]["namespace"] for pod in server.created]


def test_without_a_config_for_the_named_namespace_it_is_named():
    """And one that does not exist is no namespace without a config."""
    server = Server(registration(), *team("bare", configs=()), *team("main"))

    bare, nowhere = dry_run(server, "bare"), dry_run(server, "nowhere")

    assert "(NoConfig): namespace bare has no StorageConfig" in bare.text
    assert "there is no namespace nowhere that the webhook is asked about" in nowhere.text
    assert [(Status.WARN, True)] * 2 == [(said.status, bool(said.remedy)) for said in (bare, nowhere)]
    assert [] == server.created


def test_what_is_ambiguous_is_told_to_who_may_not_create_pods():
    """The missing right is the dry run's alone."""
    server = Server(registration(), *team("two", configs=("aa", "bb")))
    server.refusal = KubeForbiddenError('User "x" cannot create resource "pods"', status=403)

    assert 1 == len(said_of(server, "selection", "two"))
    assert "ask for the right to create pods" in dry_run(server, "two").remedy


UNTRUSTED = (
    'failed to call webhook: Post "https://w.svc:443/mutate?timeout=5s": tls: failed to verify certificate: '
    "x509: certificate signed by unknown authority"
)


@pytest.mark.parametrize(
    ("webhook", "cause", "way_out"),
    [
        (
            "",
            UNTRUSTED,
            "the API server does not trust the webhook's certificate: is caBundle of the authority",
        ),
        ("", "failed to call webhook: connection refused", "the webhook's log says more"),
        ("policy.example.com", UNTRUSTED, "it is not this operator's webhook"),
    ],
)
def test_a_webhook_that_cannot_be_called_is_named_with_the_cause(webhook: str, cause: str, way_out: str):
    """What the API server answers where pods are refused meanwhile: a strict namespace, another's webhook."""
    server = Server(registration(), *team("team-a"))
    name = webhook or registration()[1]["webhooks"][0]["name"]
    server.refusal = kube_error(
        f'POST /api/v1/pods: Internal error occurred: failed calling webhook "{name}": {cause}',
        status=500,
        reason="InternalError",
    )

    said = dry_run(server)

    assert Status.FAIL is said.status
    assert f"the API server cannot call webhook {name}: {cause}" in said.text
    assert way_out in said.remedy


def test_silence_of_the_webhook_may_be_a_certificate():
    """Where pods pass without storage the API server gives no cause: both causes are named."""
    said = dry_run(Server(registration(), *team("team-a")))

    assert "did not reach" in said.remedy
    assert "does not trust its certificate (x509" in said.remedy
