"""The manager: documents and blobs on a real backend, in order, within limits, closed properly."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from bubu_storage import FileSettings, ManagerSettings, S3Settings, StorageManager, storage_ref
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import (
    ConfigurationError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    RefNotAllowedError,
    StorageDisabledError,
    StorageError,
    UnavailableError,
)
from bubu_storage.payload.context import (
    current_step_run_id,
    max_recursion_depth,
    step_run_id,
    storage_schema,
)
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Operation

REF = "$bubuStorageRef"


@pytest.fixture(params=["memory", "file", "foreign"])
def storage(request, tmp_path):
    """A manager on each kind of store; a foreign backend is worked on in threads."""
    if request.param == "file":
        manager = StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path))))
    elif request.param == "memory":
        manager = StorageManager.in_memory()
    else:
        manager = StorageManager(ManagerSettings(), MemoryBackend())
    with manager:
        yield manager


DOCUMENT = {"rows": [{"text": f"{i}" + "x" * 1100, "n": i} for i in range(40)], "big": "é" * 2_000_000}


def test_documents(storage):
    """Offloaded, found again, and the same."""
    small = storage.dehydrate(DOCUMENT, run_id="ns/run")

    assert small["rows"][7]["text"] == {
        "$bubuStorageContentType": "text/plain",
        REF: "outputs/ns/run/rows.7.text.json",
    }
    assert storage.hydrate(small) == DOCUMENT
    assert storage.hydrate_storage_refs_only(small) == DOCUMENT
    assert len(list(storage.list_objects("outputs/ns/run"))) == 41


def test_inputs_with_a_limit_of_their_own(storage):
    """A limit above 0 replaces the manager's for one call."""
    data = {"a": "x" * 60, "b": "y" * 30}
    assert storage.dehydrate_inputs(data, run_id="r") == data
    assert storage.dehydrate_inputs(data, run_id="r", max_inline_size=-1) == data
    small = storage.dehydrate_inputs(data, run_id="r", max_inline_size=50)
    assert small[REF] == "inputs/r/input.json"
    assert storage.hydrate(small) == data
    assert storage.settings.max_inline_size_bytes == 1024


def test_other_types(storage):
    """Through ``default``, for values offloaded and not."""
    data = {"s": {1}, "big": {"x" * 2000}}
    small = storage.dehydrate(data, run_id="r", default=list)
    assert small["s"] == [1]
    assert storage.hydrate(small) == {"s": [1], "big": ["x" * 2000]}


def test_blobs(storage):
    """Bytes as they are, from any source, with a content type where the store keeps it."""
    assert storage.write_blob("b/x.bin", b"\x00\xff")
    assert storage.read_blob("./b//x.bin") == b"\x00\xff"
    storage.write_blob("b/y", iter([b"a", memoryview(b"b")]), content_type="text/plain")
    assert storage.read_blob("b/y") == b"ab"
    storage.delete("b/y")
    storage.delete("b/y")
    with pytest.raises(ObjectNotFoundError, match="b/y"):
        storage.read_blob("b/y")


def test_the_content_type_reaches_the_store():
    """Offloads are JSON whatever their kind; blobs are what the caller says."""
    with StorageManager.in_memory() as storage:
        storage.write_blob("a", b"", content_type="image/png")
        storage.write_blob("b", b"", content_type="")
        small = storage.dehydrate("x" * 2000, run_id="r")
        kinds = [storage.backend.head_object(key).content_type for key in ("a", "b", small[REF])]
    assert kinds == ["image/png", "application/octet-stream", "application/json"]


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "..\\a", ".", ".bubu/probe/x"])
def test_paths_that_are_refused(storage, path):
    """For every operation alike, before the store is asked."""
    for action in (
        storage.read_blob,
        storage.delete,
        lambda path: storage.write_blob(path, b""),
        lambda path: storage.hydrate({REF: path}),
    ):
        with pytest.raises(InvalidKeyError):
            action(path)


def test_listing(storage):
    """Whole segments, byte order, facts of each object; our own area is hidden."""
    keys = ["p-2/c", "p.json", "p/a.json", "p/a/x.json", "p/b", "p/é.json", "q"]
    for key in keys:
        storage.write_blob(key, b"12")
    storage.backend.put_object(".bubu/claim", b"")

    assert [item.key for item in storage.list_objects("p")] == keys[2:6]
    assert [item.key for item in storage.list_objects("./p//")] == keys[2:6]
    assert [item.key for item in storage.list_objects("q")] == ["q"]
    assert [item.key for item in storage.list_objects(".")] == keys
    assert list(storage.list_objects("none")) == []
    assert list(storage.list_objects(".bubu")) == []
    (item,) = storage.list_objects("p/a")
    assert (item.size_bytes, item.last_modified.tzinfo is not None) == (2, True)


