"""The two usual identities are read without the kubernetes package, and nothing else is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bubu_operator.errors import KubeConfigError
from bubu_operator.kube import identity
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.identity import in_cluster_identity, plain_kubeconfig

SERVER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def account(folder: Path, token: str = "first") -> Path:  # noqa: S107 - no password
    """The files that a kubelet puts into a pod."""
    (folder / "token").write_text(f"{token}\n", encoding="utf-8")
    (folder / "ca.crt").write_text("pem", encoding="utf-8")
    return folder


def kubeconfig(
    path: Path, *, cluster: dict | None = None, user: dict | None = None, context: str = "c"
) -> Path:
    """A kubeconfig of one context, with fields of the cluster and the user changed."""
    document = {
        "current-context": context,
        "clusters": [{"name": "k", "cluster": {"server": "https://api.example:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_pod_has_its_servers_address_and_its_accounts_files(tmp_path):
    """The authority is the account's, and an IPv6 address is bracketed."""
    folder = account(tmp_path)

    found = in_cluster_identity(SERVER, folder)
    six = in_cluster_identity({**SERVER, "KUBERNETES_SERVICE_HOST": "fd00::1"}, folder)

    assert found.host == "https://10.0.0.1:443"
    assert six.host == "https://[fd00::1]:443"
    assert found.ssl_ca_cert == str(folder / "ca.crt")
    assert found.get_api_key_with_prefix("BearerToken") == "Bearer first"


def test_a_replaced_token_is_read_after_a_minute(tmp_path, monkeypatch):
    """A kubelet replaces the token's file; the old token goes on being accepted for a while."""
    now = 1000.0
    monkeypatch.setattr(identity.time, "monotonic", lambda: now)
    found = in_cluster_identity(SERVER, account(tmp_path))
    account(tmp_path, "second")

    assert found.get_api_key_with_prefix("") == "Bearer first"
    now += identity.TOKEN_SECONDS

    assert found.get_api_key_with_prefix("") == "Bearer second"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_pod_without_its_accounts_files_is_told_so(tmp_path, missing):
    """The usual cause is named: the token is not mounted."""
    account(tmp_path)
    (tmp_path / missing).unlink()

    with pytest.raises(ValueError, match=rf"{missing}.*automountServiceAccountToken"):
        in_cluster_identity(SERVER, tmp_path)


def test_inline_and_named_authorities(tmp_path):
    """Inline data becomes a file; a relative name is relative to the kubeconfig."""
    data = base64.b64encode(b"pem").decode()

    inline = plain_kubeconfig(kubeconfig(tmp_path / "a", cluster={"certificate-authority-data": data}))
    named = plain_kubeconfig(kubeconfig(tmp_path / "b", cluster={"certificate-authority": "ca.crt"}))
    neither = plain_kubeconfig(kubeconfig(tmp_path / "c", cluster={"insecure-skip-tls-verify": True}))

    assert inline is not None
    assert inline.ssl_ca_cert is not None
    assert Path(inline.ssl_ca_cert).read_bytes() == b"pem"
    assert named is not None
    assert named.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert neither is not None
    assert (neither.ssl_ca_cert, neither.verify_ssl) == (None, False)


@pytest.mark.parametrize(
    "change",
    [
        {"user": {"exec": {"command": "login"}}},
        {"user": {"token": "t", "as": "somebody"}},
        {"user": {"username": "a", "password": "b"}},
        {"user": {"token": ""}},
        {"cluster": {"proxy-url": "http://proxy"}},
        {"cluster": {"tls-server-name": "other"}},
        {"cluster": {"certificate-authority-data": "no base64"}},
        {"cluster": {"server": 3}},
        {"context": "absent"},
    ],
)
def test_what_is_not_plain_is_left_to_the_package(tmp_path, change):
    """A field that is not understood is never ignored: it may change who we are or whom we trust."""
    assert plain_kubeconfig(kubeconfig(tmp_path / "config", **change)) is None


def test_a_user_that_is_not_plain_still_connects(tmp_path):
    """The package reads a basic login; a plugin that is not there is one clear sentence."""
    path = kubeconfig(tmp_path / "config", user={"username": "a", "password": "b"})

    with KubeClient.load(str(path)) as client:
        assert client.connection().authorization.startswith("Basic ")
    with pytest.raises(KubeConfigError, match="Set KUBECONFIG"):
        KubeClient.load(str(kubeconfig(tmp_path / "config", context="absent")))


def test_the_usual_client_does_not_load_the_package(tmp_path):
    """It would cost 8 MiB in each webhook."""
    path = kubeconfig(tmp_path / "config")
    program = (
        "import sys; from bubu_operator.kube.client import KubeClient; "
        f"KubeClient.load({str(path)!r}).close(); print('kubernetes' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
