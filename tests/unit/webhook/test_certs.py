"""Serving certificates: loaded when usable, refused when not, swapped without a gap."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bubu_operator.webhook.certs import CertificateError, CertificateReloader, LoadOutcome, server_context
from tests.cluster.certs import ServingFiles, write_serving_files


@pytest.fixture
def files(tmp_path: Path) -> ServingFiles:
    """A pair in use."""
    return write_serving_files(tmp_path, ["localhost"], ["127.0.0.1"])


@pytest.fixture
def other(tmp_path: Path) -> ServingFiles:
    """Another pair, of another authority."""
    folder = tmp_path / "other"
    folder.mkdir()
    return write_serving_files(folder, ["localhost"], ["127.0.0.1"])


def reloader_of(files: ServingFiles, **more: object) -> tuple[CertificateReloader, ssl.SSLContext]:
    """A reloader and the live context that it feeds."""
    context = server_context()
    return CertificateReloader(files.certificate, files.key, context, **more), context  # type: ignore[arg-type]


def handshake(context: ssl.SSLContext, ca: Path) -> bytes:
    """Shake hands in memory; returns the leaf that the client saw.

    Raises:
        ssl.SSLError: it fails.
    """
    trusting = ssl.create_default_context(cafile=str(ca))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done == 2:
            break
    leaf = client.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def test_a_pair_is_loaded_and_served(files: ServingFiles):
    """The first look loads it, the second finds it unchanged."""
    reloader, context = reloader_of(files)

    assert reloader.check() is LoadOutcome.LOADED
    assert reloader.check() is LoadOutcome.UNCHANGED
    assert reloader.current is not None
    assert reloader.current.subject == "CN=localhost"
    assert handshake(context, files.ca)


def test_a_new_pair_is_served_by_the_live_context(files: ServingFiles, other: ServingFiles):
    """Without a new context, so without a new listener."""
    reloader, context = reloader_of(files)
    reloader.check()
    before = handshake(context, files.ca)

    files.certificate.write_bytes(other.certificate.read_bytes())
    files.key.write_bytes(other.key.read_bytes())

    assert reloader.check() is LoadOutcome.LOADED
    assert handshake(context, other.ca) != before


def test_a_mismatched_pair_is_refused_and_the_old_one_stays(
    files: ServingFiles, other: ServingFiles, caplog: pytest.LogCaptureFixture
):
    """Cert and key are replaced one after the other: in between, nothing breaks; it is said once."""
    reloader, context = reloader_of(files)
    reloader.check()
    before = handshake(context, files.ca)

    files.certificate.write_bytes(other.certificate.read_bytes())
    outcomes = {reloader.check() for _ in range(3)}

    assert outcomes == {LoadOutcome.REFUSED}
    assert handshake(context, files.ca) == before
    refusals = [record for record in caplog.records if "does not belong" in record.getMessage()]
    assert len(refusals) == 1
    files.key.write_bytes(other.key.read_bytes())
    assert reloader.check() is LoadOutcome.LOADED
    assert reloader.last_problem == ""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.certificate.unlink(), "cannot be read: No such file"),
        (lambda f: f.key.unlink(), "cannot be read: No such file"),
        (lambda f: f.certificate.write_text(""), "not a usable PEM"),
        (lambda f: f.certificate.write_text("garbage"), "not a usable PEM"),
        (lambda f: f.key.write_text("-----BEGIN EC PRIVATE KEY-----\nnonsense\n"), "not a usable PEM"),
        (lambda f: f.certificate.write_bytes(b"x" * (1024 * 1024 + 1)), "larger than"),
    ],
)
def test_unusable_files_are_refused_with_the_cause(files: ServingFiles, spoil: object, words: str):
    """At the start there is nothing to serve with; later the old one stays; it heals by itself."""
    good = files.certificate.read_bytes(), files.key.read_bytes()
    running, context = reloader_of(files)
    running.check()
    spoil(files)  # type: ignore[operator]
    starting, _ = reloader_of(files)

    assert starting.check() is LoadOutcome.REFUSED
    assert (starting.current, words in starting.last_problem) == (None, True)
    assert running.check() is LoadOutcome.REFUSED
    assert handshake(context, files.ca)
    files.certificate.write_bytes(good[0])
    files.key.write_bytes(good[1])
    assert starting.check() is LoadOutcome.LOADED
    assert running.check() in (LoadOutcome.LOADED, LoadOutcome.UNCHANGED)
    assert running.last_problem == ""


def test_an_encrypted_key_is_refused_without_asking(files: ServingFiles):
    """A prompt for a password would hang the process."""
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    )
    reloader, _ = reloader_of(files)

    assert reloader.check() is LoadOutcome.REFUSED
    assert "encrypted" in reloader.last_problem


def test_an_expired_pair_is_refused_while_there_is_another(files: ServingFiles, other: ServingFiles):
    """Alone it is served all the same (some callers only pin the key), with a warning."""
    now = [datetime.now(UTC)]
    reloader, context = reloader_of(files, now=lambda: now[0])
    reloader.check()
    before = handshake(context, files.ca)
    now[0] += timedelta(days=400)
    files.certificate.write_bytes(other.certificate.read_bytes())
    files.key.write_bytes(other.key.read_bytes())

    assert reloader.check() is LoadOutcome.REFUSED
    assert "expired at" in reloader.last_problem
    assert handshake(context, files.ca) == before
    alone, _ = reloader_of(other, now=lambda: now[0])
    assert alone.check() is LoadOutcome.LOADED


def test_nothing_is_served_without_a_certificate(files: ServingFiles):
    """Handshakes fail at once; they do not hang."""
    _, context = reloader_of(files)

    with pytest.raises(ssl.SSLError):
        handshake(context, files.ca)


def test_the_key_is_never_written_and_no_descriptor_is_left(files: ServingFiles, other: ServingFiles):
    """Pairs travel through memory; a thousand reloads leave no file behind."""
    reloader, _ = reloader_of(files)
    pairs = [
        (files.certificate.read_bytes(), files.key.read_bytes()),
        (other.certificate.read_bytes(), other.key.read_bytes()),
    ]
    reloader.load(pairs[1])
    before = len(list(Path("/proc/self/fd").iterdir()))

    for number in range(100):
        assert reloader.load(pairs[number % 2]) is LoadOutcome.LOADED

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_old_protocols_are_not_spoken():
    """TLS 1.2 at least; HTTP/1.1 is what is offered."""
    assert server_context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_reading_names_the_file(tmp_path: Path):
    """Reading apart from loading: the reader may run in another thread."""
    missing = tmp_path / "tls.crt"
    reloader = CertificateReloader(missing, missing, server_context())

    with pytest.raises(CertificateError, match=str(missing)):
        reloader.read()
