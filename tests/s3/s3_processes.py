"""What child processes of `test_conditions` run; a module of its own, so that it can be spawned."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.errors import PreconditionFailedError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from bubu_storage.settings import S3Settings


def count(settings: S3Settings, rounds: int, answer: Connection) -> None:
    """Add to a counter by compare-and-swap; send how many swaps were refused."""
    refused = 0
    with closing(S3Backend(settings)) as store:
        while rounds:
            with store.get_object("counter") as found:
                value, etag = int(found.read()), found.info.etag
            try:
                store.put_object("counter", f"{value + 1:08}".encode(), if_match=etag)
            except PreconditionFailedError:
                refused += 1
                continue
            rounds -= 1
    answer.send(refused)


def claim(settings: S3Settings, worker: int, keys: int, pipe: Connection) -> None:
    """Try to be the first at each of many keys; send the numbers of those that were won."""
    won: list[int] = []
    with closing(S3Backend(settings)) as store:
        pipe.send("ready")
        pipe.recv()
        for number in range(keys):
            try:
                store.put_object(f"claims/{number}", str(worker).encode(), if_none_match="*")
            except PreconditionFailedError:
                continue
            won.append(number)
    pipe.send(won)
