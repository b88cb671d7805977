"""``cp``: bytes arrive as they were, targets are whole or untouched, nobody is led astray."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import threading
from pathlib import Path

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.cli import pieces, transfer
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.scope import Scope
from bubu_storage.cli.workers import each
from bubu_storage.errors import BucketNotFoundError, PreconditionFailedError, UnavailableError


def read(store, key):
    """Return an object's bytes."""
    with store.get_object(key) as found:
        return found.read()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024, 5 * 1024 * 1024 + 1, 33 * 1024 * 1024 + 7])
def test_there_and_back(on, store, here, size):
    """Any length makes the round trip, whole in memory, in pieces, and in ranges."""
    data = random.Random(size).randbytes(size)
    (here / "file").write_bytes(data)

    up = on("cp", "file", "store:x/file")
    down = on("cp", "store:x/file", "copy")

    assert (0, 0) == (up.exit_code, down.exit_code)
    assert data == read(store, "x/file") == (here / "copy").read_bytes()
    assert [] == list(here.glob(".bubu-tmp-*"))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("f.json", "store:", "f.json"),
        ("f.json", "store:in/", "in/f.json"),
        ("f.json", "store:in/g", "in/g"),
        ("./f.json", "store:in/", "in/f.json"),
        ("store:a.txt", "store:copies/", "copies/a.txt"),
        ("store:data/1.bin", "store:", "1.bin"),
        ("./store:odd", "store:odd", "odd"),
    ],
)
def test_where_an_object_goes(on, keys, here, *, source, target, expected):
    """A folder takes the object under its own name; anything else is its name."""
    (here / "f.json").write_text("{}")
    (here / "store:odd").write_text("x")

    result = on("cp", source, target)

    assert 0 == result.exit_code, result.stderr
    assert expected in keys()


@pytest.mark.parametrize(
    ("target", "expected"),
    [(".", "a.txt"), ("new/", "new/a.txt"), ("new/b", "new/b"), ("file://{here}/c", "c"), ("{here}/d", "d")],
)
def test_where_a_file_goes(on, here, target, expected):
    """Directories take the object under its own name and are made where missing."""
    assert 0 == on("cp", "store:a.txt", target.format(here=here)).exit_code
    assert b"hello" == (here / expected).read_bytes()


def test_standard_streams(on, store):
    """``-`` reads and writes bytes, and nothing else is on standard output."""
    data = bytes(range(256)) * 9000

    assert 0 == on("cp", "-", "store:piped", stdin=data).exit_code
    result = on("cp", "store:piped", "-", "-o", "json")

    assert data == read(store, "piped") == result.stdout_bytes


def test_recursive_both_ways(on, store, here):
    """What is below SRC lands below DST under the same names; neighbours of SRC do not."""
    down = on("cp", "-r", "store:data", "down", "-o", "json")
    up = on("cp", "-r", "down", "store:up")
    between = on("cp", "-r", "store:up/deep", "store:third/")

    assert {"copied": 3, "size_bytes": 264, "failed": []} == json.loads(down.stdout)
    assert "bubu-storage: copied 3 objects, 264 B\n" == up.stderr
    assert 0 == between.exit_code
    assert ["1.bin", "deep/2.bin", "deep/er/3.bin"] == sorted(
        str(path.relative_to(here / "down")) for path in (here / "down").rglob("*") if path.is_file()
    )
    assert (bytes(range(256)), b"three") == (read(store, "up/1.bin"), read(store, "third/er/3.bin"))


def test_the_whole_store_without_our_own_area(on, here):
    """``store:`` with ``-r`` is everything that is data."""
    assert 0 == on("cp", "-r", "store:", "all").exit_code
    assert not (here / "all" / ".bubu").exists()
    assert (here / "all" / "zoo").exists()


