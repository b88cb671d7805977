"""Conditions and copies on files: between processes, without locks or links, and what ETags tell apart."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend import file_draft, file_locks
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.file_draft import FileDraft
from bubu_storage.backend.file_listing import TICK_NS, etag_of
from bubu_storage.backend.probe import Capability, probe_backend
from bubu_storage.errors import (
    InvalidKeyError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.testing.acceptance import keys_of
from tests.unit.backend import file_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerContext

DEADLINE_SECONDS = 60.0
WORKERS = 4


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Cheap fresh processes that share nothing with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.backend.file_processes"])
    return context


@pytest.fixture
def store(tmp_path: Path) -> FileBackend:
    """An empty store."""
    return FileBackend(tmp_path, fsync=False)


def read(store: FileBackend, key: str) -> bytes:
    """Return a whole object."""
    with store.get_object(key) as found:
        return found.read()


# ---- between processes


def test_counting_from_many_processes(
    tmp_path: Path, store: FileBackend, processes: ForkServerContext
) -> None:
    """Compare-and-swap loses no update: each of many processes' increments is in the sum."""
    rounds = 100
    store.put_object("shared/counter", b"00000000")
    workers = [
        processes.Process(target=file_processes.count, args=(str(tmp_path), rounds), daemon=True)
        for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert [0] * WORKERS == [worker.exitcode for worker in workers]
    assert f"{WORKERS * rounds:08}".encode() == read(store, "shared/counter")
    assert [] == list(tmp_path.rglob(".bubu-tmp-*"))


def test_claims_from_many_processes(tmp_path: Path, store: FileBackend, processes: ForkServerContext) -> None:
    """Of those that put-if-absent one key at once exactly one wins, and its body is the one that stays."""
    keys = 100
    pipes = [processes.Pipe() for _ in range(WORKERS)]
    workers = [
        processes.Process(
            target=file_processes.claim, args=(str(tmp_path), number, keys, theirs), daemon=True
        )
        for number, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
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
        assert str(winner).encode() == read(store, f"claims/{key % 3}/{key}")
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert [] == list(tmp_path.rglob(".bubu-tmp-*"))


def test_no_version_is_replaced_twice(
    tmp_path: Path, store: FileBackend, processes: ForkServerContext
) -> None:
    """Among writers and deleters without a condition, a version gives way to one conditional writer only."""
    pipes = [processes.Pipe() for _ in range(WORKERS)]
    workers = [
        processes.Process(
            target=file_processes.consume, args=(str(tmp_path), number, 400, theirs), daemon=True
        )
        for number, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    consumed: Counter[str] = Counter()
    for ours, _ in pipes:
        assert ours.poll(DEADLINE_SECONDS)
        consumed.update(ours.recv())
    assert sum(consumed.values()) > 100, "conditional writers got through"
    assert [] == [version for version, times in consumed.items() if times > 1]
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    store.delete_object("shared/object")
    assert [] == keys_of(store.list_objects())


def test_killed_lock_holder_blocks_nobody(
    tmp_path: Path, store: FileBackend, processes: ForkServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody waits for who changes on a condition, for a limited time, and not for the dead."""
    etag = store.put_object("shared/object", b"old")
    ours, theirs = processes.Pipe()
    holder = processes.Process(
        target=file_processes.hold_lock, args=(str(tmp_path / "shared"), theirs), daemon=True
    )
    holder.start()
    assert ours.poll(DEADLINE_SECONDS)
    acts: tuple[Callable[[], object], ...] = (
        lambda: store.put_object("shared/object", b"new"),
        lambda: store.put_object("shared/object", b"new", if_match=etag),
        lambda: store.delete_object("shared/object"),
        lambda: store.delete_object("shared/object", if_match=etag),
    )
    with monkeypatch.context() as patch:
        patch.setattr(file_locks, "LONGEST_WAIT_SECONDS", 0.02)
        for act in acts:
            with pytest.raises(StorageTimeoutError, match="shared/object") as caught:
                act()
            assert "another process holds the lock" in str(caught.value)
    assert b"old" == read(store, "shared/object")
    assert ["shared/object"] == keys_of(store.list_objects())
    holder.kill()
    holder.join()
    etag = store.put_object("shared/object", b"new", if_match=etag)
    store.delete_object("shared/object", if_match=etag)
    assert [] == keys_of(store.list_objects())
    assert [] == list(tmp_path.rglob(".bubu-tmp-*"))


def test_plain_changes_wait_for_nobody_but_conditional_ones(tmp_path: Path, store: FileBackend) -> None:
    """They share the lock among themselves."""
    store.put_object("shared/object", b"old")
    fd = os.open(tmp_path / "shared", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        store.put_object("shared/object", b"new")
        store.delete_object("shared/object")
    finally:
        os.close(fd)


# ---- what the file system lacks


def without_locks(*_: object) -> None:
    """Fail as a file system that has no locks on directories."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def without_links(*_: object, **__: object) -> None:
    """Fail as a file system that has no hard links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_without_locks(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a lock is refused and changes nothing; everything else goes on."""
    etag = store.put_object("a/object", b"old")
    monkeypatch.setattr(file_locks.fcntl, "flock", without_locks)
    for act in (
        lambda: store.put_object("a/object", b"new", if_match=etag),
        lambda: store.delete_object("a/object", if_match=etag),
    ):
        with pytest.raises(UnsupportedOperationError, match="no locks"):
            act()
    failed = store.delete_objects(["a/object"], if_match={"a/object": etag})
    assert [UnsupportedOperationError] == [type(error) for error in failed.values()]
    assert b"old" == read(store, "a/object")
    store.put_object("a/claim", b"mine", if_none_match="*")
    with pytest.raises(PreconditionFailedError):
        store.put_object("a/claim", b"theirs", if_none_match="*")
    store.put_object("a/object", b"new")
    store.copy_object("a/object", "a/copy")
    store.delete_object("a/object")
    assert ["a/claim", "a/copy"] == keys_of(store.list_objects())


def test_on_a_network_file_system(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that one machine alone sees are not relied on; put-if-absent is decided by the file server."""
    etag = store.put_object("a/object", b"old")
    monkeypatch.setattr(file_locks, "_WITH_LOCKS", frozenset({0x6969}))
    for act in (
        lambda: store.put_object("a/object", b"new", if_match=etag),
        lambda: store.delete_object("a/object", if_match=etag),
    ):
        with pytest.raises(UnsupportedOperationError, match="all machines"):
            act()
    store.put_object("a/claim", b"mine", if_none_match="*")
    with pytest.raises(PreconditionFailedError):
        store.put_object("a/claim", b"theirs", if_none_match="*")
    store.put_object("a/object", b"new")
    store.delete_object("a/claim")
    assert ["a/object"] == keys_of(store.list_objects())
    missing = {Capability.CONDITIONAL_PUT, Capability.CONDITIONAL_DELETE, Capability.CONDITIONAL_BULK_DELETE}
    assert missing == set(Capability) - set(probe_backend(store).capabilities)


def test_which_file_systems_have_reliable_locks(tmp_path: Path) -> None:
    """A disk has; what the kernel makes up, as one that is not known to have, has not."""
    for path, expected in ((tmp_path, True), (Path("/proc/self"), False)):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert expected is file_locks.has_reliable_locks(fd)
        finally:
            os.close(fd)
    assert not file_locks.has_reliable_locks(-1)


def test_without_hard_links(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put-if-absent then rests on the lock, and is refused where there is none either."""
    monkeypatch.setattr(os, "link", without_links)
    store.put_object("claim", b"mine", if_none_match="*")
    with pytest.raises(PreconditionFailedError, match="exists already"):
        store.put_object("claim", b"theirs", if_none_match="*")
    assert b"mine" == read(store, "claim")
    monkeypatch.setattr(file_locks.fcntl, "flock", without_locks)
    with pytest.raises(UnsupportedOperationError):
        store.put_object("other", b"mine", if_none_match="*")
    assert ["claim"] == keys_of(store.list_objects())


def test_link_is_decided_by_the_file_system(
    tmp_path: Path, store: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put-if-absent does not replace what a program without locks puts there at the last moment."""
    link = os.link

    def late(*args: Any, **options: Any) -> None:
        (tmp_path / "claim").write_bytes(b"theirs")
        link(*args, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(PreconditionFailedError):
        store.put_object("claim", b"mine", if_none_match="*")
    assert b"theirs" == read(store, "claim")
    assert ["claim"] == keys_of(store.list_objects())


def test_kill_between_link_and_unlink(
    tmp_path: Path, store: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is there, once; clearing the leftover does not touch it."""
    unlink = os.unlink
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_, **__: None)
        store.put_object("claims/one", b"mine", if_none_match="*")
    assert unlink is os.unlink
    assert 1 == len(list(tmp_path.rglob(".bubu-tmp-*")))
    assert ["claims/one"] == keys_of(store.list_objects())
    store.put_object("claims/two", b"x")
    assert 1 == store.remove_leftovers(older_than_seconds=-1)
    assert b"mine" == read(store, "claims/one")


# ---- ETags


def test_etag_tells_versions_of_one_tick_apart(tmp_path: Path) -> None:
    """Even with the same file number, length and tick of the clock, and without a date in the future."""
    etags = set()
    for _ in range(50):
        with FileDraft(os.fspath(tmp_path), [], store="file:///x") as draft:
            draft.write(memoryview(b"same length"))
            os.utime(draft.fd, ns=(0, 1_700_000_000_000_000_000))
            facts = draft.seal(sync=False)
            assert 0 <= 1_700_000_000_000_000_000 - facts.st_mtime_ns < TICK_NS
            etags.add(etag_of(facts).rsplit("-", 1)[0])
    assert len(etags) > 45
    assert [] == list(tmp_path.iterdir())


def test_times_that_cannot_be_set(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a volume where nobody may set times, objects are written all the same."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(file_draft.os, "utime", refuse)
    assert store.put_object("a", b"x") == store.head_object("a").etag


# ---- copies


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copy_where_the_kernel_cannot(
    store: FileBackend, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The bytes are then copied one by one."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    store.put_object("src", b"payload")
    store.copy_object("src", "dst")
    assert b"payload" == read(store, "dst")


def test_copy_where_the_system_has_no_such_call(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a developer's machine that is no Linux."""
    monkeypatch.delattr(os, "copy_file_range")
    store.put_object("src", b"payload")
    store.copy_object("src", "dst")
    assert b"payload" == read(store, "dst")


def test_copy_notices_a_file_that_is_cut_short(
    tmp_path: Path, store: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shorter object is passed off as the copy, and nothing is left behind."""
    store.put_object("src", bytes(1000))
    copy = os.copy_file_range

    def cut(source: int, *rest: Any) -> int:
        os.truncate(tmp_path / "src", 10)
        return copy(source, *rest)

    monkeypatch.setattr(os, "copy_file_range", cut)
    with pytest.raises(UnavailableError, match="another program"):
        store.copy_object("src", "dst/deep")
    assert ["src"] == keys_of(store.list_objects())
    assert [] == list(tmp_path.rglob(".bubu-tmp-*"))


def test_full_disk_in_the_middle_of_a_copy(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said as such, and the old object stays."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put_object("src", b"new")
    store.put_object("dst", b"old")
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(UnavailableError, match="no space left"):
        store.copy_object("src", "dst")
    assert b"old" == read(store, "dst")


def _links(tmp_path: Path) -> Iterator[tuple[str, str]]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    base = tmp_path / "store"
    (base / "link").symlink_to(outside / "secret")
    (base / "folder").symlink_to(outside)
    yield from (("link", "copy"), ("folder/secret", "copy"), ("plain", "link"), ("plain", "folder/new"))


def test_copy_follows_no_link(tmp_path: Path) -> None:
    """Neither from nor to; and a put-if-absent or a conditional deletion does not either."""
    store = FileBackend(tmp_path / "store", fsync=False)
    store.put_object("plain", b"x")
    for source, destination in _links(tmp_path):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            store.copy_object(source, destination)
    for act in (
        lambda: store.put_object("link", b"x", if_none_match="*"),
        lambda: store.put_object("link", b"x", if_match='"x"'),
        lambda: store.delete_object("link", if_match='"x"'),
        lambda: store.get_object("folder/secret", if_match='"x"'),
    ):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            act()
    assert ["secret"] == [path.name for path in (tmp_path / "outside").iterdir()]
    assert b"secret" == (tmp_path / "outside/secret").read_bytes()
    assert ["plain"] == keys_of(store.list_objects())


def test_directories_in_the_way(store: FileBackend) -> None:
    """A directory is no object: it neither satisfies a condition nor is replaced."""
    store.put_object("dir/a", b"x")
    for act in (
        lambda: store.put_object("dir", b"x", if_none_match="*"),
        lambda: store.put_object("dir", b"x", if_match='"x"'),
        lambda: store.copy_object("dir", "copy"),
        lambda: store.copy_object("dir/a", "dir"),
    ):
        with pytest.raises(StorageError, match="directory"):
            act()
    with pytest.raises(InvalidKeyError):
        store.copy_object("dir/a", "dir//b")
    assert ["dir/a"] == keys_of(store.list_objects())
