"""CEL on the API server and Python in the models give the same verdict on odd texts in every checked field.

The operator trusts its models where a cluster carries an older CRD, and users trust the CRD: a
difference between the two would show as an object that is accepted and then does nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes import client, config
from pydantic import ValidationError

from bubu_operator.api.v1alpha1 import API_VERSION, GROUP, KINDS, VERSION, Resource, describe_validation_error
from tests.cluster.crd_table import install_crds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster import Cluster

pytestmark = pytest.mark.cluster

MODELS: dict[str, type[Resource]] = {kind.KIND: kind for kind in KINDS}
ODD = st.text(alphabet="aZ09.-_/=:*?\\[]@#% \n\t\x00é日", max_size=6)
DOTS_AND_SLASHES = ("", ".", "..", "/", "//", "/.", "/..", "../", ".bubu", "/.bubu/")
PIECES = st.sampled_from([*DOTS_AND_SLASHES, ":", "*", "\\", "\n", "0", "-", "9" * 9, "a" * 64])


@st.composite
def near(draw: st.DrawFn, *samples: str) -> str:
    """A sample, or one with a piece cut out and something odd put in its place."""
    text = draw(st.sampled_from(samples))
    if draw(st.integers(0, 4)) == 0:
        return text
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 3)))
    return text[:start] + draw(PIECES | ODD) + text[end:]


def s3(**fields: Any) -> dict[str, Any]:
    """A spec with an S3 store that has some more fields."""
    return {"s3": {"bucket": "flows", "authentication": {"anonymous": {}}, **fields}}


def secret(name: str = "minio", key: str = "AWS_SESSION_TOKEN") -> dict[str, Any]:
    """A spec with a Secret."""
    return s3(authentication={"secretRef": {"name": name, "keys": {"sessionToken": key}}})


def policy(prefix: str = "outputs/", within: str = "30d", min_age: str = "24h") -> dict[str, Any]:
    """A policy with one rule."""
    return {"rules": [{"prefix": prefix, "keep": {"within": within}}], "safety": {"minAge": min_age}}


def owners(**fields: Any) -> dict[str, Any]:
    """A policy with two kinds of owners, of which the first is a field's business."""
    first = {"group": "runs.bubustack.io", "version": "v1alpha1", "kind": "StoryRun"} | fields
    return policy() | {"owners": [first, {"group": "batch", "version": "v1", "kind": "Job"}]}


def expression(key: str = "team", value: str = "flows") -> dict[str, Any]:
    """A cluster-wide config with a selector's expression."""
    requirement = {"key": key, "operator": "In", "values": [value]}
    return {**s3(), "namespaceSelector": {"matchExpressions": [requirement]}}


def labels(key: str = "team", value: str = "flows") -> dict[str, Any]:
    """A cluster-wide config with a selector's label."""
    return {**s3(), "namespaceSelector": {"matchLabels": {key: value}}}


X, Y = "<x>", "<y>"


def fill(node: Any, texts: dict[str, str]) -> Any:
    """Put texts in the place of X and Y, in keys and values."""
    if isinstance(node, dict):
        mapping = cast("dict[str, Any]", node)
        return {texts.get(key, key): fill(value, texts) for key, value in mapping.items()}
    if isinstance(node, list):
        return [fill(item, texts) for item in cast("list[Any]", node)]
    return texts.get(node, node) if isinstance(node, str) else node


@dataclass(frozen=True, slots=True)
class Field:
    """One checked field.

    Attributes:
        kind: of the object.
        spec: with X, and perhaps Y, where the texts go.
        x, y: where to start from.
    """

    kind: str
    spec: dict[str, Any]
    x: tuple[str, ...]
    y: tuple[str, ...] = ("",)


