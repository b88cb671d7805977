"""kill -9 of the real process of a pass, again and again, on a real S3 server and on a file store.

Most kills fall between the first deletion that the server carried out and the cursor that tells of it:
the process dies while a request to delete is on its way, while its answer is, or a moment later. What
the dead process had written and nobody read counts as lost. The short form runs everywhere;
``BUBU_LONG_TESTS=1`` makes two hundred rounds of it.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from bubu_operator.controllers.isolation import child_environment
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_storage.backend.factory import open_backend
from bubu_storage.retention import Cursor, PassSpec, RetentionRule, run_pass
from bubu_storage.settings import FileSettings, S3Settings
from tests.s3.fault_proxy import FaultProxy, fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.s3server import VersityGateway

LONG = os.environ.get("BUBU_LONG_TESTS") == "1"
ROUNDS = 200 if LONG else 12
WANTED_BETWEEN = 150 if LONG else 8
"""Kills between the first deletion carried out and the cursor stored."""

MOST_ROUNDS = 6 * ROUNDS
OLD = 2 * 86_400
ROUND_SECONDS = 60.0
SCOPE = "outputs/a/"
LIMITS = ((100_000, 100_000), (100_000, 40), (400, 25))
"""``max_scan`` and ``max_delete`` of the passes."""

DRAIN_SPEC = PassSpec(
    scopes=(SCOPE,),
    rules=(RetentionRule(SCOPE, 3600),),
    min_age_seconds=300,
    max_scan=1_000_000,
    max_delete=1_000_000,
    dry_run=False,
)


def _let_pass(_method: str, _headers: dict[str, str]) -> bool:
    return False


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; unlike ``rglob`` it does not mind what vanishes meanwhile."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


class Store(Protocol):
    """A store whose objects are files below a folder, and a way to die in the middle of a deletion."""

    @property
    def settings(self) -> FileSettings | S3Settings:
        """How a pass reaches it."""
        ...

    @property
    def folder(self) -> Path:
        """Where the objects are."""
        ...

    def deletions(self) -> int:
        """Return how many requests to delete the store has carried out."""
        ...

    def arm(self, kill: Callable[[], None], chance: random.Random) -> None:
        """Let the process die during one of its deletions."""
        ...

    def disarm(self) -> None:
        """Let everything pass again."""
        ...

    def look(self) -> None:
        """Called again and again while the process runs."""
        ...


class S3Store:
    """A bucket of versitygw behind a proxy: the kill comes before a deletion, or before its answer."""

    def __init__(self, server: VersityGateway, bucket: str, proxy: FaultProxy) -> None:
        self._server, self._bucket, self._proxy = server, bucket, proxy
        self.settings = server.settings(bucket, endpoint=proxy.endpoint)
        self.folder = server.path_of(bucket, "")

    def deletions(self) -> int:
        """See `Store`: by the server's own log."""
        return sum(one.operation.startswith("DeleteObject") for one in self._server.requests(self._bucket))

    def arm(self, kill: Callable[[], None], chance: random.Random) -> None:
        """See `Store`."""
        left = [chance.choice((1, 1, 1, 1, 2, 3))]
        is_before = chance.random() < 0.15

        def strike(method: str, _headers: dict[str, str]) -> bool:
            if method not in {"POST", "DELETE"}:
                return False
            left[0] -= 1
            if left[0] > 0:
                return False
            kill()
            return True

        if is_before:
            self._proxy.lose_request = strike
        else:
            self._proxy.lose_answer = strike

    def disarm(self) -> None:
        """See `Store`."""
        self._proxy.lose_request = self._proxy.lose_answer = _let_pass

    def look(self) -> None:
        """See `Store`: the proxy looks by itself."""


