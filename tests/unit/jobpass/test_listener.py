"""Who gets in: an agent with the token of its Job's pod, for a pass that is expected, once; nobody else."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from bubu_operator.errors import KubeUnreachableError
from bubu_operator.jobpass.frames import Frame, encode_frame
from bubu_operator.jobpass.hello import AUDIENCE, Deadline, Hello, first_frame, send_frame, shake_hands
from bubu_operator.jobpass.listener import Expected, Listener, PodIdentity, read_review
from bubu_operator.jobpass.lobby import MAX_CALLERS, MAX_CALLERS_OF_ADDRESS
from bubu_operator.jobpass.tls import ServerIdentity, WrongPinError, check_pin, client_context, parse_pin

IDENTITY = ServerIdentity.make()
POD = PodIdentity("team-a", "runner", "pod-1", "uid-1")
TOKEN = "eyJPLANTED.token.VALUE0123456789"


class World:
    """A listener on loopback, its counts, and what the API server says of tokens."""

    def __init__(self, **options):
        self.counts = []
        self.changed = threading.Event()
        self.tokens = {TOKEN: POD}
        self.may_send = True
        self.review_now = None
        self.listener = Listener(
            ("127.0.0.1", 0),
            IDENTITY,
            review=self.review,
            may_send=lambda: self.may_send,
            count=self.count,
            **{"hello_seconds": 60.0, **options},
        )
        self.listener.start()
        self.arrived = threading.Event()

    def count(self, result):
        """Take down what became of a caller."""
        self.counts.append(result)
        self.changed.set()

    def review(self, token):
        """Say whose token it is."""
        if self.review_now is not None:
            return self.review_now(token)
        found = self.tokens.get(token)
        if isinstance(found, Exception):
            raise found
        return found

    def expect(self, admit=lambda pod: pod == POD):
        """Expect pass p-1."""
        expected = Expected("test://store", admit, self.arrived.set)
        self.listener.expect("p-1", expected)
        return expected

    @contextlib.contextmanager
    def call(self):
        """Call and shake hands; yield the connection and a deadline."""
        connection = socket.create_connection(("127.0.0.1", self.listener.port), timeout=60)
        deadline = Deadline(60)
        with client_context().wrap_socket(connection, do_handshake_on_connect=False) as secure:
            secure.setblocking(False)
            shake_hands(secure, deadline)
            yield secure, deadline

    def answer(self, hello):
        """Say hello as given; return the controller's answer."""
        with self.call() as (secure, deadline):
            send_frame(secure, hello, deadline)
            return first_frame(secure, deadline).header

    def counted(self, result):
        """Wait until a caller has come to this."""
        deadline = time.monotonic() + 60
        while result not in self.counts:
            assert time.monotonic() < deadline, self.counts
            self.changed.wait(0.05)


@pytest.fixture
def world():
    """A listener."""
    made = World()
    yield made
    made.listener.close()


def hello(token=TOKEN, run="p-1"):
    """Make a first frame."""
    return Hello(run, token).to_frame()


def test_the_agent_of_an_expected_pass_is_let_in(world):
    """Bytes go both ways afterwards, through a socket for the pass's process."""
    expected = world.expect()
    with world.call() as (secure, deadline):
        check_pin(secure, world.listener.pin)
        send_frame(secure, hello(), deadline)
        assert first_frame(secure, deadline).header == {"welcome": 1}
        assert world.arrived.wait(60)
        channel = expected.channel
        assert channel is not None
        theirs = socket.socket(fileno=os.dup(channel.settings.descriptor))
        channel.handed_over()
        theirs.settimeout(60)
        payload = os.urandom(3 << 20)
        sender = threading.Thread(target=theirs.sendall, args=(payload,))
        sender.start()
        got = bytearray()
        while len(got) < len(payload):
            try:
                got += secure.recv(1 << 16)
            except ssl.SSLWantReadError:
                deadline.wait(secure, to_write=False)
        sender.join(60)
        assert bytes(got) == payload
        secure.setblocking(True)
        secure.sendall(b"answer")
        assert theirs.recv(100) == b"answer"
        theirs.close()
        assert secure.recv(1) == b"", "the end of the process is the end of the agent's line"
    assert world.counts == ["Admitted"]


def test_nothing_is_sent_once_this_controller_does_not_lead(world):
    """What the process had sent before is held back, and the channel ends."""
    expected = world.expect()
    with world.call() as (secure, deadline):
        send_frame(secure, hello(), deadline)
        first_frame(secure, deadline)
        assert world.arrived.wait(60)
        world.may_send = False
        with socket.socket(fileno=os.dup(expected.channel.settings.descriptor)) as theirs:
            theirs.sendall(b"delete everything")
            secure.setblocking(True)
            secure.settimeout(60)
            assert secure.recv(100) == b""


