"""Ends of a pass that nobody chose: interrupts one after the other, and a process that ends under it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bubu_storage.retention.courier import Courier
from bubu_storage.retention.prefetch import ReadAhead
from tests.unit.retention.test_pipeline import DEADLINE_SECONDS, Busy, no_thread_is_left

__all__ = ["no_thread_is_left"]

ROOT = Path(__file__).parents[3]

PROCESS = """
import threading
import time
from concurrent.futures import thread as pools
from tests.unit.retention.test_pipeline import Busy

store, begun = Busy(3000, 10), threading.Event()

def hold(number, keys):
    begun.set()
    while number and not pools._shutdown:
        time.sleep(0.001)

def sweep():
    try:
        print(store.run().stopped_by)
    except RuntimeError as error:
        print(error)

store.hold = hold
threading.Thread(target=sweep).start()
begun.wait(60)
"""
"""A program whose main thread ends while a pass runs in another one, with deletions in flight."""


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


def test_a_process_that_ends_under_a_pass():
    """A pass in a thread of the program's own ends by an error: it does not keep the process for ever."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert re.fullmatch(r"cannot schedule new futures after (interpreter )?shutdown\n", done.stdout)
    assert not done.stderr
