"""Blobs as files: any length, visible only when complete, one object and never a mixture."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile

import pytest

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from bubu_storage.backend.decorator import BackendDecorator, Operation
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import GetObjectResult
from bubu_storage.blob_writer import _under_way
from bubu_storage.errors import (
    ConfigurationError,
    InvalidKeyError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageDisabledError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
)
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Timing

MIB = 1024 * 1024
DEADLINE_SECONDS = 60.0
BODY = bytes(range(256)) * 20_000


@pytest.fixture(params=["memory", "file", "foreign"])
def storage(request, tmp_path):
    """A manager on each kind of store; a foreign backend is worked on in threads."""
    if request.param == "file":
        manager = StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path / "store"))))
    elif request.param == "memory":
        manager = StorageManager.in_memory()
    else:
        manager = StorageManager(ManagerSettings(), MemoryBackend())
    with manager:
        yield manager


def on(backend, **options):
    """A manager on a backend of the test's own."""
    return StorageManager(ManagerSettings(**options), backend)


def write(storage, key, *, mebibytes=3, error=None):
    """Write a blob, and maybe raise an error before it is complete."""
    with storage.open_blob(key, "wb") as blob:
        for _ in range(mebibytes):
            blob.write(b"x" * MIB)
        if error is not None:
            raise error


def keys(storage):
    """What the store holds."""
    return [item.key for item in storage.list_objects(".")]


# ---- writing


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 3])
@pytest.mark.parametrize("step", [777_777, 3 * MIB])
def test_what_is_written_is_stored(storage, size, step):
    """In pieces of any size."""
    body = (BODY * 2)[:size]
    with storage.open_blob("d/x", "wb") as blob:
        for start in range(0, size, step):
            assert blob.write(body[start : start + step]) == len(body[start : start + step])
        assert blob.tell() == size
    assert storage.read_blob("d/x") == body
    assert blob.closed
    assert blob.etag == storage.backend.head_object("d/x").etag


def test_small_writes_of_all_kinds_of_bytes(storage):
    """As for any binary file."""
    with storage.open_blob("x", "wb") as blob:
        for number in range(5000):
            blob.write(b"%d\n" % number)
        blob.write(bytearray(b"a"))
        blob.write(memoryview(b"bc")[:1])
        blob.writelines([b"d", b"e"])
        blob.flush()
        assert not blob.readable()
        assert not blob.seekable()
        assert blob.writable()
        with pytest.raises(TypeError, match="not str"):
            blob.write("text")
    assert storage.read_blob("x") == b"".join(b"%d\n" % number for number in range(5000)) + b"abde"


def test_nothing_is_visible_before_the_end(storage):
    """Neither a new object nor a change of an old one."""
    storage.write_blob("old", b"old")
    with storage.open_blob("old", "wb") as first, storage.open_blob("new", "wb") as second:
        for blob in (first, second):
            blob.write(b"x" * 3 * MIB)
            blob.flush()
        assert keys(storage) == ["old"]
        assert storage.read_blob("old") == b"old"
    assert keys(storage) == ["new", "old"]
    assert storage.read_blob("old") == b"x" * 3 * MIB


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_aborts(storage, error):
    """It reaches the caller as it is; the old object stays and nothing is left over."""
    storage.write_blob("old", b"old")
    for key in ("old", "new"):
        with pytest.raises(type(error)) as caught:
            write(storage, key, error=error)
        assert caught.value is error
    assert keys(storage) == ["old"]
    assert storage.read_blob("old") == b"old"
    assert not _under_way


def test_aborting_by_hand(storage):
    """Twice is fine; after a commit it does nothing."""
    blob = storage.open_blob("x", "wb")
    blob.write(b"x")
    blob.abort()
    blob.abort()
    blob.close()
    assert (blob.closed, blob.etag) == (True, "")
    with pytest.raises(ValueError, match=r"'x' of .* is closed"):
        blob.write(b"y")
    assert keys(storage) == []
    with storage.open_blob("x", "wb") as blob:
        blob.write(b"x")
    blob.abort()
    assert keys(storage) == ["x"]


def test_what_closes_the_file_does_not_commit(storage):
    """A wrapper closes it also when an error has left half of the text unwritten; the block decides."""
    storage.write_blob("x", b"old")

    def fail():
        with storage.open_blob("x", "wb") as blob, io.TextIOWrapper(blob, "utf-8") as text:
            text.write("half")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert storage.read_blob("x") == b"old"
    with storage.open_blob("x", "wb") as blob:
        with io.TextIOWrapper(blob, "utf-8") as text:
            text.write("whole")
        assert blob.closed
        assert storage.read_blob("x") == b"old"
    assert storage.read_blob("x") == b"whole"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, TimeoutError])
