"""The one interface that tests and the demo see, whatever runs behind it.

A ``Cluster`` is a kubeconfig, a kubectl, and a way to end what was started. Providers fill it in;
nothing here knows how the API server came to be.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from tests.cluster.certs import write_private
from tests.cluster.errors import ClusterError, KubectlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.cluster.processes import ManagedProcess

__all__ = ["Cluster", "http_get", "kubeconfig_text", "wants_logs"]

_TOKEN_LIFETIME = "24h"


@dataclass(slots=True, eq=False)
class Cluster(AbstractContextManager["Cluster"]):
    """A running Kubernetes API server and the means to work with it.

    Attributes:
        provider: ``kubeconfig``, ``kind`` or ``local``.
        name: what people see: a context or cluster name.
        kubeconfig: the administrator's kubeconfig, readable by its owner only.
        server: the API server's URL.
        ca_pem: certificate authority of the API server, PEM; empty if the machine's own trust applies.
        kubectl_path: the kubectl that ``kubectl()`` runs.
        callback_host: an address of this machine that the API server can reach, for webhooks
            registered by URL; None if no such address is known.
        workdir: a private folder of this cluster: logs, and room for what tests derive from it.
        processes: the local processes behind it, in the order of their start.
    """

    provider: str
    name: str
    kubeconfig: Path
    server: str
    ca_pem: str
    kubectl_path: Path
    callback_host: str | None
    workdir: Path
    processes: list[ManagedProcess] = field(default_factory=list["ManagedProcess"])
    on_stop: Callable[[bool], None] = field(default=lambda _keep_logs: None, repr=False)
    _stopped: bool = field(default=False, repr=False)

    @property
    def logs(self) -> Path:
        """The folder with one log per process; empty for clusters that others run."""
        return self.workdir / "logs"

    def kubectl(
        self,
        *arguments: str | Path,
        input: str | None = None,  # noqa: A002 -- the name that subprocess.run uses
        check: bool = True,
        timeout_seconds: float = 180.0,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl and return what it printed.

        Args:
            *arguments: what follows ``kubectl``.
            input: standard input, for ``apply -f -``.
            check: raise if kubectl ends with a non-zero code.
            timeout_seconds: when it has hung: a busy machine takes its time.
            kubeconfig: another identity than the administrator's.

        Raises:
            KubectlError: a non-zero code while ``check`` is set, or the time is over.
        """
        words = tuple(str(argument) for argument in arguments)
        # The caller's own kubectl settings must not colour the result, nor ours fill their cache.
        env = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        env |= {"KUBERC": "off", "KUBECACHEDIR": str(self.workdir / "kubectl-cache")}
        try:
            done = subprocess.run(
                [str(self.kubectl_path), "--kubeconfig", str(kubeconfig or self.kubeconfig), *words],
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                text=True,
                env=env,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(words, 124, "", f"no answer within {timeout_seconds:g} s") from error
        if check and done.returncode != 0:
            raise KubectlError(words, done.returncode, done.stdout, done.stderr)
        return done

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or update objects given as plain dicts, by server-side apply."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(document))

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return the object (or the List) that ``kubectl get ARGUMENTS -o json`` prints."""
        return cast("dict[str, Any]", json.loads(self.kubectl("get", *arguments, "-o", "json").stdout))

    def server_version(self) -> str:
        """Return the API server's version, such as ``v1.36.3``."""
        return str(json.loads(self.kubectl("get", "--raw", "/version").stdout)["gitVersion"])

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace and wait until pods can be created in it; return its name."""
        metadata = {"name": name, "labels": dict(labels or {})}
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl("create", "-f", "-", input=json.dumps(document))
        # Pods are refused until the controller manager has made the namespace's default account.
        self.kubectl(
            *("wait", "-n", name, "--for=create", "serviceaccount/default", "--timeout=160s"),
        )
        return name

    def service_account_kubeconfig(self, namespace: str, name: str, path: Path) -> Path:
        """Write a kubeconfig that acts as a ServiceAccount, with a real token of 24 hours.

        Processes under test run with it, so that missing rights show.

        Raises:
            KubectlError: there is no such account.
        """
        token = self.kubectl(
            "create", "token", name, "--namespace", namespace, "--duration", _TOKEN_LIFETIME
        ).stdout.strip()
        text = kubeconfig_text(
            name=self.name,
            server=self.server,
            ca_pem=self.ca_pem,
            user=f"system:serviceaccount:{namespace}:{name}",
            token=token,
            namespace=namespace,
        )
        return write_private(path, text)

    def stop(self, *, keep_logs: bool = False) -> None:
        """End everything that was started for this cluster; a second call does nothing.

        Args:
            keep_logs: leave the logs where ``logs`` says, for somebody to read.
        """
        if not self._stopped:
            self._stopped = True
            self.on_stop(keep_logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(keep_logs=wants_logs(kind))


def wants_logs(kind: type[BaseException] | None) -> bool:
    """Tell whether a cluster's logs are kept after its ``with``: after an error, not after a wish to end."""
    return kind is not None and not issubclass(kind, (KeyboardInterrupt, SystemExit))


def kubeconfig_text(*, name: str, server: str, ca_pem: str, user: str, token: str, namespace: str) -> str:
    """Return a kubeconfig with one context and a bearer token; JSON, which is YAML too."""
    cluster: dict[str, str] = {"server": server}
    if ca_pem:
        # Inline base64 rather than a path: the file may be moved and outlive the cluster's folder.
        cluster["certificate-authority-data"] = base64.b64encode(ca_pem.encode()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user, "namespace": namespace}}],
    }
    return json.dumps(document, indent=1) + "\n"


def http_get(url: str, *, ca_pem: str, token: str, timeout_seconds: float = 5.0) -> tuple[int, str]:
    """Fetch one path of the API server.

    Returns:
        Status and body.

    Raises:
        OSError: nothing answers there.
    """
    parts = urlsplit(url)
    if parts.hostname is None:
        raise ClusterError(f"{url} has no host")
    context = ssl.create_default_context(cadata=ca_pem)
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, context=context, timeout=timeout_seconds
    )
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} does not speak HTTP: {error!r}") from error
    finally:
        connection.close()
