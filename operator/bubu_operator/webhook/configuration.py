"""The MutatingWebhookConfiguration: which pods the API server asks us about.

Three entries, so that each pod matches at most one and is never sent twice: engrams, pods
that ask by label, and the other pods of namespaces that ask. ``"false"`` opts out, on the
pod or on the namespace; a pod's ``"true"`` outranks its namespace's ``"false"``. System
namespaces and our own are never matched: the webhook must not stand in the way of its own
start, or of the cluster's.

failurePolicy is Ignore: a pod without storage fails visibly, a cluster that cannot start
pods fails altogether. reinvocationPolicy is IfNeeded: a webhook that runs after ours may
add a container, and injection converges, so a second call is safe. sideEffects is
NoneOnDryRun: a real request may be followed by an event, a dry run never is.
"""

from __future__ import annotations

import base64
import sys
from typing import Any, Final

import yaml

from bubu_operator.defaults import OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_operator.injection.names import (
    ENGRAM_LABEL,
    INJECT_LABEL,
    SYSTEM_NAMESPACES,
)

__all__ = ["WEBHOOK_NAME", "render_webhook_configuration"]

TIMEOUT_SECONDS: Final = 5

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
) -> dict[str, Any]:
    """Return the configuration as an object to apply.

    Args:
        url: address of ``/mutate`` for an API server without our Service in reach; "" for
            the Service.
        ca_bundle_pem: authority of the serving certificate; "" leaves ``caBundle`` to
            whoever writes it later (and GitOps tools do not fight over it).
        operator_namespace: where the operator runs; never matched.
        service_name: Service of the webhook in that namespace; port 443.
    """
    client: dict[str, Any] = (
        {"url": url}
        if url
        else {
            "service": {"namespace": operator_namespace, "name": service_name, "path": "/mutate", "port": 443}
        }
    )
    if ca_bundle_pem:
        client["caBundle"] = base64.b64encode(ca_bundle_pem.encode("ascii")).decode("ascii")
    not_system = _expression("kubernetes.io/metadata.name", "NotIn", *SYSTEM_NAMESPACES, operator_namespace)
    undecided = _expression(INJECT_LABEL, "NotIn", "true", "false")
    entries = (
        (
            "engrams",
            [not_system, _expression(INJECT_LABEL, "NotIn", "false")],
            [_expression(ENGRAM_LABEL, "Exists"), undecided],
        ),
        ("pods", [not_system], [_expression(INJECT_LABEL, "In", "true")]),
        (
            "namespaces",
            [not_system, _expression(INJECT_LABEL, "In", "true")],
            [_expression(ENGRAM_LABEL, "DoesNotExist"), undecided],
        ),
    )
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK_NAME, "labels": dict(_LABELS)},
        "webhooks": [
            {
                "name": f"{name}.storage.bubustack.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": dict(client),
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["pods"],
                        "operations": ["CREATE"],
                        "scope": "Namespaced",
                    }
                ],
                "namespaceSelector": {"matchExpressions": namespaces},
                "objectSelector": {"matchExpressions": pods},
                "matchPolicy": "Equivalent",
                "failurePolicy": "Ignore",
                "reinvocationPolicy": "IfNeeded",
                "sideEffects": "NoneOnDryRun",
                "timeoutSeconds": TIMEOUT_SECONDS,
            }
            for name, namespaces, pods in entries
        ],
    }


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


if __name__ == "__main__":
    sys.stdout.write(to_yaml(render_webhook_configuration()))
