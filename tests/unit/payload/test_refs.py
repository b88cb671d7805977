"""What is a reference, what merely looks like one, and what a Kubernetes reference means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import InvalidKeyError, KubeRefError
from bubu_storage.payload.codec import encode
from bubu_storage.payload.kube import KubeRef, parse_kube_ref, resolve_kube_ref
from bubu_storage.payload.refs import RefWriter, contains_ref, is_storage_ref, ref_verdict, storage_ref

REF, PATH, TYPE = "$bubuStorageRef", "$bubuStoragePath", "$bubuStorageContentType"


@pytest.mark.parametrize(
    ("value", "hydrates", "counts"),
    [
        ({REF: "a"}, True, True),
        ({REF: ""}, True, True),
        (
            {REF: "a", PATH: "x", TYPE: 5, "$bubuStorageSchema": [], "$bubuStorageSchemaVersion": {}},
            True,
            True,
        ),
        ({REF: "a", PATH: 5}, False, True),
        ({REF: 5}, False, False),
        ({REF: None}, False, False),
        ({REF: "a", "x": 1}, False, None),
        ({TYPE: "application/json"}, False, None),
        ({}, False, None),
    ],
)
def test_what_is_a_reference(value, hydrates, counts):
    """Hydrate and dehydrate judge differently in one case: a selector that is no text."""
    assert is_storage_ref(value) is hydrates
    assert ref_verdict(value) is counts


def test_references_inside():
    """Found down to the given depth; a map that is judged is not looked into."""
    value = {"a": [{"b": {REF: "x"}}]}
    assert contains_ref(value, 3)
    assert not contains_ref(value, 2)
    assert contains_ref({REF: "x"}, 0)
    assert not contains_ref({REF: {REF: "x"}}, 9)
    assert not contains_ref({REF: 1, PATH: {REF: "x"}}, 9)
    assert contains_ref(({REF: {REF: "x"}, "other": 1},), 9)
    assert not contains_ref("text", 9)


def test_storage_ref():
    """Optional keys only where given; the path is checked."""
    assert storage_ref("a/b") == {REF: "a/b"}
    assert storage_ref(
        "a", selector="x[0]", content_type="application/json", schema="s", schema_version="1"
    ) == {
        REF: "a",
        PATH: "x[0]",
        TYPE: "application/json",
        "$bubuStorageSchema": "s",
        "$bubuStorageSchemaVersion": "1",
    }
    with pytest.raises(InvalidKeyError):
        storage_ref("../a")


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["application/json", "text/plain"]),
    st.sampled_from(["", "s", "<ü>"]),
    st.sampled_from(["", "v1"]),
)
def test_reference_lengths_are_exact(path, content_type, schema, version):
    """They decide about offloading, so they must be those of the encoder."""
    writer = RefWriter(schema, version)

    assert writer.length(path, content_type) == len(encode(writer.make(path, content_type)))


CM, SECRET = "$bubuConfigMapRef", "$bubuSecretRef"


@pytest.mark.parametrize(
    ("value", "ref"),
    [
        ({CM: "c:k"}, KubeRef("ConfigMap", "ns", "c", "k", "auto")),
        ({SECRET: "\u2003ns / s : k "}, KubeRef("Secret", "ns", "s", "k", "auto")),
        ({CM: "c:k:l"}, KubeRef("ConfigMap", "ns", "c", "k:l", "auto")),
        ({CM: "ns/c/d:k"}, KubeRef("ConfigMap", "ns", "c/d", "k", "auto")),
        (
            {SECRET: {"name": " s ", "key": "k", "format": " JSON ", "x": 1}},
            KubeRef("Secret", "ns", "s", "k", "json"),
        ),
        (
            {CM: {"name": "c", "key": "k", "namespace": 5, "format": None}},
            KubeRef("ConfigMap", "ns", "c", "k", "auto"),
        ),
        ({CM: "c"}, None),
        ({CM: ":k"}, None),
        ({CM: "c:"}, None),
        ({CM: "other/c:k"}, None),
        ({CM: {"name": "c"}}, None),
        ({CM: {"name": "c", "key": 5}}, None),
        ({CM: ["c:k"]}, None),
        ({CM: "c:k", "x": 1}, None),
        ({CM: "c:k", SECRET: "s:k"}, None),
        ({"x": "c:k"}, None),
    ],
)
def test_kubernetes_references(value, ref):
    """Text and map form, in the workload's own namespace only."""
    assert parse_kube_ref(value, " ns ") == ref
    assert parse_kube_ref(value, " ") is None


class Cluster:
    """A ConfigMap and a Secret, without a cluster."""

    def __init__(self, value):
        self.value = value

    def config_map_value(self, namespace, name, key):
        """One text."""
        return {"ns/c/k": self.value}[f"{namespace}/{name}/{key}"]

    def secret_value(self, namespace, name, key):
        """The same as bytes."""
        return self.config_map_value(namespace, name, key).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("text", "format_", "value"),
    [
        (' {"a": 1} ', "auto", {"a": 1}),
        (" 5\n", "auto", 5),
        (" plain ", "auto", " plain "),
        (" \n", "auto", ""),
        (' {"a": 1} ', "raw", ' {"a": 1} '),
        ('{"a": 1}', "json", {"a": 1}),
        ('{"$bubuStorageRef": "x"}', "auto", {"$bubuStorageRef": "x"}),
    ],
)
@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
def test_values_are_read_by_format(kind, text, format_, value):
    """``auto`` takes JSON for JSON and leaves other text untrimmed."""
    assert resolve_kube_ref(KubeRef(kind, "ns", "c", "k", format_), Cluster(text)) == value


def test_secret_bytes_that_are_no_text():
    """Become U+FFFD each, as everywhere."""
    assert (
        resolve_kube_ref(KubeRef("Secret", "ns", "c", "k", "raw"), Cluster("a\udcff\udcfe"))
        == "a\ufffd\ufffd"
    )


@pytest.mark.parametrize(
    ("ref", "resolver", "words"),
    [
        (KubeRef("Secret", "ns", "c", "k", "auto"), None, "pass kube_resolver="),
        (
            KubeRef("Secret", "ns", "other", "k", "auto"),
            Cluster(""),
            "Secret 'ns/other' key 'k' does not exist",
        ),
        (KubeRef("Secret", "ns", "c", "k", "yaml"), Cluster(""), "unsupported format 'yaml'"),
        (KubeRef("Secret", "ns", "c", "k", "json"), Cluster("hunter2"), "is not JSON"),
    ],
)
def test_what_cannot_be_read(ref, resolver, words):
    """Each error names the object and the way out, and never shows the value."""
    with pytest.raises(KubeRefError, match=words) as caught:
        resolve_kube_ref(ref, resolver)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None or "hunter2" not in str(caught.value.__cause__)


def test_the_resolvers_own_error_is_kept():
    """A resolver that knows better says it itself."""

    class Denied(Cluster):
        def secret_value(self, *_):
            """Refuse."""
            raise KubeRefError("no rights to read it")

    with pytest.raises(KubeRefError, match="no rights"):
        resolve_kube_ref(KubeRef("Secret", "ns", "c", "k", "auto"), Denied(""))
