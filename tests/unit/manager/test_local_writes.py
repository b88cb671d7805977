"""A local store is written to by the caller's own thread, unless it turns out to be slow."""

from __future__ import annotations

import threading

import pytest

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.errors import StorageError

TEXTS = {f"{number:02}": f"{number:02}" + "x" * 1100 for number in range(40)}


class Recorder:
    """Stands in for a backend's put: notes threads and keys, fails where told."""

    def __init__(self, storage, monkeypatch, *, failing=()):
        self.threads = []
        self.keys = []
        self._put = storage.backend.put_object
        self._failing = failing
        monkeypatch.setattr(storage.backend, "put_object", self)

    def __call__(self, key, *args, **kwargs):
        """Put an object."""
        self.threads.append(threading.current_thread().name)
        self.keys.append(key)
        if key in self._failing:
            raise StorageError(f"cannot write {key}", key=key)
        return self._put(key, *args, **kwargs)


@pytest.fixture
def storage():
    """A manager on a local store."""
    with StorageManager.in_memory(ManagerSettings()) as manager:
        yield manager


@pytest.fixture(params=[0.0, float("inf")], ids=["slow", "fast"])
def is_slow(request, monkeypatch):
    """Let every store count as slow, or none."""
    monkeypatch.setattr("bubu_storage.transfer._LOCAL_SLOW_SECONDS", request.param)
    return request.param == 0.0


def test_only_a_slow_store_is_written_to_by_threads(storage, monkeypatch, is_slow):
    """The first few objects tell which it is; all are written, each once."""
    recorder = Recorder(storage, monkeypatch)

    references = storage.dehydrate(TEXTS, run_id="ns/run")

    own = threading.current_thread().name
    assert set(recorder.threads[:4]) == {own}
    assert (set(recorder.threads[4:]) == {own}) is not is_slow
    assert len(recorder.keys) == len(set(recorder.keys)) == len(TEXTS)
    assert storage.hydrate(references) == TEXTS


@pytest.mark.usefixtures("is_slow")
@pytest.mark.parametrize("first", [0, 3, 4, 20])
def test_the_first_error_counts_and_ends_the_call(storage, monkeypatch, first):
    """However it is written: what comes before has been tried, the rest is not begun for long."""
    recorder = Recorder(
        storage, monkeypatch, failing={f"outputs/ns/run/{number:02}.json" for number in range(first, 40)}
    )
    with pytest.raises(StorageError, match=rf"cannot write outputs/ns/run/{first:02}\.json"):
        storage.dehydrate(TEXTS, run_id="ns/run")
    wanted = {f"outputs/ns/run/{number:02}.json" for number in range(first + 1)}
    assert wanted <= set(recorder.keys)