def test_an_object_and_others_below_its_name():
    """A bucket can hold both ``p`` and ``p/x``; each is listed once."""
    with StorageManager.in_memory() as storage:
        for key in ("p", "p/x", "p!", "pq"):
            storage.write_blob(key, b"")
        assert [item.key for item in storage.list_objects("p")] == ["p", "p/x"]


@pytest.mark.parametrize("prefix", ["", "/p", "..", "p/../q"])
def test_prefixes_that_are_refused(storage, prefix):
    """At the call, not at the first element."""
    with pytest.raises(InvalidKeyError):
        storage.list_objects(prefix)


def test_listings_are_streamed():
    """Pages are asked for as they are needed, and an unfinished listing lets go of the store."""
    backend = CountingBackend(MemoryBackend())
    for number in range(2500):
        backend.put_object(f"d/{number:05}", b"")
    with StorageManager(ManagerSettings(), backend) as storage:
        listing = storage.list_objects("d")
        for _ in range(3):
            next(listing)
        assert backend.counts[Operation.LIST_PAGE] == 2
        listing.close()


def test_contexts():
    """Schema and depth hold inside the block, in this thread only."""
    with StorageManager.in_memory() as storage:
        with storage_schema(" s ", "v"), max_recursion_depth(1):
            inner = storage.dehydrate([["a"]], run_id="r")
            with storage_schema(" ", ""), max_recursion_depth(0):
                assert storage.dehydrate([["a"]], run_id="r") == inner
            others = []
            thread = threading.Thread(target=lambda: others.append(storage.dehydrate([["a"]], run_id="r")))
            thread.start()
            thread.join()
        assert inner == [
            [
                {
                    "$bubuStorageContentType": "application/json",
                    REF: "outputs/r/0.0.json",
                    "$bubuStorageSchema": "s",
                    "$bubuStorageSchemaVersion": "v",
                }
            ]
        ]
        assert others == [[["a"]]]
        assert storage.dehydrate([["a"]], run_id="r") == [["a"]]


def test_inputs_come_back_under_any_budget():
    """What `dehydrate_inputs` writes in two stages needs two hops, even where the budget is one."""
    data = {"long": "x" * 3000, **{f"field{n}": "y" * 200 for n in range(10)}}
    with StorageManager.in_memory(ManagerSettings(max_recursion_depth=1)) as storage:
        small = storage.dehydrate_inputs(data, run_id="r")
        assert small[REF] == "inputs/r/input.json"
        assert storage.hydrate(small) == data


def test_a_context_s_depth_does_not_change_how_far_references_are_seen():
    """As in the Go SDK: containers count as "with references" down to the configured depth only."""
    inner = ["x" * 2000, "y" * 600, "z" * 600]
    for _ in range(3):
        inner = [inner]
    with StorageManager.in_memory(ManagerSettings(max_recursion_depth=1)) as storage, max_recursion_depth(8):
        assert REF in storage.dehydrate(inner, run_id="r")[0]
        assert storage.hydrate(storage.dehydrate(inner, run_id="r")) == inner


def test_step_run_ids():
    """An empty one changes nothing."""
    with step_run_id("s"), step_run_id(""):
        assert current_step_run_id() == "s"
    assert current_step_run_id() == ""


def test_errors_of_documents_name_the_step_run(storage):
    """So that a log with many steps says which one it was; long ones are cut."""
    missing = storage_ref("outputs/gone.json")
    for act in (
        lambda: storage.hydrate(missing),
        lambda: storage.hydrate_storage_refs_only(missing),
        lambda: storage.dehydrate(float("nan"), run_id="r"),
        lambda: storage.dehydrate_inputs(float("nan"), run_id="r"),
    ):
        with step_run_id("team/step-7" + "x" * 500), pytest.raises(StorageError) as caught:
            act()
        assert [note for note in caught.value.__notes__ if "in step run 'team/step-7" in note]
        assert max(map(len, caught.value.__notes__)) < 400
        with pytest.raises(StorageError) as caught:
            act()
        assert "in step run" not in str(getattr(caught.value, "__notes__", []))


