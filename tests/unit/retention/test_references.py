"""What live runs refer to: found, followed, bounded, remembered; unknown stops the pass."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import (
    ConfigurationError,
    PermissionDeniedError,
    ThrottledError,
    UnavailableError,
)
from bubu_storage.payload.refs import storage_ref
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.references import (
    DEFAULT_CACHED_DOCUMENTS,
    Follower,
    ReferenceCache,
    ReferenceLimits,
    UnreadableDocumentError,
    references_in,
)
from bubu_storage.retention.report import StoppedBy
from tests.unit.retention.world import FakeTime


def ref(path: object) -> dict[str, object]:
    """Return a reference as dehydrate writes it."""
    return {"$bubuStorageContentType": "application/json", "$bubuStorageRef": path}


class Recorded:
    """A store that remembers who asked for what, and fails where it is told to."""

    def __init__(self) -> None:
        self.inner = MemoryBackend()
        self.asked: list[tuple[str, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gate: Gate | None = None
        self.turns_at_requests: list[int] = []
        self._lock = threading.Lock()

    def put(self, key: str, document: object) -> None:
        """Store a document, or bytes as they are."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.inner.put_object(key, body)

    def _ask(self, kind: str, key: str) -> None:
        with self._lock:
            self.asked.append((kind, key))
            self.turns_at_requests.append(self.gate.requests if self.gate else 0)
            failures = self.failures.get(key)
            if failures:
                raise failures.pop(0)

    def head_object(self, key: str):
        """Pass on a HEAD."""
        self._ask("head", key)
        return self.inner.head_object(key)

    def get_object(self, key: str):
        """Pass on a GET."""
        self._ask("get", key)
        return self.inner.get_object(key)


@pytest.fixture
def store() -> Recorded:
    """An empty store."""
    return Recorded()


def follower(
    store: Recorded, cache: ReferenceCache | None = None, *, budget: float = 1000.0, **limits: int
) -> Follower:
    """Return a follower for one pass."""
    time = FakeTime()
    gate = Gate(
        monotonic=time.monotonic,
        sleep=time.sleep,
        should_stop=lambda: False,
        budget_seconds=budget,
        requests_per_second=0,
    )
    store.gate = gate
    known = ReferenceCache() if cache is None else cache
    return Follower(store, gate, known, ReferenceLimits(**limits))


def follow(store: Recorded, roots: Iterable[str], **options: object) -> set[str]:
    """Follow references once."""
    return set(follower(store, **options).follow(roots))


class TestWhatIsAReference:
    """A map that hydrate would take for one, wherever it stands."""

    @pytest.mark.parametrize(
        "document",
        [
            ref("a"),
            storage_ref("a"),
            storage_ref("a", selector="x[*]", content_type="t", schema="s", schema_version="1"),
            [1, [ref("a")]],
            {"contentType": "json", "data": {"x": [{"y": ref("a")}]}},
            {"$bubuStorageRef": "a", "$bubuStoragePath": 5},
            [ref("a"), ref("a")],
        ],
    )
    def test_it_is_found_at_any_depth(self, document):
        """Once for each path, in maps and lists, with any of the keys that a reference may have."""
        assert references_in(json.dumps(document)) == ("a",)

    @pytest.mark.parametrize(
        "document",
        [
            {"$bubuStorageRef": "a", "other": 1},
            {"$bubuStorageRef": 5},
            {"$bubuStorageRef": None},
            {"$bubuStoragePath": "a"},
            {"ref": "a"},
            "$bubuStorageRef",
            {"contentType": "raw", "data": json.dumps(ref("a"))},
            {"$bubuConfigMapRef": "name:key"},
            {},
            [],
            7,
            None,
        ],
    )
    def test_what_only_looks_like_it_is_data(self, document):
        """Foreign keys, other types, text that happens to spell one."""
        assert references_in(json.dumps(document)) == ()

    def test_references_inside_data_that_looks_like_one_are_found(self):
        """A map with foreign keys is no reference, but its values are looked at."""
        assert references_in(json.dumps({"$bubuStorageRef": "no", "x": ref("yes")})) == ("yes",)

    def test_every_way_to_write_the_same_json_is_understood(self):
        """Escapes, NaN, control characters in strings, numbers of any length, surrogates."""
        assert references_in('{"\\u0024bubuStorageRef": "a\\u002fb"}') == ("a/b",)
        assert references_in(
            "[NaN, -Infinity, 1e999, " + "9" * 5000 + ', "\n", {"$bubuStorageRef": "a"}]'
        ) == ("a",)
        assert references_in('{"$bubuStorageRef": "\\ud800"}') == ("\ud800",)
        assert references_in('{"$bubuStorageRef": "a", "$bubuStorageRef": "b"}') == ("a", "b")

    @pytest.mark.parametrize("text", ["", "{", '{"a": 1} x', "abc", '{"a": }', "[" * 100_000])
    def test_what_is_no_json_is_said_so(self, text):
        """Also when it is nested deeper than anybody reads."""
        with pytest.raises(UnreadableDocumentError):
            references_in(text)


