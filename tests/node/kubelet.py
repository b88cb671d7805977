"""kubelet and kube-proxy of a node, with the identities that a real cluster would give them.

The kubelet is ``system:node:NAME`` for the API server's node authorizer. It admits nobody but the API
server's client certificate and bearers of tokens that the API server vouches for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.certs import private_key_pem, write_private

if TYPE_CHECKING:
    from tests.node.containerd import Containerd
    from tests.node.machine import Machine
    from tests.node.network import Plan

__all__ = ["ClientFiles", "start_kube_proxy", "start_kubelet", "write_client_files"]

_DISK_SIGNALS = ("imagefs.available", "imagefs.inodesFree", "nodefs.available", "nodefs.inodesFree")


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """The API server's identity towards kubelets: an authority that has signed one certificate."""

    ca: Path
    certificate: Path
    key: Path


def write_client_files(folder: Path) -> ClientFiles:
    """Make the certificate with which the API server asks kubelets for logs and shells."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bubu-test-kubelet-clients")])
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver"),
        ]
    )

    def builder(name: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=365))
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        builder(subject, key.public_key())
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )

    def write(name: str, item: x509.Certificate) -> Path:
        return write_private(folder / name, item.public_bytes(serialization.Encoding.PEM).decode("ascii"))

    return ClientFiles(
        ca=write("kubelet-clients.crt", ca),
        certificate=write("kubelet-client.crt", certificate),
        key=write_private(folder / "kubelet-client.key", private_key_pem(key)),
    )


def start_kubelet(
    machine: Machine,
    containerd: Containerd,
    plan: Plan,
    *,
    agents: Path,
    kubeconfig: Path,
    client_ca: Path,
) -> None:
    """Start the kubelet; the node is ready when the API server says so.

    Args:
        machine: where it runs.
        containerd: the node's container runtime.
        plan: the cluster's addresses.
        agents: the folder of the program.
        kubeconfig: the node's identity.
        client_ca: who has signed the API server's client certificate.
    """
    folder = machine.folder
    resolv = folder / "resolv.conf"
    # Of a pod with dnsPolicy Default; there is no other name server than the cluster's.
    resolv.write_text(f"nameserver {plan.dns_service}\n", encoding="ascii")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": machine.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "clusterDNS": [plan.dns_service],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{containerd.socket}",
        "enforceNodeAllocatable": [],
        # The disk is the machine's, and fuller than a node's would be.
        "evictionHard": dict.fromkeys(_DISK_SIGNALS, "0%"),
        "failCgroupV1": False,
        "failSwapOn": False,
        "featureGates": {"KubeletInUserNamespace": True},
        "fileCheckFrequency": "0s",
        "healthzPort": 0,
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(folder / "pod-logs"),
        "readOnlyPort": 0,
        "registerNode": True,
        "resolvConf": str(resolv),
        "rotateCertificates": False,
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
        "syncFrequency": "10s",
    }
    machine.spawn(
        "kubelet",
        agents / "kubelet",
        *("--config", _write(folder / "kubelet.json", config)),
        *("--kubeconfig", kubeconfig),
        *("--root-dir", folder / "kubelet", "--cert-dir", folder / "kubelet-serving"),
        *("--hostname-override", machine.name, "--node-ip", machine.address),
        *("--node-labels", f"topology.kubernetes.io/zone=zone-{machine.number}"),
    )


def start_kube_proxy(machine: Machine, plan: Plan, *, agents: Path, kubeconfig: Path) -> None:
    """Start kube-proxy, which makes the addresses of Services work on the node."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": machine.address,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": plan.pods,
        # Limits of connections belong to the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "detectLocalMode": "ClusterCIDR",
        "hostnameOverride": machine.name,
        "mode": "nftables",
        "nftables": {"minSyncPeriod": "100ms"},
    }
    machine.spawn(
        "kube-proxy", agents / "kube-proxy", "--config", _write(machine.folder / "kube-proxy.json", config)
    )


def _write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return path
