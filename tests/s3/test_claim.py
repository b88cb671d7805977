"""Claims on a real S3 server: who races, who is killed, who is stopped in the wrong moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.errors import ClaimedError
from bubu_storage.retention.claim import CLAIM_KEY, ClaimSettings, StoreClaim, look_at_claim
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.registration import foreign_clusters, list_registrations, register, unregister
from tests.s3 import claim_processes
from tests.s3.claim_processes import TIMEOUT_SECONDS, TTL_SECONDS
from tests.s3.fault_proxy import fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.settings import S3Settings
    from tests.s3.fault_proxy import FaultProxy
    from tests.s3server import VersityGateway

DEADLINE_SECONDS = 60
WORKERS = 3
RACE_SECONDS = 4.0
OUR_TTL_SECONDS = 10 * TTL_SECONDS
"""Of claims that nobody waits for: a machine that stalls ends none of them."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children from a process without threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.s3.claim_processes"])
    return context


@pytest.fixture
def start(processes: ForkServerContext) -> Iterator[Callable[..., tuple[Any, Connection]]]:
    """Start children and end them after the test."""
    started: list[Any] = []

    def start_one(target: Callable[..., None], *args: object) -> tuple[Any, Connection]:
        ours, theirs = processes.Pipe()
        child = processes.Process(target=target, args=(*args, theirs), daemon=True)
        child.start()
        started.append(child)
        return child, ours

    yield start_one
    for child in started:
        if child.is_alive():
            child.kill()
        child.join(DEADLINE_SECONDS)


@pytest.fixture
def proxy(s3_server: VersityGateway) -> Iterator[FaultProxy]:
    """A proxy in front of the server, which remembers each request."""
    with fault_proxy(s3_server.endpoint) as running:
        yield running


def answer_of(pipe: Connection) -> Any:
    """Return the next thing that a child says."""
    assert pipe.poll(DEADLINE_SECONDS)
    return pipe.recv()


def claim_of(backend: S3Backend, holder: str = "test") -> StoreClaim:
    """Return a claim that lasts six seconds."""
    return StoreClaim(backend, ClaimSettings(holder, "", OUR_TTL_SECONDS, TIMEOUT_SECONDS))


def acquired(backend: S3Backend, holder: str) -> StoreClaim:
    """Claim the store as soon as it can be had."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        claim = claim_of(backend, holder)
        try:
            claim.acquire()
        except ClaimedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return claim


def test_conditions_of_a_real_server_are_believed(s3_backend: S3Backend) -> None:
    """The server refuses what it must, so no rule of time is needed; nothing is left behind."""
    with claim_of(s3_backend) as claim:
        claim.check()
        assert claim.is_proven
        claim.renew()
        with pytest.raises(ClaimedError, match=r"is claimed by test since .* until "):
            claim_of(s3_backend, "another").acquire()

    assert not [entry for page in s3_backend.list_objects() for entry in page.objects]


def test_a_removed_claim_ends_its_holder(s3_backend: S3Backend) -> None:
    """The refusal of the next renewal says so."""
    claim = claim_of(s3_backend)
    claim.acquire()
    s3_backend.delete_object(CLAIM_KEY)
    claim.renew()
    with pytest.raises(PassStoppedError, match="removed"):
        claim.check()
    claim.release()

    assert look_at_claim(s3_backend) is None


def test_processes_that_race_never_hold_it_together(
    s3_settings: S3Settings, start: Callable[..., tuple[Any, Connection]]
) -> None:
    """Each takes it many times; no two times overlap."""
    children = [
        start(claim_processes.race, s3_settings, f"racer {number}", RACE_SECONDS) for number in range(WORKERS)
    ]
    for _, pipe in children:
        assert answer_of(pipe) == "ready"
    for _, pipe in children:
        pipe.send("go")
    held = [answer_of(pipe) for _, pipe in children]
    times = sorted(one for times in held for one in times)

    assert all(held), "each had it"
    assert len(times) >= 2 * WORKERS
    for (_, end), (begin, _) in pairwise(times):
        assert end <= begin


def test_a_killed_holder_is_followed_after_its_time(
    s3_backend: S3Backend, s3_settings: S3Settings, start: Callable[..., tuple[Any, Connection]]
) -> None:
    """Not before; then by whoever comes."""
    child, pipe = start(claim_processes.hold, s3_settings)
    assert answer_of(pipe) == "claimed"
    child.kill()
    killed_at = time.monotonic()
    with pytest.raises(ClaimedError, match="killed"):
        claim_of(s3_backend).acquire()
    claim = acquired(s3_backend, "successor")

    assert time.monotonic() - killed_at > TTL_SECONDS - 2
    assert claim.is_proven
    claim.release()


@pytest.mark.parametrize("where", ["before", "connecting"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_holder_that_was_stopped_sends_no_deletion(
    *,
    s3_backend: S3Backend,
    s3_settings: S3Settings,
    proxy: FaultProxy,
    start: Callable[..., tuple[Any, Connection]],
    where: str,
    count: int,
) -> None:
    """Stopped after its look at the claim and woken when another has it: nothing reaches the store."""
    keys = [f"outputs/a/r/{number}" for number in range(count)]
    for key in keys:
        s3_backend.put_object(key, b"needed")
    far = replace(s3_settings, endpoint=proxy.endpoint)
    child, pipe = start(claim_processes.delete_after_a_stop, far, keys, where)
    assert answer_of(pipe) == "claimed"
    pipe.send("go")
    _wait_until_stopped(child.pid)
    successor = acquired(s3_backend, "successor")
    before = len(proxy.requests)
    os.kill(child.pid, signal.SIGCONT)
    outcome = answer_of(pipe)
    child.join(DEADLINE_SECONDS)

    assert outcome.startswith("refused")
    sent = [one for one in proxy.requests[before:] if one[0] == "DELETE" or "delete" in one[1]]
    assert sent == []
    for key in keys:
        s3_backend.head_object(key)
    successor.check()
    successor.release()


def _wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while _state(pid) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - a pseudo file
        return file.read().rpartition(")")[2].split()[0]


def test_the_look_lets_deletions_pass_while_the_claim_holds(s3_backend: S3Backend) -> None:
    """One and many, in requests of several pieces: the look costs nothing but itself."""
    keys = [f"outputs/a/r/{number:0100}" for number in range(500)]
    for key in keys[:20]:
        s3_backend.put_object(key, b"old")
    with claim_of(s3_backend):
        s3_backend.delete_object(keys[0])
        assert s3_backend.delete_objects(keys) == {}

    assert not [entry for page in s3_backend.list_objects("outputs/") for entry in page.objects]


def test_registrations(s3_backend: S3Backend) -> None:
    """Two clusters see each other, and not themselves; one is written at most once an hour."""
    assert register(s3_backend, "cluster-a", name="operator 1.0")
    assert not register(s3_backend, "cluster-a")
    assert foreign_clusters(s3_backend, "cluster-a") == ()
    register(s3_backend, "cluster-b")

    assert [one.cluster for one in foreign_clusters(s3_backend, "cluster-a")] == ["cluster-b"]
    found, more = list_registrations(s3_backend, read_names=True)
    assert [one.name for one in found] == ["operator 1.0", ""]
    assert not more
    unregister(s3_backend, "cluster-b")
    assert foreign_clusters(s3_backend, "cluster-a") == ()
