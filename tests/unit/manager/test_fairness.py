"""Calls that share a manager's threads take turns."""

from __future__ import annotations

import threading

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.backend.decorator import BackendDecorator
from bubu_storage.backend.memory import MemoryBackend

_OBJECTS = 3_000
_PACE_SECONDS = 0.005
_DEADLINE_SECONDS = 60


class _Paced(BackendDecorator):
    """Takes a moment for each write until `hurry` is set, and counts them."""

    def __init__(self, inner):
        super().__init__(inner)
        self.hurry = threading.Event()
        self.begun = threading.Event()
        self.writes = 0

    def put_object(self, key, body, **more):
        self.begun.set()
        self.hurry.wait(_PACE_SECONDS)
        self.writes += 1
        return super().put_object(key, body, **more)


def test_a_long_write_lets_a_short_call_in_between():
    """One thread, a document of thousands of objects, and somebody else who wants one object."""
    store = MemoryBackend()
    store.put_object("small", b"here")
    paced = _Paced(store)
    document = {f"part-{number}": "x" for number in range(_OBJECTS)}
    settings = ManagerSettings(max_workers=1, max_inline_size_bytes=0, metrics_enabled=False)

    with StorageManager(settings, paced) as manager:
        writer = threading.Thread(target=manager.dehydrate, args=(document,), kwargs={"run_id": "team/run"})
        writer.start()
        assert paced.begun.wait(_DEADLINE_SECONDS)
        found = manager.get("small")
        written_before = paced.writes
        paced.hurry.set()
        writer.join(_DEADLINE_SECONDS)

    assert found == b"here"
    assert written_before < _OBJECTS
    assert paced.writes >= _OBJECTS
