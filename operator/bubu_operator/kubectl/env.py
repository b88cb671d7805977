"""``kubectl bubu env``: exports with which a laptop reaches the store of a config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from bubu_operator.injection.config import InjectionConfig, load_config
from bubu_operator.injection.environment import InjectionPlan
from bubu_operator.injection.explain import source_of
from bubu_operator.injection.podspec import child
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, CONFIG_MAPS, STORAGE_CONFIGS, Resource
from bubu_operator.kubectl.access import cluster_options, open_access
from bubu_operator.kubectl.facts import facts_of_cluster
from bubu_operator.kubectl.failures import PROGRAM, CommandFailedError, one_line, reported
from bubu_operator.kubectl.shell import authority_of, in_cluster_hint, render_exports
from bubu_storage.apply_env import ENV_STORAGE_S3_ENDPOINT

__all__ = ["env"]

_KINDS: Final = {
    "storageconfig": STORAGE_CONFIGS,
    "storageconfigs": STORAGE_CONFIGS,
    "bsc": STORAGE_CONFIGS,
    "clusterstorageconfig": CLUSTER_STORAGE_CONFIGS,
    "clusterstorageconfigs": CLUSTER_STORAGE_CONFIGS,
    "cbsc": CLUSTER_STORAGE_CONFIGS,
}


_EXAMPLE: Final = """\b
Examples:
  eval "$(kubectl bubu env storageconfig/main -n flows)"
  bubu-storage ls
"""


@click.command(epilog=_EXAMPLE)
@click.argument("target", metavar="KIND/NAME")
@click.option("--endpoint", default="", help="Use this URL instead of the config's, as for a port-forward.")
@click.option(
    "--ca-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the store's certificate authority to this file and export AWS_CA_BUNDLE.",
)
@cluster_options
def env(
    *,
    target: str,
    endpoint: str,
    ca_file: Path | None,
    namespace: str,
    context: str,
    kubeconfig: str,
) -> None:
    """Print shell exports with which this machine reaches the store of a config.

    KIND is storageconfig (bsc) or clusterstorageconfig (cbsc). No secret is printed: the lines read
    it by kubectl when the shell evaluates them. For sh, bash, zsh and other POSIX shells.
    """
    resource, name = _parse_target(target)
    if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
        raise click.UsageError("--endpoint takes a URL, as in http://127.0.0.1:9000")
    with reported():
        access = open_access(kubeconfig, context, namespace)
        with access.client as client:
            place = access.namespace if resource.namespaced else None
            obj = client.get(resource, name, place)
            config = load_config({**obj, "kind": resource.kind})
            plan = _plan_of(config)
            notes = _notes(client, config, access.namespace)
            if ca_file is not None:
                _write_authority(client, plan, access.namespace, ca_file, str(config))
    try:
        exports = render_exports(
            plan,
            namespace=access.namespace,
            kubectl=access.kubectl,
            endpoint=endpoint,
            ca_path="" if ca_file is None else str(ca_file.absolute()),
        )
    except ValueError as error:
        raise CommandFailedError(f"{config}: {error}") from error
    own = {item.name: source_of(item.entry) for item in plan.env}.get(ENV_STORAGE_S3_ENDPOINT, "")
    if own and not endpoint:
        notes.append(in_cluster_hint(own, access.namespace))
    if sys.stdout.isatty():
        notes.append(f'to use it: eval "$({PROGRAM} env {target} …)"')
    for note in (*exports.notes, *notes):
        if note:
            click.echo(f"{PROGRAM}: {one_line(note)}", err=True)
    click.echo("\n".join(exports.lines))


def _parse_target(target: str) -> tuple[Resource, str]:
    kind, slash, name = target.partition("/")
    resource = _KINDS.get(kind.lower().partition(".")[0])
    if resource is None or not slash or not name or "/" in name:
        raise click.UsageError(
            f"{one_line(target)!r} names no config; say storageconfig/NAME or clusterstorageconfig/NAME"
        )
    return resource, name


def _plan_of(config: InjectionConfig) -> InjectionPlan:
    if config.plan is None:
        raise CommandFailedError(f"{config} is invalid: {config.problem}")
    return config.plan


def _notes(client: KubeClient, config: InjectionConfig, namespace: str) -> list[str]:
    notes: list[str] = []
    if config.deleting:
        notes.append(f"{config} is being deleted")
    if not config.namespace:
        facts = facts_of_cluster(client, namespace)
        if not config.selects(facts.labels):
            notes.append(
                f"{config} is not for namespace {namespace} (spec.namespaceSelector), "
                "so its pods do not get it; -n names another"
            )
    return notes


def _write_authority(
    client: KubeClient, plan: InjectionPlan, namespace: str, path: Path, config: str
) -> None:
    place = authority_of(plan)
    if place is None:
        raise CommandFailedError(f"{config} names no certificate authority; leave --ca-file out")
    name, key = place
    text = child(client.get(CONFIG_MAPS, name, namespace), "data").get(key)
    if not isinstance(text, str) or not text:
        raise CommandFailedError(f"ConfigMap {namespace}/{name} has no key {key}")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailedError(f"cannot write {path}: {error.strerror}") from error
