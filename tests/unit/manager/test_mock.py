"""The manager for other people's tests: a real one in memory that records and fails as told."""

from __future__ import annotations

import inspect

import pytest

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import ConfigurationError, PermissionDeniedError, ThrottledError, UnavailableError
from bubu_storage.testing.mock import OPERATIONS, ManagerCall, MockStorageManager

PUBLIC = [name for name in dir(StorageManager) if not name.startswith("_")]


@pytest.fixture
def storage():
    """An empty one."""
    with MockStorageManager() as manager:
        yield manager


@pytest.mark.parametrize("name", PUBLIC)
def test_the_same_surface(name):
    """Whatever a manager has, with the same arguments."""
    ours, theirs = getattr(MockStorageManager, name), getattr(StorageManager, name)
    assert type(ours) is type(theirs)
    if callable(theirs):
        assert inspect.signature(ours) == inspect.signature(theirs)


def test_the_same_construction():
    """Save that the settings may be left out."""
    ours = inspect.signature(MockStorageManager).parameters
    theirs = inspect.signature(StorageManager).parameters
    assert list(ours) == list(theirs)
    assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]
    assert {n: p.default for n, p in ours.items() if n != "settings"} == {
        n: p.default for n, p in theirs.items() if n != "settings"
    }


def test_nothing_is_opened(tmp_path):
    """Whatever settings and environment say."""
    missing = tmp_path / "store"
    env = {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(missing), "BUBU_MAX_INLINE_SIZE": "7"}
    settings = ManagerSettings(backend=FileSettings(str(missing)))
    for manager in (
        MockStorageManager(settings),
        MockStorageManager.from_env(env),
        MockStorageManager.in_memory(settings),
    ):
        with manager as storage:
            assert isinstance(storage, MockStorageManager)
            storage.put("a", b"x")
            assert storage.objects == {"a": b"x"}
    assert manager.enabled
    assert not missing.exists()


def test_it_works_and_records(storage):
    """All that a manager does, with what it was asked."""
    data = {"a": "x" * 2000}
    small = storage.dehydrate(data, run_id="ns/run")
    assert storage.hydrate(small) == storage.hydrate_storage_refs_only(small) == data
    storage.dehydrate_inputs({"n": 1}, run_id="ns/story")
    storage.write_blob("b", b"1")
    storage.put("c", b"2")
    assert (storage.read_blob("b"), storage.get("c")) == (b"1", b"2")
    with storage.open_blob("d", "wb") as blob:
        blob.write(b"3")
    storage.delete("b")
    assert [item.key for item in storage.list_objects(".")] == ["c", "d", "outputs/ns/run/a.json"]

    assert storage.calls == [
        ManagerCall("dehydrate", "ns/run", data),
        ManagerCall("hydrate", "", small),
        ManagerCall("hydrate_storage_refs_only", "", small),
        ManagerCall("dehydrate_inputs", "ns/story", {"n": 1}),
        ManagerCall("write_blob", "b", b"1"),
        ManagerCall("put", "c", b"2"),
        ManagerCall("read_blob", "b"),
        ManagerCall("get", "c"),
        ManagerCall("open_blob", "d", "wb"),
        ManagerCall("delete", "b"),
        ManagerCall("list_objects", "."),
    ]
    assert {call.operation for call in storage.calls} == set(OPERATIONS)
    assert storage.calls_of("delete") == [ManagerCall("delete", "b")]
    assert storage.objects["d"] == b"3"


CALLS = {
    "dehydrate": lambda m: m.dehydrate({"k": "x" * 2000}, run_id="r"),
    "dehydrate_inputs": lambda m: m.dehydrate_inputs({"k": "x" * 2000}, run_id="r"),
    "hydrate": lambda m: m.hydrate({"$bubuStorageRef": "k"}),
    "hydrate_storage_refs_only": lambda m: m.hydrate_storage_refs_only({"$bubuStorageRef": "k"}),
    "read_blob": lambda m: m.read_blob("k"),
    "write_blob": lambda m: m.write_blob("k", b""),
    "get": lambda m: m.get("./k"),
    "put": lambda m: m.put("k", b""),
    "open_blob": lambda m: m.open_blob("k"),
    "delete": lambda m: m.delete("k"),
    "list_objects": lambda m: list(m.list_objects("k")),
}
KEYS = {"dehydrate": "outputs/r/k.json", "dehydrate_inputs": "inputs/r/k.json"}


def stored():
    """A mock on a store that has the object ``k``."""
    backend = MemoryBackend()
    backend.put_object("k", b'{"contentType":"json","data":1}')
    return MockStorageManager(backend=backend)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("keyed", [True, False])
def test_failures(operation, keyed):
    """Of one operation, or of one object in it; so often, and of no other."""
    call = CALLS[operation]
    with stored() as storage:
        planned = storage.fail(
            operation, key=KEYS.get(operation, "k") if keyed else "", error=ThrottledError("slow"), times=2
        )
        other = storage.fail(operation, key="other", times=None)
        for _ in range(2):
            with pytest.raises(ThrottledError, match="slow"):
                call(storage)
        result = call(storage)
        if hasattr(result, "close"):
            result.close()
        assert (planned.struck, other.struck) == (2, 0)
        assert len(storage.calls_of(operation)) == 3
        for name in set(OPERATIONS) - {operation}:
            storage.recover()
            storage.fail(name, times=None)
            storage.fail(name, key="k", times=None)
        result = call(storage)
        if hasattr(result, "close"):
            result.close()


def test_failures_of_everything(storage):
    """Until it recovers; the default error says that it is simulated, and may be made anew each time."""
    storage.fail(times=None)
    for call in (CALLS["put"], CALLS["dehydrate"]):
        with pytest.raises(UnavailableError, match="simulated"):
            call(storage)
    storage.recover()
    storage.put("k", b"")
    storage.fail(key="k", error=lambda: PermissionDeniedError("no"), times=None)
    for call in (CALLS["put"], CALLS["get"]):
        with pytest.raises(PermissionDeniedError):
            call(storage)


def test_what_was_done_before_stays_done(storage):
    """The third object fails: the first two are written, and no reference is returned."""
    storage.fail("dehydrate", key="outputs/r/2.json")
    with pytest.raises(UnavailableError):
        storage.dehydrate([f"{n}" * 2000 for n in range(4)], run_id="r")
    assert sorted(storage.objects) == ["outputs/r/0.json", "outputs/r/1.json"]


def test_unknown_operations(storage):
    """A typing error would make a test pass that should not."""
    with pytest.raises(ConfigurationError, match="one of dehydrate, "):
        storage.fail("hydrat")


def test_failures_are_planned_with_forgiveness():
    """A class will do for an error, and any spelling of a path; a number that means nothing is refused."""
    with MockStorageManager() as storage:
        storage.put("a/b", b"1")
        storage.fail("get", key="a//b/", error=UnavailableError)
        with pytest.raises(UnavailableError, match="simulated"):
            storage.get("a/b")
        assert storage.get("a/b") == b"1"
        with pytest.raises(ConfigurationError, match=r"times is -1; .* None for always"):
            storage.fail("get", times=-1)
