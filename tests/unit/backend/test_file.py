"""The file backend beyond the common contract: layout, links, rights, full disks, leftovers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.file_errors import map_os_error
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    InvalidKeyError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
    is_not_found,
)
from bubu_storage.testing.acceptance import keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD = time.time() - 10_000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The base directory of the store."""
    return tmp_path / "store"


@pytest.fixture
def store(base: Path) -> FileBackend:
    """An empty store; without fsync, which these tests are not about."""
    return FileBackend(base, fsync=False)


def read(store: FileBackend, key: str) -> bytes:
    """Return a whole object."""
    with store.get_object(key) as found:
        return found.read()


def operations(store: FileBackend) -> list[Callable[[str], object]]:
    """Return every operation that takes one key."""
    return [store.get_object, store.head_object, store.delete_object, lambda key: store.put_object(key, b"y")]


def names_in(directory: Path) -> list[str]:
    """Return the entries of one directory."""
    return sorted(path.name for path in directory.iterdir())


def tree(base: Path) -> list[str]:
    """Return everything below the base, directories with a final slash."""
    return sorted(f"{path.relative_to(base)}{'/' if path.is_dir() else ''}" for path in base.rglob("*"))


# ---- layout


def test_an_object_is_a_file_of_that_path(store: FileBackend, base: Path) -> None:
    """The layout is that of the Go implementation."""
    store.put_object("outputs/ns/run/output.json", b"{}")
    assert b"{}" == (base / "outputs/ns/run/output.json").read_bytes()


def test_a_file_of_the_go_implementation_is_an_object(store: FileBackend, base: Path) -> None:
    """Files that others put there are read, listed and deleted."""
    (base / "a/b").mkdir(parents=True)
    (base / "a/b/c.json").write_bytes(b"peer")
    assert b"peer" == read(store, "a/b/c.json")
    assert ["a/b/c.json"] == keys_of(store.list_objects("a/"))


def test_modes_follow_the_umask(base: Path) -> None:
    """Directories are 0750, files 0666, both less the umask, as the Go implementation has it."""
    previous = os.umask(0o027)
    try:
        FileBackend(base / "deep" / "er", fsync=False).put_object("a/b", b"x")
        os.umask(0o002)
        FileBackend(base / "deep" / "er", fsync=False).put_object("a/c", b"x")
    finally:
        os.umask(previous)
    modes = {
        path: stat.S_IMODE((base / path).stat().st_mode)
        for path in ("deep", "deep/er", "deep/er/a", "deep/er/a/b", "deep/er/a/c")
    }
    assert {
        "deep": 0o750,
        "deep/er": 0o750,
        "deep/er/a": 0o750,
        "deep/er/a/b": 0o640,
        "deep/er/a/c": 0o664,
    } == modes


def test_base_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the same after a change of directory."""
    monkeypatch.chdir(tmp_path)
    store = FileBackend("here/../there")
    monkeypatch.chdir("/")
    store.put_object("a", b"x")
    assert f"file://{tmp_path}/there" == store.name
    assert (tmp_path / "there/a").exists()


@pytest.mark.parametrize("path", ["", "  ", "nul\x00"])
def test_blank_base_is_refused(path: str) -> None:
    """A path that names nothing is a fault of the settings."""
    with pytest.raises(ConfigurationError):
        FileBackend(path)


def test_base_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """Neither a file, nor something below one, nor a link to nowhere can be a base."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in ("file", "file/below", "link"):
        with pytest.raises(ConfigurationError, match=path):
            FileBackend(tmp_path / path)


