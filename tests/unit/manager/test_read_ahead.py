"""On a store that is far away, references are loaded side by side, and nobody can tell but by the time."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.backend.decorator import BackendDecorator
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import GetObjectResult
from bubu_storage.errors import (
    CorruptObjectError,
    DepthError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    RefCycleError,
    RefNotAllowedError,
    SelectorError,
)
from bubu_storage.payload.outlook import Outlook
from bubu_storage.payload.scan import find_refs
from bubu_storage.read_ahead import ByteLimit, ReadAhead
from bubu_storage.testing.fakes import CountingBackend

REF, PATH = "$bubuStorageRef", "$bubuStoragePath"
PATIENCE_SECONDS = 60


def ref(path, selector=None):
    """A reference."""
    return {REF: path} if selector is None else {REF: path, PATH: selector}


def stored(data):
    """The bytes of an object."""
    return json.dumps({"contentType": "json", "data": data}).encode()


def store(objects):
    """A store in memory with these documents; bytes are stored as they are."""
    backend = MemoryBackend()
    for key, data in objects.items():
        backend.put_object(key, data if isinstance(data, bytes) else stored(data))
    return backend


class Waves(BackendDecorator):
    """Holds every request until the test lets all that have come go together."""

    def __init__(self, inner):
        super().__init__(inner)
        self.asked = []
        self._changed = threading.Condition()
        self._waiting = 0
        self._wave = 0
        self.open = False

    def _around(self, call, act):
        with self._changed:
            self.asked.append(call.key)
            wave = self._wave
            self._waiting += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.open or self._wave > wave, PATIENCE_SECONDS)
        return act()

    def let_go(self, expected):
        """Wait for so many requests, then answer them; return their keys in order."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting >= expected, PATIENCE_SECONDS)
            self._waiting = 0
            self._wave += 1
            self._changed.notify_all()
            return self.asked[-expected:]

    def let_all_go(self):
        """Hold nothing any more."""
        with self._changed:
            self.open = True
            self._changed.notify_all()


def waves_of(objects, data, sizes, *, workers=32):
    """Hydrate in waves of these sizes; return the result and the keys of each wave, sorted."""
    backend = Waves(store(objects))
    keys = []
    with (
        ThreadPoolExecutor(1) as caller,
        StorageManager(ManagerSettings(), backend, max_workers=workers) as storage,
    ):
        result = caller.submit(storage.hydrate, data)
        try:
            keys.extend(sorted(backend.let_go(size)) for size in sizes)
        finally:
            backend.let_all_go()
        value = result.result(PATIENCE_SECONDS)
    assert len(backend.asked) == sum(sizes)
    return value, keys


def test_siblings_take_as_many_rounds_as_there_are_levels():
    """Not one for each document on the way: eight documents with three references each take two."""
    leaves = {f"leaf/{group}{n}": f"{group}{n}" for group in "abcdefgh" for n in range(3)}
    groups = {group: [ref(f"leaf/{group}{n}") for n in range(3)] for group in "abcdefgh"}

    value, waves = waves_of(leaves | groups, {group: ref(group) for group in groups}, [8, 24])

    assert value == {group: [f"{group}{n}" for n in range(3)] for group in groups}
    assert waves == [sorted(groups), sorted(leaves)]


def test_selectors_are_seen_through():
    """What the selected parts refer to is loaded side by side too, and nothing else is."""
    objects = {f"doc/{n}": {"a": [{"b": ref(f"leaf/{n}")}], "no": ref("never")} for n in range(4)}
    objects |= {f"hop/{n}": {"in": ref(f"doc/{n}")} for n in range(4)}
    objects |= {f"leaf/{n}": n for n in range(4)}

    value, waves = waves_of(objects, [ref(f"hop/{n}", "in.a[*].b") for n in range(4)], [4, 4, 4])

    assert value == [[n] for n in range(4)]
    assert [wave[0] for wave in waves] == ["hop/0", "doc/0", "leaf/0"]


def test_an_object_that_is_referred_to_in_many_ways_is_loaded_once():
    """Side by side, on two levels, with selectors, in two spellings."""
    objects = {"x": {"v": ref("y")}, "y": [1], "z": [ref("x"), ref("y", "[0]")]}
    data = [ref("x"), ref("./x"), ref("x", "v"), ref("z"), ref("y"), ref("x", "v[0]")]

    value, _ = waves_of(objects, data, [3])

    assert value == [{"v": [1]}, {"v": [1]}, [1], [{"v": [1]}, 1], [1], 1]


def test_no_more_threads_work_than_allowed():
    """The others come when one is free, in the order of the document."""
    objects = {f"{n}": n for n in range(6)}
    value, waves = waves_of(objects, [ref(f"{n}") for n in range(6)], [2, 2, 2], workers=2)
    assert value == list(range(6))
    assert waves == [["0", "1"], ["2", "3"], ["4", "5"]]


