"""The walk behind a file store's listing: order for any names, nothing read in vain, little memory."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage.backend import file_listing, file_locks
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.file_listing import TICK_NS
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance import keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEGMENTS = st.text(st.sampled_from("ab-./0é😀\uff5e \\"), min_size=1, max_size=3).map(
    lambda text: text.replace("/", "")
)
KEYS = (
    st.lists(SEGMENTS.filter(lambda segment: segment not in {"", ".", ".."}), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: ".." not in key.replace("\\", "/").split("/"))
)
POINTS = st.text("ab-./0é😀\uff5e~ ", max_size=6).filter(
    lambda text: not text.startswith("/") and ".." not in text.split("/")
)


@settings(max_examples=150, deadline=None)
@given(
    keys=st.lists(KEYS, max_size=25),
    points=st.lists(POINTS, max_size=4),
    prefixes=st.lists(POINTS, max_size=4),
    page_size=st.integers(1, 7),
)
def test_lists_like_memory(keys: list[str], points: list[str], prefixes: list[str], page_size: int) -> None:
    """For any keys, prefix and starting point a directory lists exactly like sorted keys in memory."""
    with tempfile.TemporaryDirectory() as directory:
        files, memory = FileBackend(directory, fsync=False), MemoryBackend()
        names: set[str] = set()
        for key in keys:
            # A tree cannot hold an object and a directory of one name.
            if not any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in names):
                names.add(key)
                files.put_object(key, key.encode())
                memory.put_object(key, key.encode())
        for prefix in ("", *prefixes):
            for start_after in ("", *points, *list(names)[:3]):
                options = {"start_after": start_after, "page_size": page_size}
                expected = [
                    [one.key for one in page.objects] for page in memory.list_objects(prefix, **options)
                ]
                actual = [[one.key for one in page.objects] for page in files.list_objects(prefix, **options)]
                assert expected == actual, (prefix, start_after)


@pytest.fixture
def read_directories(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the directories that are read, as they are."""
    names: list[str] = []
    scandir = os.scandir

    def watched(path: int) -> Iterator[os.DirEntry[str]]:
        names.append(Path(f"/proc/self/fd/{path}").readlink().name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    return names


def test_unrelated_directories_are_not_read(tmp_path: Path, read_directories: list[str]) -> None:
    """Prefix and starting point choose the directories before they are opened."""
    store = FileBackend(tmp_path, fsync=False)
    for top in ("inputs", "outputs"):
        for run in range(10):
            store.put_object(f"{top}/ns/run-{run}/a.json", b"")
    assert ["outputs/ns/run-3/a.json"] == keys_of(store.list_objects("outputs/ns/run-3/"))
    assert ["run-3"] == read_directories
    read_directories.clear()
    assert ["outputs/ns/run-4/a.json"] == keys_of(store.list_objects("outputs/ns/run-4"))
    assert ["ns", "run-4"] == read_directories
    read_directories.clear()
    resumed = keys_of(store.list_objects("outputs/", start_after="outputs/ns/run-7/a.json"))
    assert ["outputs/ns/run-8/a.json", "outputs/ns/run-9/a.json"] == resumed
    assert ["outputs", "ns", "run-7", "run-8", "run-9"] == read_directories
    read_directories.clear()
    assert [] == keys_of(store.list_objects("nothing/here/"))
    assert [] == read_directories


def test_directories_are_read_as_they_are_reached(tmp_path: Path, read_directories: list[str]) -> None:
    """Who takes one page pays for one page."""
    store = FileBackend(tmp_path, fsync=False)
    for run in range(50):
        store.put_object(f"runs/{run:02}/a", b"")
    pages = store.list_objects(page_size=2)
    next(pages)
    assert 2 + 2 == len(read_directories)  # base, runs, runs/00, runs/01


def test_memory_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    """Twenty times as many directories need no more memory."""
    store = FileBackend(tmp_path, fsync=False)

    def peak(prefix: str) -> int:
        tracemalloc.start()
        count = sum(len(page.objects) for page in store.list_objects(prefix, page_size=50))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count
        return used

    for prefix, groups in (("small", 2), ("large", 40)):
        for group in range(groups):
            directory = tmp_path / prefix / f"{group:02}"
            directory.mkdir(parents=True)
            for number in range(100):
                (directory / f"{number:03}").touch()
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    file_locks.names_move(directory_fd)  # loads what is loaded once
    os.close(directory_fd)
    peak("small/")  # caches
    assert peak("large/") < 2 * peak("small/")


def test_names_that_no_key_can_have_are_left_out(tmp_path: Path) -> None:
    """Not UTF-8, too long as a whole, or a way up for those who take backslashes for slashes."""
    store = FileBackend(tmp_path, fsync=False)
    store.put_object("ok", b"")
    root = os.fsencode(tmp_path)
    for name in (b"latin-\xe9", b"a\\..\\b", b"fine\\name"):
        os.close(os.open(root + b"/" + name, os.O_CREAT | os.O_WRONLY))
    deep = tmp_path.joinpath(*["d" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / ("e" * 30)).touch()
    assert ["fine\\name", "ok"] == keys_of(store.list_objects())


def test_very_deep_trees(tmp_path: Path) -> None:
    """The deepest key there can be is listed; the walk is no recursion of functions."""
    store = FileBackend(tmp_path, fsync=False)
    key = "/".join(["d"] * 500)
    store.put_object(key, b"x")
    assert [key] == keys_of(store.list_objects())
    store.delete_object(key)
    assert [tmp_path / "d"] == list(tmp_path.rglob("*"))


def test_directories_that_vanish_are_left_out(tmp_path: Path) -> None:
    """A directory that goes between its discovery and its turn is no error."""
    store = FileBackend(tmp_path, fsync=False)
    for name in "abcd":
        store.put_object(f"{name}/1", b"")
    pages = store.list_objects(page_size=1)
    assert "a/1" == next(pages).objects[0].key
    store.delete_object("b/1")
    (tmp_path / "b").rmdir()
    store.delete_object("c/1")
    (tmp_path / "c").rmdir()
    (tmp_path / "c").write_text("now a file")
    assert ["d/1"] == keys_of(pages)


# ---- directories in which something is going on


class MovingNames:
    """Directories as some file systems have them: a name that is replaced meanwhile is missed, or met twice.

    Attributes:
        reads: how often a directory was read.
        meanwhile: called in the middle of each reading.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.meanwhile: list[Callable[[], object]] = []
        self._scandir = os.scandir

    @contextmanager
    def scandir(self, path: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Read a directory."""
        self.reads += 1
        with self._scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if self.meanwhile:
            self.meanwhile.pop(0)()
            found = [found[0], *found[:-1]]
        yield iter(found)


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FileBackend, MovingNames]:
    """A store with a few objects, none of them new, on such a file system."""
    monkeypatch.setattr(file_listing, "names_move", lambda _: True)
    monkeypatch.setattr(file_locks, "has_reliable_locks", lambda _: True)
    store = FileBackend(tmp_path, fsync=False)
    for name in "abc":
        store.put_object(f"dir/{name}", b"1")
    while time.time_ns() - (tmp_path / "dir").stat().st_ctime_ns <= TICK_NS:
        pass
    names = MovingNames()
    monkeypatch.setattr(os, "scandir", names.scandir)
    return store, names


def test_objects_that_are_replaced_are_listed_once(moving: tuple[FileBackend, MovingNames]) -> None:
    """They exist all the time, whatever the reader of a directory meets."""
    store, names = moving
    names.meanwhile.append(lambda: store.put_object("dir/c", b"2"))
    assert ["dir/a", "dir/b", "dir/c"] == keys_of(store.list_objects("dir/"))


def test_quiet_directories_are_read_once(moving: tuple[FileBackend, MovingNames]) -> None:
    """Nothing is paid for what does not happen."""
    store, names = moving
    assert ["dir/a", "dir/b", "dir/c"] == keys_of(store.list_objects("dir/"))
    assert 1 == names.reads


def test_second_look_keeps_writers_out(moving: tuple[FileBackend, MovingNames]) -> None:
    """Else it would be no better than the first; they wait until the names are read."""
    store, names = moving
    writer = threading.Thread(target=store.put_object, args=("dir/c", b"3"))
    seen: list[bytes] = []

    def start_and_look() -> None:
        writer.start()
        writer.join(0.1)
        with store.get_object("dir/c") as found:
            seen.append(found.read())

    names.meanwhile += [lambda: store.put_object("dir/c", b"2"), start_and_look]
    list(store.list_objects("dir/"))
    writer.join(30)
    assert [b"2"] == seen
    with store.get_object("dir/c") as found:
        assert b"3" == found.read()


def test_locked_directories_are_listed_all_the_same(
    moving: tuple[FileBackend, MovingNames], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader waits for a moment; what two looks show is told then, each name once."""
    monkeypatch.setattr(file_locks, "_LONGEST_WAIT_OF_READERS_SECONDS", 0.01)
    store, names = moving
    holder = os.open(tmp_path / "dir", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_SH)
    try:
        names.meanwhile += [lambda: store.put_object("dir/c", b"2")] * 2
        assert ["dir/a", "dir/b", "dir/c"] == keys_of(store.list_objects("dir/"))
        assert 3 == names.reads
    finally:
        os.close(holder)
