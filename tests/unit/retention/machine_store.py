"""A sweeper's way to the simulated store: requests that take time, fail, arrive late, and lie.

Each request has points before it is sent, while it is under way, and before its answer; see `machine_world`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bubu_storage.backend.last_look import LastLook
from bubu_storage.backend.types import GetObjectResult, ListPage, ObjectInfo
from bubu_storage.errors import (
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnavailableError,
)

if TYPE_CHECKING:
    from tests.unit.retention.machine_sweeper import Sweeper

TIMEOUT_SECONDS = 10.0


class Client:
    """A sweeper's way to the store: each request takes time, and may be interfered with."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        self.world = sweeper.world
        self._look = LastLook()

    name = "simulated://"

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """See `GuardsDeletions`."""
        return self._look.guard(check)

    def _call(self, act: Callable[[], Any], *, deletes: Sequence[str] = ()) -> Any:
        if self.sweeper.concurrency == 1:
            return self._send(act, deletes)
        with self.world.lock:
            return self._send(act, deletes)

    def _send(self, act: Callable[[], Any], deletes: Sequence[str]) -> Any:
        sweeper, world = self.sweeper, self.world
        entered = sweeper.known_seconds
        sweeper.point(is_call=True)
        if deletes:
            self._look.ask()
        sent = world.seconds
        world.seconds += world.latency_seconds
        sweeper.point()
        if deletes:
            if world.seconds - sent > TIMEOUT_SECONDS:
                world.say("a deletion did not arrive in time")
                raise StorageTimeoutError("no answer in time")
            world.oracle.judge(sweeper, deletes, entered)
        answer = act()
        world.oracle.touch()
        sweeper.point(is_call=True)
        if not deletes:
            sweeper.slowest = max(sweeper.slowest, world.seconds - entered)
        return answer

    def server_time(self) -> datetime:
        """Tell the store's clock."""
        answer = self._call(self.world.store.server_time)
        if self.sweeper.in_pass and self.sweeper.pass_began is None:
            self.sweeper.pass_began = answer
        return answer

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """List page by page; may end too early, or mix entries up."""
        sweeper = self.sweeper
        pages = self.world.store.list_objects(prefix, start_after=start_after, page_size=page_size)
        while True:
            page: ListPage | None = self._call(lambda: next(pages, None))
            if page is None:
                return
            lie, entries = sweeper.lie, page.objects
            if lie and len(entries) > 1:
                sweeper.lie = ""
                self.world.say(f"listing: {lie}")
                sweeper.was_mixed_up = sweeper.was_mixed_up or lie == "out of order"
                entries = entries[: len(entries) // 2] if lie == "ends early" else entries[::-1]
            if sweeper.in_pass and entries[0].key <= entries[-1].key:
                with self.world.lock:
                    sweeper.listed += len(entries)
            yield ListPage(entries)
            if len(entries) < page_size:
                return

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object."""
        if "if_match" in self.world.ignores:
            if_match = ""
        if key in self.world.refused:
            self._call(_denied)
        self._call(lambda: self.world.store.delete_object(key, if_match=if_match), deletes=(key,))

    def put_object(self, key: str, body: bytes, **facts: Any) -> str:
        """Write an object of the sweeper's own."""
        wanted = {name: value for name, value in facts.items() if name not in self.world.ignores}
        sweeper = self.sweeper

        def act() -> str:
            self.world.oracle.judge_write(sweeper, key)
            return self.world.store.put_object(key, body, **wanted)

        return self._call(act)

    def head_object(self, key: str) -> ObjectInfo:
        """Ask about one object."""
        return self._call(lambda: self.world.store.head_object(key))

    def get_object(self, key: str, **facts: Any) -> GetObjectResult:
        """Read one object."""
        return self._call(lambda: self.world.store.get_object(key, **facts))


class BatchClient(Client):
    """The same, to a store that deletes in batches."""

    def delete_objects(
        self, keys: Sequence[str], *, if_match: dict[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete several objects, but for those that are refused."""
        if "if_match" in self.world.ignores:
            if_match = None
        denied = {key: PermissionDeniedError("retained") for key in keys if key in self.world.refused}
        wanted = [key for key in keys if key not in denied]

        def act() -> dict[str, StorageError]:
            return self.world.store.delete_objects(wanted, if_match=if_match) | denied

        return self._call(act, deletes=wanted)


def _denied() -> None:
    raise PermissionDeniedError("retained")


def failure(name: str) -> StorageError:
    """Return an error as the network or the store makes it."""
    return {
        "throttled": ThrottledError("slow down", retry_after_seconds=1.0),
        "unavailable": UnavailableError("connection reset"),
        "denied": PermissionDeniedError("not now"),
    }[name]
