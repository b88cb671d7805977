"""Addresses and links of one cluster: a hub, its nodes, and this machine.

    this machine 10.B.0.1 ── veth ── hub 10.B.0.2 (control plane, DNS; a bridge)
                                      ├── veth ── node 1, 10.B.0.11, pods 10.B.64.0/24
                                      └── veth ── node 2, 10.B.0.12, pods 10.B.65.0/24
    Services 10.B.128.0/24

Every namespace belongs to processes, and none has a name: it ends with them, whatever killed them (a
minute later if they had connections). On this machine itself there is one end of one veth pair, with
routes to pods and Services over it, so that tests can reach both; ``runs.py`` knows its name and deletes
it. No packet is forwarded between it and other networks.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from typing import Any, cast

from tests.cluster.errors import StartError

__all__ = ["Plan", "connect_hub", "connect_node", "taken_networks"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All addresses of a cluster follow from the one number of its block.

    Attributes:
        block: the second number of its addresses, 10.BLOCK.0.0/16.
    """

    block: int

    @property
    def network(self) -> str:
        """Everything that the cluster uses."""
        return f"10.{self.block}.0.0/16"

    @property
    def host(self) -> str:
        """This machine's address, which pods and the API server reach."""
        return f"10.{self.block}.0.1"

    @property
    def hub(self) -> str:
        """The address of the control plane and of the DNS server."""
        return f"10.{self.block}.0.2"

    @property
    def pods(self) -> str:
        """The addresses of all pods."""
        return f"10.{self.block}.64.0/19"

    @property
    def services(self) -> str:
        """The addresses of Services."""
        return f"10.{self.block}.128.0/24"

    @property
    def api_service(self) -> str:
        """The address of the Service ``default/kubernetes``."""
        return f"10.{self.block}.128.1"

    @property
    def dns_service(self) -> str:
        """The address of the Service ``kube-system/kube-dns``."""
        return f"10.{self.block}.128.10"

    @property
    def link(self) -> str:
        """The name of this machine's end of its veth pair."""
        return f"bubu{self.block}"

    def node(self, number: int) -> str:
        """Return the address of a node; numbers start at 1."""
        return f"10.{self.block}.0.{10 + number}"

    def node_pods(self, number: int) -> str:
        """Return the addresses of a node's pods."""
        return f"10.{self.block}.{63 + number}.0/24"


def taken_networks() -> list[ipaddress.IPv4Network]:
    """Return what this machine has addresses in or routes to, the default route aside."""
    found: list[ipaddress.IPv4Network] = []
    for route in cast(
        "list[dict[str, Any]]", json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    ):
        destination = str(route.get("dst", "default"))
        if destination != "default":
            found.append(ipaddress.IPv4Network(destination, strict=False))
    return found


def connect_hub(plan: Plan, hub_pid: int, nodes: int) -> None:
    """Link the hub with this machine, and route pods and Services to their nodes.

    Args:
        plan: the cluster's addresses.
        hub_pid: a process in the hub's network namespace.
        nodes: how many nodes there will be.

    Raises:
        StartError: the kernel refused.
    """
    inner = f"{plan.link}h"
    _ip("link", "add", plan.link, "type", "veth", "peer", "name", inner, "netns", str(hub_pid))
    _ip("address", "add", f"{plan.host}/24", "dev", plan.link)
    _ip("link", "set", plan.link, "up")
    _in(hub_pid, "link", "set", "lo", "up")
    _in(hub_pid, "link", "add", "bridge0", "type", "bridge")
    _in(hub_pid, "link", "set", inner, "master", "bridge0", "up")
    _in(hub_pid, "link", "set", "bridge0", "up")
    _in(hub_pid, "address", "add", f"{plan.hub}/24", "dev", "bridge0")
    for number in range(1, nodes + 1):
        _ip("route", "add", plan.node_pods(number), "via", plan.node(number), "dev", plan.link)
        _in(hub_pid, "route", "add", plan.node_pods(number), "via", plan.node(number))
    # Any node's kube-proxy would do; the hub asks pods directly.
    _ip("route", "add", plan.services, "via", plan.node(1), "dev", plan.link)


def connect_node(plan: Plan, hub_pid: int, node_pid: int, number: int, nodes: int) -> None:
    """Link a node with the hub, and route the pods of the other nodes.

    Raises:
        StartError: the kernel refused.
    """
    port = f"node{number}"
    _in(hub_pid, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node_pid))
    _in(hub_pid, "link", "set", port, "master", "bridge0", "up")
    _in(node_pid, "link", "set", "lo", "up")
    _in(node_pid, "address", "add", f"{plan.node(number)}/24", "dev", "eth0")
    _in(node_pid, "link", "set", "eth0", "up")
    _in(node_pid, "route", "add", "default", "via", plan.host)
    for other in range(1, nodes + 1):
        if other != number:
            _in(node_pid, "route", "add", plan.node_pods(other), "via", plan.node(other))


def _in(pid: int, *arguments: str) -> str:
    """Run ip in the network namespace of a process."""
    return _run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", *arguments)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*words: str) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StartError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
