"""What child processes of the tests of file stores run; a module of its own, so that it can be spawned."""

from __future__ import annotations

import fcntl
import os
import random
from typing import TYPE_CHECKING

from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import ObjectNotFoundError, PreconditionFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

PIECES = 24
PIECE_BYTES = 16_384


def body(mark: int) -> bytes:
    """Return the one body that belongs to a mark: every byte says the same."""
    return bytes([mark % 256]) * (PIECES * PIECE_BYTES)


def write_for_ever(base: str, signal: Connection, signal_at: int, *, stop_there: bool) -> None:
    """Overwrite three keys again and again in small pieces; tell when a certain piece is reached.

    With ``stop_there`` the writer stays in the middle of that piece until it is killed.
    """
    store = FileBackend(base, fsync=False)
    reached = mark = 0

    def pieces(whole: bytes) -> Iterator[bytes]:
        nonlocal reached
        for start in range(0, len(whole), PIECE_BYTES):
            reached += 1
            if reached == signal_at:
                signal.send(reached)
                if stop_there:
                    signal.recv()
            yield whole[start : start + PIECE_BYTES]

    while True:
        mark += 1
        store.put_object(f"outputs/ns/run-{mark % 3}/output.json", pieces(body(mark)))


def churn(base: str, worker: int, rounds: int) -> None:
    """Write and delete objects in directories that others prune at the same time."""
    store = FileBackend(base, fsync=False)
    for number in range(rounds):
        key = f"outputs/ns/run-{number % 2}/{worker}.json"
        store.put_object(key, f"{worker}:{number}".encode())
        with store.get_object(key) as found:
            if found.read() != f"{worker}:{number}".encode():
                raise AssertionError(key)
        store.delete_object(key)
    store.put_object(f"outputs/ns/run-0/{worker}.json", b"last")


def count(base: str, rounds: int) -> None:
    """Add to a counter by compare-and-swap."""
    store = FileBackend(base, fsync=False)
    while rounds:
        with store.get_object("shared/counter") as found:
            value, etag = int(found.read()), found.info.etag
        try:
            store.put_object("shared/counter", f"{value + 1:08}".encode(), if_match=etag)
        except PreconditionFailedError:
            continue
        rounds -= 1


def claim(base: str, worker: int, keys: int, start: Connection) -> None:
    """Try to be the first at each of many keys; send the numbers of those that were won."""
    store = FileBackend(base, fsync=False)
    start.recv()
    won: list[int] = []
    for number in range(keys):
        try:
            store.put_object(f"claims/{number % 3}/{number}", str(worker).encode(), if_none_match="*")
        except PreconditionFailedError:
            continue
        won.append(number)
    start.send(won)


def consume(base: str, worker: int, rounds: int, answer: Connection) -> None:
    """Replace versions of one object on the condition that it is still the one that was read.

    Now and then change it without a condition, as other users do. Every body is unlike any other;
    sends those that were consumed.
    """
    store = FileBackend(base, fsync=False)
    rng = random.Random(worker)
    consumed: list[str] = []
    for number in range(rounds):
        fresh = f"{worker:04}-{number:08}".encode()
        act = rng.randrange(10)
        try:
            if act == 0:
                store.put_object("shared/object", fresh)
                continue
            if act == 1:
                store.delete_object("shared/object")
                continue
            with store.get_object("shared/object") as found:
                version, etag = found.read().decode(), found.info.etag
            store.put_object("shared/object", fresh, if_match=etag)
            consumed.append(version)
        except ObjectNotFoundError:
            try:
                store.put_object("shared/object", fresh, if_none_match="*")
            except PreconditionFailedError:
                continue
        except PreconditionFailedError:
            continue
    answer.send(consumed)


def hold_lock(directory: str, answer: Connection) -> None:
    """Hold the lock of a directory, as in the middle of a conditional change, until killed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    answer.send("held")
    answer.recv()
