"""Which cluster, context and namespace a command works with: kubectl's own rules.

``--kubeconfig``, else ``$KUBECONFIG`` (several files are merged, as kubectl does), else the
pod's own account, else ``~/.kube/config``; the context's namespace unless ``--namespace``
says another. Nothing is asked of a server here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click
from kubernetes.client.configuration import Configuration
from kubernetes.config import kube_config
from kubernetes.config.config_exception import ConfigException
from yaml import YAMLError

from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.kubectl.failures import CommandFailedError, one_line, reported

__all__ = ["Access", "cluster_options", "open_access"]

USER_AGENT: Final = "kubectl-bubu"
_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster to ask.

    Attributes:
        client: the connection; close it.
        namespace: where names without one are looked up.
        kubectl: what a kubectl command line needs to get to the same place, after ``kubectl``.
    """

    client: KubeClient
    namespace: str
    kubectl: tuple[str, ...]


def cluster_options(command: Command) -> Command:
    """Add ``--kubeconfig``, ``--context`` and ``--namespace``."""
    for option in (
        click.option("-n", "--namespace", default="", help="Namespace; default: the context's."),
        click.option("--context", default="", help="Context of the kubeconfig; default: the current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False),
            default="",
            help="Kubeconfig file; default: $KUBECONFIG, else ~/.kube/config.",
        ),
    ):
        command = option(command)
    return command


def open_access(kubeconfig: str, context: str, namespace: str) -> Access:
    """Connect; "" stands for the default of each.

    Raises:
        CommandFailedError: there is no such file or context, or it cannot be used.
    """
    paths = kubeconfig or os.environ.get("KUBECONFIG") or ""
    if not paths and not context and os.environ.get("KUBERNETES_SERVICE_HOST"):
        with reported():
            return Access(KubeClient.load(user_agent=USER_AGENT), namespace or _account_namespace(), ())
    where = paths or str(Path("~/.kube/config").expanduser())
    configuration = Configuration()
    library = cast("Any", kube_config)
    try:
        merged = library.KubeConfigMerger(where)
        files = cast("list[JsonObject]", list(merged.config_files.values()))
        if not files:
            raise CommandFailedError(f"there is no kubeconfig {where}: set KUBECONFIG, or pass --kubeconfig")
        contexts = {
            str(item["name"]): item
            for file in reversed(files)
            for item in reversed(file.get("contexts") or [])
        }
        # As kubectl does, and unlike the library: the first file that names one.
        name = context or next(
            (str(file["current-context"]) for file in files if file.get("current-context")), ""
        )
        if name not in contexts:
            raise CommandFailedError(_no_context(name, where, sorted(contexts)))
        library.load_kube_config(
            config_file=where, context=name, client_configuration=configuration, persist_config=False
        )
        own_namespace = str(section(contexts[name], "context").get("namespace") or "")
    except (ConfigException, YAMLError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CommandFailedError(
            f"cannot read a connection from {where}: {one_line(str(error)).rstrip('.')}; "
            "set KUBECONFIG, or pass --kubeconfig and --context"
        ) from error
    flags = ("--kubeconfig", kubeconfig) if kubeconfig else ()
    # The context is always named: what is run later must not follow a switch of the current one.
    flags += ("--context", name)
    client = KubeClient(configuration, user_agent=USER_AGENT)
    return Access(client, namespace or own_namespace or "default", flags)


def _no_context(name: str, where: str, known: list[str]) -> str:
    has = f"it has: {', '.join(known)}" if known else "it has none: is it the right file?"
    return f"there is no context {name!r} in {where}; {has}" if name else f"{where} names no context; {has}"


def _account_namespace() -> str:
    try:
        return _ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"