@pytest.mark.parametrize(
    ("frame", "count"),
    [
        (hello(token="eyJsomebody.elses.token"), "Unauthenticated"),
        (hello(run="p-2"), "Unexpected"),
        (hello(run=""), "Unexpected"),
    ],
)
def test_others_are_told_and_closed(world, frame, count):
    """A token that is none of a pod's for us, a pass that nobody expects."""
    world.expect()

    assert world.answer(frame)["problem"]

    assert world.counts == [count]
    assert not world.arrived.is_set()


def test_a_token_of_another_pod(world):
    """The API server knows it, and it is none of this pass's Job."""
    world.expect()
    world.tokens["other"] = PodIdentity("team-a", "runner", "pod-2", "uid-2")

    assert "did not make" in world.answer(hello(token="other"))["problem"]
    assert world.counts == ["WrongPod"]


def test_a_token_that_cannot_be_reviewed(world):
    """Nobody is let in on trust."""
    world.expect()
    world.tokens[TOKEN] = KubeUnreachableError("no connection")

    assert "cannot be reviewed" in world.answer(hello())["problem"]
    assert world.counts == ["NotReviewed"]


def test_a_pass_has_one_agent(world):
    """The second one is turned away, also with a good token."""
    world.expect()
    with world.call() as (secure, deadline):
        send_frame(secure, hello(), deadline)
        first_frame(secure, deadline)
        assert world.arrived.wait(60)

        assert world.answer(hello())["problem"]


def test_a_pass_that_is_over(world):
    """Forgetting it ends its channel and lets nobody in any more."""
    world.expect()
    with world.call() as (secure, deadline):
        send_frame(secure, hello(), deadline)
        first_frame(secure, deadline)
        assert world.arrived.wait(60)
        world.listener.forget("p-1")
        secure.setblocking(True)
        assert secure.recv(1) == b""

    assert world.answer(hello())["problem"]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        encode_frame(Frame({"hello": 2, "pass": "p-1", "token": TOKEN})),
        encode_frame(Frame({"hello": 1, "pass": 1, "token": TOKEN})),
        encode_frame(Frame({"hello": 1, "pass": "p-1"})),
        encode_frame(hello()) + encode_frame(Frame({"id": 1, "clock": 0.0})),
        encode_frame(Frame({"hello": 1, "pass": "p-1", "token": "x" * 20_000})),
        encode_frame(Frame({"hello": 1, "pass": "p-1", "token": TOKEN}, b"body")),
    ],
    ids=["noise", "version", "type", "missing", "more", "long", "body"],
)
def test_first_frames_that_are_none(world, data):
    """Closed without a word, and counted."""
    world.expect()
    with world.call() as (secure, _deadline):
        secure.setblocking(True)
        secure.sendall(data)
        with contextlib.suppress(OSError):
            assert secure.recv(100) == b""

    world.counted("NoHello")
    assert not world.arrived.is_set()


def test_the_silent_and_the_plain(world):
    """They cost a few seconds of one place each; plain HTTP is no TLS."""
    made = World(hello_seconds=0.3)
    try:
        with socket.create_connection(("127.0.0.1", made.listener.port), timeout=60) as silent:
            assert silent.recv(1) == b""
        made.counted("TooSlow")
    finally:
        made.listener.close()
    with socket.create_connection(("127.0.0.1", world.listener.port), timeout=60) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(OSError):
            while plain.recv(100):
                pass
    world.counted("Broken")


def test_one_address_does_not_take_all_places(world):
    """More callers than one may have at a time are closed at once."""
    address = ("127.0.0.1", world.listener.port)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CALLERS_OF_ADDRESS + 1):
            stack.enter_context(socket.create_connection(address, timeout=60))
        world.counted("TooMany")
    world.counted("Broken")


@contextlib.contextmanager
def arrived(world):
    """Let an agent in; yield its channel."""
    with arrived_at(world) as (_, channel):
        yield channel


@contextlib.contextmanager
def arrived_at(world):
    """Let an agent in; yield its connection and its channel."""
    expected = world.expect()
    with world.call() as (secure, deadline):
        send_frame(secure, hello(), deadline)
        first_frame(secure, deadline)
        assert world.arrived.wait(60)
        yield secure, expected.channel


