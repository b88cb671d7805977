"""Endpoints that the controller must not call, by address and by name."""

from __future__ import annotations

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.config_status import judge
from bubu_operator.controllers.endpoint import address_policy, addresses_of, check_endpoint
from bubu_operator.controllers.store_access import StoreAccess
from bubu_operator.errors import EndpointRefusedError
from bubu_storage.errors import AddressNotAllowedError
from bubu_storage.settings import S3Settings


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254",
        "http://169.254.1.2:9000/path",
        "http://[fe80::1]:9000",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200",
        "http://0.0.0.0:9000",
        "http://[::]:9000",
        "http://224.0.0.1",
        "http://2852039166",
        "http://0xA9FEA9FE",
    ],
)
def test_addresses_that_hold_no_store(endpoint):
    """However the address is written: refused, with the address in the message."""
    with pytest.raises(EndpointRefusedError) as raised:
        check_endpoint(endpoint, "remote-or-loopback")

    assert "leads to" in str(raised.value)


@pytest.mark.parametrize(
    "endpoint", ["", "http://127.0.0.1:9000", "http://10.1.2.3", "https://[fd12::1]:9000", "https://8.8.8.8"]
)
def test_addresses_that_may_hold_a_store(endpoint):
    """Private networks are where stores are, and this machine where it is allowed."""
    check_endpoint(endpoint, "remote-or-loopback")


def test_this_machine_needs_the_flag():
    """Other services listen on a loopback address, and trust whoever comes from there."""
    with pytest.raises(EndpointRefusedError, match="--allow-loopback-endpoints"):
        check_endpoint("http://127.0.0.1:9000", address_policy(allow_loopback=False))
    check_endpoint("http://127.0.0.1:9000", address_policy(allow_loopback=True))


def test_a_name_is_judged_by_all_that_it_resolves_to():
    """One bad address among good ones is enough: the SDK may take any."""
    with pytest.raises(EndpointRefusedError):
        check_endpoint("http://store.example", "remote", lambda _host: ["10.0.0.1", "169.254.169.254"])
    check_endpoint("http://store.example", "remote", lambda _host: ["10.0.0.1"])


def test_a_name_that_resolves_to_nothing_is_left_to_the_sdk(monkeypatch):
    """It will say that the endpoint cannot be reached."""

    def fail(*_args, **_options):
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", fail)

    assert addresses_of("nowhere.invalid") == []


@pytest.mark.parametrize("refusal", [EndpointRefusedError("no"), AddressNotAllowedError("no")])
def test_the_condition_has_the_reason(refusal):
    """A refused endpoint is a verdict like any other, whether seen before or at the connection."""
    verdict = judge(
        StoreAccess(S3Settings(bucket="b"), names_secrets=False),
        refusal,
        is_file=False,
        names=False,
    )

    assert verdict.reason is Reason.ENDPOINT_NOT_ALLOWED