def test_an_interrupted_write_leaves_no_hole(interruption):
    """Who goes on after it, as if nothing had happened, is told; the piece that waited is lost."""
    go_on = threading.Event()

    class Slow(BackendDecorator):
        def put_object(self, key, body, **options):
            """Take nothing before it may."""
            assert go_on.wait(DEADLINE_SECONDS)
            return super().put_object(key, body, **options)

    def interrupt(*_):
        raise interruption("stop")

    with on(Slow(MemoryBackend())) as storage:
        blob = storage.open_blob("x", "wb")
        old = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(interruption):
                blob.write(b"x" * 4 * MIB)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        go_on.set()
        for act in (lambda: blob.write(b"y" * MIB), blob.close):
            with pytest.raises(StorageError, match="given up earlier; write it anew"):
                act()
        assert keys(storage) == []


def test_a_forked_process_leaves_writers_alone(storage):
    """It neither waits for threads that it has not, nor stores anything; the parent goes on."""
    with storage.open_blob("x", "wb") as blob:
        blob.write(b"1" * MIB)
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                blob.__exit__(None, None, None)
            except StorageError:
                os._exit(len(_under_way))
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        blob.write(b"2")
    assert storage.read_blob("x") == b"1" * MIB + b"2"


def test_a_dropped_writer_aborts(storage, caplog):
    """Nobody said that it was complete; a log line says what happened."""
    blob = storage.open_blob("x", "wb")
    blob.write(b"x" * 2 * MIB)
    (upload,) = _under_way
    del blob
    gc.collect()
    assert upload.join(DEADLINE_SECONDS)
    assert keys(storage) == []
    assert "'x' of" in caplog.text
    assert "was not closed" in caplog.text


def test_temporary_files_of_an_aborted_blob_are_gone(tmp_path):
    """When the block has been left."""
    with on(FileBackend(tmp_path)) as storage:
        with pytest.raises(ZeroDivisionError):
            write(storage, "x", error=ZeroDivisionError())
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_error_of_the_store_surfaces_at_the_next_write():
    """And again at the end: half a blob is never taken for a whole one."""
    refused = threading.Event()

    class Refusing(MemoryBackend):
        def put_object(self, key, body, **_):
            """Take one piece."""
            next(iter(body))
            refused.set()
            raise PermissionDeniedError("not yours", key=key)

    with on(Refusing()) as storage:
        blob = storage.open_blob("x", "wb")
        blob.write(b"x" * MIB)
        assert refused.wait(DEADLINE_SECONDS)
        with pytest.raises(PermissionDeniedError, match="not yours"):
            blob.writelines([b"x" * MIB] * 100)
        with pytest.raises(PermissionDeniedError, match="not yours"):
            blob.write(b"x")
        with pytest.raises(PermissionDeniedError, match="not yours"):
            blob.close()
        blob.close()
        assert blob.closed


def test_an_error_at_the_end():
    """Is raised by leaving the block."""
    with on(FaultBackend(MemoryBackend(), Fault())) as storage:
        with pytest.raises(UnavailableError, match="simulated"), storage.open_blob("x", "wb") as blob:
            blob.write(b"x")
        assert keys(storage) == []


def test_a_store_that_stops_reading_has_not_stored():
    """Even if it says so."""

    class Lazy(MemoryBackend):
        def put_object(self, *_, **__):
            """Read nothing."""
            return '"etag"'

    with on(Lazy()) as storage, pytest.raises(StorageError, match="ended the upload before"):
        write(storage, "x", mebibytes=10)


def test_a_store_that_hangs_is_waited_for_only_so_long():
    """While writing and at the end; the caller goes on, and nothing comes of it."""
    released = threading.Event()
    ended = threading.Semaphore(0)

    class Hanging(MemoryBackend):
        def put_object(self, key, body, **options):
            """Hang before anything is read."""
            assert released.wait(DEADLINE_SECONDS)
            try:
                return super().put_object(key, body, **options)
            finally:
                ended.release()

    backend = Hanging()
    with on(backend, timeout_seconds=0.1) as storage:
        with pytest.raises(StorageTimeoutError, match=r"took nothing of object 'x' of memory:// for 0\.1 s"):
            write(storage, "x", mebibytes=10)
        with pytest.raises(StorageTimeoutError, match="BUBU_STORAGE_TIMEOUT"):
            write(storage, "y", mebibytes=1)
    released.set()
    for _ in range(2):
        assert ended.acquire(timeout=DEADLINE_SECONDS)
    assert list(backend.list_objects()) == []


