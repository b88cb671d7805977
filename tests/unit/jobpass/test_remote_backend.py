"""The engine's side: calls end, whatever the agent does, and nothing is executed too late."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from bubu_operator.jobpass.agent_channel import START_SECONDS, AgentChannel
from bubu_operator.jobpass.executor import Executor
from bubu_operator.jobpass.frames import Frame, FrameReader, encode_frame
from bubu_operator.jobpass.remote_backend import RemoteBackend
from bubu_operator.jobpass.rights import Rights
from bubu_operator.jobpass.serving import ServingEnd, serve
from bubu_operator.kube.scrub import Redactor
from bubu_storage.backend.last_look import GuardsDeletions
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import (
    BatchDeleteNotSupportedError,
    LimitExceededError,
    NotSentError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from bubu_storage.testing.fakes import CountingBackend
from tests.unit.jobpass.pairs import EveryRight, agent_of

PLANTED = "PLANTEDsecretVALUE0123456789"
HELLO = {"batches": True}


@contextlib.contextmanager
def scripted(answer, **options):
    """A remote backend whose agent answers hello, then as told: a function from frame to bytes or None."""
    ours, theirs = socket.socketpair()
    asked = []

    def run():
        reader = FrameReader()
        with contextlib.suppress(OSError):
            while data := theirs.recv(65536):
                for frame in reader.feed(data):
                    if frame.header["op"] == "hello":
                        theirs.sendall(good(frame, HELLO))
                        continue
                    asked.append(frame)
                    made = answer(frame)
                    if made is None:
                        theirs.shutdown(socket.SHUT_RDWR)
                        return
                    theirs.sendall(made)

    thread = threading.Thread(target=run)
    thread.start()
    remote = RemoteBackend(AgentChannel(ours, "test://store", **options))
    try:
        yield remote, asked
    finally:
        remote.close()
        thread.join(60)
        theirs.close()


def good(frame, ok, **more):
    """Make an answer."""
    return encode_frame(Frame({"id": frame.header["id"], "clock": time.monotonic(), "ok": ok, **more}))


class Failing(MemoryBackend):
    """Raises whatever it is told to."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def server_time(self):
        """Fail."""
        raise self.error


def test_the_end_of_the_agent_is_the_end_of_all_calls():
    """Those under way and those to come, at once."""
    arrived, released = threading.Event(), threading.Event()

    def answer(_frame):
        arrived.set()
        released.wait(10)

    with scripted(answer) as (remote, _asked):
        failures = []

        def ask():
            try:
                remote.server_time()
            except UnavailableError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert arrived.wait(10)
        released.set()
        for thread in threads:
            thread.join(60)

        assert len(failures) == 5
        with pytest.raises(UnavailableError, match="test://store is lost"):
            remote.head_object("k")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _frame: b"\xff" * 64,
        lambda _frame: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda frame: encode_frame(Frame({"id": frame.header["id"] + 1000, "clock": 0.0, "ok": {}})),
        lambda frame: encode_frame(Frame({"id": frame.header["id"], "ok": {}})),
        lambda _frame: encode_frame(Frame({"id": "1", "clock": 0.0})),
        lambda frame: good(frame, {"time": "now"}),
        lambda frame: good(frame, []),
        lambda frame: encode_frame(Frame({"id": frame.header["id"], "clock": 0.0, "error": "no"})),
        lambda frame: good(frame, {}),
    ],
    ids=["noise", "http", "unasked", "clockless", "id", "time", "list", "error", "empty"],
)
def test_an_agent_that_answers_nonsense_is_cut_off(answer):
    """It is of no use for anything after that."""
    with scripted(answer) as (remote, asked):
        for _ in range(2):
            with pytest.raises(UnavailableError):
                remote.server_time()
        assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda frame: good(frame, {"time": 0}, clock=10**400),
        lambda frame: good(frame, {"time": 0}, clock=-(10**400)),
        lambda frame: good(frame, {"time": 0}, id=10**400),
        lambda frame: encode_frame(
            Frame(
                {
                    "id": frame.header["id"],
                    "clock": 0.0,
                    "error": {
                        "type": "ThrottledError",
                        "message": "slower",
                        "retry_after_seconds": 10**400,
                    },
                }
            )
        ),
    ],
    ids=["clock", "past", "id", "pause"],
)
def test_numbers_that_nothing_can_be_reckoned_with(answer):
    """The channel ends at once; nobody waits for an answer that nobody reads any more."""
    with scripted(answer) as (remote, _), pytest.raises(UnavailableError, match="nonsense"):
        remote.server_time()


def test_whatever_ends_the_reading_ends_all_calls(monkeypatch):
    """Also what nobody has thought of."""

    def broken(*_):
        raise RuntimeError("unthought of")

    with scripted(lambda frame: good(frame, {"time": 0})) as (remote, _):
        monkeypatch.setattr(AgentChannel, "_take", broken)
        with pytest.raises(UnavailableError, match="RuntimeError"):
            remote.server_time()


