"""Serving certificates: loaded when usable, refused when not, swapped without a gap."""

from __future__ import annotations

import asyncio
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.certs import (
    CertificateError,
    CertificateReloader,
    FileSource,
    LiveCertificate,
    LoadOutcome,
    server_context,
)
from bubu_operator.webhook.main import show_certificate
from tests.cluster.certs import ServingFiles, write_serving_files
from tests.cluster.handshakes import Handshakes
from tests.cluster.processes import wait_until


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


# -- pairs of every kind -------------------------------------------------------------------


def make_pair(
    key: Any = None,
    *,
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=1),
    usage: ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    named: bool = True,
    name: str = "localhost",
) -> tuple[bytes, bytes]:
    """A certificate that signs itself, and its key, PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if named:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = builder.sign(key, algorithm)
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def key_kind(context: ssl.SSLContext, pair: tuple[bytes, bytes], folder: Path) -> str:
    """Kind of the key that a client sees which trusts the pair only."""
    ca = folder / "trusted.crt"
    ca.write_bytes(pair[0])
    return type(x509.load_der_x509_certificate(handshake(context, ca)).public_key()).__name__


def test_keys_of_every_kind_follow_each_other(tmp_path: Path):
    """Nothing of the pair before is left behind, whatever its kind."""
    context = server_context()
    live = LiveCertificate(context)
    seen: list[str] = []
    for key in (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ):
        pair = make_pair(key)
        assert live.load(pair, "files") is LoadOutcome.LOADED
        seen.append(key_kind(context, pair, tmp_path))

    assert len(set(seen)) == 3
    assert seen[0] == seen[3]
    assert seen[1] == seen[4]
    assert live.loads == 5


def test_what_no_api_server_accepts_is_refused(tmp_path: Path):
    """Each with its cause; what was in use stays, and each cause is counted once."""
    context = server_context()
    live = LiveCertificate(context)
    good, other = make_pair(), make_pair()
    live.load(good, "files")
    cases = [
        ((other[0], good[1]), "does not belong"),
        ((other[0] + good[0], good[1]), "certificate 2 of the chain"),
        (make_pair(usage=ExtendedKeyUsageOID.CLIENT_AUTH), "not for servers"),
        (make_pair(named=False), "no subject alternative name"),
        (make_pair(rsa.generate_private_key(65537, 1024)), "too short"),  # noqa: S505
        (make_pair(begins=timedelta(hours=1)), "is not valid before"),
        (make_pair(begins=timedelta(days=-2), ends=timedelta(hours=-1)), "expired at"),
        ((good[0], b""), "no readable key"),
        ((good[0][:200], good[1]), "no readable certificate"),
    ]
    for number, (pair, words) in enumerate(cases, start=1):
        for _ in range(2):
            assert live.load(pair, "files") is LoadOutcome.REFUSED, words
        assert words in live.last_problem
        assert (live.refusals, live.problem()) == (number, "")

    assert key_kind(context, good, tmp_path)
    assert live.loads == 1


def test_a_pair_comes_into_its_time():
    """Refused while the one before is good, taken when its hour has come, without a new file."""
    now = [datetime.now(UTC)]
    live = LiveCertificate(server_context(), now=lambda: now[0])
    later = make_pair(begins=timedelta(hours=2))
    live.load(make_pair(), "files")

    assert live.load(later, "files") is LoadOutcome.REFUSED
    now[0] += timedelta(hours=3)
    assert live.load(later, "files") is LoadOutcome.LOADED
    assert (live.problem(), live.last_problem) == ("", "")


def test_an_expired_certificate_is_a_reason_not_to_be_ready():
    """It is served, as there is no other; but API servers refuse it, and that is said."""
    now = [datetime.now(UTC)]
    live = LiveCertificate(server_context(), now=lambda: now[0])
    assert "none has been looked for" in live.problem()
    live.load(make_pair(), "files")
    assert live.problem() == ""

    now[0] += timedelta(days=2)

    assert "expired at" in live.problem()


def test_files_replaced_one_after_the_other_under_load(files: ServingFiles, tmp_path: Path):
    """Fresh handshakes without pause while certificate and key change again and again: none fails."""
    pairs = [(files.certificate.read_bytes(), files.key.read_bytes())]
    bundle = files.ca.read_text()
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        other = write_serving_files(folder, ["localhost"], ["127.0.0.1"])
        pairs.append((other.certificate.read_bytes(), other.key.read_bytes()))
        bundle += other.ca.read_text()
    rsa_pair = make_pair(rsa.generate_private_key(65537, 2048))
    pairs.append(rsa_pair)
    bundle += rsa_pair[0].decode()
    context = server_context()
    source = FileSource(files.certificate, files.key, context, poll_seconds=0.01)
    with (
        TlsServer(context, source) as server,
        Handshakes("127.0.0.1", server.port, [lambda: bundle] * 4, server_name="localhost") as shaken,
    ):
        for number in range(1, 16):
            certificate, key = pairs[number % len(pairs)]
            refusals, loads = source.refusals, source.loads
            files.certificate.write_bytes(certificate)
            wait_until(lambda before=refusals: source.refusals > before, 10, "the refusal of half a change")
            files.key.write_bytes(key)
            wait_until(lambda before=loads: source.loads > before, 10, "the new pair")
            enough = shaken.done + 20
            wait_until(lambda enough=enough: shaken.done + len(shaken.failures) >= enough, 20, "handshakes")
    print(f"\nfiles: {shaken.done} handshakes in {shaken.seconds:.1f} s, {len(shaken.failures)} failed")

    assert shaken.failures == []
    assert len(shaken.leaves) == len(pairs)


class TlsServer:
    """Answers one request a connection, on a loop in a thread, as the webhook's server does."""

    def __init__(self, context: ssl.SSLContext, source: FileSource) -> None:
        self._context = context
        self._source = source
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        follow = asyncio.create_task(self._source.follow())
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self._context) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._up.set()
            await self._over.wait()
        follow.cancel()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)


def test_metrics_say_how_the_certificate_does(files: ServingFiles):
    """Loads and refusals counted, a trouble as long as it lasts; never a text."""
    metrics = WebhookMetrics()
    source = FileSource(files.certificate, files.key, server_context(), poll_seconds=300)

    def shown() -> tuple[float | None, ...]:
        names = ("loads_total", "refusals_total", "trouble")
        return tuple(metrics.registry.get_sample_value(f"bubu_webhook_certificate_{name}") for name in names)

    assert shown() == (0, 0, 0)
    show_certificate(metrics, source)
    assert shown() == (1, 0, 0)
    good = files.key.read_text()
    files.key.write_text("nonsense")
    look(source)
    look(source)
    assert shown() == (1, 1, 1)
    files.key.write_text(good)
    look(source)
    assert shown()[1:] == (1, 0)
    assert metrics.registry.get_sample_value(
        "bubu_webhook_certificate_not_after_timestamp_seconds"
    ) == pytest.approx(source.current.not_after.timestamp() if source.current else 0)


def look(source: FileSource) -> None:
    """Have it look at the files once."""

    async def once() -> None:
        with pytest.MonkeyPatch.context() as patched:
            looked, pause = asyncio.Event(), asyncio.sleep

            async def paused(seconds: float) -> None:
                looked.set()
                await pause(seconds)

            patched.setattr("bubu_operator.webhook.certs.asyncio.sleep", paused)
            following = asyncio.create_task(source.follow())
            await asyncio.wait_for(looked.wait(), 60)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(once())
