"""Clusters whose authorities have no key identifiers are trusted; what is wrong else is refused and named."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from typing import TYPE_CHECKING, Any

import kopf
import pytest
import urllib3
from kubernetes.client.configuration import Configuration

from bubu_operator.controllers.heal_proof import WebhookProof
from bubu_operator.controllers.watching import build_registry
from bubu_operator.errors import KubeUnreachableError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import MUTATING_WEBHOOKS, SECRETS
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.chart.rendering import FILES
from tests.cluster.certs import ServingFiles, write_serving_files
from tests.unit.controllers.heal_world import ASKING, NAMESPACE, World
from tests.unit.injection.builders import config
from tests.unit.kube.api_server import Handler, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make contexts as Python 3.13 does, under any Python."""

    def stricter(make: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
        def made(*args: Any, **options: Any) -> ssl.SSLContext:
            context = make(*args, **options)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            return context

        return made

    ours = stricter(urllib3.util.ssl_.create_urllib3_context)
    for module in ("urllib3.util.ssl_", "urllib3.connection", "bubu_operator.kube.trust"):
        monkeypatch.setattr(f"{module}.create_urllib3_context", ours)
    monkeypatch.setattr(ssl, "create_default_context", stricter(ssl.create_default_context))


def reply(handler: Handler) -> None:
    """Answer whatever is asked."""
    handler.reply({"kind": "Secret", "ok": True})


@pytest.fixture
def old(tmp_path: Path) -> ServingFiles:
    """An authority without key identifiers, and a certificate of it for 127.0.0.1."""
    return write_serving_files(tmp_path, ["localhost"], ["127.0.0.1"], key_identifiers=False)


@pytest.fixture
def server(old: ServingFiles) -> Iterator[ScriptedServer]:
    """A server with that certificate."""
    scripted = ScriptedServer(reply, tls=old)
    yield scripted
    scripted.close()


pytestmark = pytest.mark.usefixtures("strict")


def test_the_strict_contexts_of_these_tests_refuse_such_an_authority(
    server: ScriptedServer, old: ServingFiles
):
    """Else the other tests would show nothing."""
    with (
        urllib3.PoolManager(ca_certs=str(old.ca), retries=False) as pool,
        pytest.raises(urllib3.exceptions.SSLError, match="Missing Authority Key Identifier"),
    ):
        pool.request("GET", server.url)


def test_an_api_server_without_key_identifiers_is_asked(server: ScriptedServer, old: ServingFiles):
    """As on EKS."""
    with KubeClient(Configuration(host=server.url, ssl_ca_cert=str(old.ca))) as client:
        assert client.get(SECRETS, "a", "b")["ok"] is True


def test_a_guarded_request_goes_to_such_an_api_server(server: ScriptedServer, old: ServingFiles):
    """A guard has connections of its own kind."""
    configuration = Configuration(host=server.url, ssl_ca_cert=str(old.ca))
    with KubeClient(configuration, guard=lambda _what: 5.0) as client:
        client.delete(SECRETS, "a", "b")

    assert [method for method, *_ in server.seen] == ["DELETE"]


def test_what_watches_trusts_such_an_api_server_too(old: ServingFiles):
    """Kopf makes a context of its own, from what our login gives it."""
    configuration = Configuration(host="https://127.0.0.1:1", ssl_ca_cert=str(old.ca))
    with KubeClient(configuration) as client:
        registry = build_registry(client, lambda *_: None)
        (login,) = registry._activities.get_all_handlers()
        information = asyncio.run(login.fn())  # type: ignore[arg-type,call-overload]

    assert isinstance(information, kopf.ConnectionInfo)
    context = information.as_ssl_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_the_webhook_is_asked_with_such_an_authority(server: ScriptedServer, old: ServingFiles):
    """What it answers here is no review; what counts is that it was asked."""
    ca = old.ca.read_text(encoding="ascii")
    world = World()
    world.api.put(MUTATING_WEBHOOKS, render_webhook_configuration(url=server.url, ca_bundle_pem=ca))
    template = {"metadata": {"labels": ASKING}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    labels = {"kubernetes.io/metadata.name": NAMESPACE}

    problem = WebhookProof(world.context).problem(template, NAMESPACE, labels, config())

    assert problem == "the webhook refuses its pods"


def test_helm_test_trusts_such_an_authority(server: ScriptedServer, old: ServingFiles):
    """The authority of the API server is a file, that of the webhook is text."""
    spec = importlib.util.spec_from_file_location("helm_test_trust", FILES / "helm_test.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    for authority in ({"cafile": str(old.ca)}, {"cadata": old.ca.read_text(encoding="ascii")}):
        _, content = script.ask(server.url, context=script.trust(**authority))
        assert b'"ok": true' in content


def test_a_stranger_is_refused_and_the_reason_is_named(server: ScriptedServer, tmp_path: Path):
    """Only the one flag is off: an authority that is not ours is refused."""
    other = tmp_path / "other"
    other.mkdir()
    ca = write_serving_files(other, ["localhost"], ["127.0.0.1"], key_identifiers=False).ca
    with (
        KubeClient(Configuration(host=server.url, ssl_ca_cert=str(ca))) as client,
        pytest.raises(KubeUnreachableError, match=r"cannot reach .*its certificate is not accepted: "),
    ):
        client.get(SECRETS, "a", "b")


def test_another_name_is_refused_and_the_reason_is_named(tmp_path: Path):
    """The address that is called is compared with the certificate."""
    files = write_serving_files(tmp_path, ["localhost"], ["127.0.0.2"], key_identifiers=False)
    scripted = ScriptedServer(reply, tls=files)
    try:
        with (
            KubeClient(Configuration(host=scripted.url, ssl_ca_cert=str(files.ca))) as client,
            pytest.raises(KubeUnreachableError, match=r"not accepted: .*mismatch"),
        ):
            client.get(SECRETS, "a", "b")
    finally:
        scripted.close()
