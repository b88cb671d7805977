"""What a manager puts around its store: a cache, metrics, workers; and what a change of them does."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from prometheus_client import CollectorRegistry

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from bubu_storage.backend.cache import CachingBackend
from bubu_storage.backend.decorator import Operation, innermost
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.metrics import MetricsBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.observability import StorageMetrics
from bubu_storage.testing.fakes import CountingBackend

MIB = 1024 * 1024


@pytest.fixture
def registry():
    """A registry of the test's own."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    """Collectors on it."""
    return StorageMetrics(registry)


def count(registry, operation, status="ok"):
    """How often an operation has been counted."""
    labels = {"operation": operation, "status": status}
    return registry.get_sample_value("storage_operations_total", labels) or 0


def payload(registry, operation):
    """How many documents were counted, and their bytes."""
    return tuple(
        registry.get_sample_value(f"storage_payload_bytes_{part}", {"operation": operation})
        for part in ("count", "sum")
    )


# ---- put and get


def test_put_and_get():
    """Short names of the same operations, with the same limits."""
    with StorageManager.in_memory(ManagerSettings(max_hydrated_size_bytes=10)) as storage:
        etag = storage.put("a/b", b"data")
        assert etag == storage.backend.head_object("a/b").etag
        assert storage.get("a/b") == storage.read_blob("a/b") == b"data"
        storage.put("a/b", iter([b"x" * 11]))
        with pytest.raises(ValueError, match="more than the limit of 10"):
            storage.get("a/b")
        storage.delete("a/b")
        with pytest.raises(FileNotFoundError, match="a/b"):
            storage.get("a/b")
        with pytest.raises(ValueError, match=r"'\.\.' segment"):
            storage.put("../a", b"")


# ---- the cache


def test_no_cache_unless_asked_for():
    """Every read asks the store."""
    counting = CountingBackend(MemoryBackend())
    with StorageManager(ManagerSettings(), counting) as storage:
        storage.put("a", b"x")
        for _ in range(3):
            storage.get("a")
    assert counting.counts[Operation.GET] == 3


def test_a_cache_by_settings():
    """Documents and blobs come from it; own writes are seen at once."""
    counting = CountingBackend(MemoryBackend())
    with StorageManager(ManagerSettings(cache_size_bytes=MIB), counting) as storage:
        small = storage.dehydrate(["x" * 2000, "y" * 2000], run_id="r")
        for _ in range(3):
            assert storage.hydrate(small) == ["x" * 2000, "y" * 2000]
        assert counting.counts[Operation.GET] == 2
        storage.dehydrate(["z" * 2000, "y" * 2000], run_id="r")
        assert storage.hydrate(small) == ["z" * 2000, "y" * 2000]
        storage.delete("outputs/r/0.json")
        with pytest.raises(FileNotFoundError):
            storage.hydrate(small)
        assert isinstance(storage.backend, CachingBackend)
        assert innermost(storage.backend) is counting.unwrap()


def test_a_cache_by_environment(tmp_path):
    """With its time to live."""
    env = {
        "BUBU_STORAGE_PROVIDER": "file",
        "BUBU_STORAGE_PATH": str(tmp_path),
        "BUBU_STORAGE_CACHE_SIZE": "1000000",
        "BUBU_STORAGE_CACHE_TTL": "90s",
    }
    with StorageManager.from_env(env) as storage:
        assert storage.settings.cache_ttl_seconds == 90
        assert isinstance(storage.backend, CachingBackend)
        storage.put("a", b"old")
        assert storage.get("a") == b"old"
        (tmp_path / "a").write_bytes(b"new, by somebody else")
        assert storage.get("a") == b"old"


# ---- metrics


def test_what_is_counted(registry, metrics):
    """Requests that reach the store, and documents; a hit in the cache is no request."""
    settings = ManagerSettings(cache_size_bytes=MIB)
    with StorageManager(settings, MemoryBackend(), metrics=metrics) as storage:
        small = storage.dehydrate({"a": "x" * 2000, "b": 1}, run_id="r")
        stored = len(storage.backend.get_object("outputs/r/a.json").read())
        for _ in range(3):
            storage.hydrate(small)
        storage.hydrate_storage_refs_only(small)
        storage.dehydrate_inputs({"n": 1}, run_id="r")
    assert count(registry, "put_object") == 1
    assert count(registry, "get_object") == 1
    inline = len('{"a":{"$bubuStorageContentType":"text/plain","$bubuStorageRef":"outputs/r/a.json"},"b":1}')
    assert payload(registry, "dehydrate") == (1, inline + stored)
    assert payload(registry, "dehydrate_inputs") == (1, 7)
    assert payload(registry, "hydrate") == (3, 3 * stored)
    assert payload(registry, "hydrate_storage_refs_only") == (1, stored)


def test_failures_are_no_documents(registry, metrics):
    """The request is counted, with its status."""
    with StorageManager(ManagerSettings(), MemoryBackend(), metrics=metrics) as storage:
        with pytest.raises(FileNotFoundError):
            storage.hydrate({"$bubuStorageRef": "nothing"})
        with pytest.raises(ValueError, match="nan"):
            storage.dehydrate(float("nan"), run_id="r")
    assert count(registry, "get_object", "not_found") == 1
    assert payload(registry, "hydrate") == (0, 0)
    assert payload(registry, "dehydrate") == (0, 0)


