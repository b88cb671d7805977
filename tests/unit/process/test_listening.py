"""Unless told otherwise, every port answers on IPv4 and on IPv6; an address is taken as it is."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from bubu_operator.cli import cli
from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.defaults import EVERYWHERE
from bubu_operator.jobpass.addresses import split_address
from bubu_operator.jobpass.listener import Listener
from bubu_operator.jobpass.tls import ServerIdentity
from bubu_operator.listening import open_listener
from bubu_operator.observability.metrics_server import MetricsServer
from bubu_operator.webhook.main import WebhookOptions, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 address to test with."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def answers(address: str, port: int) -> bool:
    """Whether a connection is taken."""
    try:
        socket.create_connection((address, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def metrics(host: str) -> Iterator[int]:
    """Health and metrics."""
    server = MetricsServer(
        host, 0, healthy=lambda: "", ready=lambda: "", registry=CollectorRegistry(auto_describe=False)
    )
    try:
        yield server.port
    finally:
        server.close()


@contextlib.contextmanager
def reviews(host: str) -> Iterator[int]:
    """The port that API servers call."""
    with listen(host, 0) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def agents(host: str) -> Iterator[int]:
    """The port that agents of passes call."""
    listener = Listener(
        (host, 0),
        ServerIdentity.make(),
        review=lambda _token: None,
        may_send=lambda: True,
        count=lambda _result: None,
    )
    try:
        yield listener.port
    finally:
        listener.close()


def default_of(command: str, option: str) -> str:
    """What a command has unless told otherwise."""
    (found,) = [parameter for parameter in cli.commands[command].params if parameter.name == option]
    return str(found.default)


Opened = contextlib.AbstractContextManager[int]
PORTS = [
    pytest.param(metrics, default_of("controller", "health_host"), id="controller-health"),
    pytest.param(metrics, default_of("webhook", "metrics_host"), id="webhook-health"),
    pytest.param(reviews, default_of("webhook", "host"), id="webhook"),
    pytest.param(agents, split_address(default_of("controller", "job_pass_address"))[0], id="agents"),
]


@needs_ipv6
@pytest.mark.parametrize(("opened", "host"), PORTS)
def test_a_port_answers_on_both_families(opened: Callable[[str], Opened], host: str):
    """A kubelet asks at the pod's own address, of whatever family that is."""
    with opened(host) as port:
        assert [answers("127.0.0.1", port), answers("::1", port)] == [True, True]


@needs_ipv6
@pytest.mark.parametrize("opened", [metrics, reviews, agents])
@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", [True, False]), ("127.0.0.1", [True, False]), ("::1", [False, True])],  # noqa: S104 - one of them
)
def test_an_address_is_taken_as_it_is(opened: Callable[[str], Opened], host: str, expected: list[bool]):
    """The other family is refused."""
    with opened(host) as port:
        assert [answers("127.0.0.1", port), answers("::1", port)] == expected


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize(("opened", "host"), PORTS)
def test_a_machine_without_ipv6_is_served_on_ipv4(
    opened: Callable[[str], Opened], host: str, missing: int, monkeypatch: pytest.MonkeyPatch
):
    """The kernel was started without it, or it was turned off."""

    class WithoutIpv6(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(missing, "no IPv6 here")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)

    with opened(host) as port:
        assert answers("127.0.0.1", port)


@pytest.mark.parametrize(
    ("command", "options"), [("controller", ControllerOptions()), ("webhook", WebhookOptions())]
)
def test_options_in_code_have_the_same_defaults(command: str, options: Any):
    """Whoever makes them without a command line listens there, too."""
    addresses = [name for name in options.__slots__ if name.endswith(("host", "pass_address"))]
    assert addresses
    assert [getattr(options, name) for name in addresses] == [default_of(command, name) for name in addresses]


@needs_ipv6
def test_a_port_that_is_taken_is_an_error():
    """Nobody is served by half, on the family whose port is free."""
    with open_listener("::1", 0, backlog=1) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            open_listener(EVERYWHERE, port, backlog=1)