def test_if_absent(on, store, here):
    """What exists is left as it is, on either side, and that is a failure."""
    (here / "f").write_text("new")

    up, down = on("cp", "--if-absent", "f", "store:a.txt"), on("cp", "--if-absent", "store:a.txt", "f")
    fresh = on("cp", "--if-absent", "f", "store:fresh"), on("cp", "--if-absent", "store:a.txt", "g")
    many = on("cp", "-r", "--if-absent", "store:data", "store:")

    assert (1, 1) == (up.exit_code, down.exit_code)
    assert (b"hello", "new") == (read(store, "a.txt"), (here / "f").read_text())
    assert [0, 0] == [one.exit_code for one in fresh]
    assert "exists already and --if-absent was given; it was left as it is" in up.stderr
    assert "exists already" in down.stderr
    assert 0 == many.exit_code
    assert 1 == on("cp", "-r", "--if-absent", "store:data", "store:").exit_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "b"), "neither SRC nor DST is in a store"),
        (("-", "-"), "neither SRC nor DST is in a store"),
        (("store:data/", "x"), "add -r"),
        (("store:", "x"), "add -r"),
        (("-", "store:"), "write a whole key"),
        (("-r", "-", "store:x"), "which - cannot hold"),
        (("-r", "store:data", "-"), "which - cannot hold"),
        (("store:a.txt", "store:a.txt"), "the same"),
        (("store:data/1.bin", "store:data/"), "the same object"),
        (("-r", "store:data", "store:data/copy"), "lies below SRC"),
        (("-r", "store:", "store:copy"), "lies below SRC"),
        (("store:../x", "y"), "'..' segment"),
        (("store:/x", "y"), "is absolute"),
        (("x", "store:a/../../b"), "'..' segment"),
        (("https://host/x", "store:y"), "begins with https://"),
        (("s3:///k", "y"), "names no bucket"),
        (("file://x", "store:y"), "three slashes"),
        (("", "store:y"), "SRC is empty"),
        (("folder", "store:y"), "add -r"),
        (("-r", "f", "store:y"), "leave -r out"),
        (("-r", "store:data", "f"), "DST 'f' is a file"),
        (("s3://KEY:hunter2secret@b/k", "y"), "takes no credentials"),
    ],
)
def test_wrong_usage(on, here, keys, arguments, words):
    """Each mistake has its own line and changes nothing."""
    (here / "folder").mkdir()
    (here / "f").write_text("x")
    before = keys()

    result = on("cp", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert 1 == result.stderr.count("\n")
    assert "hunter2secret" not in result.stderr
    assert (before, ["f", "folder"]) == (keys(), sorted(one.name for one in here.iterdir()))


def test_missing_sources(on, here):
    """A file or object that is not there is named, and nothing is left behind."""
    for source, target in (("nope", "store:x"), ("store:nope", "x")):
        result = on("cp", source, target)
        assert 1 == result.exit_code
        assert "'nope'" in result.stderr
    assert "is a folder" in on("cp", "store:data", "x").stderr
    assert 1 == on("cp", "-r", "store:nope", "x").exit_code
    assert [] == list(here.iterdir())


def test_a_directory_is_not_replaced(on, here):
    """Where a directory has the target's name in a recursive copy, that one object fails."""
    (here / "d" / "1.bin").mkdir(parents=True)

    result = on("cp", "-r", "store:data", "d")

    assert 3 == result.exit_code
    assert "is a directory" in result.stderr
    assert b"two" == (here / "d" / "deep" / "2.bin").read_bytes()


def test_our_own_area_is_never_written_to(on, here, keys):
    """Neither by name nor by a tree that holds such a folder."""
    (here / "tree" / ".bubu").mkdir(parents=True)
    (here / "tree" / ".bubu" / "claim").write_text("forged")
    (here / "tree" / "good").write_text("x")
    before = keys()

    named = on("cp", "tree/good", "store:.bubu/claim"), on("cp", "-r", "tree", "store:.bubu")
    tree = on("cp", "-r", "tree", "store:")

    assert [4, 4, 3] == [one.exit_code for one in (*named, tree)]
    assert "the operator's own area" in tree.stderr
    assert sorted([*before, "good"]) == keys()


def test_links_and_devices(on, here):
    """A link's target is replaced, not the link; a pipe is written into; trees are copied without both."""
    (here / "real").write_text("old")
    (here / "link").symlink_to("real")
    os.mkfifo(here / "pipe")
    seen = []
    reader = threading.Thread(target=lambda: seen.append((here / "pipe").read_bytes()))
    reader.start()

    assert 0 == on("cp", "store:a.txt", "link").exit_code
    assert 0 == on("cp", "store:a.txt", "pipe").exit_code
    reader.join(60)
    tree = on("cp", "-r", here, "store:tree")

    assert (b"hello", [b"hello"]) == ((here / "real").read_bytes(), seen)
    assert (here / "link").is_symlink()
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)
    assert 3 == tree.exit_code
    assert 2 == tree.stderr.count("was left out: it is a link or no ordinary file")


def test_hostile_keys_stay_inside_the_target(tmp_path):
    """Keys that another client stored may climb; a copy of them never leaves the target."""
    store = MemoryBackend()
    names = ["p/ok", "p//x", "p/./x", "p/a/"]
    for key in names:
        store.put_object(key, b"x")

    tasks = list(transfer.store_tasks(store, Scope("", "p/"), None, str(tmp_path)))
    climbing = [
        transfer._target_name(None, str(tmp_path), rest) for rest in ("../x", "a/../../x", "/etc/x", "a\0b")
    ]

    assert [bool(task.fault) for task in tasks] == [True, True, True, False]
    assert [task.target.name for task in tasks if not task.fault] == [str(tmp_path / "ok")]
    assert all(fault for _, fault in climbing)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_mode(on, here, mode):
    """A file that only its owner may read stays so."""
    (here / "f").write_text("old")
    (here / "f").chmod(mode)

    assert 0 == on("cp", "store:a.txt", "f").exit_code

    assert (b"hello", mode) == ((here / "f").read_bytes(), (here / "f").stat().st_mode & 0o777)


