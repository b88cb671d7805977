"""Ends of a pass that nobody chose: interrupts one after the other."""

from __future__ import annotations

import threading

import pytest

from bubu_storage.retention.courier import Courier
from bubu_storage.retention.prefetch import ReadAhead
from tests.unit.retention.test_pipeline import DEADLINE_SECONDS, Busy, no_thread_is_left

__all__ = ["no_thread_is_left"]


class Singly(Busy):
    """A store that deletes one object a request, each of which is held until a second interrupt has come."""

    bulk_delete_is_emulated = True

    def __init__(self) -> None:
        super().__init__(200, 10)
        self.interrupted = threading.Event()
        self.hold = lambda _number, _keys: self.interrupted.wait(DEADLINE_SECONDS)


def test_a_second_interrupt_while_the_first_ends_the_pass(monkeypatch):
    """Whoever presses Ctrl-C twice wants less to be deleted: nothing goes on behind their back."""
    store = Singly()
    really_close, really_receive = ReadAhead.close, Courier.receive

    def receive(courier: Courier, timeout_seconds: float | None) -> object:
        if timeout_seconds is None and not store.interrupted.is_set():
            store.wait(lambda: store.in_flight)
            raise KeyboardInterrupt("first")
        return really_receive(courier, timeout_seconds)

    def close(pages: ReadAhead) -> None:
        really_close(pages)
        store.interrupted.set()
        raise KeyboardInterrupt("second")

    monkeypatch.setattr(Courier, "receive", receive)
    monkeypatch.setattr(ReadAhead, "close", close)

    with pytest.raises(KeyboardInterrupt, match="second"):
        store.run()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bubu-sweep")]
    assert 0 == store.in_flight
    assert len(store.batches) <= 4
