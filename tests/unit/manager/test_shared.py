"""The shared manager: one for a configuration, and every change of it noticed."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from prometheus_client import CollectorRegistry

from bubu_storage import StorageMetrics, reset_shared_managers, shared, shared_manager
from bubu_storage.errors import ConfigurationError, KubeRefError, StorageError


@pytest.fixture(autouse=True)
def _clean_registry():
    """No test sees another one's managers."""
    reset_shared_managers()
    yield
    reset_shared_managers()


@pytest.fixture
def env(tmp_path):
    """A file store in the environment."""
    return {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(tmp_path / "store")}


def test_the_same_configuration_is_the_same_manager(env, monkeypatch):
    """From the process's environment or a mapping."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert shared_manager() is shared_manager(env)
    assert shared_manager(env).hydrate(shared_manager().dehydrate("x" * 2000, run_id="r")) == "x" * 2000


class Resolver:
    """Reads any ConfigMap as its own name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def config_map_value(self, *where):
        """Say who was asked."""
        return f"{self.name}: {'/'.join(where)}"

    secret_value = config_map_value


def test_a_resolver_can_be_given_at_any_time(env):
    """Whoever has one brings it along; the first stays, and later callers need not know it."""
    env = {**env, "BUBU_POD_NAMESPACE": "team-a"}
    document = {"$bubuConfigMapRef": "settings:mode"}
    with pytest.raises(KubeRefError, match="kube_resolver"):
        shared_manager(env).hydrate(document)

    manager = shared_manager(env, kube_resolver=Resolver("first"))
    assert manager is shared_manager(env)
    assert shared_manager(env).hydrate(document) == "first: team-a/settings/mode"
    assert shared_manager(env, kube_resolver=Resolver("second")).hydrate(document).startswith("first")

    reset_shared_managers()
    assert shared_manager(env, kube_resolver=Resolver("new")).hydrate(document).startswith("new")


def test_metrics_of_a_shared_manager(env):
    """On a registry of the caller's, for a manager that is made now."""
    registry = CollectorRegistry()
    shared_manager(env, metrics=StorageMetrics(registry)).put("a", b"x")
    labels = {"operation": "put_object", "status": "ok"}
    assert registry.get_sample_value("storage_operations_total", labels) == 1.0


def test_other_stores_and_prefixes_are_other_managers(env, tmp_path):
    """Each is kept; going back finds the first again."""
    first = shared_manager(env)
    assert shared_manager({**env, "BUBU_STORAGE_PATH": str(tmp_path / "other")}) is not first
    assert shared_manager({**env, "BUBU_STORAGE_OUTPUT_PREFIX": "o"}) is not first
    assert shared_manager({}) is not first
    assert shared_manager(env) is first


def test_a_changed_limit_is_noticed(env):
    """The Go SDK would go on with the old one (its defect 17)."""
    manager = shared_manager(env)
    backend = manager.backend
    assert manager.dehydrate("x" * 100, run_id="r") == "x" * 100

    again = shared_manager({**env, "BUBU_MAX_INLINE_SIZE": "50"})
    assert again is manager
    assert manager.settings.max_inline_size_bytes == 50
    assert "$bubuStorageRef" in manager.dehydrate("x" * 100, run_id="r")
    assert manager.backend is backend


def test_changed_credentials_open_the_store_anew():
    """Requests after a rotation carry the new keys; the old client is closed."""
    env = {
        "BUBU_STORAGE_PROVIDER": "s3",
        "BUBU_STORAGE_S3_BUCKET": "b",
        "BUBU_STORAGE_S3_ENDPOINT": "http://127.0.0.1:9",
        "BUBU_S3_ACCESS_KEY_ID": "old",
        "BUBU_S3_SECRET_ACCESS_KEY": "old-secret",
    }
    manager = shared_manager(env)
    old = manager.backend
    rotated = {**env, "BUBU_S3_ACCESS_KEY_ID": "new", "BUBU_S3_SECRET_ACCESS_KEY": "new-secret"}

    assert shared_manager(rotated) is manager
    assert manager.backend is not old
    assert manager.settings.backend.access_key_id == "new"


def test_a_call_under_way_keeps_its_store(env):
    """An exchange of the backend does not cut what has begun."""
    manager = shared_manager(env)
    for name in ("a", "b", "c"):
        manager.write_blob(f"d/{name}", b"")
    listing = manager.list_objects("d")
    next(listing)
    closed = []
    backend = manager.backend
    close = backend.close
    backend.close = lambda: (closed.append(True), close())
    manager.reconfigure(type(manager.settings)())

    assert not manager.enabled
    assert closed == []
    assert [item.key for item in listing] == ["d/b", "d/c"]
    assert closed == [True]


def test_a_failure_is_not_remembered(env):
    """The next call tries again."""
    with pytest.raises(ConfigurationError):
        shared_manager({**env, "BUBU_MAX_INLINE_SIZE": "x"})
    assert shared_manager(env).enabled


def test_a_bad_change_leaves_the_manager_as_it_was(env):
    """Half a change would be worse than none."""
    manager = shared_manager(env)
    before = manager.settings
    with pytest.raises(ConfigurationError):
        shared_manager({**env, "BUBU_MAX_INLINE_SIZE": "-5"})
    assert manager.settings == before
    assert shared_manager(env) is manager


def test_a_closed_one_is_replaced(env):
    """Somebody closed what was not theirs; nobody else suffers for long."""
    first = shared_manager(env)
    first.close()
    second = shared_manager(env)
    assert second is not first
    second.write_blob("a", b"")


def test_reset_closes_all(env):
    """For tests of other code."""
    manager = shared_manager(env)
    reset_shared_managers()
    with pytest.raises(StorageError, match="closed"):
        manager.read_blob("a")


def test_the_registry_is_bounded(env, tmp_path):
    """The least recently used is forgotten, not closed: whoever holds it may go on."""
    first = shared_manager(env)
    for number in range(40):
        shared_manager({**env, "BUBU_STORAGE_OUTPUT_PREFIX": f"p{number}"})
    assert not first.closed
    assert shared_manager(env) is not first
    first.close()


def test_a_fork_waits_for_a_manager_that_is_being_made(tmp_path, monkeypatch):
    """Else the child would wait for ever for a thread that it has not."""
    begun, go_on = threading.Event(), threading.Event()
    real = shared.StorageManager

    def slowly(settings, **more):
        begun.set()
        assert go_on.wait(60)
        return real(settings, **more)

    monkeypatch.setattr(shared, "StorageManager", slowly)
    env = {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(tmp_path)}
    maker = threading.Thread(target=shared_manager, args=(env,))
    maker.start()
    assert begun.wait(60)
    timer = threading.Timer(0.1, go_on.set)
    timer.start()
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if shared_manager(env).enabled else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    maker.join(60)
    timer.join(60)
