"""A small world for retention tests: fake time, a memory store in it, and a watched way to the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import GetObjectResult, ListedObject, ListPage, ObjectInfo
from bubu_storage.errors import StorageError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.report import PassReport, RunOutcome
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import PassSpec, RetentionRule

DAY = 86_400.0
START = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


@dataclass
class FakeTime:
    """Wall clock and monotonic clock that move together, only when told."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        """Stand in for a monotonic clock."""
        return self.seconds

    def now(self) -> datetime:
        """Stand in for a wall clock."""
        return START + timedelta(seconds=self.seconds - 1000.0)

    def sleep(self, seconds: float) -> None:
        """Let time pass, and remember that it was slept."""
        self.slept.append(seconds)
        self.seconds += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


@dataclass(frozen=True)
class Request:
    """One call that reached the store."""

    kind: str
    at: float
    keys: tuple[str, ...] = ()
    entries: int = 0
    page_size: int = 0


class Watched:
    """A backend whose every call takes time, is recorded, and can be interfered with.

    ``before`` and ``after`` get the index and the kind of each call, and may change the store
    or raise.
    """

    def __init__(self, inner: MemoryBackend, time: FakeTime, latency_seconds: float = 0.01) -> None:
        self.inner = inner
        self.time = time
        self.latency_seconds = latency_seconds
        self.requests: list[Request] = []
        self.before: Callable[[int, str, tuple[str, ...]], None] = lambda _index, _kind, _keys: None
        self.after: Callable[[int, str, tuple[str, ...]], None] = lambda _index, _kind, _keys: None
        self.calls = 0
        self.lock = threading.RLock()

    name = "watched://"

    def _enter(self, kind: str, keys: tuple[str, ...] = ()) -> int:
        with self.lock:
            index = self.calls
            self.calls += 1
            self.time.advance(self.latency_seconds)
            self.before(index, kind, keys)
            return index

    def _leave(self, index: int, request: Request) -> None:
        with self.lock:
            self.requests.append(request)
            self.after(index, request.kind, request.keys)

    def server_time(self) -> datetime:
        """Pass on the store's clock."""
        index = self._enter("server_time")
        answer = self.inner.server_time()
        self._leave(index, Request("server_time", self.time.seconds))
        return answer

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Pass on a listing; each page is a call, and a short one is the last, as on S3."""
        pages = self.inner.list_objects(prefix, start_after=start_after, page_size=page_size)
        while True:
            index = self._enter("list")
            page = next(pages, None)
            keys = tuple(entry.key for entry in page.objects) if page is not None else ()
            # A page whose answer is lost was not received, and does not count.
            self.after(index, "list", keys)
            self.requests.append(Request("list", self.time.seconds, keys, len(keys), page_size))
            if page is None:
                return
            yield page
            if len(page.objects) < page_size:
                return

    def delete_object(self, key: str) -> None:
        """Pass on a deletion."""
        index = self._enter("delete", (key,))
        self.inner.delete_object(key)
        self._leave(index, Request("delete", self.time.seconds, (key,)))

    def put_object(self, key: str, body: bytes, **options: object) -> str:
        """Pass on a write."""
        index = self._enter("put", (key,))
        answer = self.inner.put_object(key, body, **options)
        self._leave(index, Request("put", self.time.seconds, (key,)))
        return answer

    def head_object(self, key: str) -> ObjectInfo:
        """Pass on a question about one object."""
        index = self._enter("head", (key,))
        answer = self.inner.head_object(key)
        self._leave(index, Request("head", self.time.seconds, (key,)))
        return answer

    def get_object(self, key: str) -> GetObjectResult:
        """Pass on a read."""
        index = self._enter("get", (key,))
        answer = self.inner.get_object(key)
        self._leave(index, Request("get", self.time.seconds, (key,)))
        return answer

    @property
    def scanned(self) -> int:
        """List entries that were answered."""
        return sum(request.entries for request in self.requests)

    @property
    def deletions(self) -> list[str]:
        """Keys that were sent for deletion, in order."""
        return [
            key for request in self.requests if request.kind in {"delete", "batch"} for key in request.keys
        ]


class WatchedBatch(Watched):
    """The same with the capability to delete in batches; keys in ``refused`` fail."""

    def __init__(self, inner: MemoryBackend, time: FakeTime, latency_seconds: float = 0.01) -> None:
        super().__init__(inner, time, latency_seconds)
        self.refuse: Callable[[str], StorageError | None] = lambda _key: None

    def delete_objects(self, keys: Sequence[str]) -> dict[str, StorageError]:
        """Pass on a batch, but for the keys that are refused."""
        index = self._enter("batch", tuple(keys))
        failed = {key: error for key in keys if (error := self.refuse(key)) is not None}
        self.inner.delete_objects([key for key in keys if key not in failed])
        self._leave(index, Request("batch", self.time.seconds, tuple(keys)))
        return failed


@dataclass
class World:
    """Time, store, watched store and the passes that ran over it."""

    batch: bool = True
    latency_seconds: float = 0.01
    concurrency: int = 1

    def __post_init__(self) -> None:
        self.time = FakeTime()
        self.store = MemoryBackend(clock=self.time.now)
        self.backend = (WatchedBatch if self.batch else Watched)(self.store, self.time, self.latency_seconds)
        self.cursor = Cursor()
        self.checkpoints: list[PassReport] = []
        self.outcomes: list[RunOutcome] = []

    def put(self, key: str, age_days: float = 0.0, size: int = 10) -> None:
        """Store an object that looks this old; a negative age is the future."""
        self.store.put_object(key, b"x" * size)
        self.store.set_last_modified(key, self.time.now() - timedelta(days=age_days))

    def fill(self, prefix: str, count: int, age_days: float) -> list[str]:
        """Store a run of so many objects."""
        keys = [f"{prefix}o{number:05}" for number in range(count)]
        for key in keys:
            self.put(key, age_days)
        return keys

    def listed(self, prefix: str = "") -> list[ListedObject]:
        """Return everything in the store."""
        return [entry for page in self.store.list_objects(prefix) for entry in page.objects]

    def all_keys(self, prefix: str = "") -> list[str]:
        """Return the keys in the store."""
        return [entry.key for entry in self.listed(prefix)]

    def run(self, spec: PassSpec, **options: object) -> PassReport:
        """Run one pass from the world's cursor and keep the new one."""

        def checkpoint(report: PassReport) -> None:
            self.checkpoints.append(report)
            self.cursor = report.cursor

        arguments = {
            "monotonic": self.time.monotonic,
            "sleep": self.time.sleep,
            "wall_clock": self.time.now,
            "on_checkpoint": checkpoint,
            "on_run": self.outcomes.append,
            "concurrency": self.concurrency,
        } | options
        report = run_pass(self.backend, spec, self.cursor, **arguments)
        self.cursor = report.cursor
        return report

    def cycle(self, spec: PassSpec, most_passes: int = 50) -> list[PassReport]:
        """Run passes until the end of a cycle."""
        reports: list[PassReport] = []
        while not reports or not reports[-1].complete_cycle:
            assert len(reports) < most_passes, f"no end of the cycle after {most_passes} passes"
            reports.append(self.run(spec))
        return reports


def spec_of(**changes: object) -> PassSpec:
    """Return a pass over outputs/a/ that keeps 30 days and enforces."""
    fields = {
        "scopes": ("outputs/a/",),
        "rules": (RetentionRule("outputs/a/", 30 * DAY),),
        "dry_run": False,
    } | changes
    return PassSpec(**fields)