def test_reading_ahead_is_bounded():
    """Behind an object that does not come, a window of others is loaded, not all of 100,000."""
    backend = Waves(store({f"{n}": n for n in range(1, 100)}))
    data = [ref(f"{n}") for n in range(100_000)]
    with (
        ThreadPoolExecutor(1) as caller,
        StorageManager(ManagerSettings(), backend, max_workers=2) as storage,
    ):
        result = caller.submit(storage.hydrate, data)
        backend.let_go(2)
        backend.let_all_go()
        with pytest.raises(ObjectNotFoundError, match="'0'"):
            result.result(PATIENCE_SECONDS)
    assert len(backend.asked) <= 1 + 4 * 2 + 2  # what may have begun before the caller was told


def test_the_window_holds_while_the_first_object_hangs():
    """Exactly so many are loaded ahead, then the rest waits."""
    held, reached = threading.Event(), threading.Semaphore(0)

    class FirstHangs(BackendDecorator):
        asked = 0

        def _around(self, call, act):
            self.asked += 1
            if call.key == "0":
                assert held.wait(PATIENCE_SECONDS)
            answer = act()
            reached.release()
            return answer

    backend = FirstHangs(store({f"{n}": n for n in range(100)}))
    pool = ThreadPoolExecutor(2)
    limit = ByteLimit(1 << 20)
    ahead = ReadAhead(backend, pool.submit, limit, workers=2, window=8)
    ahead.announce(Outlook(10, None).of(find_refs([ref(f"{n}") for n in range(100)])))
    with ThreadPoolExecutor(1) as caller:
        first = caller.submit(ahead.get, "0", float("inf"))
        for _ in range(8):
            assert reached.acquire(timeout=PATIENCE_SECONDS)
        held.set()
        assert first.result(PATIENCE_SECONDS) == 0
    ahead.stop()
    pool.shutdown()
    assert backend.asked <= 1 + 8 + 1  # one more fits when the first has been taken


@pytest.mark.parametrize("arrival", ["first", "last"])
def test_the_error_is_that_of_the_first_reference_whatever_arrives_first(arrival):
    """A later object that failed long ago does not matter."""
    objects = {"slow": {"in": ref("gone")}, "bad": b"{"}
    order = threading.Event()

    class Ordered(BackendDecorator):
        def _around(self, call, act):
            if call.key == ("slow" if arrival == "last" else "bad"):
                assert order.wait(PATIENCE_SECONDS)
            try:
                return act()
            finally:
                if call.key == ("bad" if arrival == "last" else "slow"):
                    order.set()

    with (
        StorageManager(ManagerSettings(), Ordered(store(objects)), max_workers=4) as storage,
        pytest.raises(ObjectNotFoundError, match=r"\$\.in of 'slow' leads to 'gone'"),
    ):
        storage.hydrate([ref("slow"), ref("bad")])