class TestFollowing:
    """From the first objects to the last."""

    def test_documents_are_followed_recursively_and_in_circles(self, store):
        """Everything that can be reached counts; each document is read once."""
        store.put("o/a/live/output.json", [ref("o/a/r1/x.json"), ref("o/a/r2/y.json")])
        store.put("o/a/r1/x.json", {"contentType": "json", "data": ref("o/a/r3/z.json")})
        store.put("o/a/r3/z.json", [ref("o/a/r1/x.json"), ref("o/a/r3/z.json"), ref("o/a/gone/q.json")])
        store.put("o/a/r2/y.json", 1)
        store.put("o/a/r9/unrelated.json", ref("o/a/r8/x.json"))

        reached = follow(store, ["o/a/live/output.json"])

        names = ["live/output", "r1/x", "r2/y", "r3/z", "gone/q"]
        assert reached == {f"o/a/{name}.json" for name in names}
        assert sorted(store.asked) == sorted(("get", key) for key in reached)

    def test_a_second_look_only_follows_what_is_new(self, store):
        """What was reached in this pass is neither read nor returned again."""
        store.put("a.json", ref("b.json"))
        store.put("b.json", 1)
        store.put("c.json", [ref("b.json"), ref("d.json")])
        store.put("d.json", 1)
        one_pass = follower(store)

        assert one_pass.follow(["a.json"]) == {"a.json", "b.json"}
        assert one_pass.follow(["a.json", "c.json"]) == {"c.json", "d.json"}
        assert sorted(key for _, key in store.asked) == ["a.json", "b.json", "c.json", "d.json"]

    def test_a_missing_object_refers_to_nothing(self, store):
        """It may have been deleted by hand, or not be written yet."""
        assert follow(store, ["nowhere.json"]) == {"nowhere.json"}

    @pytest.mark.parametrize(
        "path",
        ["../x", "/etc/passwd", "a/../../x", "..\\x", "", ".", ".bubu/claim.json", "a\x00b", "x" * 2000],
    )
    def test_paths_that_lead_astray_are_data(self, store, path):
        """They name no object of the store, protect nothing, and stop nothing."""
        store.put("a.json", [ref(path), ref("ok.json")])

        assert follow(store, ["a.json", path]) == {"a.json", "ok.json"}

    def test_a_path_is_cleaned_as_hydrate_does(self, store):
        """Another spelling of a key protects the same object."""
        store.put("a/b.json", ref("./c//d.json"))

        assert follow(store, ["a//./b.json"]) == {"a/b.json", "c/d.json"}

    def test_names_without_json_may_hold_documents_too(self, store):
        """Hydrate reads any object that it is pointed at; so does the follower."""
        store.put("a", ref("b"))
        store.put("b", b"\xef\xbb\xbf \n" + json.dumps([ref("c")]).encode())

        assert follow(store, ["a"]) == {"a", "b", "c"}

    @pytest.mark.parametrize(
        "content",
        [b"\x89PNG\r\n", b"", b"hello", b'"text"', b"{not json", b"[1, 2", b"\xff\xfe", b"5" * 70_000],
    )
    def test_a_blob_is_a_leaf(self, store, content):
        """What is no document refers to nothing, if its name does not claim otherwise."""
        store.put("blob", content)

        assert follow(store, ["blob"]) == {"blob"}

    @pytest.mark.parametrize(
        "content",
        [
            b'{"$bubuStorageRef": "b"',
            b'\xef\xbb\xbf [1, {"\\u0024bubuStorageRef": "b"}',
            b'{"$bubuStorageRef": "b"} and more',
            b"[" * 100_000 + b'{"$bubuStorageRef": "b"}' + b"]" * 100_000,
        ],
    )
    def test_a_broken_document_with_a_reference_in_it_is_unreadable(self, store, content):
        """Whatever its name: it is cut off, or written by something else, and may refer to anything."""
        store.put("a", content)

        with pytest.raises(PassStoppedError) as stopped:
            follow(store, ["a"])

        assert stopped.value.reason is StoppedBy.REFERENCES_UNREADABLE
        assert "'a' is no document" in str(stopped.value)

    @pytest.mark.parametrize(
        "content", [b'"$bubuStorageRef', b"log of $bubuStorageRef\n{", b"\x89{$bubuStorageRef"]
    )
    def test_other_things_may_speak_of_references(self, store, content):
        """What does not begin like a document that can hold one is data, and its text means nothing."""
        store.put("a", content)

        assert follow(store, ["a"]) == {"a"}

    @pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"{not json", b"[1, 2", b'{"a": 1}{"b": 2}'])
    @pytest.mark.parametrize("key", ["a.json", "a.JSON"])
    def test_a_document_that_cannot_be_understood_stops_the_pass(self, store, key, content):
        """Nobody knows what it refers to, so nothing may be deleted."""
        store.put(key, content)

        with pytest.raises(PassStoppedError) as caught:
            follow(store, [key])
        assert caught.value.reason is StoppedBy.REFERENCES_UNREADABLE
        assert key in caught.value.message

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf"])
    def test_an_empty_document_refers_to_nothing(self, store, content):
        """Whatever it is called."""
        store.put("a.json", content)

        assert follow(store, ["a.json"]) == {"a.json"}

    def test_broken_utf_8_does_not_hide_references(self, store):
        """Hydrate reads it with replacement characters; so does the follower."""
        store.put("a.json", b'{"x": "\xff", "y": {"$bubuStorageRef": "b"}}')

        assert follow(store, ["a.json"]) == {"a.json", "b"}

    @pytest.mark.parametrize("error", [UnavailableError("down"), PermissionDeniedError("no")])
    @pytest.mark.parametrize("key", ["a.json", "a"])
    def test_an_object_that_cannot_be_read_stops_the_pass(self, store, key, error):
        """A failure is no absence."""
        store.put(key, 1)
        store.failures[key] = [error]

        with pytest.raises(PassStoppedError) as caught:
            follow(store, [key])
        assert caught.value.reason is StoppedBy.REFERENCES_UNREADABLE
        assert caught.value.error is error

    def test_a_throttled_request_is_sent_again(self, store):
        """The store asked for patience, not for an end."""
        store.put("a.json", ref("b.json"))
        store.failures["a.json"] = [ThrottledError("slow down"), ThrottledError("slow down")]

        assert follow(store, ["a.json"]) == {"a.json", "b.json"}
        assert store.asked.count(("get", "a.json")) == 3

    def test_every_request_goes_through_the_gate(self, store):
        """Also those of many documents at a time: the turn comes first, then the request."""
        roots = [f"d{number}.json" for number in range(40)]
        for key in roots:
            store.put(key, 1)

        assert follow(store, roots) == set(roots)
        assert store.gate.requests == 40
        assert all(turns > sent for sent, turns in enumerate(store.turns_at_requests))

    def test_the_end_of_the_time_stops_it(self, store):
        """The gate lets nothing more through."""
        with pytest.raises(PassStoppedError) as caught:
            follow(store, ["a.json"], budget=0.0)
        assert caught.value.reason is StoppedBy.BUDGET_SECONDS
        assert store.asked == []


