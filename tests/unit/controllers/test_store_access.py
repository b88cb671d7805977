"""What the controller reads to open a store, and what it refuses before anybody could quote it."""

from __future__ import annotations

import base64

import pytest

from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.store_access import Refusal, grant_command, resolve_store
from bubu_operator.errors import KubeForbiddenError
from bubu_operator.kube.resources import SECRETS
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.document import PassDocument
from bubu_storage.retention import Cursor, PassSpec, RetentionRule
from tests.unit.controllers.fake_api import FakeApi

CONFIG = StorageConfig.model_validate(
    {
        "metadata": {"name": "main", "namespace": "team-a"},
        "spec": {"s3": {"bucket": "flows", "authentication": {"secretRef": {"name": "keys"}}}},
    }
)


def resolve(**values):
    """Resolve the config with a Secret of these values; return the outcome and the redactor."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    api = FakeApi((SECRETS, {"metadata": {"name": "keys", "namespace": "team-a"}, "data": data}))
    context = Context(client=api, events=None, redactor=Redactor(), options=ControllerOptions())
    return resolve_store(context, CONFIG), context.redactor


def test_a_whole_pair_and_a_token():
    """All three arrive; a line break after the token, as files have it, is forgiven."""
    access, _ = resolve(AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK/+=", AWS_SESSION_TOKEN="tok\n")

    settings = access.settings
    assert (settings.access_key_id, settings.secret_access_key, settings.session_token) == (
        "AK",
        "SK/+=",
        "tok",
    )


@pytest.mark.parametrize("key", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", ["plan\nted", "plan\r\nX-Evil: ted", "plän", "p\x00q", "x" * 100_000])
def test_a_value_that_fits_into_no_header(key, value):
    """Refused by name, without a single character of it."""
    pair = {"AWS_ACCESS_KEY_ID": "AKgood", "AWS_SECRET_ACCESS_KEY": "SKgood"}

    refused, _ = resolve(**(pair | {key: value}))

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.UNAUTHENTICATED
    assert key in refused.message
    assert "plan" not in refused.message
    assert len(refused.message) < 400


def test_other_values_of_the_secret_blot_out_nothing():
    """A tenant's Secret must not be able to redact words of everybody's messages."""
    _, redactor = resolve(
        AWS_ACCESS_KEY_ID="AKplanted", AWS_SECRET_ACCESS_KEY="SKplanted", noise="does not exist"
    )

    assert redactor.scrub("Secret x does not exist") == "Secret x does not exist"
    assert redactor.scrub("AKplanted SKplanted") == "[redacted] [redacted]"


def test_a_secret_with_very_many_keys_makes_no_long_message():
    """Its keys' names help to find a typing error; a few are enough."""
    refused, _ = resolve(**{f"key-{number:04d}": "x" for number in range(500)})

    assert refused.reason is Reason.SECRET_KEY_MISSING
    assert "and 490 more" in refused.message


def test_an_anonymous_store_is_asked_anonymously():
    """Said in so many words: without it the SDK would look for an identity of the controller's own."""
    config = CONFIG.model_copy(
        update={
            "spec": type(CONFIG.spec).model_validate(
                {"s3": {"bucket": "flows", "authentication": {"anonymous": {}}}}
            )
        }
    )
    context = Context(client=FakeApi(), events=None, redactor=Redactor(), options=ControllerOptions())

    access = resolve_store(context, config)

    assert access.settings.anonymous
    assert (access.settings.access_key_id, access.settings.secret_access_key) == ("", "")


def test_the_controller_and_its_passes_use_the_reference_engine():
    """Tenants write the endpoint, and the other engine follows redirects to another port of its host."""
    access, _ = resolve(AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK")
    spec = PassSpec(scopes=("o/team-a/",), rules=(RetentionRule("o/team-a/", keep_within_seconds=1e6),))

    passed_on = PassDocument(access.settings, spec, Cursor())
    assert access.settings.engine == "boto3"
    assert '"engine":"boto3"' in passed_on.to_line()


def test_stores_that_only_pods_reach_are_closed_to_passes():
    """Whatever a Job finds out: the controller itself has no identity for them, and mounts nothing."""
    context = Context(client=FakeApi(), events=None, redactor=Redactor(), options=ControllerOptions())
    account = {"s3": {"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}}}
    for spec, reason, words in (
        (account, Reason.NO_CREDENTIALS, "never lends its own"),
        ({"file": {"volumeClaimName": "rwx"}}, Reason.NOT_PROBED, "does not mount claims"),
    ):
        config = StorageConfig.model_validate({"metadata": {"name": "main", "namespace": "a"}, "spec": spec})
        refused = resolve_store(context, config)

        assert isinstance(refused, Refusal)
        assert (refused.reason, refused.usable) == (reason, True)
        assert words in refused.message
        assert "no retention pass" in refused.message

    cluster_wide = ClusterStorageConfig.model_validate({"metadata": {"name": "main"}, "spec": account})
    refused = resolve_store(context, cluster_wide)
    assert isinstance(refused, Refusal)
    assert "a cluster-wide config has no namespace" in refused.message


@pytest.mark.parametrize(
    ("refusal", "command"),
    [
        (
            'secrets "k" is forbidden: User "system:serviceaccount:sys:ctl" cannot get resource',
            (
                "kubectl create rolebinding some-role --namespace team-a --clusterrole some-role "
                "--serviceaccount sys:ctl"
            ),
        ),
        ('jobs.batch "x" is forbidden: exceeded quota: none', ""),
        ('User "admin" cannot get resource', ""),
    ],
)
def test_the_command_that_grants_a_right(refusal, command):
    """For the account that the API server names; other refusals are no missing right."""
    assert grant_command(ControllerOptions(), "some-role", "team-a", refusal) == command


def test_a_scoped_installation_names_the_role_of_its_namespace():
    """It has no ClusterRoles to bind; and the role is called what the installation calls it."""

    class Forbidding(FakeApi):
        def get(self, *_, **__):
            raise KubeForbiddenError('User "system:serviceaccount:sys:ctl" cannot get resource', status=403)

    options = ControllerOptions(namespaces=("team-a",), secret_reader_role="mine-secret-reader")
    context = Context(client=Forbidding(), events=None, redactor=Redactor(), options=options)

    refused = resolve_store(context, CONFIG)

    assert isinstance(refused, Refusal)
    assert (
        "kubectl create rolebinding mine-secret-reader --namespace team-a --role mine-secret-reader "
        "--serviceaccount sys:ctl"
    ) in refused.message


@pytest.mark.parametrize("public", ["team-a", "keys", "main", "flows"])
def test_a_credential_that_is_a_public_name_hides_no_name(public):
    """A user of MinIO is often called like its team: the commands in messages have to stay whole."""
    _, redactor = resolve(AWS_ACCESS_KEY_ID=public, AWS_SECRET_ACCESS_KEY="SKplanted")

    command = f"kubectl create rolebinding x --namespace {public}"
    assert redactor.scrub(command) == command
    assert redactor.scrub("SKplanted") == "[redacted]"
