"""What a manager does with objects as they are: bytes, files, listings, deletions.

The base class of `StorageManager`: paths are checked and cleaned here, each waiting for the
store gets its deadline, and whoever holds a backend is counted, so that `close` and
`reconfigure` cut nobody's connection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from bubu_storage.backend.types import Body, ListedObject, ListPage, ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.lifetime import BackendHandle, BackendHolder
from bubu_storage.payload.paths import check_path, clean_path, is_within, store_key
from bubu_storage.settings import ManagerSettings
from bubu_storage.transfer import Transfer
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE, RESERVED_PREFIX

if TYPE_CHECKING:
    from bubu_storage.blob_reader import BlobReader, Run
    from bubu_storage.blob_writer import BlobWriter

__all__ = ["BlobOperations"]

_T = TypeVar("_T")


class BlobOperations:
    """Objects as they are, and how every call of a manager gets at its store.

    Args:
        settings: in force from the next call on.
        holder: the backend and the threads.
        max_workers: objects in flight at a time.
    """

    def __init__(self, settings: ManagerSettings, holder: BackendHolder, max_workers: int) -> None:
        self._settings = settings
        self._holder = holder
        self._max_workers = max_workers

    def read_blob(self, path: str) -> bytes:
        """Return an object's bytes as they are (Go: ReadBlob).

        Raises:
            ObjectNotFoundError: nothing there.
            InvalidKeyError: empty, absolute, too long, with ``..`` or NUL, or in ``.bubu/``.
            LimitExceededError: larger than ``settings.max_hydrated_size_bytes``; `open_blob`
                has no limit.
            StorageDisabledError, StorageTimeoutError, StorageError: as for `hydrate`.
        """
        return self._read("read_blob", path)

    def write_blob(self, path: str, data: Body, *, content_type: str = DEFAULT_BLOB_CONTENT_TYPE) -> str:
        """Store bytes as they are, replacing what was there, and return the object's ETag (Go: WriteBlob).

        Args:
            path: relative, ``/`` separated.
            data: bytes, a binary file, or chunks of bytes.
            content_type: kept where the store can keep it.

        Raises:
            as `read_blob`; on any error the old object is still whole.
        """
        return self._write("write_blob", path, data, content_type)

    def get(self, path: str) -> bytes:
        """Return an object's bytes: `read_blob` by its short name (Go: Manager.Get)."""
        return self._read("get", path)

    def put(self, path: str, data: Body) -> str:
        """Store bytes and return the ETag: `write_blob` by its short name (Go: Manager.Put)."""
        return self._write("put", path, data, DEFAULT_BLOB_CONTENT_TYPE)

    @overload
    def open_blob(self, path: str, mode: Literal["rb"] = "rb") -> BlobReader: ...
    @overload
    def open_blob(
        self,
        path: str,
        mode: Literal["wb"],
        *,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        size_bytes: int | None = None,
    ) -> BlobWriter: ...
    def open_blob(
        self,
        path: str,
        mode: str = "rb",
        *,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        size_bytes: int | None = None,
    ) -> BlobReader | BlobWriter:
        """Open an object as a binary file, of any length, in constant memory.

        Reading is buffered; a jump by ``seek`` is another request, and a file that is replaced
        meanwhile is an error at the next one. Writing uploads while you write, and commits on
        leaving the ``with`` block (or `close`)::

            with storage.open_blob("outputs/team/run/table.csv", "wb") as blob:
                for row in rows:
                    blob.write(row)

        An exception in the block aborts: nothing is stored and the old object stays. The
        timeout is for each waiting, not for the file as a whole. For text, wrap it in
        ``io.TextIOWrapper``, inside the ``with`` block of the blob: the end of that block is what
        commits.

        Args:
            path: relative, ``/`` separated.
            mode: ``rb`` or ``wb``.
            content_type: of a new object; kept where the store can keep it.
            size_bytes: of a new object, if known: a body of another length is refused, and S3
                takes more than 50,000 MiB (10,000 parts of the configured size).

        Raises:
            ConfigurationError: another mode.
            ObjectNotFoundError: nothing there to read.
            InvalidKeyError, StorageDisabledError, StorageTimeoutError, StorageError: as `read_blob`.
        """
        self._begin("open_blob", path, mode)
        if mode not in {"rb", "wb"}:
            raise ConfigurationError(
                f"mode is {mode!r}; a blob is opened with 'rb' or 'wb': bytes, from the beginning. "
                "For text, wrap the blob in io.TextIOWrapper"
            )
        key = store_key(path)
        with ExitStack() as held:
            handle = held.enter_context(self._holder.in_use())
            backend = self._backend_for(handle, "open_blob")
            if mode == "rb":
                from bubu_storage.blob_reader import open_reader  # noqa: PLC0415 - few need it

                return open_reader(backend, key, self._runner(handle, "open_blob"), held.pop_all())
            from bubu_storage.blob_writer import open_writer  # noqa: PLC0415 - few need it

            return open_writer(
                backend,
                key,
                held.pop_all(),
                content_type=content_type or DEFAULT_BLOB_CONTENT_TYPE,
                size_bytes=size_bytes,
                timeout_seconds=self._settings.timeout_seconds,
            )

    def delete(self, path: str) -> None:
        """Delete one object; a missing one counts as deleted (Go: Delete).

        Raises:
            as `read_blob`, save for a missing object.
        """
        self._begin("delete", path)
        key = store_key(path)
        with self._transfer("delete") as (transfer, backend):
            transfer.run(lambda: backend.delete_object(key))

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """Stream the objects at or below a path, in byte order of their whole keys (Go: List).

        Args:
            prefix: whole segments: ``p`` finds ``p`` and ``p/x``, not ``p-2/x``; ``.`` finds all.
                Our own area ``.bubu/`` is never shown.

        Raises:
            InvalidKeyError: empty, absolute, or with ``..``.
            StorageDisabledError, StorageError: there is no store, or the manager is closed.
            StorageTimeoutError: one page took longer than the timeout (a listing as a whole
                has no limit).
        """
        self._begin("list_objects", prefix)
        directory = clean_path(check_path(prefix, "prefix"))
        with self._holder.in_use() as handle:
            handle.require()
        return self._list(directory)

    def _read(self, operation: str, path: str) -> bytes:
        self._begin(operation, path)
        key = store_key(path)
        with self._transfer(operation) as (transfer, _):
            return transfer.run(lambda: transfer.read(key))

    def _write(self, operation: str, path: str, data: Body, content_type: str) -> str:
        self._begin(operation, path, data)
        key = store_key(path)
        with self._transfer(operation) as (transfer, backend):
            return transfer.run(
                lambda: backend.put_object(key, data, content_type=content_type or DEFAULT_BLOB_CONTENT_TYPE)
            )

    def _list(self, directory: str) -> Iterator[ListedObject]:
        with self._holder.in_use() as handle:
            run = self._runner(handle, "list_objects")
            backend = self._backend_for(handle, "list_objects")
            if directory != ".":
                # An object of exactly this name comes first of all keys that begin with it.
                first = run(lambda: next(backend.list_objects(directory, page_size=1), None))
                if first is not None and first.objects[0].key == directory:
                    yield from _visible(first)
            pages = backend.list_objects("" if directory == "." else directory + "/")
            while (page := run(lambda: next(pages, None))) is not None:
                yield from _visible(page)

    def _begin(self, operation: str, target: str, data: object = None) -> None:
        """Take note of a call before anything is done; for subclasses that watch."""

    def _backend_for(self, handle: BackendHandle, operation: str) -> ObjectBackend:
        """Return the backend that an operation of the manager works on."""
        del operation
        return handle.require()

    def _runner(self, handle: BackendHandle, operation: str) -> Run:
        """Return what runs single store operations, each within a deadline of its own."""

        def run(action: Callable[[], _T]) -> _T:
            with self._transfer_on(handle, operation) as (transfer, _):
                return transfer.run(action)

        return run

    @contextmanager
    def _transfer(self, operation: str) -> Generator[tuple[Transfer, ObjectBackend]]:
        with self._holder.in_use() as handle, self._transfer_on(handle, operation) as pair:
            yield pair

    @contextmanager
    def _transfer_on(
        self, handle: BackendHandle, operation: str
    ) -> Generator[tuple[Transfer, ObjectBackend]]:
        backend = self._backend_for(handle, operation)
        transfer = Transfer(
            backend,
            self._holder.threads,
            workers=self._max_workers,
            timeout_seconds=self._settings.timeout_seconds,
            operation=operation,
            local=handle.local,
            max_read_bytes=self._settings.max_hydrated_size_bytes,
        )
        try:
            yield transfer, backend
        finally:
            transfer.abandon()
            if transfer.timed_out:
                self._holder.note_hung_thread()


def _visible(page: ListPage) -> Iterator[ListedObject]:
    reserved = RESERVED_PREFIX.rstrip("/")
    return (item for item in page.objects if not is_within(item.key, reserved))