class TestBounds:
    """Beyond them it is unknown what is protected."""

    def test_what_holds_unless_told_otherwise(self):
        """As documented: bounds that nobody set are the ones that most stores live with."""
        assert ReferenceLimits() == ReferenceLimits(documents=100_000, document_bytes=33_554_432, depth=64)
        assert DEFAULT_CACHED_DOCUMENTS == 50_000

    def test_a_follower_that_is_told_no_bounds_has_those(self, store):
        """As in a pass, which tells none."""
        time = FakeTime()
        gate = Gate(
            monotonic=time.monotonic,
            sleep=time.sleep,
            should_stop=lambda: False,
            budget_seconds=1000.0,
            requests_per_second=0.0,
        )
        store.put("a.json", ref("b"))

        assert Follower(store, gate, ReferenceCache()).follow(["a.json"]) == {"a.json", "b"}

    def test_so_many_objects_and_no_more(self, store):
        """The bound itself is allowed."""
        store.put("a.json", [ref("b"), ref("c")])

        assert follow(store, ["a.json"], documents=3) == {"a.json", "b", "c"}
        with pytest.raises(PassStoppedError, match="more than 2 objects") as caught:
            follow(store, ["a.json"], documents=2)
        assert caught.value.reason is StoppedBy.REFERENCES_UNREADABLE

    def test_so_deep_and_no_deeper(self, store):
        """A chain of documents that leads on and on."""
        for number in range(5):
            store.put(f"d{number}.json", ref(f"d{number + 1}.json"))

        assert len(follow(store, ["d0.json"], depth=5)) == 6
        with pytest.raises(PassStoppedError, match="behind more than 4 documents") as caught:
            follow(store, ["d0.json"], depth=4)
        assert caught.value.reason is StoppedBy.REFERENCES_UNREADABLE

    @pytest.mark.parametrize("key", ["a.json", "a"])
    def test_so_long_and_no_longer(self, store, key):
        """A document that is too long to be read; a blob of any length is a leaf."""
        document = json.dumps([ref("b"), "x" * 1000]).encode()
        store.put(key, document)
        store.put("blob", b"x" * 5000)

        assert follow(store, [key], document_bytes=len(document)) == {key, "b"}
        assert follow(store, ["blob"], document_bytes=100) == {"blob"}
        with pytest.raises(PassStoppedError, match="longer than") as caught:
            follow(store, [key], document_bytes=len(document) - 1)
        assert caught.value.reason is StoppedBy.REFERENCES_UNREADABLE


