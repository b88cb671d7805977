"""Where the API server is and who we are, for the two usual cases: a pod's account, a bearer token.

The official ``kubernetes`` package reads every kubeconfig there is, and costs 8 MiB of memory and
70 ms of start for it (measured). A process whose memory counts never needs more than what stands
here; whatever is not plainly one of the two cases is left to the package.

Invariants: nothing is guessed: an entry with a field that is not known here is not plain. A token
in a file is read again after `TOKEN_SECONDS`, because the kubelet replaces it.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

__all__ = ["ACCOUNT_FOLDER", "PlainIdentity", "in_cluster_identity", "plain_kubeconfig"]

ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS: Final = 60.0

_CLUSTER_FIELDS: Final = {
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
}


class PlainIdentity:
    """A server and a token; attributes are named as in the package's ``Configuration``.

    Attributes:
        host: URL of the server.
        ssl_ca_cert: file of its authority; None for the machine's own.
        verify_ssl: whether its certificate is verified.
        cert_file, key_file, proxy, username: always None: such an identity is not plain.
    """

    cert_file: None = None
    key_file: None = None
    proxy: None = None
    username: None = None

    def __init__(
        self,
        host: str,
        *,
        ssl_ca_cert: str | None,
        verify_ssl: bool = True,
        token: str = "",
        token_path: Path | None = None,
    ) -> None:
        self.host = host
        self.ssl_ca_cert = ssl_ca_cert
        self.verify_ssl = verify_ssl
        self._token = token
        self._token_path = token_path
        self._read_at = 0.0
        self._lock = threading.Lock()

    def get_api_key_with_prefix(self, identifier: str) -> str | None:
        """Return the value of the ``Authorization`` header, with a current token; None without one.

        Raises:
            OSError: the token's file cannot be read.
        """
        del identifier
        with self._lock:
            if self._token_path is not None and time.monotonic() - self._read_at >= TOKEN_SECONDS:
                self._token = self._token_path.read_text(encoding="utf-8").strip()
                self._read_at = time.monotonic()
            return f"Bearer {self._token}" if self._token else None


def in_cluster_identity(environ: Mapping[str, str], folder: Path = ACCOUNT_FOLDER) -> PlainIdentity:
    """Return the identity of the pod that we run in.

    Raises:
        ValueError: the environment does not name the server, or the account's files are not there.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ValueError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set")
    token, authority = folder / "token", folder / "ca.crt"
    for path in (token, authority):
        if not path.is_file() or not path.stat().st_size:
            raise ValueError(f"{path} is missing or empty; is automountServiceAccountToken off?")
    where = f"[{host}]" if ":" in host else host
    identity = PlainIdentity(f"https://{where}:{port}", ssl_ca_cert=str(authority), token_path=token)
    identity.get_api_key_with_prefix("BearerToken")
    return identity


def plain_kubeconfig(path: Path) -> PlainIdentity | None:
    """Return the identity of a kubeconfig with nothing but a server and a token; None for any other.

    A file that is not there, or holds nonsense, is "any other" too: the package says what is wrong.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    current = _mapping(document).get("current-context")
    context = _named(document, "contexts", "context", current)
    cluster = _named(document, "clusters", "cluster", context.get("cluster"))
    user = _named(document, "users", "user", context.get("user"))
    server, token = cluster.get("server"), user.get("token")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        return None
    if not isinstance(token, str) or not token:
        return None
    if not cluster.keys() <= _CLUSTER_FIELDS or set(user) != {"token"}:
        return None
    try:
        authority = _authority(cluster, path.parent)
    except (OSError, binascii.Error, TypeError, ValueError):
        return None
    return PlainIdentity(
        server.rstrip("/"),
        ssl_ca_cert=authority,
        verify_ssl=not cluster.get("insecure-skip-tls-verify"),
        token=token,
    )


def _authority(cluster: Mapping[str, Any], folder: Path) -> str | None:
    """The file with the server's authority; inline data becomes one that goes when the process ends."""
    data = cluster.get("certificate-authority-data")
    if data:
        descriptor, name = tempfile.mkstemp(prefix="bubu-ca-")
        with os.fdopen(descriptor, "wb") as out:
            out.write(base64.b64decode(data, validate=True))
        atexit.register(Path(name).unlink, missing_ok=True)
        return name
    named = cluster.get("certificate-authority")
    return str(folder / named) if named else None


def _named(document: object, plural: str, singular: str, name: object) -> Mapping[str, Any]:
    """The entry of that name in one of a kubeconfig's lists; empty when there is not exactly one."""
    entries: Any = _mapping(document).get(plural)
    found = [
        _mapping(_mapping(entry).get(singular))
        for entry in (cast("list[Any]", entries) if isinstance(entries, list) else [])
        if name and _mapping(entry).get("name") == name
    ]
    return found[0] if len(found) == 1 else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