def test_base_may_be_reached_through_a_link(tmp_path: Path) -> None:
    """/var/run is a link on most systems; the base path is the administrator's choice."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    FileBackend(tmp_path / "link" / "store").put_object("a", b"x")
    assert b"x" == (tmp_path / "real/store/a").read_bytes()


def test_lost_base_is_a_missing_bucket(store: FileBackend, base: Path) -> None:
    """A base that is gone is never "not found", and no write brings it back."""
    store.put_object("a", b"x")
    shutil.rmtree(base)
    for act in (
        lambda: store.get_object("a"),
        lambda: store.head_object("a"),
        lambda: store.put_object("a", b"x"),
        lambda: store.delete_object("a"),
        lambda: list(store.list_objects()),
        store.remove_leftovers,
    ):
        with pytest.raises(BucketNotFoundError) as caught:
            act()
        assert not is_not_found(caught.value)
    assert not base.exists()


# ---- names that a directory tree cannot have


@pytest.mark.parametrize("key", ["a//b", "a/", "./a", "a/./b", "a/.", "."])
def test_keys_that_a_file_system_would_fold_are_refused(store: FileBackend, key: str) -> None:
    """Two keys must not name one object."""
    store.put_object("a/b", b"x")
    for act in operations(store):
        with pytest.raises(InvalidKeyError):
            act(key)
    assert ["a/b"] == keys_of(store.list_objects())
    assert [] == keys_of(store.list_objects("a//"))
    assert [] == keys_of(store.list_objects("./a"))


def test_names_of_half_written_files_are_refused(store: FileBackend) -> None:
    """A key can never collide with a file that is being written."""
    with pytest.raises(InvalidKeyError, match="half-written"):
        store.put_object("a/.bubu-tmp-0123/x", b"")


def test_too_long_a_segment_is_an_invalid_key(store: FileBackend) -> None:
    """255 bytes is what file systems take; 256 is said clearly and leaves nothing behind."""
    store.put_object("d/" + "é" * 127, b"x")
    for key in ("d/" + "é" * 128, "é" * 128 + "/x"):
        for act in (store.get_object, store.delete_object, lambda key: store.put_object(key, b"x")):
            with pytest.raises(InvalidKeyError, match="255"):
                act(key)
    assert ["d/" + "é" * 127] == keys_of(store.list_objects())


def test_directory_in_place_of_an_object(store: FileBackend, base: Path) -> None:
    """A directory is no object, and not "not found" either; nothing is changed."""
    store.put_object("p/a", b"x")
    for act in operations(store):
        with pytest.raises(StorageError, match="directory") as caught:
            act("p")
        assert not is_not_found(caught.value)
    assert ["p/", "p/a"] == tree(base)


def test_object_in_place_of_a_directory(store: FileBackend, base: Path) -> None:
    """Below a file there is nothing, and that is not "not found" either."""
    store.put_object("p/b", b"x")
    for act in operations(store):
        with pytest.raises(StorageError, match="not a directory") as caught:
            act("p/b/x")
        assert "ENOTDIR" == caught.value.code
        assert not is_not_found(caught.value)
    assert ["p/", "p/b"] == tree(base)


# ---- links and special files


@pytest.fixture
def outside(tmp_path: Path, base: Path, store: FileBackend) -> Path:
    """A directory outside of the base with links to it, of both kinds, inside."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    store.put_object("in/side", b"x")
    (base / "in" / "file-link").symlink_to(outside / "secret")
    (base / "in" / "dir-link").symlink_to(outside)
    (base / "root-link").symlink_to("/")
    (base / "in" / "loop").symlink_to("loop")
    (base / "in" / "relative").symlink_to("side")
    return outside


@pytest.mark.parametrize(
    "key",
    [
        "in/file-link",
        "in/dir-link",
        "in/dir-link/secret",
        "in/dir-link/new",
        "in/dir-link/deep/new",
        "in/loop",
        "in/loop/x",
        "in/relative",
        "root-link/etc/hostname",
    ],
)
def test_links_are_not_followed(store: FileBackend, outside: Path, base: Path, key: str) -> None:
    """No operation goes through a link, wherever it points, nor replaces or removes it."""
    before = (tree(outside), tree(base / "in"))
    for act in operations(store):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            act(key)
    assert before == (tree(outside), tree(base / "in"))
    assert "secret" == (outside / "secret").read_text()


def test_links_are_not_listed(store: FileBackend, outside: Path) -> None:
    """Not as objects, not as directories, not through a prefix."""
    for prefix, expected in (("", ["in/side"]), ("in/", ["in/side"]), ("in/dir-link/", []), ("in/file", [])):
        assert expected == keys_of(store.list_objects(prefix)), prefix
    assert 0 == store.remove_leftovers(older_than_seconds=0)