class TestCache:
    """Unchanged documents are not read twice."""

    def test_an_unchanged_document_is_only_asked_for_its_etag(self, store):
        """The next pass sends a HEAD and knows the rest."""
        store.put("a.json", ref("b.json"))
        store.put("b.json", ref("c"))
        store.put("c", b"blob")
        cache = ReferenceCache()
        first = follow(store, ["a.json"], cache=cache)
        store.asked.clear()

        assert follow(store, ["a.json"], cache=cache) == first == {"a.json", "b.json", "c"}
        assert sorted(store.asked) == [("head", "a.json"), ("head", "b.json"), ("head", "c")]

    def test_a_changed_document_is_read_again(self, store):
        """What it refers to now counts, and is remembered."""
        cache = ReferenceCache()
        store.put("a.json", ref("b"))
        follow(store, ["a.json"], cache=cache)
        store.put("a.json", ref("c"))
        store.asked.clear()

        assert follow(store, ["a.json"], cache=cache) == {"a.json", "c"}
        assert ("head", "a.json") in store.asked
        assert ("get", "a.json") in store.asked
        store.asked.clear()
        follow(store, ["a.json"], cache=cache)
        assert store.asked[0] == ("head", "a.json")
        assert ("get", "a.json") not in store.asked

    def test_a_document_that_vanished_is_forgotten(self, store):
        """Nothing is believed of what is not there."""
        cache = ReferenceCache()
        store.put("a.json", ref("b"))
        follow(store, ["a.json"], cache=cache)
        store.inner.delete_object("a.json")

        assert follow(store, ["a.json"], cache=cache) == {"a.json"}
        assert cache.etag_of("a.json") == ""

    def test_a_failing_head_stops_the_pass(self, store):
        """What is remembered of a document does not count while its ETag is unknown."""
        cache = ReferenceCache()
        store.put("a.json", 1)
        follow(store, ["a.json"], cache=cache)
        store.failures["a.json"] = [UnavailableError("down")]

        with pytest.raises(PassStoppedError):
            follow(store, ["a.json"], cache=cache)

    def test_the_least_recently_used_document_goes_first(self):
        """The cache never grows beyond its bound."""
        cache = ReferenceCache(2)
        cache.put("a", "1", ("x",))
        cache.put("b", "1", ())
        assert cache.get("a", "1") == ("x",)
        cache.put("c", "1", ())

        assert len(cache) == 2
        assert (cache.etag_of("a"), cache.etag_of("b"), cache.etag_of("c")) == ("1", "", "1")

    def test_nothing_is_known_without_an_etag_or_of_another(self):
        """A store without ETags has every document read each time."""
        cache = ReferenceCache()
        cache.put("a", "", ("x",))
        cache.put("b", "1", ("x",))

        assert len(cache) == 1
        assert cache.get("a", "") is None
        assert cache.get("b", "2") is None
        assert cache.get("b", "") is None
        assert cache.get("b", "1") == ("x",)
        cache.put("b", "", ())
        assert len(cache) == 0

    def test_a_document_that_was_forgotten_meanwhile_is_read_again(self):
        """There was no room for it any more: nothing is known, and nothing fails."""
        assert ReferenceCache().get("a.json", "etag") is None

    def test_it_must_hold_something(self):
        """A bound of nothing is a mistake."""
        assert len(ReferenceCache(1)) == 0
        with pytest.raises(ConfigurationError, match="at least 1 document"):
            ReferenceCache(0)

    @given(
        entries=st.lists(
            st.tuples(st.text(max_size=3), st.text(min_size=1, max_size=2), st.lists(st.text(max_size=3))),
            max_size=6,
        )
    )
    def test_it_survives_json(self, entries):
        """Another process goes on with it, in the same order of use."""
        cache = ReferenceCache()
        for key, etag, references in entries:
            cache.put(key, etag, tuple(references))
        data = json.loads(json.dumps(cache.to_dict()))

        assert ReferenceCache.from_dict(data).to_dict() == cache.to_dict()
        assert len(ReferenceCache.from_dict(data, most_documents=2)) == min(2, len(cache))

    def test_an_empty_mapping_is_an_empty_cache(self):
        """What was never written needs no special case."""
        assert len(ReferenceCache.from_dict({})) == 0

    @pytest.mark.parametrize(
        "data",
        [
            {"documents": 5},
            {"documents": [["a", "1"]]},
            {"documents": [[1, "1", []]]},
            {"documents": [["a", 1, []]]},
            {"documents": [["a", "1", [2]]]},
            {"documents": [["a", "1", None]]},
            [],
        ],
    )
    def test_a_damaged_cache_is_refused_with_the_way_out(self, data):
        """It is no guess what documents refer to."""
        with pytest.raises(ConfigurationError, match="start again with an empty one"):
            ReferenceCache.from_dict(data)


@settings(max_examples=60, deadline=None)
@given(
    edges=st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), max_size=13),
    roots=st.sets(st.integers(0, 12), max_size=3),
    again=st.booleans(),
)
def test_exactly_what_can_be_reached_is_reached(edges, roots, again):
    """On any graph of documents, read for the first time or remembered."""
    store, cache = Recorded(), ReferenceCache()
    for source, targets in edges.items():
        store.put(f"d{source}.json", {"data": [ref(f"d{target}.json") for target in targets]})
    expected: set[int] = set()
    queue = list(roots)
    while queue:
        node = queue.pop()
        if node not in expected:
            expected.add(node)
            queue.extend(edges.get(node, ()))

    for _ in range(1 + again):
        reached = follow(store, [f"d{root}.json" for root in roots], cache=cache)
        assert reached == {f"d{node}.json" for node in expected}
