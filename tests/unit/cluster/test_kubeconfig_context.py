"""Which contexts of a KUBECONFIG may be used by tests that create and delete cluster-wide objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.errors import ContextRefusedError
from tests.cluster.explicit import Acceptance, ContextChoice, ExplicitProvider, judge_context, read_context

if TYPE_CHECKING:
    from pathlib import Path

REMOTE = "https://34.118.2.3"


@pytest.mark.parametrize(
    ("context", "cluster", "server", "expected"),
    [
        ("kind-dev", "kind-dev", "https://127.0.0.1:40001", Acceptance.TEST_NAME),
        ("k3d-flows", "k3d-flows", "https://0.0.0.0:6550", Acceptance.TEST_NAME),
        ("minikube", "minikube", "https://192.168.49.2:8443", Acceptance.TEST_NAME),
        ("bubu-test-local", "x", REMOTE, Acceptance.TEST_NAME),
        ("test", "x", REMOTE, Acceptance.TEST_NAME),
        ("admin", "team-tests", REMOTE, Acceptance.TEST_NAME),
        ("admin", "x", "https://api.test.example.com", Acceptance.TEST_NAME),
        ("anything", "x", "https://127.0.0.1:6443", Acceptance.LOOPBACK_SERVER),
        ("anything", "x", "https://[::1]:6443", Acceptance.LOOPBACK_SERVER),
        ("anything", "x", "https://localhost:6443", Acceptance.LOOPBACK_SERVER),
        ("anything", "x", "https://localhost.example.com:6443", Acceptance.NOT_A_TEST_NAME),
        ("payments", "eu", REMOTE, Acceptance.NOT_A_TEST_NAME),
        # Words that merely contain "test", or names that merely look like a tool's.
        ("latest", "eu", REMOTE, Acceptance.NOT_A_TEST_NAME),
        ("contest-eu", "eu", REMOTE, Acceptance.NOT_A_TEST_NAME),
        ("mankind-eu", "eu", REMOTE, Acceptance.NOT_A_TEST_NAME),
        ("minikube-like", "eu", REMOTE, Acceptance.NOT_A_TEST_NAME),
        # A tunnel to production ends on loopback; a name may say both.
        ("prod", "eu", "https://127.0.0.1:8443", Acceptance.PRODUCTION_NAME),
        ("eu-prod-1", "eu", "https://127.0.0.1:8443", Acceptance.PRODUCTION_NAME),
        ("load-test", "production", REMOTE, Acceptance.PRODUCTION_NAME),
        ("test", "eu", "https://api.prod.example.com", Acceptance.PRODUCTION_NAME),
        ("test-product", "eu", REMOTE, Acceptance.TEST_NAME),
        ("", "", "", Acceptance.NOT_A_TEST_NAME),
    ],
)
def test_context_is_judged_by_names_and_server(context: str, cluster: str, server: str, expected: Acceptance):
    """Names of test tools, the word test and loopback are accepted; prod anywhere refuses."""
    assert judge_context(ContextChoice(context, cluster, server), None) is expected


def test_allowed_context_must_match_exactly():
    """The override vouches for one context, not for whichever is current."""
    choice = ContextChoice("payments", "production", REMOTE)

    assert judge_context(choice, "payments") is Acceptance.ALLOWED_BY_NAME
    assert not judge_context(choice, "pay").accepted
    assert not judge_context(choice, "").accepted


def test_refusal_names_context_server_and_way_out(tmp_path: Path):
    """The message is one sentence that a stranger can act on, and shows no credential."""
    path = tmp_path / "config"
    path.write_text(
        "current-context: payments\n"
        "contexts: [{name: payments, context: {cluster: eu, user: me}}]\n"
        f"clusters: [{{name: eu, cluster: {{server: '{REMOTE}'}}}}]\n"
        "users: [{name: me, user: {token: planted-secret}}]\n",
        encoding="utf-8",
    )

    with pytest.raises(ContextRefusedError) as caught:
        ExplicitProvider({"KUBECONFIG": str(path)}).check()

    message = str(caught.value)
    assert "'payments'" in message
    assert REMOTE in message
    assert "unset KUBECONFIG" in message
    assert "BUBU_TEST_CLUSTER_ALLOW=payments" in message
    assert "planted-secret" not in message
    assert "\n" not in message


def test_several_files_merge_like_kubectl(tmp_path: Path):
    """The first current-context and the first entry of a name win; a missing file is passed over."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(
        "current-context: here\ncontexts: [{name: here, context: {cluster: a}}]\n", encoding="utf-8"
    )
    second.write_text(
        "current-context: there\n"
        "contexts: [{name: here, context: {cluster: b}}]\n"
        "clusters: [{name: a, cluster: {server: 'https://a'}}, {name: b, cluster: {server: 'https://b'}}]\n",
        encoding="utf-8",
    )
    variable = os.pathsep.join([str(tmp_path / "missing"), str(first), "", str(second)])

    assert read_context(variable) == ContextChoice("here", "a", "https://a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("", "is not a kubeconfig"),
        ("[1, 2]", "is not a kubeconfig"),
        ("a: [planted-secret", r"not valid YAML \(line 1\)"),
        ("\x00planted-secret", "not valid YAML"),
        (b"\xff\xfe planted-secret", "not valid YAML"),
        ("current-context: x", "selects no usable context"),
        ("current-context: x\ncontexts: {a: 1}", "selects no usable context"),
        ("current-context: x\ncontexts: [1, {name: x, context: 3}]", "selects no usable context"),
        ("contexts: [{name: x, context: {cluster: x}}]", "selects no usable context"),
    ],
)
def test_unusable_file_is_a_clear_error_without_its_contents(
    tmp_path: Path, text: str | bytes | None, expected: str
):
    """Whatever is in the file, the answer is one message that quotes none of it."""
    path = tmp_path / "config"
    if isinstance(text, str):
        path.write_text(text, encoding="utf-8")
    elif text is not None:
        path.write_bytes(text)

    with pytest.raises(ContextRefusedError, match=expected) as caught:
        read_context(str(path))

    assert "planted-secret" not in str(caught.value)


def test_folder_instead_of_a_file_is_a_clear_error(tmp_path: Path):
    """KUBECONFIG=~/.kube is a common slip."""
    with pytest.raises(ContextRefusedError, match="cannot be read"):
        read_context(str(tmp_path))