def test_a_lent_descriptor_keeps_its_number(world):
    """Until the pass's process has it: the number must never come to mean another team's channel."""
    with arrived(world) as channel:
        descriptor = channel.settings.descriptor
        assert channel.lend()
        world.listener.forget("p-1")
        channel.close()

    with socket.socket(fileno=os.dup(descriptor)) as theirs:
        theirs.settimeout(60)
        assert theirs.recv(1) == b"", "the channel has ended, and its descriptor is its own"
    channel.handed_over()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_who_ended_the_channel_is_known(world):
    """An agent that left is another thing than a pass that is over."""
    with arrived(world) as channel:
        assert not channel.agent_left
    with socket.socket(fileno=os.dup(channel.settings.descriptor)) as theirs:
        theirs.settimeout(60)
        assert theirs.recv(1) == b""
    assert channel.agent_left
    world.arrived.clear()
    world.listener.forget("p-1")

    with arrived(world) as second:
        with socket.socket(fileno=os.dup(second.settings.descriptor)) as theirs:
            second.handed_over()
            theirs.close()
        deadline = time.monotonic() + 60
        while second.alive:
            assert time.monotonic() < deadline
    assert not second.agent_left


def test_a_channel_that_has_ended_is_not_lent(world):
    """Whoever asks too late hears that there is none."""
    with arrived(world) as channel:
        channel.close()

        assert not channel.lend()


def test_a_newcomer_gets_the_place_of_who_has_many(world):
    """Somebody who fills all places from a few addresses does not keep the agents out."""
    address = ("127.0.0.1", world.listener.port)
    with contextlib.ExitStack() as stack:
        for number in range(MAX_CALLERS):
            source = f"127.0.0.{2 + number // MAX_CALLERS_OF_ADDRESS}"
            stack.enter_context(socket.create_connection(address, timeout=60, source_address=(source, 0)))
        until_in(world, MAX_CALLERS)
        world.expect()

        assert world.answer(hello()) == {"welcome": 1}

        world.counted("Displaced")


def test_callers_of_one_pass_do_not_keep_the_agents_of_others_out(world):
    """Who waits for the review of a token can be displaced, too: a team knows the names of its own passes."""
    asking = []

    class Counted:
        """A lock that knows who has asked for it."""

        def __init__(self):
            self.lock = threading.Lock()
            self.release = self.lock.release

        def acquire(self, timeout):
            """Take it."""
            asking.append(timeout)
            return self.lock.acquire(timeout=timeout)

    world.expect().judging = Counted()
    others = Expected("other store", lambda pod: pod == POD, world.arrived.set)
    world.listener.expect("p-2", others)
    go = threading.Event()

    def review(token):
        assert token == TOKEN or go.wait(60)
        return POD if token == TOKEN else None

    world.review_now = review
    address = ("127.0.0.1", world.listener.port)
    with contextlib.ExitStack() as stack:
        stack.callback(go.set)
        for number in range(MAX_CALLERS):
            source = f"127.0.0.{2 + number // MAX_CALLERS_OF_ADDRESS}"
            connection = socket.create_connection(address, timeout=60, source_address=(source, 0))
            secure = stack.enter_context(client_context().wrap_socket(connection))
            secure.setblocking(False)
            send_frame(secure, hello(token="another"), Deadline(60))
        deadline = time.monotonic() + 60
        while len(asking) < MAX_CALLERS:
            assert time.monotonic() < deadline

        assert world.answer(hello(run="p-2")) == {"welcome": 1}


def until_in(world, callers):
    """Wait until so many callers are in."""
    deadline = time.monotonic() + 60
    while world.listener.callers < callers:
        assert time.monotonic() < deadline, world.counts


def test_one_token_of_a_pass_is_reviewed_at_a_time(world):
    """Many callers for one pass make no flood of requests to the API server, and one agent gets in."""
    world.expect()
    entered, go, most, now = threading.Event(), threading.Event(), [], []

    def review(_token):
        now.append(1)
        most.append(len(now))
        entered.set()
        assert go.wait(60)
        now.pop()
        return POD

    world.review_now = review
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(world.answer(hello()))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert entered.wait(60)
    until_in(world, 5)
    go.set()
    for thread in threads:
        thread.join(60)

    assert max(most) == 1
    assert sorted(map(len, answers)) == [1, 2, 2, 2, 2], "one is welcome, the others have a problem"
    assert world.counts.count("Admitted") == 1


