"""Cluster DNS: CoreDNS as a process on the hub, behind the Service that every cluster has for it.

Names outside the cluster do not exist: no pod of such a cluster can reach them anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.processes import ManagedProcess, spawn

if TYPE_CHECKING:
    from tests.node.network import Plan

__all__ = ["DNS_USER", "dns_objects", "start_dns"]

DNS_USER = "system:coredns"


def start_dns(
    plan: Plan, *, enter: tuple[str, ...], agents: Path, kubeconfig: Path, workdir: Path, detached: bool
) -> ManagedProcess:
    """Start CoreDNS on the hub; it waits for the API server by itself."""
    corefile = workdir / "Corefile"
    corefile.write_text(
        f"""\
cluster.local:53 in-addr.arpa:53 {{
    bind {plan.hub}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 0
    }}
}}
.:53 {{
    bind {plan.hub}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
""",
        encoding="ascii",
    )
    return spawn(
        "coredns",
        [*enter, agents / "coredns", "-conf", corefile],
        log=workdir / "logs" / "coredns.log",
        env=dict(os.environ),
        cwd=workdir,
        die_with_parent=not detached,
    )


def dns_objects(plan: Plan) -> list[dict[str, Any]]:
    """Return the DNS server's rights, its Service, and where that leads."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": DNS_USER},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": DNS_USER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DNS_USER},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DNS_USER}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": plan.dns_service, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-hub",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [plan.hub], "conditions": {"ready": True}}],
    }
    return [role, binding, service, endpoints]
