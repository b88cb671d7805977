"""The MutatingWebhookConfiguration: which pods the API server asks us about.

Three entries, so that each pod matches at most one and is never sent twice: engrams, pods
that ask by label, and the other pods of namespaces that ask. ``"false"`` opts out, on the
pod or on the namespace; a pod's ``"true"`` outranks its namespace's ``"false"``.

Each entry stands there twice. Ordinary namespaces: failurePolicy Ignore, because a pod
without storage fails visibly, and a cluster that cannot start pods fails altogether.
Namespaces labelled strict: failurePolicy Fail and a path of its own, where a pod that asks
for storage and cannot get it is refused. The two select by one label, so they never meet.

System namespaces and our own are never matched: the webhook must not stand in the way of
its own start, or of the cluster's. That is said twice, as selector and as CEL condition:
a selector reads a label, which the API server keeps, the condition the request itself.
Mirror pods are kept out, too: a kubelet's picture of a static pod is never injected.

An installation for one namespace selects that one, by the same two means, and nothing else.

reinvocationPolicy is IfNeeded: a webhook that runs after ours may add a container, and
injection converges, so a second call is safe. sideEffects is NoneOnDryRun: a real request
may be followed by an event, a dry run never is.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import click
import yaml

from bubu_operator.defaults import OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_operator.errors import OptionsError
from bubu_operator.injection.names import (
    ENGRAM_LABEL,
    INJECT_LABEL,
    MIRROR_ANNOTATION,
    STRICT_LABEL,
    SYSTEM_NAMESPACES,
)

__all__ = ["MUTATE_PATH", "STRICT_PATH", "WEBHOOK_NAME", "check_scope", "render_webhook_configuration"]

MUTATE_PATH: Final = "/mutate"
STRICT_PATH: Final = "/mutate/strict"
"""Where the entries with failurePolicy Fail lead; below the other, so that a URL takes it as a suffix."""

TIMEOUT_SECONDS: Final = 5
NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""On every namespace, its name; kept by the API server."""

_NAMESPACE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_LABELS: Final = {
    "app.kubernetes.io/name": "bubu-storage-operator",
    "app.kubernetes.io/component": "webhook",
}


def render_webhook_configuration(
    *,
    url: str = "",
    ca_bundle_pem: str = "",
    operator_namespace: str = OPERATOR_NAMESPACE,
    service_name: str = WEBHOOK_NAME,
    only_namespace: str = "",
    name: str = WEBHOOK_NAME,
) -> dict[str, Any]:
    """Return the configuration as an object to apply.

    Args:
        url: address of ``/mutate`` for an API server without our Service in reach; "" for
            the Service. The strict entries lead to ``/strict`` below it.
        ca_bundle_pem: authority of the serving certificate; "" leaves ``caBundle`` to
            whoever writes it later (and GitOps tools do not fight over it).
        operator_namespace: where the operator runs; never matched.
        service_name: Service of the webhook in that namespace; port 443.
        only_namespace: the only one whose pods are asked about; "" for all.
        name: of the configuration.

    Raises:
        OptionsError: ``only_namespace`` is one that is never injected.
    """
    check_scope(only_namespace, operator_namespace)
    ours = (
        _expression(NAME_LABEL, "In", only_namespace)
        if only_namespace
        else _expression(NAME_LABEL, "NotIn", *SYSTEM_NAMESPACES, operator_namespace)
    )
    undecided = _expression(INJECT_LABEL, "NotIn", "true", "false")
    entries = (
        (
            "engrams",
            [ours, _expression(INJECT_LABEL, "NotIn", "false")],
            [_expression(ENGRAM_LABEL, "Exists"), undecided],
        ),
        ("pods", [ours], [_expression(INJECT_LABEL, "In", "true")]),
        (
            "namespaces",
            [ours, _expression(INJECT_LABEL, "In", "true")],
            [_expression(ENGRAM_LABEL, "DoesNotExist"), undecided],
        ),
    )
    clients = {
        path: _client(url, path, ca_bundle_pem, operator_namespace, service_name)
        for path in (MUTATE_PATH, STRICT_PATH)
    }
    modes = (
        ("", _expression(STRICT_LABEL, "NotIn", "true"), "Ignore", MUTATE_PATH),
        ("strict-", _expression(STRICT_LABEL, "In", "true"), "Fail", STRICT_PATH),
    )
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name, "labels": dict(_LABELS)},
        "webhooks": [
            {
                "name": f"{prefix}{entry}.storage.bubustack.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": dict(clients[path]),
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["pods"],
                        "operations": ["CREATE"],
                        "scope": "Namespaced",
                    }
                ],
                "namespaceSelector": {"matchExpressions": [*namespaces, strictness]},
                "objectSelector": {"matchExpressions": pods},
                "matchConditions": _conditions(operator_namespace, only_namespace),
                "matchPolicy": "Equivalent",
                "failurePolicy": policy,
                "reinvocationPolicy": "IfNeeded",
                "sideEffects": "NoneOnDryRun",
                "timeoutSeconds": TIMEOUT_SECONDS,
            }
            for prefix, strictness, policy, path in modes
            for entry, namespaces, pods in entries
        ],
    }