def test_a_full_disk_leaves_nothing(on, here, monkeypatch):
    """The error is that of the disk, and no temporary file stays."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pieces.os, "replace", fail)
    (here / "f").write_text("old")

    result = on("cp", "store:a.txt", "f")

    assert (1, 1) == (result.exit_code, result.stderr.count("\n"))
    assert result.stderr.startswith("bubu-storage: 'a.txt' of file://")
    assert result.stderr.endswith(" was not copied: No space left on device\n")
    assert [here / "f"] == list(here.iterdir())
    assert "old" == (here / "f").read_text()


def test_a_replaced_object_is_noticed(monkeypatch):
    """A long object is read in ranges; when it changes in between, that is an error and no mixture."""
    monkeypatch.setattr(pieces, "RANGE_BYTES", 10)
    store = MemoryBackend()
    store.put_object("k", b"a" * 25)

    stream = pieces.object_pieces(store, pieces.open_object(store, "k"))
    assert b"a" * 10 == next(stream)
    store.put_object("k", b"b" * 25)

    with pytest.raises(PreconditionFailedError, match="was replaced while it was being read"):
        list(stream)


def test_gives_up_on_a_store_that_is_down(on, here, monkeypatch):
    """A thousand files are not tried one by one against a store that fails throughout."""
    tried = []

    def put_object(self, key, body, **_):
        tried.append(key)
        raise UnavailableError(f"object {key!r} cannot be written: the store cannot be reached", key=key)

    monkeypatch.setattr(FileBackend, "put_object", put_object)
    (here / "many").mkdir()
    for number in range(300):
        (here / "many" / str(number)).write_text("x")

    result = on("cp", "-r", "many", "store:x", "-j", "2")

    assert 1 == result.exit_code
    assert "gave up: the store fails throughout" in result.stderr
    assert len(tried) < 30


def test_what_fails_for_one_fails_for_all(on, here, monkeypatch):
    """A missing bucket is said once."""

    def put_object(self, key, body, **_):
        raise BucketNotFoundError("the bucket is gone")

    monkeypatch.setattr(FileBackend, "put_object", put_object)
    for number in range(50):
        (here / str(number)).write_text("x")

    result = on("cp", "-r", ".", "store:x")

    assert (1, 1) == (result.exit_code, result.stderr.count("\n"))


def test_progress_is_drawn_for_people_only(capsys):
    """One line, redrawn; gone at the end; nothing where nobody watches."""
    now = [0.0]
    with Progress("copying", shown=True, total_bytes=100, monotonic=lambda: now[0]) as progress:
        now[0] = 1.0
        progress.add(objects=1, size_bytes=50)
        progress.add(objects=1, size_bytes=50)
    with Progress("copying", shown=False, monotonic=lambda: now[0]) as silent:
        now[0] = 9.0
        silent.add(size_bytes=1)

    drawn = capsys.readouterr().err
    assert "\rcopying: 50 B of 100 B [##########----------] 50%, 50 B/s" in drawn
    assert drawn.endswith("\r")
    assert 1 == drawn.count("copying")


def test_workers_stop_early_and_read_a_little_ahead():
    """Work is bounded however long the list is, and ends when the caller goes away."""
    taken = []

    def items():
        for number in range(10**9):
            taken.append(number)
            yield number

    stop = threading.Event()
    results = each(items(), lambda _: None, jobs=2, stop=stop)
    first = [next(results) for _ in range(5)]
    results.close()

    assert [None] * 5 == [error for _, error in first]
    assert stop.is_set()
    assert len(taken) < 40


def test_a_source_that_fails_ends_the_work_in_order():
    """What was under way is finished and reported before the error comes out."""

    def items():
        yield 1
        yield 2
        raise UnavailableError("gone")

    seen = []
    with pytest.raises(UnavailableError):
        seen.extend(item for item, _ in each(items(), lambda _: None, jobs=2, stop=threading.Event()))
    results = each(items(), lambda _: None, jobs=1, stop=threading.Event())
    assert {1, 2} == {next(results)[0], next(results)[0]}
    results.close()


def test_work_that_panics_is_not_waited_for():
    """What a thread ends by is no Exception where native code panics: it comes out all the same."""

    class PanicError(BaseException):
        pass

    def work(number):
        if number == 1:
            raise PanicError("native")

    caught = []

    def copy():
        try:
            list(each(range(5), work, jobs=2, stop=threading.Event()))
        except PanicError as error:
            caught.append(str(error))

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    thread.join(30)

    assert ["native"] == caught


def test_content_types(on, store, here, monkeypatch):
    """By the key's name, or what was asked for."""
    seen = {}
    really = FileBackend.put_object

    def put_object(self, key, body, **more):
        seen[key] = more["content_type"]
        return really(self, key, body, **more)

    monkeypatch.setattr(FileBackend, "put_object", put_object)
    Path("f").write_text("x")
    on("cp", "f", "store:a.json")
    on("cp", "f", "store:b")
    on("cp", "f", "store:c", "--content-type", "text/csv")

    assert {"a.json": "application/json", "b": "application/octet-stream", "c": "text/csv"} == seen