def test_the_length_is_checked(storage):
    """A body of another length than announced is not stored."""
    with storage.open_blob("x", "wb", size_bytes=3) as blob:
        blob.write(b"abc")
    for body in (b"ab", b"abcd"):
        with (
            pytest.raises(StorageError, match="3 were announced"),
            storage.open_blob("x", "wb", size_bytes=3) as blob,
        ):
            blob.write(body)
    assert storage.read_blob("x") == b"abc"


def test_content_types():
    """Reach the store; blank is the default."""
    with StorageManager.in_memory() as storage:
        with (
            storage.open_blob("a", "wb", content_type="text/csv"),
            storage.open_blob("b", "wb", content_type=""),
        ):
            pass
        with storage.open_blob("a") as a, storage.open_blob("b") as b:
            assert (a.info.content_type, b.info.content_type) == ("text/csv", "application/octet-stream")


def test_a_writer_outlives_its_manager():
    """`close` of the manager cuts nothing that has begun; the store is closed with the last user."""
    closed = []

    class Watched(MemoryBackend):
        def close(self):
            """Count."""
            closed.append(True)

    backend = Watched()
    storage = on(backend)
    storage._holder.current.owned = True
    with storage.open_blob("x", "wb") as blob:
        storage.close()
        assert not closed
        blob.write(b"x")
    assert closed == [True]
    assert backend.get_object("x").read() == b"x"
    with pytest.raises(StorageError, match="is closed"):
        storage.open_blob("x")


def test_other_writers_of_archives(storage):
    """The file is good enough for the standard library."""
    with storage.open_blob("a.zip", "wb") as blob, zipfile.ZipFile(blob, "w") as archive:
        archive.writestr("a.txt", "é" * 1000)
        archive.writestr("b.bin", BODY)
    with storage.open_blob("a.zip") as blob, zipfile.ZipFile(blob) as archive:
        assert archive.namelist() == ["a.txt", "b.bin"]
        assert archive.read("b.bin") == BODY
        assert archive.read("a.txt").decode() == "é" * 1000