def check_scope(only_namespace: str, operator_namespace: str) -> None:
    """Refuse an installation for a namespace in which nothing is ever injected; "" is fine.

    Raises:
        OptionsError: it is the cluster's own, or the operator's, or no name.
    """
    if not only_namespace:
        return
    if not _NAMESPACE_NAME.fullmatch(only_namespace):
        raise OptionsError(f"{only_namespace!r} is no name of a namespace")
    if only_namespace in (*SYSTEM_NAMESPACES, operator_namespace):
        whose = "the operator's own" if only_namespace == operator_namespace else "one of the cluster's own"
        raise OptionsError(
            f"namespace {only_namespace} is {whose}, where no pod is ever injected: the webhook must not "
            "stand in the way of its own start, or of the cluster's. Give another namespace"
        )


def _client(
    url: str, path: str, ca_bundle_pem: str, operator_namespace: str, service_name: str
) -> dict[str, Any]:
    client: dict[str, Any] = (
        {"url": url.rstrip("/") + path.removeprefix(MUTATE_PATH)}
        if url
        else {"service": {"namespace": operator_namespace, "name": service_name, "path": path, "port": 443}}
    )
    if ca_bundle_pem:
        client["caBundle"] = base64.b64encode(ca_bundle_pem.encode("ascii")).decode("ascii")
    return client


def _conditions(operator_namespace: str, only_namespace: str) -> list[dict[str, str]]:
    """CEL of Kubernetes 1.30; neither can fail for any pod, for a failure would count as one of ours."""
    kept_out = ", ".join(f"'{name}'" for name in (*SYSTEM_NAMESPACES, operator_namespace))
    place = (
        {"name": "the-one-namespace", "expression": f"request.namespace == '{only_namespace}'"}
        if only_namespace
        else {"name": "not-a-system-namespace", "expression": f"!(request.namespace in [{kept_out}])"}
    )
    annotations = "object.metadata.annotations"
    return [
        place,
        {
            "name": "not-a-mirror-pod",
            "expression": f"!has({annotations}) || !('{MIRROR_ANNOTATION}' in {annotations})",
        },
    ]


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    expression: dict[str, Any] = {"key": key, "operator": operator}
    if values:
        expression["values"] = list(values)
    return expression


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the parent's signature
        return True


def to_yaml(configuration: dict[str, Any]) -> str:
    """The configuration as YAML text, the form of the file in the chart."""
    return yaml.dump(configuration, Dumper=_NoAliases, sort_keys=False)


@click.command()
@click.option("--operator-namespace", default=OPERATOR_NAMESPACE, show_default=True)
@click.option("--service-name", default=WEBHOOK_NAME, show_default=True, help="Service of the webhook.")
@click.option("--url", default="", help="Address of /mutate, where there is no Service.")
@click.option("--only-namespace", default="", help="Ask about pods of this namespace only. Default: all.")
@click.option("--name", default=WEBHOOK_NAME, show_default=True, help="Of the configuration.")
def _main(operator_namespace: str, service_name: str, url: str, only_namespace: str, name: str) -> None:
    """Print the MutatingWebhookConfiguration for an installation."""
    try:
        rendered = render_webhook_configuration(
            url=url,
            operator_namespace=operator_namespace,
            service_name=service_name,
            only_namespace=only_namespace,
            name=name,
        )
    except OptionsError as error:
        raise click.UsageError(str(error)) from error
    click.echo(to_yaml(rendered), nl=False)


if __name__ == "__main__":
    _main()