def test_the_limit_of_bytes_counts_in_the_document_s_order():
    """The object that was one too many is the same each time, with the same numbers."""
    size = len(stored("x" * 1000))
    backend = store({f"{n}": "x" * 1000 for n in range(50)})
    settings = ManagerSettings(max_hydrated_size_bytes=10 * size + size // 2)
    messages = set()
    for workers in (1, 2, 8, 32):
        with (
            StorageManager(settings, backend, max_workers=workers) as storage,
            pytest.raises(LimitExceededError) as caught,
        ):
            storage.hydrate([ref(f"{n}") for n in range(50)])
        messages.add(str(caught.value))
    (message,) = messages
    assert message.startswith(f"object '10' has {size} bytes, {11 * size} in all in this call")
    assert "BUBU_MAX_HYDRATED_SIZE" in message


def test_the_limit_of_bytes_bounds_what_is_in_memory():
    """What does not fit is not read ahead, so a document cannot load more than twice the limit."""
    size = len(stored("x" * 1000))
    read = []

    class Watched(io.BytesIO):
        def read(self, size=-1):
            """Note what is read."""
            data = super().read(size)
            read.append(len(data))
            return data

    class Reading(BackendDecorator):
        def _around(self, _, act):
            with act() as answer:
                return GetObjectResult(answer.info, Watched(answer.read()))

    backend = Reading(store({f"{n}": "x" * 1000 for n in range(500)}))
    with (
        StorageManager(ManagerSettings(max_hydrated_size_bytes=5 * size), backend, max_workers=32) as storage,
        pytest.raises(LimitExceededError),
    ):
        storage.hydrate([ref(f"{n}") for n in range(500)])
    assert sum(read) <= 2 * 5 * size


HOSTILE = [
    ("../x", InvalidKeyError),
    ("a/../../x", InvalidKeyError),
    ("a/../x", InvalidKeyError),
    ("..\\x", InvalidKeyError),
    ("/etc/passwd", InvalidKeyError),
    ("a\x00b", InvalidKeyError),
    ("k" * 5000, InvalidKeyError),
    (".bubu/claim", InvalidKeyError),
    ("./.bubu/x", InvalidKeyError),
    (".", InvalidKeyError),
    ("", InvalidKeyError),
    ("\ud800", (InvalidKeyError, RefNotAllowedError)),  # read back from a store it is another letter
    ("tenant-b/x", RefNotAllowedError),
    ("tenant-a2/x", RefNotAllowedError),
    ("tenant-a", RefNotAllowedError),
]


@pytest.mark.parametrize(("path", "error"), HOSTILE, ids=[repr(path[:12]) for path, _ in HOSTILE])
def test_hostile_references_are_refused_before_any_request(path, error):
    """In the document, in a stored one, with a selector: the store never hears of them."""
    objects = {"tenant-a/ok": 1, "tenant-a/doc": {"a": [ref("tenant-a/ok"), ref(path)], "b": ref(path, "c")}}
    backend = CountingBackend(store(objects))
    prefixes = ("tenant-a/doc", "tenant-a/ok")
    for data in (
        [ref("tenant-a/ok"), ref(path)],
        {"x": ref(path), "y": ref("tenant-a/ok")},
        [ref("tenant-a/ok"), ref("tenant-a/doc")],
        [ref("tenant-a/ok"), ref("tenant-a/doc", "b")],
        [ref(path, "a"), ref(path)],
    ):
        with (
            StorageManager(ManagerSettings(), backend, max_workers=4) as storage,
            pytest.raises(error),
        ):
            storage.hydrate(data, allowed_prefixes=prefixes)
    assert {call.key for call in backend.calls} <= {"tenant-a/ok", "tenant-a/doc"}


def counted(objects, data, error, **settings):
    """Hydrate what must fail; return how often each key was asked for."""
    backend = CountingBackend(store(objects))
    with (
        StorageManager(ManagerSettings(**settings), backend, max_workers=8) as storage,
        pytest.raises(error),
    ):
        storage.hydrate(data)
    return [call.key for call in backend.calls]


def test_a_reference_to_itself_is_loaded_once():
    """Alone, and in a crowd of references to the same few objects."""
    assert counted({"x": ref("x")}, ref("x"), RefCycleError) == ["x"]
    crowd = {f"{n}": [ref(f"{m}") for m in range(5)] for n in range(5)}
    asked = counted(crowd, [ref(f"{n}") for n in range(5)], RefCycleError)
    assert sorted(asked) == sorted(set(asked))


def test_a_chain_that_is_too_long_is_loaded_as_far_as_allowed():
    """Reading ahead does not go further than the walk may."""
    chain = {f"{n}": [ref(f"{n + 1}"), ref(f"{n + 1}")] for n in range(30)}
    asked = counted(chain, ref("0"), DepthError, max_recursion_depth=5)
    assert sorted(asked) == ["0", "1", "2", "3", "4"]


def test_a_long_chain_comes_back():
    """Reading ahead starts anew where places in the document become long."""
    length = 300
    chain = {f"{n}": {"next": ref(f"{n + 1}"), "leaf": ref("leaf")} for n in range(length)}
    backend = store(chain | {f"{length}": "end", "leaf": 1})
    with StorageManager(ManagerSettings(max_recursion_depth=length + 2), backend, max_workers=4) as storage:
        value = storage.hydrate(ref("0"))
    for _ in range(length):
        assert value["leaf"] == 1
        value = value["next"]
    assert value == "end"


def test_a_bomb_of_few_objects_is_loaded_once_each():
    """Ten documents that each name the next one ten times: ten requests, then the limit."""
    objects = {"0": "x" * 100} | {f"{n}": [ref(f"{n - 1}")] * 10 for n in range(1, 10)}
    asked = counted(objects, ref("9"), LimitExceededError, max_hydrated_size_bytes=100_000)
    assert sorted(asked) == [f"{n}" for n in range(10)]


@pytest.mark.parametrize(
    ("objects", "data", "error"),
    [
        ({"a": 1}, [ref("a"), ref("a", "[")], SelectorError),
        ({"a": {"b": [1]}, "c": 1}, [ref("a", "b[7]"), ref("c")], SelectorError),
        ({"a": {"b": [1]}, "c": 1}, [ref("a", "b.x"), ref("c")], SelectorError),
        ({"a": b"[]", "c": 1}, [ref("c"), ref("a")], CorruptObjectError),
        ({"a": stored("x")[:-2], "c": 1}, [ref("c"), ref("a", "x")], CorruptObjectError),
    ],
)
def test_bad_selectors_and_bad_objects(objects, data, error):
    """They fail as they do one by one."""
    counted(objects, data, error)