def test_a_process_that_ends_with_an_open_blob_stores_nothing(tmp_path):
    """And it does end."""
    code = (
        "import sys\n"
        "from bubu_storage import *\n"
        "m = StorageManager(ManagerSettings(backend=FileSettings(sys.argv[1])))\n"
        "blob = m.open_blob('x', 'wb')\n"
        "blob.write(b'x' * 3_000_000)\n"
        "print('written')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "written\n")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("after_mib", [0, 1, 7])
def test_a_killed_writer_tears_nothing(tmp_path, after_mib):
    """SIGKILL before the end: the old object stays whole, and a new one never appears."""
    code = (
        "import signal, sys\n"
        "from bubu_storage import *\n"
        "m = StorageManager(ManagerSettings(backend=FileSettings(sys.argv[1])))\n"
        "with m.open_blob('old', 'wb') as old, m.open_blob('new', 'wb') as new:\n"
        f"    for blob in (old, new): blob.write(b'x' * ({after_mib} << 20))\n"
        "    print('written', flush=True)\n"
        "    signal.pause()\n"
    )
    with on(FileBackend(tmp_path)) as storage:
        storage.write_blob("old", b"old")
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout.readline() == "written\n"
            writer.kill()
            assert writer.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        assert keys(storage) == ["old"]
        assert storage.read_blob("old") == b"old"


# ---- reading


@pytest.fixture
def blob_store(storage):
    """A manager with one large blob and one of lines."""
    storage.write_blob("big", BODY, content_type="image/png")
    storage.write_blob("lines", b"".join(b"line %d\n" % number for number in range(10_000)))
    return storage


def test_reading_in_order(blob_store):
    """Whole, in pieces, by lines."""
    with blob_store.open_blob("big") as blob:
        assert blob.readable()
        assert blob.info.size_bytes == len(BODY)
        assert blob.read(10) == BODY[:10]
        assert blob.peek(1)[:1] == BODY[10:11]
        assert blob.tell() == 10
        assert blob.read(3 * MIB) == BODY[10 : 10 + 3 * MIB]
        assert blob.read() == BODY[10 + 3 * MIB :]
        assert (blob.read(), blob.read(5)) == (b"", b"")
    with blob_store.open_blob("lines", "rb") as blob:
        assert blob.readline() == b"line 0\n"
        assert list(blob)[-1] == b"line 9999\n"
    with blob_store.open_blob("lines") as blob, io.TextIOWrapper(blob, "utf-8") as text:
        assert sum(1 for _ in text) == 10_000


def test_jumps(blob_store):
    """Are the same as in a file, in any order."""
    reference = io.BytesIO(BODY)
    with blob_store.open_blob("big") as blob:
        assert blob.seekable()
        for offset, whence, size in (
            (4 * MIB, 0, 100),
            (10, 0, 100),
            (-50, 2, 100),
            (0, 2, 1),
            (300_000, 0, 2 * MIB),
            (2 * MIB, 1, 7),
            (-MIB, 1, 7),
            (10 * MIB, 0, 7),
            (0, 0, -1),
        ):
            assert blob.seek(offset, whence) == reference.seek(offset, whence)
            assert blob.read(size) == reference.read(size)
            assert blob.tell() == reference.tell()
        for offset, whence in ((-1, 0), (0, 5), (-len(BODY) - 1, 2)):
            with pytest.raises(ValueError, match=r"position|whence"):
                blob.raw.seek(offset, whence)


def test_requests_are_few():
    """One for reading in order, one more for each far jump."""
    counting = CountingBackend(MemoryBackend())
    counting.put_object("big", BODY)
    with on(counting) as storage, storage.open_blob("big") as blob:
        blob.read(3 * MIB)
        blob.read(100)
        blob.seek(100_000, 1)
        blob.read()
        assert counting.counts[Operation.GET] == 1
        blob.seek(0)
        blob.read()
        assert counting.counts[Operation.GET] == 2
    assert counting.open_bodies == 0


@pytest.mark.parametrize("honest", [True, False])
def test_a_replaced_object_is_noticed(honest):
    """Also where the store ignores ranges; two objects are never mixed."""

    class Store(BackendDecorator):
        def get_object(self, key, *, range_header="", if_match=""):
            """Maybe forget the range."""
            return super().get_object(key, range_header=range_header if honest else "", if_match=if_match)

    with on(Store(MemoryBackend())) as storage:
        storage.write_blob("x", BODY)
        with storage.open_blob("x") as blob:
            assert blob.read(5) == BODY[:5]
            blob.seek(3 * MIB)
            assert blob.read(5) == BODY[3 * MIB : 3 * MIB + 5]
            storage.write_blob("x", BODY[::-1])
            blob.seek(0)
            with pytest.raises(PreconditionFailedError, match=r"'x' .* was replaced"):
                blob.read(5)
            storage.delete("x")
            blob.seek(0)
            with pytest.raises(ObjectNotFoundError):
                blob.read(5)


def test_a_connection_that_breaks_is_made_again():
    """The rest is read from where it broke; a store that never gets on is given up."""
    fault = Fault(nth=1, times=2, operations=frozenset({Operation.GET}), timing=Timing.HALFWAY)
    counting = CountingBackend(FaultBackend(MemoryBackend(), fault))
    counting.put_object("x", BODY)
    with on(counting) as storage:
        with storage.open_blob("x") as blob:
            assert blob.read() == BODY
        assert counting.counts[Operation.GET] == 3
        fault.times = 0
        with storage.open_blob("x") as blob, pytest.raises(UnavailableError, match="simulated"):
            blob.read()
    assert counting.open_bodies == 0


def test_a_body_that_ends_early_is_not_the_end_of_the_file():
    """Backends of others may not notice; half an object is never taken for a whole one."""

    class Half(BackendDecorator):
        def get_object(self, key, **options):
            """Give half."""
            with super().get_object(key, **options) as found:
                half = io.BytesIO(found.read()[: found.info.size_bytes // 2])
            return GetObjectResult(found.info, half, content_range=found.content_range)

    store = MemoryBackend()
    store.put_object("x", b"x" * 10)
    with on(Half(store)) as storage:
        with storage.open_blob("x") as blob, pytest.raises(UnavailableError, match="ends early"):
            blob.read()
        with storage.open_blob("x") as blob:
            blob.seek(9)
            with pytest.raises(UnavailableError, match="ends early"):
                blob.read()


def test_a_body_that_hangs():
    """The read ends in time, and the file can still be closed."""
    released = threading.Event()

    class Hanging(io.RawIOBase):
        def read(self, _size=-1):
            """Hang."""
            assert released.wait(DEADLINE_SECONDS)
            return b""

    class Store(MemoryBackend):
        def get_object(self, key, **options):
            """Give a body that hangs."""
            found = super().get_object(key, **options)
            found._stream = Hanging()
            return found

    backend = Store()
    backend.put_object("x", b"x" * 100)
    storage = on(backend, timeout_seconds=0.1)
    with (
        pytest.raises(StorageTimeoutError, match="open_blob on memory://"),
        storage,
        storage.open_blob("x") as blob,
    ):
        blob.read()
    released.set()


def test_an_open_reader_keeps_the_store():
    """Until it is closed, or dropped."""
    closed = []

    class Watched(MemoryBackend):
        def close(self):
            """Count."""
            closed.append(True)

    for let_go in (lambda blob: blob.close(), lambda _: None):
        storage = on(Watched())
        storage._holder.current.owned = True
        storage.write_blob("x", BODY)
        blob = storage.open_blob("x")
        storage.close()
        assert blob.read() == BODY
        assert not closed
        let_go(blob)
        del blob
        gc.collect()
        assert closed.pop()


def test_a_closed_reader(blob_store):
    """Says so, and closing twice is fine."""
    blob = blob_store.open_blob("big")
    raw = blob.raw
    blob.close()
    blob.close()
    for action in (lambda: blob.read(1), raw.tell, lambda: raw.seek(0), raw.readall):
        with pytest.raises(ValueError, match="closed"):
            action()


# ---- opening


def test_what_cannot_be_opened(storage):
    """Is found out when it is opened, and holds on to nothing."""
    with pytest.raises(ObjectNotFoundError):
        storage.open_blob("nothing")
    for mode in ("rb", "wb"):
        for path in ("", "/a", "../a", ".bubu/x"):
            with pytest.raises(InvalidKeyError):
                storage.open_blob(path, mode)
    assert storage._holder.current.users == 0
    with StorageManager.from_env({}) as disabled, pytest.raises(StorageDisabledError):
        disabled.open_blob("a", "wb")


@pytest.mark.parametrize("mode", ["r", "w", "rt", "wt", "a", "ab", "r+b", "xb", "", None])
def test_other_modes(storage, mode):
    """The message says which there are, and what to do about text."""
    with pytest.raises(ConfigurationError, match=r"'rb' or 'wb'.*TextIOWrapper"):
        storage.open_blob("x", mode)


def test_a_cached_manager_sees_what_it_has_written():
    """A blob that is committed replaces what the cache holds."""
    with StorageManager.in_memory(ManagerSettings(cache_size_bytes=MIB)) as storage:
        storage.write_blob("x", b"old")
        assert storage.read_blob("x") == b"old"
        with storage.open_blob("x", "wb") as blob:
            blob.write(b"new")
            blob.flush()
            assert storage.read_blob("x") == b"old"
        assert storage.read_blob("x") == b"new"
        with storage.open_blob("x") as reader:
            assert reader.read() == b"new"


def test_memory_is_constant(tmp_path):
    """200 MiB go in and come out with a few MiB of growth."""
    code = (
        "import sys\n"
        "from bubu_storage import *\n"
        "m = StorageManager(ManagerSettings(backend=FileSettings(sys.argv[1])))\n"
        # ru_maxrss would be that of the process that started this one, if it was larger.
        "rss = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024\n"
        "piece = b'x' * (1 << 20)\n"
        "with m.open_blob('warm', 'wb') as blob: blob.write(piece)\n"
        "with m.open_blob('warm') as blob: blob.read()\n"
        "before = rss()\n"
        "with m.open_blob('x', 'wb') as blob:\n"
        "    for _ in range(200): blob.write(piece)\n"
        "with m.open_blob('x') as blob:\n"
        "    total = sum(len(part) for part in iter(lambda: blob.read(1 << 20), b''))\n"
        "print(total, rss() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={**os.environ, "BUBU_STORAGE_METRICS": "true"},
    )
    total, growth_mib = map(int, done.stdout.split())
    assert total == 200 * MIB
    print(f"growth {growth_mib} MiB")
    assert growth_mib < 32


def test_opening_a_replaced_object_again_helps_with_a_cache_too():
    """As the error of the first reader says: a part of the new object shows that the old one is gone."""
    store = MemoryBackend()
    with on(store, cache_size_bytes=64 * MIB) as storage:
        for body in (b"a" * 2 * MIB, b"b" * 2 * MIB, b"c" * MIB):
            store.put_object("x", body)
            if body[:1] == b"a":
                storage.read_blob("x")
                continue
            with storage.open_blob("x") as blob:
                blob.seek(2 * MIB - 9)
                with pytest.raises((PreconditionFailedError, RangeNotSatisfiableError)):
                    blob.read()
            assert storage.read_blob("x") == body