class FileStore:
    """A directory: the kill comes a moment after the first file is gone."""

    def __init__(self, folder: Path) -> None:
        self.settings = FileSettings(path=str(folder))
        self.folder = folder
        self._kill: Callable[[], None] = lambda: None
        self._watched: list[Path] = []
        self._moments = 0

    def deletions(self) -> int:
        """See `Store`: a file store keeps no log; files that are gone tell."""
        return len(self._watched) - sum(path.exists() for path in self._watched)

    def arm(self, kill: Callable[[], None], chance: random.Random) -> None:
        """See `Store`."""
        self._kill = kill
        # The process is deleting already: what is gone before it was seen does not matter.
        self._watched = sorted(path for path in _files(self.folder) if "due" in path.parent.name)
        self._moments = chance.randrange(1, 40)

    def disarm(self) -> None:
        """See `Store`."""
        self._kill = lambda: None

    def look(self) -> None:
        """See `Store`."""
        if self.deletions() >= self._moments:
            self._kill()


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of each kind."""
    if request.param == "file":
        folder = tmp_path / "store"
        folder.mkdir()
        yield FileStore(folder)
        return
    server: VersityGateway = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("bucket")
    with fault_proxy(server.endpoint) as proxy:
        yield S3Store(server, bucket, proxy)


@dataclass
class Rounds:
    """What the rounds came to so far."""

    store: Store
    chance: random.Random
    cursor: Cursor = field(default_factory=Cursor)
    kept: set[str] = field(default_factory=set[str])
    made: int = 0
    killed: int = 0
    between: int = 0

    def fill(self) -> None:
        """Add due runs, small and large, and runs that must stay."""
        tag = f"t{self.made:03d}"
        for number in range(6):
            for member in range(6):
                self._write(f"{tag}-due{number:02}/o{member}", OLD)
        for member in range(60):
            self._write(f"{tag}-due-large/o{member:03}", OLD)
        for member in range(12):
            # The one young member comes last.
            self.kept.add(self._write(f"{tag}-mixed/o{member:03}", OLD if member < 11 else 60))
        self.kept.add(self._write(f"{tag}-young/o", 60))
        self.kept.add(self._write(f"{tag}-loose", OLD))

    def _write(self, name: str, age_seconds: float) -> str:
        path = self.store.folder / SCOPE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        when = time.time() - age_seconds
        os.utime(path, (when, when))
        return SCOPE + name

    def present(self) -> set[str]:
        """Return the keys that are there."""
        paths = _files(self.store.folder / SCOPE)
        return {path.relative_to(self.store.folder).as_posix() for path in paths}

    def once(self) -> None:
        """One pass in a process of its own that dies, if it deletes at all."""
        self.fill()
        before, deletions = self.present(), self.store.deletions()
        max_scan, max_delete = self.chance.choice(LIMITS)
        spec = PassSpec(
            scopes=DRAIN_SPEC.scopes,
            rules=DRAIN_SPEC.rules,
            min_age_seconds=300,
            max_scan=max_scan,
            max_delete=max_delete,
            dry_run=False,
        )
        document = PassDocument(self.store.settings, spec, self.cursor)
        was_killed = False
        with PassProcess(document, environment=child_environment(os.environ)) as process:

            def kill() -> None:
                nonlocal was_killed
                was_killed = True
                process.kill()

            self.store.arm(kill, self.chance)
            try:
                was_killed = self._follow(process, lambda: was_killed)
            finally:
                self.store.disarm()
        after = self.present()
        lost = self.kept - after
        assert not lost, f"lost in round {self.made}: {sorted(lost)[:5]}"
        gone = before - after
        self.made += 1
        self.killed += was_killed
        # Deletions that the cursor which a controller would have by now does not know of.
        ahead = [key for key in gone if key > self.cursor.after]
        self.between += was_killed and bool(ahead) and self.store.deletions() != deletions

    def _follow(self, process: PassProcess, is_killed: Callable[[], bool]) -> bool:
        """Store cursors until the process is killed or ends; tell whether it was killed."""
        deadline = time.monotonic() + ROUND_SECONDS
        while not is_killed():
            assert time.monotonic() < deadline, "the pass does not end"
            self.store.look()
            line = process.next(0.001)
            if isinstance(line, PassEnded):
                assert line.exit_code == 0 or is_killed(), line.complaint
                return is_killed()
            if line is not None and not is_killed():
                assert line.type is not LineType.ERROR, line.message
                if line.report is not None:
                    self.cursor = line.report.cursor
        return True


def test_kill_9_in_the_middle_of_deleting_loses_nothing_kept(
    store: Store, record_property: Callable[[str, object], None]
) -> None:
    """Whatever the moment of death: what is kept stays, and a quiet pass afterwards finishes the job."""
    seed = random.randrange(2**32)
    rounds = Rounds(store, random.Random(seed))
    try:
        while rounds.killed < ROUNDS or rounds.between < WANTED_BETWEEN:
            assert rounds.made < MOST_ROUNDS, f"the process was too often faster than the kill (seed {seed})"
            rounds.once()
    finally:
        for name, value in (("seed", seed), ("killed", rounds.killed), ("between", rounds.between)):
            record_property(name, value)
    print(f"{rounds.made} rounds, {rounds.killed} kills, {rounds.between} of them ahead of the cursor")
    with closing(open_backend(store.settings)) as backend:
        cursor, cycles = rounds.cursor, 0
        for _ in range(10):
            report = run_pass(backend, DRAIN_SPEC, cursor)
            cursor, cycles = report.cursor, cycles + report.complete_cycle
            if cycles == 2:
                break
    assert cycles == 2
    assert rounds.present() == rounds.kept, f"seed {seed}"
