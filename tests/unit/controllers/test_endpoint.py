"""Endpoints that the controller must not call, by address and by name."""

from __future__ import annotations

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.config_status import judge
from bubu_operator.controllers.endpoint import addresses_of, check_endpoint
from bubu_operator.controllers.store_access import StoreAccess
from bubu_operator.errors import EndpointRefusedError
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
        check_endpoint(endpoint)

    assert "leads to" in str(raised.value)


@pytest.mark.parametrize(
    "endpoint", ["", "http://127.0.0.1:9000", "http://10.1.2.3", "https://[fd12::1]:9000", "https://8.8.8.8"]
)
def test_addresses_that_may_hold_a_store(endpoint):
    """Private networks and this machine are where stores are."""
    check_endpoint(endpoint)


def test_a_name_is_judged_by_all_that_it_resolves_to():
    """One bad address among good ones is enough: the SDK may take any."""
    with pytest.raises(EndpointRefusedError):
        check_endpoint("http://store.example", lambda _host: ["10.0.0.1", "169.254.169.254"])
    check_endpoint("http://store.example", lambda _host: ["10.0.0.1"])


def test_a_name_that_resolves_to_nothing_is_left_to_the_sdk(monkeypatch):
    """It will say that the endpoint cannot be reached."""

    def fail(*_args, **_options):
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", fail)

    assert addresses_of("nowhere.invalid") == []


def test_the_condition_has_the_reason():
    """A refused endpoint is a verdict like any other, not a crash."""
    verdict = judge(
        StoreAccess(S3Settings(bucket="b"), names_secrets=False),
        EndpointRefusedError("no"),
        is_file=False,
        names=False,
    )

    assert verdict.reason is Reason.ENDPOINT_NOT_ALLOWED