def test_an_agent_that_goes_on_answering_is_cut_off():
    """Each request has one answer: more of them would keep this process and the pump busy for nothing."""

    def answer(frame):
        return good(frame, {"time": 0}) * 2

    def look(remote):
        for _ in range(10):
            remote.server_time()

    with scripted(answer) as (remote, _), pytest.raises(UnavailableError, match="nonsense"):
        look(remote)


def test_failures_of_keys_that_nobody_asked_about():
    """An agent cannot speak about other objects."""
    told = {"other": {"type": "StorageError", "message": "m"}}
    with (
        scripted(lambda frame: good(frame, {"failed": told})) as (remote, _),
        pytest.raises(UnavailableError, match="nonsense"),
    ):
        remote.delete_objects(["k"])


def test_an_agent_that_does_not_answer():
    """The call ends; a late answer disturbs nobody."""
    late = []

    def answer(frame):
        if not late:
            late.append(frame)
            return b""
        return good(late[0], {"time": 0}) + good(frame, {"time": 0})

    with scripted(answer, answer_seconds=0.2) as (remote, _):
        with pytest.raises(StorageTimeoutError, match=r"did not answer within 0\.2 s"):
            remote.delete_object("k")
        assert remote.server_time().year == 1970


def test_answers_in_any_order():
    """Each goes to who asked."""
    held = []

    def answer(frame):
        held.append(frame)
        if len(held) < 2:
            return b""
        return b"".join(good(one, {"time": one.header["id"] * 10**6}) for one in reversed(held))

    with scripted(answer) as (remote, asked):
        times = []
        threads = [threading.Thread(target=lambda: times.append(remote.server_time())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert {time.timestamp() for time in times} == {float(one.header["id"]) for one in asked}


def test_a_request_that_was_held_up_is_not_executed():
    """By the agent's own clock, however different it is from ours: nothing is deleted too late."""
    store = MemoryBackend()
    store.put_object("x/k", b"x")
    clocks = {"ours": 5.0, "theirs": 90_000.0}
    executor = Executor(store, EveryRight(("x/",)), Redactor(), clock=lambda: clocks["theirs"])
    delays = []

    def answer(frame):
        if delays:
            clocks["theirs"] += delays.pop()
        return encode_frame(executor.execute(frame))

    ours, theirs = socket.socketpair()

    def run():
        reader = FrameReader()
        with contextlib.suppress(OSError):
            while data := theirs.recv(65536):
                for frame in reader.feed(data):
                    theirs.sendall(answer(frame))

    thread = threading.Thread(target=run)
    thread.start()
    remote = RemoteBackend(AgentChannel(ours, "test://store", clock=lambda: clocks["ours"]))
    try:
        delays.append(START_SECONDS + 0.1)
        with pytest.raises(StorageTimeoutError, match=r"0\.1 s too late; nothing was done"):
            remote.delete_object("x/k")
        assert store.head_object("x/k").size_bytes == 1
        remote.delete_object("x/k")
        assert list(store.list_objects()) == []
    finally:
        remote.close()
        thread.join(60)
        theirs.close()


def test_a_last_look_before_a_deletion_leaves_for_the_agent():
    """What it forbids is not sent, alone or with others; reading asks nobody, nor does anything later."""
    store = CountingBackend(MemoryBackend())
    store.put_object("x/k", b"x")
    looks = []

    def forbid():
        looks.append(len(looks))
        raise RuntimeError("the Lease is over")

    with agent_of(store) as remote:
        assert isinstance(remote, GuardsDeletions)
        with remote.guard_deletions(forbid):
            with pytest.raises(NotSentError, match="the Lease is over"):
                remote.delete_object("x/k")
            with pytest.raises(NotSentError, match="the Lease is over"):
                remote.delete_objects(["x/k"])
            assert len(looks) == 2
            assert remote.head_object("x/k").size_bytes == 1
            assert len(looks) == 2
        remote.delete_objects(["x/k"])

    assert len(looks) == 2
    assert list(store.list_objects()) == []


def test_reading_is_tried_again_and_deleting_is_not():
    """Whether a deletion may still be sent is not this module's to say."""
    failure = {"type": "UnavailableError", "message": "reset"}
    left = [2]

    def answer(frame):
        if frame.header["op"] == "time" and not left[0]:
            return good(frame, {"time": 0})
        left[0] -= 1
        return encode_frame(Frame({"id": frame.header["id"], "clock": 0.0, "error": failure}))

    pauses = []
    with scripted(answer, sleep=pauses.append) as (remote, asked):
        assert remote.server_time().year == 1970
        assert (len(asked), len(pauses)) == (3, 2)
        with pytest.raises(UnavailableError, match="reset"):
            remote.delete_objects(["k"])
        assert (len(asked), len(pauses)) == (4, 2)


def test_errors_of_the_store_arrive_without_secrets():
    """As their class; what the agent knows to be secret is blotted out."""
    redactor = Redactor()
    redactor.add([PLANTED])
    for error in (
        UnauthenticatedError(f"key {PLANTED} is unknown", status=403),
        ThrottledError("slower", retry_after_seconds=1.5),
    ):
        with agent_of(Failing(error), redactor=redactor) as remote:
            with pytest.raises(type(error)) as caught:
                remote.server_time()
            assert PLANTED not in str(caught.value)
            assert caught.value.status == error.status
    with agent_of(Failing(RuntimeError(PLANTED))) as remote:
        with pytest.raises(StorageError, match="RuntimeError") as plain:
            remote.server_time()
        assert PLANTED not in str(plain.value)


def test_a_store_without_batches():
    """The engine hears what it hears of any such store, and deletes one by one."""

    class Single:
        """A backend without `delete_objects`."""

        name = "single://"

        def server_time(self):
            """Never asked."""
            raise AssertionError

    with agent_of(Single()) as remote, pytest.raises(BatchDeleteNotSupportedError):
        remote.delete_objects(["x/a"])


def test_a_listing_goes_on_where_it_was():
    """Pages are those of one listing of the store, as without an agent."""
    counting = CountingBackend(MemoryBackend())
    for number in range(25):
        counting.put_object(f"x/{number:02d}", b"x")
    with agent_of(counting) as remote:
        assert [len(page.objects) for page in remote.list_objects("x/", page_size=10)] == [10, 10, 5]
        again = remote.list_objects("x/", page_size=10)
        next(again)
        counting.put_object("x/10", b"changed!")
        counting.put_object("x/09a", b"new")
        (fresh,) = remote.list_objects("x/", start_after="x/09", page_size=30)
        assert fresh.objects[0].key == "x/09a"
        assert fresh.objects[1].size_bytes == 8


def test_objects_that_no_frame_holds():
    """They are read in pieces, of one version, and not written."""
    store = MemoryBackend()
    store.put_object("x/big", bytes(range(256)) * 40)
    with agent_of(store, chunk_bytes=1000) as remote:
        with remote.get_object("x/big") as found:
            assert found.read() == bytes(range(256)) * 40
        with remote.get_object("x/big", range_header="bytes=100-5099") as found:
            assert found.content_range == "bytes 100-5099/10240"
            assert found.read() == (bytes(range(256)) * 40)[100:5100]
        with remote.get_object("x/big") as found:
            store.put_object("x/big", b"other" * 3000)
            with pytest.raises(StorageError):
                found.read()
        with pytest.raises(LimitExceededError, match="1048576"):
            remote.put_object("x/bigger", bytes(2 << 20))
        with pytest.raises(LimitExceededError):
            remote.put_object("x/bigger", iter([bytes(1 << 20)] * 50))


def test_many_at_a_time():
    """More threads than may be under way: all are served."""
    store = MemoryBackend()
    for number in range(200):
        store.put_object(f"x/{number}", b"x" * number)
    with agent_of(store) as remote:
        sizes = {}

        def look(part):
            for number in range(part, 200, 100):
                sizes[number] = remote.head_object(f"x/{number}").size_bytes

        threads = [threading.Thread(target=look, args=(part,)) for part in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sizes == {number: number for number in range(200)}


def served(data, *, idle_seconds=5.0, close=True):
    """Give an agent some bytes; return why it ended and what it answered."""
    ours, theirs = socket.socketpair()
    ends = []
    executor = Executor(MemoryBackend(), Rights.of_scopes(["outputs/a/"]), Redactor())
    thread = threading.Thread(target=lambda: ends.append(serve(theirs, executor, idle_seconds=idle_seconds)))
    thread.start()
    ours.settimeout(10)
    ours.sendall(data)
    if close:
        ours.shutdown(socket.SHUT_WR)
    answered = b""
    with contextlib.suppress(OSError):
        while piece := ours.recv(65536):
            answered += piece
    thread.join(60)
    ours.close()
    theirs.close()
    return ends[0], answered


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", ServingEnd.CLOSED),
        (b"GET / HTTP/1.1\r\n\r\n", ServingEnd.BROKEN),
        (b"\x00\x00\x00", ServingEnd.BROKEN),
        (encode_frame(Frame({"op": "hello"})), ServingEnd.BROKEN),
        (encode_frame(Frame({"id": 1})), ServingEnd.BROKEN),
        (encode_frame(Frame({"id": 1, "op": "time"})), ServingEnd.BROKEN),
        (encode_frame(Frame({"id": 1, "op": "hello"})), ServingEnd.CLOSED),
    ],
)
def test_the_end_of_an_agent(data, end):
    """The channel's end in good order, or what is no request."""
    assert served(data)[0] is end


def test_an_agent_that_nobody_asks_ends():
    """It does not wait for ever."""
    assert served(b"", idle_seconds=0.1, close=False)[0] is ServingEnd.IDLE


def test_a_request_of_another_version_is_answered():
    """As an operation that this agent lacks."""
    _, answered = served(
        encode_frame(Frame({"id": 7, "op": "format", "until": 1e18})), idle_seconds=0.3, close=False
    )

    (frame,) = FrameReader().feed(answered)
    assert frame.header["id"] == 7
    assert frame.header["error"]["type"] == "UnsupportedOperationError"