def test_allowed_prefixes(storage):
    """Given per call; one text instead of a list is a mistake that would allow letters."""
    small = storage.dehydrate("x" * 2000, run_id="team/run")
    assert storage.hydrate(small, allowed_prefixes=["outputs/team/"]) == "x" * 2000
    with pytest.raises(RefNotAllowedError):
        storage.hydrate(small, allowed_prefixes=["outputs/other"])
    with pytest.raises(ConfigurationError, match="a list of paths"):
        storage.hydrate(small, allowed_prefixes="outputs/team")
    with pytest.raises(InvalidKeyError):
        storage.hydrate(small, allowed_prefixes=[""])


def test_superseded_objects_are_optional():
    """Written by default, as the Go SDK does; a caller may save the writes."""
    settings = ManagerSettings(max_inline_size_bytes=100_000)
    data = {"big": "z" * 100_001, **{f"f{i}": "a" * 90_000 for i in range(3)}}
    for keep, keys in ((True, ["big.json", "output.json"]), (False, ["output.json"])):
        with StorageManager(dataclasses.replace(settings, keep_superseded=keep), MemoryBackend()) as storage:
            small = storage.dehydrate(data, run_id="r")
            assert [item.key.rpartition("/")[2] for item in storage.list_objects(".")] == keys
            assert storage.hydrate(small) == data


def test_disabled_storage():
    """Short documents pass, long ones and everything else say what to set."""
    with StorageManager.from_env({"BUBU_MAX_INLINE_SIZE": "8"}) as storage:
        assert not storage.enabled
        assert storage.dehydrate({"a": 1}, run_id="r") == {"a": 1}
        assert storage.dehydrate((1, b""), run_id="r") == [1, ""]
        assert storage.dehydrate(None, run_id="r") is None
        assert storage.hydrate({"a": (1,)}) == {"a": [1]}
        with pytest.raises(StorageDisabledError, match="13 bytes, more than the inline limit of 8"):
            storage.dehydrate_inputs({"a": "12345"}, run_id="r")
        for action in (
            lambda: storage.backend,
            lambda: storage.read_blob("a"),
            lambda: storage.write_blob("a", b""),
            lambda: storage.delete("a"),
            lambda: storage.list_objects("a"),
            lambda: storage.hydrate(storage_ref("a")),
        ):
            with pytest.raises(StorageDisabledError, match="BUBU_STORAGE_PROVIDER"):
                action()


@pytest.mark.parametrize(
    "change",
    [
        {"max_inline_size_bytes": -1},
        {"max_recursion_depth": 0},
        {"max_hydrated_size_bytes": 0},
        {"timeout_seconds": 0.0},
        {"timeout_seconds": float("nan")},
    ],
)
def test_settings_out_of_range(change):
    """Are refused when the manager is made."""
    with pytest.raises(ConfigurationError, match=next(iter(change))):
        StorageManager(dataclasses.replace(ManagerSettings(), **change))
    with pytest.raises(ConfigurationError, match="max_workers"):
        StorageManager(ManagerSettings(), max_workers=0)


def test_the_first_failed_object_is_reported():
    """In the document's order, however many threads write; then nothing new is begun."""
    backend = CountingBackend(
        FaultBackend(MemoryBackend(), Fault(times=0, operations=frozenset({Operation.PUT}), key_contains="1"))
    )
    data = {"rows": [f"{i}" + "x" * 1100 for i in range(500)]}
    storage = StorageManager(ManagerSettings(), backend, max_workers=4)
    with storage, pytest.raises(UnavailableError, match="simulated"):
        storage.dehydrate(data, run_id="r")
    written = [call.key for call in backend.calls if call.operation is Operation.PUT]

    assert "outputs/r/rows.1.json" in written
    assert len(written) < 20


def test_every_object_is_written_and_read_once():
    """Also when a document refers to it many times, or a value was measured on every level."""
    backend = CountingBackend(MemoryBackend())
    data = {"a": {"b": {"c": ["x" * 2000, "y" * 2000]}}}
    with StorageManager(ManagerSettings(), backend) as storage:
        small = storage.dehydrate(data, run_id="r")
        assert backend.counts[Operation.PUT] == 2
        result = storage.hydrate([small, small, [small]])
    assert result == [data, data, [data]]
    assert backend.counts[Operation.GET] == 2


