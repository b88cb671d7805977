"""Which addresses a store may have, and that a connection goes to no other."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.backend.addresses import ADDRESS_POLICIES, address_refusal
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.s3_guard import MOST_TRIED
from bubu_storage.errors import AddressNotAllowedError, ConfigurationError, StorageError
from bubu_storage.settings import S3Settings

METADATA = "169.254.169.254"
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "planted-secret-key"}


def store(endpoint, **more):
    """A bucket that is opened for somebody else."""
    settings = S3Settings(
        bucket="flows",
        region="us-east-1",
        endpoint=endpoint,
        use_path_style=True,
        max_attempts=3,
        max_backoff_seconds=0.01,
        connect_timeout_seconds=20,
        timeout_seconds=20,
        **{"engine": "boto3", "address_policy": "remote-or-loopback", **KEYS, **more},
    )
    return contextlib.closing(open_backend(settings))


@pytest.mark.parametrize(
    "address",
    [
        METADATA,
        "169.254.0.1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "::a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "64:ff9b:1::a9fe:a9fe",
        "::ffff:0:169.254.169.254",
        "fd00:ec2::254",
        "fd00:ec2::23",  # hands out identities to pods
        "fd00:a9fe:a9fe::1",
        "fd20:ce::254",
        "fd00:42::42",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",  # noqa: S104 - an address to be refused, not to listen on
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ],
)
@pytest.mark.parametrize("policy", ["remote", "remote-or-loopback"])
def test_no_store_is_at_these(address, policy):
    """However an address is wrapped, what it leads to counts."""
    assert address_refusal(address, policy)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_this_machine_is_a_matter_of_the_policy(address):
    """A flag of the administrator's decides, and nothing else."""
    assert address_refusal(address, "remote") == "this machine itself"
    assert address_refusal(address, "remote-or-loopback") == ""


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "172.16.5.5", "8.8.8.8", "fd12::1", "2606:4700::1"]
)
def test_private_and_public_addresses_are_where_stores_are(address):
    """Both policies let them pass."""
    assert [address_refusal(address, policy) for policy in ADDRESS_POLICIES] == ["", "", ""]


@given(st.ip_addresses())
def test_every_address_is_judged_and_the_wider_policy_refuses_less(address):
    """Nothing raises, and what the wider policy refuses the narrower one refuses as well."""
    narrow, wide = (address_refusal(str(address), policy) for policy in ("remote", "remote-or-loopback"))
    assert not wide or narrow == wide
    if isinstance(address, ipaddress.IPv4Address):
        assert address_refusal(f"::ffff:{address}", "remote") == narrow


class Counter:
    """A server that answers 200 with nothing, or sends elsewhere, and knows who came."""

    def __init__(self, answer=None):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_any(self):
                outer.requests.append((self.command, self.path))
                status, headers = answer or (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - the base class names them

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_info):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Names:
    """A name server of one test: each question about ``store.example`` gets the next answer."""

    def __init__(self, monkeypatch, *answers):
        self.real = socket.getaddrinfo
        self.answers = list(answers)
        self.asked = 0
        self.tried = []
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        connect = socket.socket.connect

        def note(sock, address):
            self.tried.append(address[0])
            return connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", note)

    def resolve(self, host, port, *args, **options):
        """Answer for the one name, and as usual for all others."""
        if host != "store.example":
            return self.real(host, port, *args, **options)
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in answer]


def test_a_name_that_changes_its_mind_leads_nowhere(monkeypatch):
    """The look before found a harmless address, the connection's own question a metadata service."""
    names = Names(monkeypatch, ["127.0.0.1"], [METADATA])
    with Counter() as server:
        socket.getaddrinfo("store.example", server.port)
        with (
            store(f"http://store.example:{server.port}") as backend,
            pytest.raises(AddressNotAllowedError, match=METADATA) as raised,
        ):
            backend.head_object("a")

    assert (names.asked, names.tried, server.requests) == (2, [], [])
    assert "planted" not in repr(raised.value)