def test_a_store_that_counts_is_not_counted_twice(registry, metrics):
    """Wherever in the stack the metrics are."""
    backend = CountingBackend(MetricsBackend(MemoryBackend(), metrics))
    with StorageManager(ManagerSettings(), backend, metrics=metrics) as storage:
        storage.put("a", b"")
        assert storage.backend is backend
    assert count(registry, "put_object") == 1


def test_the_default_registry():
    """Is used unless another one is given, by managers from the environment too."""
    from prometheus_client import REGISTRY

    before = count(REGISTRY, "put_object")
    with StorageManager.in_memory() as storage:
        storage.put("a", b"")
    assert count(REGISTRY, "put_object") == before + 1


def test_metrics_can_be_switched_off(tmp_path):
    """By the environment or the settings: then nothing is put around the store."""
    env = {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(tmp_path)}
    with StorageManager.from_env({**env, "BUBU_STORAGE_METRICS": "off"}) as storage:
        assert not storage.settings.metrics_enabled
        assert innermost(storage.backend) is storage.backend
        storage.hydrate(storage.dehydrate("x" * 2000, run_id="r"))
    with StorageManager.from_env({**env, "BUBU_STORAGE_METRICS": "true"}) as storage:
        assert isinstance(storage.backend, MetricsBackend)


# ---- workers


@pytest.mark.parametrize(("settings", "argument", "workers"), [(3, None, 3), (3, 2, 2), (32, 1, 1)])
def test_so_many_objects_at_a_time(settings, argument, workers):
    """As the settings say, unless the caller says otherwise."""
    at_once: list[int] = []
    lock = threading.Lock()
    released = threading.Event()
    inside = 0

    class Slow(MemoryBackend):
        def put_object(self, *args, **kwargs):
            """Stay until as many are here as can be."""
            nonlocal inside
            with lock:
                inside += 1
                at_once.append(inside)
                if inside == workers:
                    released.set()
            assert released.wait(30)
            with lock:
                inside -= 1
            return super().put_object(*args, **kwargs)

    with StorageManager(ManagerSettings(max_workers=settings), Slow(), max_workers=argument) as storage:
        storage.dehydrate([f"{number}" * 2000 for number in range(9)], run_id="r")
    assert max(at_once) == workers


# ---- changes


def test_another_number_of_workers():
    """From the next call on; what the constructor said stays."""
    with StorageManager(ManagerSettings(), MemoryBackend()) as storage:
        storage.put("a", b"")
        before = storage._holder.threads()
        storage.reconfigure(ManagerSettings(max_workers=2))
        after = storage._holder.threads()
        assert (before._max_workers, after._max_workers) == (32, 2)
        assert before.submit(int).result(30) == 0, "calls under way still have theirs"
        assert storage.get("a") == b""
    with StorageManager(ManagerSettings(), MemoryBackend(), max_workers=5) as storage:
        storage.reconfigure(ManagerSettings(max_workers=2))
        assert storage._holder.threads()._max_workers == 5


@pytest.mark.parametrize("owned", [True, False])
def test_a_cache_comes_and_goes(tmp_path, owned):
    """The store stays the same; one of the caller's is not closed."""
    closed = []

    class Watched(MemoryBackend):
        def close(self):
            """Count."""
            closed.append(True)

    files = FileSettings(str(tmp_path)) if owned else None
    settings = ManagerSettings(backend=files)
    with StorageManager(settings, None if owned else Watched()) as storage:
        storage.put("a", b"x")
        storage.reconfigure(dataclasses.replace(settings, cache_size_bytes=MIB))
        assert isinstance(storage.backend, CachingBackend)
        assert storage.get("a") == b"x"
        storage.reconfigure(dataclasses.replace(settings, metrics_enabled=False))
        assert innermost(storage.backend) is storage.backend
        assert storage.get("a") == b"x"
        before = storage.backend
        storage.reconfigure(dataclasses.replace(settings, metrics_enabled=False, max_inline_size_bytes=7))
        assert storage.backend is before
    assert closed == []


def test_a_new_cache_waits_for_writes_under_way():
    """It does not know of them, and would keep what they replace."""
    counting = CountingBackend(MemoryBackend())
    with StorageManager(ManagerSettings(), counting) as storage:
        storage.put("a", b"old")
        with storage.open_blob("a", "wb") as first:
            first.write(b"new")
            for size in (MIB, 2 * MIB):
                storage.reconfigure(ManagerSettings(cache_size_bytes=size))
                assert storage.get("a") == b"old"
        assert storage.get("a") == b"new"
        before = counting.counts[Operation.GET]
        assert storage.get("a") == b"new"
        assert counting.counts[Operation.GET] == before
        assert storage._holder.current.before is None


@pytest.mark.parametrize(
    "change",
    [{"cache_size_bytes": -1}, {"cache_ttl_seconds": 0.0}, {"max_workers": 0}, {"cache_size_bytes": "1"}],
)
def test_settings_out_of_range(change):
    """Are refused when the manager is made, and by a change; nothing has changed then."""
    bad = dataclasses.replace(ManagerSettings(), **change)
    with pytest.raises((ConfigurationError, TypeError), match=next(iter(change))):
        StorageManager(bad)
    with StorageManager.in_memory() as storage:
        with pytest.raises((ConfigurationError, TypeError), match=next(iter(change))):
            storage.reconfigure(bad)
        assert storage.settings == ManagerSettings()
