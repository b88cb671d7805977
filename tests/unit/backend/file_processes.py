"""What the child processes of `test_file_processes` run; a module of its own, so that it can be spawned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bubu_storage.backend.file import FileBackend

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