def test_one_bad_address_among_good_ones_is_enough(monkeypatch):
    """Otherwise an attacker would only have to wait until the good one does not answer."""
    names = Names(monkeypatch, ["127.0.0.1", METADATA])
    with store("http://store.example:9") as backend, pytest.raises(AddressNotAllowedError):
        backend.head_object("a")

    assert names.tried == []


def test_a_name_with_very_many_addresses_is_not_tried_for_hours(monkeypatch):
    """Each of them may take the connect timeout; all are judged, and the first few are tried."""
    names = Names(monkeypatch, [f"127.0.1.{number}" for number in range(200)])
    with (
        store("http://store.example:9") as backend,
        pytest.raises(StorageError),
    ):
        backend.get_object("a")
    attempts = 3
    assert len(names.tried) == attempts * MOST_TRIED

    names.answers[0].append(METADATA)
    with store("http://store.example:9") as backend, pytest.raises(AddressNotAllowedError):
        backend.get_object("a")
    assert len(names.tried) == attempts * MOST_TRIED


def test_a_second_connection_is_judged_anew(monkeypatch):
    """Permission is for one connection, not for a name."""
    names = Names(monkeypatch, ["127.0.0.1"], [METADATA])
    with (
        Counter((204, {"Connection": "close"})) as server,
        store(f"http://store.example:{server.port}") as backend,
    ):
        # The first request is answered, and the connection closed; the next needs a new one.
        backend.delete_object("a")
        with pytest.raises(AddressNotAllowedError):
            backend.delete_object("b")

    assert names.tried == ["127.0.0.1"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_numeric_endpoint_is_refused_at_the_connection(scheme):
    """No look before is needed for that."""
    with (
        store(f"{scheme}://{METADATA}:9") as backend,
        pytest.raises(AddressNotAllowedError, match="metadata"),
    ):
        backend.head_object("a")


def test_loopback_is_refused_unless_allowed():
    """The policy without loopback sends nothing to this machine."""
    with Counter() as server:
        with (
            store(f"http://127.0.0.1:{server.port}", address_policy="remote") as backend,
            pytest.raises(AddressNotAllowedError, match="this machine"),
        ):
            backend.head_object("a")
        assert server.requests == []


@pytest.mark.parametrize("host", [METADATA, "[fd00:ec2::254]", "0xa9.0xfe.0xa9.0xfe", "2852039166"])
def test_a_number_is_judged_before_a_proxy_sees_it(host, monkeypatch):
    """A proxy resolves names and may refuse what it likes; a number needs no resolving."""
    with Counter() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with store(f"http://{host}") as backend, pytest.raises(AddressNotAllowedError, match="metadata"):
            backend.head_object("a")
        assert proxy.requests == []

        with contextlib.suppress(StorageError), store("http://store.example") as backend:
            backend.head_object("a")
        assert proxy.requests


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(status):
    """Also not with the headers by which AWS names another region."""
    with Counter() as other:
        elsewhere = {
            "Location": f"http://127.0.0.1:{other.port}/flows/a",
            "x-amz-bucket-region": "eu-central-1",
        }
        with Counter((status, elsewhere)) as server, store(f"http://127.0.0.1:{server.port}") as backend:
            for call in (
                lambda: backend.head_object("a"),
                lambda: backend.get_object("a"),
                lambda: list(backend.list_objects("")),
            ):
                with pytest.raises(StorageError):
                    call()
        assert server.requests
    assert other.requests == []


def test_an_unknown_policy_is_refused_when_the_store_is_opened():
    """A typing error must not mean "any"."""
    with pytest.raises(ConfigurationError, match="address policy"):
        store("http://127.0.0.1:9", address_policy="distant")


def test_the_fast_engine_cannot_be_guarded():
    """Asked for by name it is refused; ``auto`` takes the engine that can be."""
    with pytest.raises(ConfigurationError, match="address policy"):
        store("http://127.0.0.1:9", engine="obstore")
    with store("http://127.0.0.1:9", engine="auto") as backend:
        assert type(backend).__name__ == "S3Backend"
