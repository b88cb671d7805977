"""What child processes of `test_claim` run; a module of its own, so that it can be spawned."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import urllib3.util.connection

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.errors import ClaimedError, StorageError
from bubu_storage.retention.claim import ClaimSettings, StoreClaim
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.runner import boot_seconds

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from bubu_storage.settings import S3Settings

TTL_SECONDS = 6.0
TIMEOUT_SECONDS = 1.0
RACE_TTL_SECONDS = 4.0
RACE_TIMEOUT_SECONDS = 0.3
SLOW_SECONDS = 40.0
"""What a racer is given beyond its time where it has not had its turns: a busy machine is slow."""


def hold(settings: S3Settings, pipe: Connection) -> None:
    """Claim the store and say so; then wait to be killed."""
    with closing(S3Backend(settings)) as store:
        claim = StoreClaim(store, ClaimSettings("killed", "", TTL_SECONDS, TIMEOUT_SECONDS))
        claim.acquire()
        pipe.send("claimed")
        pipe.recv()


def delete_after_a_stop(settings: S3Settings, keys: list[str], where: str, pipe: Connection) -> None:
    """Claim the store, look at the claim, be stopped, and delete when woken; send what came of it.

    Args:
        settings: of the bucket.
        keys: what to delete; one goes by a DELETE, many by a POST.
        where: ``before`` the deletion is called, or ``connecting``.
        pipe: to the test.
    """
    with closing(S3Backend(settings)) as store:
        claim = _held(store, None)
        armed, main = False, threading.get_ident()
        connect = urllib3.util.connection.create_connection

        def stop_in_between(*args: Any, **facts: Any) -> Any:
            made = connect(*args, **facts)
            nonlocal armed
            # Not the thread that renews, and not a further try.
            if armed and threading.get_ident() == main:
                armed = False
                os.kill(os.getpid(), signal.SIGSTOP)
            return made

        urllib3.util.connection.create_connection = stop_in_between
        pipe.send("claimed")
        pipe.recv()
        claim = _held(store, claim)
        if where == "connecting":
            # The idle connections are gone, as they are after a while: a new one is made.
            store._session.client._endpoint.http_session._manager.clear()
            armed = True
        else:
            os.kill(os.getpid(), signal.SIGSTOP)
        outcome = "deleted"
        try:
            if len(keys) == 1:
                store.delete_object(keys[0])
            else:
                store.delete_objects(keys)
        except (StorageError, PassStoppedError) as error:
            outcome = f"refused: {type(error).__name__}"
        pipe.send(outcome)


def _held(store: S3Backend, claim: StoreClaim | None) -> StoreClaim:
    """Return the claim, or a new one where the machine stood still for longer than a claim lasts."""
    while True:
        try:
            if claim is None:
                claim = StoreClaim(store, ClaimSettings("stopped", "", TTL_SECONDS, TIMEOUT_SECONDS))
                claim.acquire()
            claim.check()
        except (ClaimedError, PassStoppedError):
            claim = None
            time.sleep(0.1)
        else:
            return claim


def race(settings: S3Settings, name: str, seconds: float, pipe: Connection) -> None:
    """Claim, hold and give back for so long, twice at least; send the times at which it held the store."""
    held: list[tuple[float, float]] = []
    with closing(S3Backend(settings)) as store:
        pipe.send("ready")
        pipe.recv()
        end = boot_seconds() + seconds
        while boot_seconds() < end or (len(held) < 2 and boot_seconds() < end + SLOW_SECONDS):
            facts = ClaimSettings(name, "", RACE_TTL_SECONDS, RACE_TIMEOUT_SECONDS)
            claim = StoreClaim(store, facts)
            try:
                claim.acquire()
            except ClaimedError:
                continue
            begun = last = boot_seconds()
            try:
                while last < begun + 0.05:
                    claim.check()
                    last = boot_seconds()
            except PassStoppedError:
                pass
            held.append((begun, last))
            claim.release()
    pipe.send(held)