def test_the_first_failed_object_is_that_of_the_document():
    """Not the one that happened to fail first."""
    second_failed = threading.Event()

    class Failing(MemoryBackend):
        def put_object(self, key, *_, **__):
            """Fail, the first object later than the second."""
            if key.endswith("/0.json"):
                assert second_failed.wait(30)
            else:
                second_failed.set()
            raise UnavailableError(f"no {key}")

    storage = StorageManager(ManagerSettings(), Failing(), max_workers=2)
    with storage, pytest.raises(UnavailableError, match=r"no outputs/r/0\.json"):
        storage.dehydrate(["x" * 2000, "y" * 2000], run_id="r")


def test_objects_that_several_documents_refer_to_are_read_once():
    """Also where they are loaded ahead of time."""
    backend = CountingBackend(MemoryBackend())
    shared = [{REF: "a"}, {REF: "b"}]
    with StorageManager(ManagerSettings(), backend) as storage:
        for key, data in (("a", 1), ("b", 2), ("doc1", shared), ("doc2", shared)):
            body = json.dumps({"contentType": "json", "data": data}).encode()
            storage.write_blob(key, body)

        assert storage.hydrate([{REF: "doc1"}, {REF: "doc2"}, *shared]) == [[1, 2], [1, 2], 1, 2]
    assert backend.counts[Operation.GET] == 4


def test_many_threads_at_once(storage):
    """Calls do not get into each other's way."""
    results = {}

    def work(number):
        data = {"v": f"{number}" * 3000, "n": [number] * 50}
        small = storage.dehydrate(data, run_id=f"ns/{number}")
        results[number] = storage.hydrate(small) == data

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == dict.fromkeys(range(16), True)


def test_closing():
    """Twice is fine; afterwards every call says so; a backend of the caller's stays open."""

    class Backend(MemoryBackend):
        closed = 0

        def close(self):
            self.closed += 1

    backend = Backend()
    storage = StorageManager(ManagerSettings(), backend)
    storage.write_blob("a", b"1")
    listing = storage.list_objects(".")
    storage.close()
    storage.close()

    assert storage.closed
    assert backend.closed == 0
    for action in (
        lambda: storage.read_blob("a"),
        lambda: storage.dehydrate(1, run_id="r"),
        lambda: next(listing),
    ):
        with pytest.raises(StorageError, match="is closed"):
            action()


def test_an_opened_store_stays_open_between_calls(monkeypatch, tmp_path):
    """It is closed once, by `close`, and not when a call has ended."""
    closed = []

    class Watched(MemoryBackend):
        def close(self):
            """Count."""
            closed.append(self)

    monkeypatch.setattr("bubu_storage.backend.factory.open_backend", lambda _: Watched())
    storage = StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path))))
    storage.write_blob("a", b"x")
    assert storage.read_blob("a") == b"x"
    assert closed == []

    storage.close()
    storage.close()

    assert len(closed) == 1


def test_closing_waits_for_calls_under_way():
    """A call that has begun keeps its store until it ends."""
    with StorageManager.in_memory() as storage:
        for number in range(3):
            storage.write_blob(f"d/{number}", b"")
        listing = storage.list_objects("d")
        next(listing)
        storage.close()
        assert len(list(listing)) == 2


def test_a_missing_run_id_is_a_programming_error(storage):
    """Run ids are given by name, so that they cannot be confused with data."""
    with pytest.raises(TypeError):
        storage.dehydrate({}, "ns/run")


@pytest.mark.parametrize("run_id", [None, 7, b"ns/run", Path("ns/run")])
def test_run_ids_are_text(storage, run_id):
    """Nothing else is taken for an id, not even None, which a missing variable gives; nothing is written."""
    with pytest.raises(TypeError, match=f"run_id must be a str, not {type(run_id).__name__}"):
        storage.dehydrate("x" * 2000, run_id=run_id)
    assert list(storage.list_objects(".")) == []


def test_an_empty_run_id_is_logged(storage, caplog):
    """The Go SDK allows it, though such runs overwrite each other's objects."""
    assert storage.dehydrate("x" * 2000, run_id="")[REF] == "outputs/output.json"
    assert "run_id is empty" in caplog.text


@pytest.mark.parametrize("bad", ["a\x00b", "a" * 1100, "a\ud800"])
def test_ids_and_keys_that_no_store_takes(storage, bad):
    """Are found out before anything is written, with their place in the document."""
    data = {"first": "x" * 2000, "second": "y" * 2000}
    with pytest.raises(InvalidKeyError, match=r"\$\.first cannot be offloaded"):
        storage.dehydrate(data, run_id=bad)
    if "\ud800" not in bad:  # in keys it becomes U+FFFD
        with pytest.raises(InvalidKeyError, match="cannot be offloaded"):
            storage.dehydrate({"first": "x" * 2000, bad: "y" * 2000}, run_id="r")
    with pytest.raises(InvalidKeyError, match=r"the reference at \$.a cannot be followed"):
        storage.hydrate({"a": {REF: bad}})
    assert list(storage.list_objects(".")) == []


