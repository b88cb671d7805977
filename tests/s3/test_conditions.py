"""Conditional requests of several processes on a real S3 server, and what that server makes of conditions.

versitygw 1.8 on files, as seen here and in its source (``backend/posix``):

* PUT, and the request that completes an upload in parts: ``If-Match`` and ``If-None-Match`` are judged under
  a lock of the key that every PUT takes, so that races of writers are decided exactly: the tests below.
* GET: ``If-Match`` is honoured, with a range too.
* DELETE: ``If-Match`` is honoured, but judged without that lock: a writer may still come in between.
* DeleteObjects: the ETags of the keys are ignored in silence (as by moto).
* A PUT with ``If-Match`` of a missing key is answered with 404, a DELETE of one with success.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from tests.s3 import s3_processes

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.settings import S3Settings

WORKERS = 4
DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Cheap fresh processes that share nothing with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.s3.s3_processes"])
    return context


def test_counting_from_many_processes(
    s3_backend: S3Backend, s3_settings: S3Settings, processes: ForkServerContext
) -> None:
    """Compare-and-swap loses no update, though swaps are refused all the time."""
    rounds = 40
    s3_backend.put_object("counter", b"00000000")
    pipes = [processes.Pipe() for _ in range(WORKERS)]
    workers = [
        processes.Process(target=s3_processes.count, args=(s3_settings, rounds, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for worker in workers:
        worker.start()
    refused = 0
    for ours, _ in pipes:
        assert ours.poll(DEADLINE_SECONDS)
        refused += ours.recv()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    with s3_backend.get_object("counter") as found:
        assert WORKERS * rounds == int(found.read())
    assert refused > 0, "the processes met"


def test_claims_from_many_processes(
    s3_backend: S3Backend, s3_settings: S3Settings, processes: ForkServerContext
) -> None:
    """Of those that put-if-absent one key at once exactly one wins, and its body is the one that stays."""
    keys = 60
    pipes = [processes.Pipe() for _ in range(WORKERS)]
    workers = [
        processes.Process(target=s3_processes.claim, args=(s3_settings, number, keys, theirs), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    for ours, _ in pipes:
        assert ours.poll(DEADLINE_SECONDS)
        ours.recv()
    for ours, _ in pipes:
        ours.send("go")
    won: dict[int, int] = {}
    for number, (ours, _) in enumerate(pipes):
        assert ours.poll(DEADLINE_SECONDS)
        for key in ours.recv():
            assert key not in won, "two winners"
            won[key] = number
    assert set(range(keys)) == set(won)
    for key, winner in won.items():
        with s3_backend.get_object(f"claims/{key}") as found:
            assert str(winner).encode() == found.read()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