def test_when_no_thread_can_be_started(world, monkeypatch):
    """That caller is closed; the next one is heard."""
    starts = threading.Thread.start

    def fails(thread):
        if thread.name == "agent-hello":
            raise RuntimeError("can't start new thread")
        starts(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        with socket.create_connection(("127.0.0.1", world.listener.port), timeout=60) as connection:
            assert connection.recv(1) == b""
        world.counted("NoThread")
    world.expect()
    assert world.answer(hello()) == {"welcome": 1}


def test_a_flood_of_callers_is_no_flood_of_lines(world, caplog):
    """Each is counted; the log has one line of a kind in a while."""
    caplog.set_level(logging.INFO)
    for _ in range(30):
        world.answer(hello())

    assert world.counts == ["Unexpected"] * 30
    assert len([one for one in caplog.messages if "turned away" in one]) < 5


def test_descriptors_and_threads_after_many_passes(world):
    """All are given back, also those of callers that were turned away."""
    one_pass(world)
    before = in_use()
    for _ in range(100):
        one_pass(world)

    deadline = time.monotonic() + 60
    while any(now > then for now, then in zip(in_use(), before, strict=True)):
        assert time.monotonic() < deadline


def in_use():
    """Count descriptors and threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def one_pass(world):
    """An agent comes, its pass takes the channel, and it is over; somebody else is turned away."""
    world.arrived.clear()
    with arrived(world) as channel:
        assert channel.lend()
        channel.handed_over()
        world.listener.forget("p-1")
    assert world.answer(hello())["problem"]


def test_neither_side_can_fill_the_controllers_memory(world):
    """Who reads nothing is sent nothing more: what is held is bounded both ways."""
    most, piece = 64 << 20, bytes(1 << 16)
    with arrived_at(world) as (secure, channel):
        with socket.socket(fileno=os.dup(channel.settings.descriptor)) as theirs:
            theirs.setblocking(False)
            for send in (secure.send, theirs.send):
                sent, quiet = 0, time.monotonic() + 0.5
                while sent < most and time.monotonic() < quiet:
                    try:
                        sent += send(piece)
                        quiet = time.monotonic() + 0.5
                    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                        continue
                assert 1 << 20 < sent < most
        assert channel.alive


def test_a_caller_in_the_middle_of_its_review_when_the_listener_closes(world):
    """It is not let in any more, and what was made for it is closed."""
    expected = world.expect()
    entered, go = threading.Event(), threading.Event()

    def review(_token):
        entered.set()
        assert go.wait(60)
        return POD

    world.review_now = review
    with world.call() as (secure, deadline):
        send_frame(secure, hello(), deadline)
        assert entered.wait(60)
        world.listener.close()
        go.set()
        secure.setblocking(True)
        secure.settimeout(60)
        while secure.recv(100):
            pass
    assert expected.channel is None
    assert "Admitted" not in world.counts
    assert not world.arrived.is_set()


def test_no_token_is_logged(world, caplog):
    """Neither a good one nor a bad one."""
    caplog.set_level(logging.DEBUG)
    world.expect(admit=lambda _pod: False)
    world.answer(hello())
    world.answer(hello(token="eyJsomebody.elses.token"))

    assert len(world.counts) == 2
    assert "PLANTED" not in caplog.text
    assert "somebody" not in caplog.text
    assert "PLANTED" not in repr(Hello("p-1", TOKEN))


def test_another_certificate_is_noticed_before_anything_is_said(world):
    """By its fingerprint; no name and no authority counts."""
    with world.call() as (secure, _deadline):
        check_pin(secure, IDENTITY.pin)
        with pytest.raises(WrongPinError, match="nothing was sent"):
            check_pin(secure, ServerIdentity.make().pin)


def test_only_the_newest_tls_is_spoken(world):
    """An older one is refused by the listener."""
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", world.listener.port), timeout=60) as connection,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(connection)


@pytest.mark.parametrize("pin", ["", "sha256:", "sha256:" + "g" * 64, "sha1:" + "0" * 40, "0" * 64])
def test_pins_that_are_none(pin):
    """An agent without a good pin does not call anybody."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        parse_pin(pin)


REVIEW = {
    "authenticated": True,
    "audiences": [AUDIENCE],
    "user": {
        "username": "system:serviceaccount:team-a:runner",
        "extra": {
            "authentication.kubernetes.io/pod-name": ["pod-1"],
            "authentication.kubernetes.io/pod-uid": ["uid-1"],
        },
    },
}


def test_a_review():
    """Whose token it is."""
    assert read_review(REVIEW) == POD


@pytest.mark.parametrize(
    "change",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": None},
        {"user": {}},
        {"user": REVIEW["user"] | {"username": "admin"}},
        {"user": REVIEW["user"] | {"username": "system:node:team-a:runner"}},
        {"user": REVIEW["user"] | {"extra": {}}},
        {"user": REVIEW["user"] | {"extra": {"authentication.kubernetes.io/pod-name": ["pod-1"]}}},
    ],
)
def test_reviews_that_are_not_good_for_us(change):
    """Another audience (the API server's), no pod's, nobody's."""
    assert read_review(REVIEW | change) is None