CONFIG, CLUSTER, POLICY = "StorageConfig", "ClusterStorageConfig", "RetentionPolicy"
KEYS, VALUES = ("team", "example.com/team", "a_b.c"), ("flows", "a_b", "")
ENDPOINTS = ("https://minio.svc:9000", "http://[fd00::1]:65535/a/b/", "https://h", "https://h:65536")
FIELDS = {
    "bucket": Field(CONFIG, s3(bucket=X), ("flows", "Old_bucket.x", "flows..x")),
    "region": Field(CONFIG, s3(region=X), ("eu-central-1",)),
    "endpoint": Field(CONFIG, s3(endpoint=X), ENDPOINTS),
    "kms key": Field(CONFIG, s3(sse="aws:kms", sseKmsKeyID=X), ("alias/flows", "arn:aws")),
    "secret name": Field(CONFIG, secret(name=X), ("minio", "a.b-c", "0")),
    "secret key": Field(CONFIG, secret(key=X), ("AWS_SESSION_TOKEN", "a.b")),
    "path": Field(CONFIG, {"file": {"path": X}}, ("/srv/bubu", "/a", "/a/b.c/..d", "/a/../b", "/a/")),
    "size limit": Field(CONFIG, {"file": {"emptyDir": {"sizeLimit": X}}}, ("512Mi", "1", "20G")),
    "prefixes": Field(
        CONFIG,
        {**s3(), "outputPrefix": X, "inputPrefix": Y},
        ("outputs", "a/b", "a", ".bubu/x"),
        ("inputs", "a/b", "a/b/c", "ab"),
    ),
    "container": Field(
        CONFIG, {**s3(), "injection": {"containers": [X, "main"]}}, ("sidecar", "main", "a-0")
    ),
    "rule prefix": Field(POLICY, policy(prefix=X), ("outputs/", "a/run-1/", "a/b/c/", "a/./b/")),
    "within": Field(POLICY, policy(within=X), ("30d", "3650d", "3651d", "521w", "1s")),
    "minimum age": Field(POLICY, policy(min_age=X), ("5m", "299s", "300s", "24h", "1w")),
    "grace": Field(POLICY, policy() | {"orphans": {"grace": X}}, ("5m", "299s", "300s", "24h", "1w")),
    "owner group": Field(POLICY, owners(group=X, kind="Job"), ("runs.bubustack.io", "batch", "", "a-b.c")),
    "owner version": Field(POLICY, owners(version=X), ("v1", "v1alpha1", "v2beta3", "v")),
    "owner kind": Field(POLICY, owners(group="batch", kind=X), ("StoryRun", "Job", "Jo", "job")),
    "owner phase path": Field(POLICY, owners(phasePath=X), ("status.phase", "status", "a.b_c.d-e")),
    "owner phases": Field(POLICY, owners(endedPhases=[X, "Failed"]), ("Failed", "Succeeded", "a.b", "")),
    "expression key": Field(CLUSTER, expression(key=X), KEYS),
    "expression value": Field(CLUSTER, expression(value=X), VALUES),
    "label key": Field(CLUSTER, labels(key=X), KEYS),
    "label value": Field(CLUSTER, labels(value=X), VALUES),
}


class Judge:
    """Asks the API server about objects without storing them, over one connection."""

    def __init__(self, kubeconfig: str) -> None:
        loader: Any = config
        self._client: Any = loader.new_client_from_config(config_file=kubeconfig)
        self._api: Any = client.CustomObjectsApi(self._client)

    def refusal(self, body: dict[str, Any]) -> str:
        """The API server's message; "" if it would accept the object."""
        plural, options = MODELS[body["kind"]].PLURAL, {"dry_run": "All", "field_validation": "Strict"}
        try:
            if MODELS[body["kind"]].NAMESPACED:
                self._api.create_namespaced_custom_object(GROUP, VERSION, "default", plural, body, **options)
            else:
                self._api.create_cluster_custom_object(GROUP, VERSION, plural, body, **options)
        except client.ApiException as error:
            answer: Any = error
            if answer.status != 422:
                raise
            return str(json.loads(answer.body)["message"])
        return ""

    def close(self) -> None:
        """Close the connection."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()


@pytest.fixture(scope="module")
def judge(cluster: Cluster) -> Iterator[Judge]:
    """The API server's judgement, with our CRDs."""
    install_crds(cluster)
    asked = Judge(str(cluster.kubeconfig))
    yield asked
    asked.close()


@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_models_and_the_server_agree(judge: Judge, name: str, data: st.DataObject):
    """Whatever text stands in the field, either both accept the object or both refuse it."""
    field = FIELDS[name]
    texts = {X: data.draw(near(*field.x)), Y: data.draw(near(*field.y))}
    body: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": field.kind,
        "metadata": {"name": "judged"},
        "spec": fill(field.spec, texts),
    }
    try:
        MODELS[field.kind].model_validate(body)
        problem = ""
    except ValidationError as error:
        problem = describe_validation_error(error)

    refusal = judge.refusal(body)

    assert bool(problem) == bool(refusal), f"models: {problem or 'fine'}; server: {refusal or 'fine'}"
