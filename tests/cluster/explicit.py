"""Provider ``kubeconfig``: a cluster that somebody else runs and ``KUBECONFIG`` names.

Tests create and delete cluster-wide objects, so a context is used only if it looks like a test
cluster. The decision is a pure function over what the files say. An unfit context is an error,
never a reason to fall back: who sets ``KUBECONFIG`` means it.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import yaml

from tests.cluster.build import Binaries, cached_binaries, ensure_binaries
from tests.cluster.certs import write_private
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError, ContextRefusedError, PrerequisiteError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.local import ClusterOptions

__all__ = [
    "ALLOW_VARIABLE",
    "Acceptance",
    "ContextChoice",
    "ExplicitProvider",
    "cluster_from_kubeconfig",
    "find_kubectl",
    "judge_context",
    "read_context",
]

# The one context name that the user vouches for.
ALLOW_VARIABLE = "BUBU_TEST_CLUSTER_ALLOW"
# An address of this machine that the cluster can reach; only the user knows it.
CALLBACK_VARIABLE = "BUBU_TEST_CALLBACK_HOST"

# The first whose `wait` knows --for=create.
_KUBECTL_MINOR = 31
_TEST_NAME = re.compile(r"kind-.+|k3d-.+|minikube|(.*[^a-z])?tests?([^a-z].*)?", re.IGNORECASE)
_PRODUCTION_NAME = re.compile(r"(.*[^a-z])?prod(uction)?([^a-z].*)?", re.IGNORECASE)


class Acceptance(StrEnum):
    """Why a context may or may not be used."""

    ALLOWED_BY_NAME = "AllowedByName"
    TEST_NAME = "TestName"
    LOOPBACK_SERVER = "LoopbackServer"
    PRODUCTION_NAME = "ProductionName"
    NOT_A_TEST_NAME = "NotATestName"

    @property
    def accepted(self) -> bool:
        """Whether the context may be used."""
        return self in {
            Acceptance.ALLOWED_BY_NAME,
            Acceptance.TEST_NAME,
            Acceptance.LOOPBACK_SERVER,
        }


@dataclass(frozen=True, slots=True)
class ContextChoice:
    """The context that a kubeconfig selects.

    Attributes:
        context: its name.
        cluster: the name of its cluster entry.
        server: the API server's URL.
    """

    context: str
    cluster: str
    server: str


def judge_context(choice: ContextChoice, allowed: str | None) -> Acceptance:
    """Decide whether a context looks like a test cluster.

    Args:
        choice: what the kubeconfig selects.
        allowed: the one context name that the user vouches for, if any.

    Returns:
        The reason; its ``accepted`` is the answer. "prod" in a name refuses even a loopback server,
        because tunnels to production end there.
    """
    if allowed is not None and choice.context == allowed:
        return Acceptance.ALLOWED_BY_NAME
    host = urlsplit(choice.server).hostname or ""
    if any(_PRODUCTION_NAME.fullmatch(name) for name in (choice.context, choice.cluster, host)):
        return Acceptance.PRODUCTION_NAME
    if any(_TEST_NAME.fullmatch(name) for name in (choice.context, choice.cluster, host)):
        return Acceptance.TEST_NAME
    if _is_loopback(host):
        return Acceptance.LOOPBACK_SERVER
    return Acceptance.NOT_A_TEST_NAME


def read_context(variable: str) -> ContextChoice:
    """Read which context ``KUBECONFIG`` selects; several files merge as kubectl merges them.

    Args:
        variable: the variable's value, one path or several joined by ``:``.

    Raises:
        ContextRefusedError: no file is there, one cannot be read, or none selects a complete context.
    """
    contexts: dict[str, dict[str, Any]] = {}
    clusters: dict[str, dict[str, Any]] = {}
    current = ""
    found = False
    for path in [Path(entry) for entry in variable.split(os.pathsep) if entry]:
        try:
            document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ContextRefusedError(f"KUBECONFIG: {path} cannot be read ({error.strerror}).") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            # A YAML error quotes the file, and a kubeconfig holds secrets: only its place is told.
            mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
            place = f" (line {mark.line + 1})" if mark else ""
            raise ContextRefusedError(f"KUBECONFIG: {path} is not valid YAML{place}.") from None
        found = True
        if not isinstance(document, dict):
            raise ContextRefusedError(f"KUBECONFIG: {path} is not a kubeconfig.")
        config = cast("dict[str, Any]", document)
        current = current or str(config.get("current-context") or "")
        for key, into in (("contexts", contexts), ("clusters", clusters)):
            entries: Any = config.get(key) or []
            for entry in cast("list[Any]", entries if isinstance(entries, list) else []):
                if isinstance(entry, dict):
                    item = cast("dict[str, Any]", entry)
                    value: Any = item.get(key[:-1])
                    fields = cast("dict[str, Any]", value if isinstance(value, dict) else {})
                    into.setdefault(str(item.get("name")), fields)
    if not found:
        raise ContextRefusedError(
            f"KUBECONFIG is set to {variable}, and there is no such file: "
            "unset it to use a cluster of our own, or correct the path."
        )
    cluster = str(contexts.get(current, {}).get("cluster") or "")
    server = str(clusters.get(cluster, {}).get("server") or "")
    if not server:
        raise ContextRefusedError(
            f"KUBECONFIG ({variable}) selects no usable context (current-context is {current!r}): "
            "choose one with kubectl config use-context, or unset KUBECONFIG."
        )
    return ContextChoice(current, cluster, server)


@dataclass(slots=True)
class ExplicitProvider:
    """Uses the cluster that ``KUBECONFIG`` names, after judging its context."""

    env: Mapping[str, str]
    name: str = field(default="kubeconfig", init=False)

    def check(self) -> ContextChoice:
        """Return the context, or refuse it.

        Raises:
            ContextRefusedError: it does not look like a test cluster, or cannot be read.
        """
        choice = read_context(self.env["KUBECONFIG"])
        verdict = judge_context(choice, self.env.get(ALLOW_VARIABLE))
        if not verdict.accepted:
            raise ContextRefusedError(
                f"KUBECONFIG selects the context {choice.context!r} at {choice.server}, which does not look "
                f"like a test cluster ({verdict}), and these tests create and delete cluster-wide objects: "
                "unset KUBECONFIG to use a cluster of our own, or set "
                f"{ALLOW_VARIABLE}={choice.context} if it may be used."
            )
        return choice

    def prepare(self, report: Callable[[str], None] | None = None) -> None:
        """Judge the context, and make sure of a kubectl."""
        self.check()
        find_kubectl(report)

    def start(self, options: ClusterOptions | None = None) -> Cluster:
        """Return the cluster, once its API server has answered.

        Raises:
            ContextRefusedError: the context does not look like a test cluster.
            StartError: its API server does not answer.
        """
        del options
        choice = self.check()
        workdir = Path(tempfile.mkdtemp(prefix="bubu-cluster-"))
        try:
            return cluster_from_kubeconfig(
                provider=self.name,
                name=choice.context,
                env=self.env,
                kubectl=find_kubectl(),
                callback_host=self.env.get(CALLBACK_VARIABLE),
                workdir=workdir,
            )
        except BaseException:
            shutil.rmtree(workdir, ignore_errors=True)
            raise


def cluster_from_kubeconfig(
    *,
    provider: str,
    name: str,
    env: Mapping[str, str],
    kubectl: Path,
    callback_host: str | None,
    workdir: Path,
    before_cleanup: Callable[[bool], None] | None = None,
) -> Cluster:
    """Make a Cluster of the context that ``env["KUBECONFIG"]`` selects now.

    Its part of the kubeconfig is copied: a later ``kubectl config use-context`` by the user must not
    move running tests to another cluster.
    """
    text = subprocess.run(
        [str(kubectl), "config", "view", "--minify", "--flatten", "--raw", "-o", "json"],
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if text.returncode != 0:
        raise StartError(f"kubectl cannot read KUBECONFIG: {text.stderr.strip()}")
    config = json.loads(text.stdout)
    entry = config["clusters"][0]["cluster"]
    ca_pem = ""
    if entry.get("certificate-authority-data"):
        ca_pem = base64.b64decode(entry["certificate-authority-data"]).decode("ascii")
    (workdir / "logs").mkdir(exist_ok=True)

    def cleanup(keep_logs: bool) -> None:
        if before_cleanup is not None:
            before_cleanup(keep_logs)
        shutil.rmtree(workdir, ignore_errors=True)

    cluster = Cluster(
        provider=provider,
        name=name,
        kubeconfig=write_private(workdir / "kubeconfig", text.stdout),
        server=entry["server"],
        ca_pem=ca_pem,
        kubectl_path=kubectl,
        callback_host=callback_host,
        workdir=workdir,
        on_stop=cleanup,
    )
    try:
        cluster.server_version()
    except ClusterError as error:
        raise StartError(f"the API server of {name} at {cluster.server} does not answer: {error}") from error
    return cluster


def find_kubectl(report: Callable[[str], None] | None = None) -> Path:
    """Return a kubectl for clusters that are not built from our module.

    The built one if it is there, else the machine's if it is new enough, else it is built.

    Raises:
        PrerequisiteError: there is none that would do, and no Go to build it.
    """
    built: Binaries | None = cached_binaries()
    if built is not None:
        return built.kubectl
    installed = shutil.which("kubectl")
    if installed is not None and _client_minor(installed) >= _KUBECTL_MINOR:
        return Path(installed)
    try:
        return ensure_binaries(report).kubectl
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"There is no kubectl 1.{_KUBECTL_MINOR} or newer on PATH, and none can be built without Go 1.26 "
            "or newer: install either."
        ) from error


def _client_minor(kubectl: str) -> int:
    """Return 31 for a kubectl of version 1.31.x; 0 if it does not say."""
    try:
        done = subprocess.run(
            [kubectl, "version", "--client", "-o", "json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        version = json.loads(done.stdout)["clientVersion"]["gitVersion"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return 0
    match = re.match(r"v1\.(\d+)\.", str(version))
    return int(match[1]) if match else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