def test_special_files_are_no_objects(store: FileBackend, base: Path) -> None:
    """A pipe or a socket is neither read (which would hang), nor listed, nor replaced, nor deleted."""
    os.mkfifo(base / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(base, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{descriptor}/socket")  # the path itself may be too long for one
        finally:
            os.close(descriptor)
    for key in ("pipe", "socket"):
        for act in operations(store):
            with pytest.raises(StorageError, match="no regular file") as caught:
                act(key)
            assert not is_not_found(caught.value)
    assert [] == keys_of(store.list_objects())
    assert ["pipe", "socket"] == tree(base)


# ---- rights and space


@contextmanager
def unprivileged(directory: Path) -> Iterator[None]:
    """Run as somebody who does not own the directory, also where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(directory, 0, 0)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_base() -> Iterator[Path]:
    """A base that others can reach, which pytest's own directories are not."""
    base = Path(tempfile.mkdtemp(prefix="bubu-rights-"))
    base.chmod(0o755)
    yield base
    for path in base.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(base)


def test_missing_rights_are_said(public_base: Path) -> None:
    """Who may not read, write or delete is told so; the object stays."""
    store = FileBackend(public_base, fsync=False)
    store.put_object("d/a", b"x")
    (public_base / "d/a").chmod(0o000)
    (public_base / "d").chmod(0o555)
    public_base.chmod(0o555)
    try:
        with unprivileged(public_base):
            for act in (
                lambda: store.get_object("d/a"),
                lambda: store.put_object("d/b", b"x"),
                lambda: store.put_object("new/b", b"x"),
                lambda: store.delete_object("d/a"),
                lambda: FileBackend(public_base / "new" / "store"),
            ):
                with pytest.raises(PermissionDeniedError, match="permission denied") as caught:
                    act()
                assert "EACCES" == caught.value.code
                assert isinstance(caught.value.__cause__, OSError)
            failed = store.delete_objects(["d/a", "d/none"])
            assert ["d/a"] == list(failed)
    finally:
        public_base.chmod(0o755)
        (public_base / "d").chmod(0o755)
    assert ["d/a"] == keys_of(store.list_objects())


def test_unreadable_directory_fails_the_listing(public_base: Path) -> None:
    """A listing never passes over what it could not read: retention would take it for empty."""
    store = FileBackend(public_base, fsync=False)
    for key in ("a/1", "b/2", "c/3"):
        store.put_object(key, b"")
        (public_base / key).parent.chmod(0o755)
    (public_base / "b").chmod(0o000)
    with unprivileged(public_base / "b"):
        pages = store.list_objects(page_size=1)
        assert "a/1" == next(pages).objects[0].key
        with pytest.raises(PermissionDeniedError):
            list(pages)
        assert ["c/3"] == keys_of(store.list_objects(start_after="b0"))


def test_limit_on_file_size(store: FileBackend) -> None:
    """A write that the system breaks off in the middle is an error and leaves the old object."""
    store.put_object("kept", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        with pytest.raises(UnavailableError, match="larger than"):
            store.put_object("kept", bytes(3_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert b"old" == read(store, "kept")
    assert ["kept"] == names_in(Path(store.name.removeprefix("file://")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said with the way out, and leaves the old object."""
    store.put_object("kept", b"old")
    write = os.write
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(os, "write", lambda _, data: write(full.fileno(), data))
        with pytest.raises(UnavailableError, match="no space left") as caught:
            store.put_object("kept", b"new")
        monkeypatch.undo()
    assert "ENOSPC" == caught.value.code
    assert b"old" == read(store, "kept")
    assert ["kept"] == names_in(Path(store.name.removeprefix("file://")))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, PermissionDeniedError),
        (errno.EPERM, PermissionDeniedError),
        (errno.EROFS, PermissionDeniedError),
        (errno.ELOOP, PermissionDeniedError),
        (errno.ENAMETOOLONG, InvalidKeyError),
        (errno.ENOSPC, UnavailableError),
        (errno.EDQUOT, UnavailableError),
        (errno.EFBIG, UnavailableError),
        (errno.EIO, UnavailableError),
        (errno.ESTALE, UnavailableError),
        (errno.EMFILE, UnavailableError),
        (errno.ENFILE, UnavailableError),
        (errno.ENOMEM, UnavailableError),
        (errno.EHOSTDOWN, UnavailableError),
        (errno.ETIMEDOUT, StorageTimeoutError),
        (errno.EISDIR, StorageError),
        (errno.ENOTDIR, StorageError),
        (errno.ENOTEMPTY, StorageError),
        (errno.EBADMSG, StorageError),
    ],
)
def test_table_of_system_errors(number: int, expected: type[StorageError]) -> None:
    """Each system error has its class, keeps its name as code, and is never "not found"."""
    mapped = map_os_error(OSError(number, os.strerror(number)), "object 'a' cannot be read", key="a")
    assert expected is type(mapped)
    assert errno.errorcode[number] == mapped.code
    assert str(mapped).startswith("object 'a' cannot be read: ")
    assert not is_not_found(mapped)


# ---- durability


def test_fsync_reaches_file_and_directories(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsync the object, its entry and the entries of new directories are forced to disk."""
    store = FileBackend(base)
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.path.relpath(Path(f"/proc/self/fd/{fd}").readlink(), base))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    store.put_object("a/b/c", b"x")
    assert synced[0].startswith("a/b/.bubu-tmp-")
    assert {"a/b", "a", "."} == set(synced[1:])
    synced.clear()
    store.put_object("a/b/d", b"x")
    assert ["a/b"] == synced[1:]
    synced.clear()
    store.delete_object("a/b/d")
    assert ["a/b"] == synced
    synced.clear()
    store.delete_objects(["a/b/c", "a/b/none", "x/y"])
    assert ["a"] == synced
    for number in range(4):
        store.put_object(f"a/run-{number}/x", b"x")
    synced.clear()
    store.delete_objects([f"a/run-{number}/x" for number in range(4)])
    assert ["a"] == synced, "one directory has changed for good"


def test_without_fsync_nothing_is_forced(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and caches need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("fsync called"))
    store.put_object("a/b", b"x")
    store.delete_object("a/b")
    store.put_object("a/c", b"x")
    store.delete_objects(["a/c"])


# ---- pruning


def test_emptied_directories_go_with_their_last_object(store: FileBackend, base: Path) -> None:
    """Run directories do not pile up; the first level stays, with the rights it was given."""
    for key in ("outputs/ns/run-1/a.json", "outputs/ns/run-1/b/c.json", "outputs/ns/run-2/a.json"):
        store.put_object(key, b"x")
    store.delete_object("outputs/ns/run-1/b/c.json")
    assert not (base / "outputs/ns/run-1/b").exists()
    assert (base / "outputs/ns/run-1").exists()
    assert {} == store.delete_objects(["outputs/ns/run-1/a.json", "outputs/ns/run-2/a.json"])
    assert ["outputs/"] == tree(base)


def test_own_directory_is_pruned_altogether(store: FileBackend, base: Path) -> None:
    """A probe leaves no trace."""
    store.put_object(".bubu/probe/x", b"")
    store.delete_object(".bubu/probe/x")
    assert [] == tree(base)


def test_interrupted_pruning_is_finished_later(store: FileBackend, base: Path) -> None:
    """Deleting a missing object removes the empty directories that a crash left behind."""
    (base / "outputs/ns/run").mkdir(parents=True)
    store.delete_object("outputs/ns/run/a.json")
    assert ["outputs/"] == tree(base)


def test_empty_directory_is_deleted_by_its_name(store: FileBackend, base: Path) -> None:
    """As the Go implementation does."""
    (base / "empty").mkdir()
    store.delete_object("empty")
    assert [] == tree(base)


def test_refused_write_leaves_no_directories(store: FileBackend, base: Path) -> None:
    """A write that fails takes back what it created on the way."""
    with pytest.raises(StorageError, match="announced"):
        store.put_object("outputs/ns/run/a.json", b"x", size_bytes=2)
    assert ["outputs/"] == tree(base)
    with pytest.raises(InvalidKeyError, match="255 bytes"):
        store.put_object(f"outputs/ns/run/{'a' * 256}/b.json", b"x")
    assert ["outputs/"] == tree(base)


# ---- half-written files


def leftover(directory: Path, name: str = "0001", *, old: bool = True) -> Path:
    """Put a half-written file somewhere, as a killed writer does."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f".bubu-tmp-{name}"
    path.write_bytes(b"half")
    if old:
        os.utime(path, (OLD, OLD))
    return path


def test_half_written_files_are_no_objects(store: FileBackend, base: Path) -> None:
    """They are not listed, under no prefix, and cannot be read or deleted as objects."""
    store.put_object("d/a", b"x")
    leftover(base / "d", old=False)
    leftover(base / "d" / ".bubu-tmp-dir", old=False)
    for prefix in ("", "d/", "d/.bubu", "d/.bubu-tmp-0001", "d/.bubu-tmp-dir/"):
        assert ["d/a"][: prefix in {"", "d/"}] == keys_of(store.list_objects(prefix)), prefix
    with pytest.raises(InvalidKeyError):
        store.get_object("d/.bubu-tmp-0001")


def test_stale_leftovers_go_with_the_last_object(store: FileBackend, base: Path) -> None:
    """They do not keep a directory alive."""
    store.put_object("outputs/run/a", b"x")
    leftover(base / "outputs/run")
    store.delete_object("outputs/run/a")
    assert ["outputs/"] == tree(base)


def test_fresh_leftovers_are_left_alone(store: FileBackend, base: Path) -> None:
    """They may belong to a writer at work."""
    store.put_object("outputs/run/a", b"x")
    fresh = leftover(base / "outputs/run", old=False)
    store.delete_object("outputs/run/a")
    assert fresh.exists()


def test_locked_leftovers_are_left_alone(store: FileBackend, base: Path) -> None:
    """However old: their writer is alive and waits for its source."""
    path = leftover(base / "outputs/run")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert 0 == store.remove_leftovers()
        assert path.exists()
    finally:
        os.close(descriptor)
    assert 1 == store.remove_leftovers()
    assert ["outputs/"] == tree(base)


def test_a_writer_at_work_survives_the_cleaning(store: FileBackend) -> None:
    """Cleaning with no patience at all does not take the file from under a live writer."""

    def body() -> Iterator[bytes]:
        yield b"first "
        assert 0 == store.remove_leftovers(older_than_seconds=-1)
        store.delete_object("outputs/run/other")
        yield b"second"

    store.put_object("outputs/run/a", body())
    assert b"first second" == read(store, "outputs/run/a")


def test_remove_leftovers_reaches_everywhere(store: FileBackend, base: Path) -> None:
    """Also where nothing is ever deleted; objects, links and fresh files stay."""
    store.put_object("a/b/c", b"x")
    fresh = leftover(base / "a", "fresh", old=False)
    for directory in ("", "a", "a/b", "only/leftovers"):
        leftover(base / directory)
        leftover(base / directory, "0002")
    (base / "a/link").symlink_to(base)
    assert 8 == store.remove_leftovers()
    assert ["a/", f"a/{fresh.name}", "a/b/", "a/b/c", "a/link/", "only/"] == [
        name for name in tree(base) if not name.startswith("a/link/") or name == "a/link/"
    ]


def test_directory_removed_while_writing(store: FileBackend, base: Path) -> None:
    """Somebody else's rm -rf is an error that may pass, not a success and not "not found"."""

    def body() -> Iterator[bytes]:
        yield b"x"
        shutil.rmtree(base / "outputs")

    with pytest.raises(UnavailableError, match="removed") as caught:
        store.put_object("outputs/run/a", body())
    assert not is_not_found(caught.value)


# ---- reading


def test_file_cut_short_in_place_is_noticed(store: FileBackend, base: Path) -> None:
    """A writer that is not atomic must not make a reader believe in a shorter object."""
    store.put_object("a", bytes(3_000_000))
    with store.get_object("a") as found:
        assert 1_000_000 == len(found.read(1_000_000))
        os.truncate(base / "a", 1_500_000)
        with pytest.raises(UnavailableError, match="early"):
            found.read()


def test_body_after_close(store: FileBackend) -> None:
    """A closed body does not read from a descriptor that may be somebody else's by now."""
    store.put_object("a", b"x")
    found = store.get_object("a")
    found.close()
    found.close()
    with pytest.raises(ValueError, match="closed"):
        found.read()


def test_descriptors_are_given_back(store: FileBackend, base: Path) -> None:
    """Whatever happens, no operation keeps a descriptor."""
    (base / "link").symlink_to("/")
    store.put_object("d/a", b"x")

    def count() -> int:
        return len(names_in(Path("/proc/self/fd")))

    before = count()
    for _ in range(5):
        read(store, "d/a")
        store.head_object("d/a")
        for key in ("d", "d/none", "link/x", "d/a/x", "none/x"):
            for act in (store.get_object, store.head_object, store.delete_object):
                with suppress(StorageError):
                    act(key)
        with pytest.raises(StorageError):
            store.put_object("e/a", b"x", size_bytes=0)
        pages = store.list_objects(page_size=1)
        next(pages)
        del pages
        store.put_object("d/b/c", b"")
        store.delete_objects(["d/b/c", "x/y"])
        store.remove_leftovers()
    assert before == count()


def test_strange_times_never_look_old(store: FileBackend, base: Path) -> None:
    """A file that claims the year 50,000 is young, and one from before the epoch is old."""
    store.put_object("future", b"")
    store.put_object("past", b"")
    os.utime(base / "past", (-10_000_000, -10_000_000))
    assert "1969-09-07" == store.head_object("past").last_modified.date().isoformat()
    done = subprocess.run(
        ["touch", "-d", "@1500000000000", base / "future"], check=False, capture_output=True
    )
    if done.returncode == 0 and (base / "future").stat().st_mtime > 1e12:
        assert 9999 == store.head_object("future").last_modified.year
    assert ["future", "past"] == keys_of(store.list_objects())