@pytest.mark.parametrize("path", [None, 5, b"a", Path("a")])
def test_paths_are_text(storage, path):
    """Wherever a path is expected, the error says so."""
    for action in (
        storage.read_blob,
        storage.delete,
        storage.list_objects,
        lambda path: storage.write_blob(path, b""),
    ):
        with pytest.raises(TypeError, match="must be a str, not"):
            action(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (FileSettings("/nowhere"), r"settings is a FileSettings; .* ManagerSettings\(backend=FileSettings"),
        ("s3://bucket", "settings is a str"),
        (None, "settings is a NoneType"),
        (ManagerSettings(backend="/data"), r"settings.backend is a str; .* FileSettings"),
        (ManagerSettings(max_inline_size_bytes="1024"), "max_inline_size_bytes is a str"),
    ],
)
def test_settings_of_the_wrong_type(settings, words):
    """The error shows what to write."""
    with pytest.raises(TypeError, match=words):
        StorageManager(settings)


def test_how_much_is_read(storage):
    """A call reads no more than the limit, and refuses before it reads."""
    storage.write_blob("blob", b"x" * 1001)
    small = storage.dehydrate([["x" * 400], ["y" * 400], "z" * 2000], run_id="r")
    strict = StorageManager(ManagerSettings(max_hydrated_size_bytes=1000), storage.backend)
    enough = StorageManager(ManagerSettings(max_hydrated_size_bytes=5000), storage.backend)
    with strict, enough:
        for action in (lambda: strict.read_blob("blob"), lambda: strict.hydrate(small)):
            with pytest.raises(LimitExceededError, match="more than the limit of 1000; raise BUBU_MAX_HYDR"):
                action()
        assert enough.read_blob("blob") == b"x" * 1001
        assert enough.hydrate(small)[2] == "z" * 2000


def test_all_objects_of_a_call_count_together():
    """Each one once, however many references lead to it; also when loaded in parallel."""
    backend = MemoryBackend()
    with StorageManager(ManagerSettings(), backend) as storage:
        small = storage.dehydrate([f"{n}" * 2000 for n in range(5)], run_id="r")
    for limit, fits in ((10_300, True), (10_000, False)):
        with StorageManager(ManagerSettings(max_hydrated_size_bytes=limit), backend) as storage:
            if fits:
                assert len(storage.hydrate(small)) == 5
            else:
                with pytest.raises(LimitExceededError, match="in all in this call"):
                    storage.hydrate(small)


def test_closed_managers_refuse_at_once():
    """A listing, too, and not only when its first object is asked for."""
    storage = StorageManager.in_memory()
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        storage.list_objects(".")
    assert repr(storage) == "<StorageManager on memory://, closed>"


def test_a_manager_says_what_it_works_on(tmp_path):
    """Without a secret in it."""
    assert repr(StorageManager.from_env({})) == "<StorageManager on no store>"
    with StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path)))) as storage:
        assert repr(storage) == f"<StorageManager on file://{tmp_path}>"
    settings = S3Settings("b", endpoint="https://user:PLANTED@host", secret_access_key="PLANTED")
    assert "PLANTED" not in repr(settings)
    assert "host" in repr(settings)


def test_timeouts_of_any_length():
    """A timeout that is longer than any clock still works; on a foreign store it is waited for."""
    for seconds in (float("inf"), 1e12):
        with StorageManager(ManagerSettings(timeout_seconds=seconds), MemoryBackend()) as storage:
            storage.write_blob("a", b"x")
            assert storage.read_blob("a") == b"x"


def test_secrets_in_documents_never_show_in_errors(storage):
    """Whatever fails, the data itself is not quoted."""
    secret = "planted-secret"
    storage.write_blob("broken", b'{"contentType":"json","data":planted-secret}')
    for action in (
        lambda: storage.hydrate({"password": storage_ref("broken")}),
        lambda: storage.dehydrate({"password": [secret, float("nan")]}, run_id="r"),
        lambda: storage.dehydrate({"password": {secret.encode()}}, run_id="r"),
    ):
        with pytest.raises((StorageError, LimitExceededError)) as caught:
            action()
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value.__cause__)
