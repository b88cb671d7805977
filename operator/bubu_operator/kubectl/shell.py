"""Shell exports of a config, for a laptop: pure text, in POSIX shell, without a secret value.

Invariants: every word that comes from the cluster is quoted, so that no bucket, path or name
is ever run; credentials are lines that read the Secret when the shell evaluates them; what an
earlier evaluation for another config left is unset, as injection converges in pods.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bubu_operator.injection.environment import GROUP_VARIABLES, INJECTABLE_VARIABLES, Group, InjectionPlan
from bubu_operator.injection.explain import source_of
from bubu_operator.injection.podspec import child
from bubu_storage.apply_env import ENV_STORAGE_PROVIDER, ENV_STORAGE_S3_ENDPOINT, Json

__all__ = ["Exports", "authority_of", "in_cluster_hint", "render_exports"]

_CA_BUNDLE: Final = "AWS_CA_BUNDLE"
_LOCAL_NAMES: Final = frozenset({"localhost", "localhost.localdomain"})


@dataclass(frozen=True, slots=True)
class Exports:
    """What `render_exports` makes.

    Attributes:
        lines: of POSIX shell, in order.
        notes: for the person, one sentence each.
    """

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def render_exports(
    plan: InjectionPlan,
    *,
    namespace: str,
    kubectl: Sequence[str],
    endpoint: str = "",
    ca_path: str = "",
) -> Exports:
    """Write a plan as shell.

    Args:
        plan: of a config on S3.
        namespace: whose Secret is read, and what stands for the pod's namespace.
        kubectl: options that lead kubectl to the cluster.
        endpoint: used instead of the config's, as for a port-forward.
        ca_path: file with the certificate authority; "" leaves it out.

    Raises:
        ValueError: the store is a volume, which no laptop reaches.
    """
    values = {item.name: source_of(item.entry) for item in plan.env}
    if values.get(ENV_STORAGE_PROVIDER) != "s3":
        raise ValueError(
            "its store is a volume of pods, which a laptop cannot reach; work with it in a pod that mounts it"
        )
    lines: list[str] = []
    notes: list[str] = []
    exported: set[str] = set()
    known: dict[tuple[str, str], str] = {}
    for item in plan.env:
        name, source = item.name, child(item.entry, "valueFrom")
        secret = child(source, "secretKeyRef")
        if name == _CA_BUNDLE:
            if not ca_path:
                notes.append(
                    "the store has a certificate authority of its own; --ca-file PATH writes it to a file "
                    "and sets AWS_CA_BUNDLE"
                )
                continue
            lines.append(_export(name, ca_path))
        elif secret:
            lines += _secret_lines(name, secret, namespace, kubectl, known)
        elif source:
            lines.append(_export(name, namespace))
        elif name == ENV_STORAGE_S3_ENDPOINT and endpoint:
            lines.append(_export(name, endpoint))
        else:
            lines.append(_export(name, values[name]))
        exported.add(name)
    if endpoint and ENV_STORAGE_S3_ENDPOINT not in exported:
        lines.append(_export(ENV_STORAGE_S3_ENDPOINT, endpoint))
        exported.add(ENV_STORAGE_S3_ENDPOINT)
    if not exported & GROUP_VARIABLES[Group.CREDENTIALS]:
        notes.append(
            f"no Secret is named: pods use the identity of ServiceAccount {plan.service_account}, and your "
            "shell its own AWS identity"
            if plan.service_account
            else "the store is used anonymously; keys in your environment or ~/.aws would be used"
        )
    # The laptop's own AWS settings are its owner's business; ours are not.
    stale = sorted(name for name in INJECTABLE_VARIABLES - exported if not name.startswith("AWS_"))
    return Exports((f"unset {' '.join(stale)}", *lines), tuple(notes))


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _secret_lines(
    name: str, secret: Json, namespace: str, kubectl: Sequence[str], known: dict[tuple[str, str], str]
) -> list[str]:
    """Read a key of a Secret once; a second variable of the same key is a copy of the first."""
    place = (str(secret.get("name")), str(secret.get("key")))
    if secret.get("optional"):
        check = f'[ -n "${name}" ] || unset {name}'
    else:
        check = f': "${{{name}:?cannot be read from the Secret}}"'
    if place in known:
        if secret.get("optional"):
            return [f'export {name}="${{{known[place]}-}}"', check]
        return [f'export {name}="${known[place]}"']
    known[place] = name
    # A JSON text is a Go text, too.
    read = "{{base64decode .}}"
    template = "{{with .data}}{{with index . %s}}%s{{end}}{{end}}" % (json.dumps(place[1]), read)  # noqa: UP031 - braces
    command = [
        "kubectl",
        *kubectl,
        "-n",
        namespace,
        "get",
        "secret",
        place[0],
        "-o",
        f"go-template={template}",
    ]
    return [f'export {name}="$({shlex.join(command)})"', check]


def authority_of(plan: InjectionPlan) -> tuple[str, str] | None:
    """ConfigMap and key with the store's certificate authority; None where it has none."""
    for group, volume in plan.volumes:
        source = child(volume, "configMap")
        if group is Group.CERTIFICATE_AUTHORITY and source:
            return str(source["name"]), str(source["items"][0]["key"])
    return None


def in_cluster_hint(endpoint: str, namespace: str) -> str:
    """Say how to reach an endpoint that only pods can resolve; "" for any other."""
    try:
        url = urlsplit(endpoint)
        host, port = url.hostname or "", url.port or _default_port(url)
    except ValueError:
        return ""
    labels = host.rstrip(".").split(".")
    single = len(labels) == 1 and host not in _LOCAL_NAMES and ":" not in host
    if not host or not (single or "svc" in labels[2:3] or labels[-2:] == ["cluster", "local"]):
        return ""
    place = labels[1] if len(labels) > 1 else namespace
    hint = (
        f"the endpoint {endpoint} is a name inside the cluster: run "
        f"`kubectl port-forward -n {place} service/{labels[0]} {port}:{port}` in another shell and add "
        f"`--endpoint {url.scheme}://127.0.0.1:{port}`"
    )
    if url.scheme == "https":
        hint += f"; its certificate names {host}, so map that name to 127.0.0.1 in /etc/hosts instead"
    return hint


def _default_port(url: SplitResult) -> int:
    return 443 if url.scheme == "https" else 80
