"""A directory as an object store: what pods on a shared volume and developers use.

Layout: the object ``a/b.json`` is the file ``a/b.json`` below the base, as BubuStack's Go
implementation has it. Invariants:

* a write goes to a file of its own in the target's directory and is renamed into place, so
  that nobody ever sees half an object, whatever kills the writer; with ``fsync`` it is on
  disk when the call returns;
* no link below the base is followed, on any operation;
* a condition is judged and acted upon in one step, safe against every other user of this
  module (see `bubu_storage.backend.file_locks`; put-if-absent: against any program);
* emptied directories are removed with their last object, which concurrent writers survive.

Limits: content type and user metadata are not kept; the clock is this machine's (on a
network volume, files are stamped by the server, whose clock may differ); segments of a key
have at most 255 bytes; a key cannot be both an object and a directory of others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, cast

from bubu_storage.backend.bodies import check_size, chunks
from bubu_storage.backend.file_body import FileBody
from bubu_storage.backend.file_deleting import delete_entries, sync_directories
from bubu_storage.backend.file_dirs import (
    STALE_AFTER_SECONDS,
    DirectoryChain,
    create_base,
    open_base,
    remove_leftovers,
    split_key,
)
from bubu_storage.backend.file_draft import FileDraft
from bubu_storage.backend.file_entries import check_regular, check_unchanged
from bubu_storage.backend.file_errors import mapped_errors
from bubu_storage.backend.file_listing import etag_of, modified_at, walk
from bubu_storage.backend.last_look import LastLook
from bubu_storage.backend.ranges import resolve_range
from bubu_storage.backend.types import (
    Body,
    GetObjectResult,
    ListedObject,
    ListPage,
    ObjectInfo,
    check_batch,
    check_conditions,
    check_copy,
    check_page_size,
    check_prefix,
)
from bubu_storage.errors import (
    ConfigurationError,
    ObjectNotFoundError,
    StorageError,
    UnavailableError,
)
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["FileBackend"]

# O_NONBLOCK: opening a pipe that somebody put there must not wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileBackend:
    """An `ObjectBackend` on a directory; thread-safe, and safe between processes.

    Args:
        path: base directory; made absolute, created (mode 0750) where missing.
        fsync: force objects and directory entries to disk before a call returns.

    Raises:
        ConfigurationError: the path is blank or no directory.
        PermissionDeniedError: it cannot be created or opened.
    """

    def __init__(self, path: str | Path, *, fsync: bool = True) -> None:
        text = os.fspath(path)
        if not text.strip() or "\x00" in text:
            raise ConfigurationError(f"file store path {text!r} is no directory name; set one")
        self._base = os.path.abspath(text)  # noqa: PTH100 - resolve() would pin what a link means today
        self._fsync = fsync
        self._last_look = LastLook()
        create_base(self._base)

    @property
    def name(self) -> str:
        """The base directory as ``file:///dir``."""
        return f"file://{self._base}"

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Store a whole object; see `ObjectBackend.put_object`.

        ``content_type`` and ``metadata`` are not kept.

        Raises:
            InvalidKeyError: see `check_key`; also a segment over 255 bytes, empty or ``.``.
            PreconditionFailedError: a condition did not hold.
            UnsupportedOperationError: the file system cannot replace on a condition.
            PermissionDeniedError: no right to write, or a link is in the way.
            UnavailableError: the disk is full, or broken.
            StorageError: the body has another length than announced, or the name is taken
                by a directory.
        """
        check_conditions(if_match, if_none_match)
        del content_type, metadata

        def fill(draft: FileDraft) -> None:
            written = 0
            for piece in chunks(body):
                written += len(piece)
                if size_bytes is not None and written > size_bytes:
                    break
                # Only here: an error of the caller's own source must reach the caller as it is.
                with self._mapped("written", key):
                    draft.write(piece)
            check_size(stored=written, expected=size_bytes, key=key)

        return self._store(key, fill, if_match, if_none_match)

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            ObjectNotFoundError: no such key.
            PreconditionFailedError: it has another ETag.
            RangeNotSatisfiableError: the range lies outside the object.
            PermissionDeniedError: no right to read, or a link is in the way.
            StorageError: the key names a directory, or lies below a file.
        """
        check_conditions(if_match)
        fd = self._open_file(key)
        try:
            facts = os.fstat(fd)
            check_unchanged(facts, if_match, "", key=key, store=self.name)
            part = resolve_range(range_header, size_bytes=facts.st_size, key=key)
            stream = FileBody(fd, start=part.start, length=part.length, key=key, store=self.name)
        except BaseException:
            os.close(fd)
            raise
        info = _info(key, facts, part.length)
        return GetObjectResult(info, cast("IO[bytes]", stream), content_range=part.content_range)

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object.

        Raises:
            ObjectNotFoundError: no such key.
            StorageError: see `get_object`.
        """
        fd = self._open_file(key)
        try:
            facts = os.fstat(fd)
        finally:
            os.close(fd)
        return _info(key, facts, facts.st_size)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object and the directories that it leaves empty.

        A missing object counts as deleted; so does an empty directory of that name, which
        is removed.

        Raises:
            PreconditionFailedError: it has another ETag.
            UnsupportedOperationError: the file system cannot delete on a condition.
            PermissionDeniedError: no right to delete, or a link is in the way.
            StorageError: the key names a directory that is not empty, or lies below a file.
        """
        *folders, name = split_key(key)
        check_conditions(if_match)
        changed: set[tuple[bytes, ...]] = set()
        failed = delete_entries(
            self._base,
            folders,
            {key: name},
            {key: if_match},
            store=self.name,
            changed=changed,
            last_look=self._last_look.ask,
        )
        if failed:
            raise failed[key]
        if self._fsync:
            sync_directories(self._base, changed, store=self.name)

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects; see `BatchDeleter.delete_objects`.

        The keys of one directory cost little more than one: it is opened, and at the end removed or
        forced to disk, once for all of them.

        Raises:
            LimitExceededError: more than 1,000 keys.
        """
        wanted = if_match or {}
        failed: dict[str, StorageError] = {}
        directories: dict[tuple[bytes, ...], dict[str, bytes]] = {}
        for key in check_batch(keys):
            try:
                *folders, name = split_key(key)
                check_conditions(wanted.get(key, ""))
            except StorageError as error:
                failed[key] = error
            else:
                directories.setdefault(tuple(folders), {})[key] = name
        changed: set[tuple[bytes, ...]] = set()
        for folders, names in directories.items():
            failed.update(
                delete_entries(
                    self._base,
                    folders,
                    names,
                    wanted,
                    store=self.name,
                    changed=changed,
                    last_look=self._last_look.ask,
                )
            )
        if self._fsync:
            sync_directories(self._base, changed, store=self.name)
        return failed

    def copy_object(
        self,
        source_key: str,
        destination_key: str,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Copy an object; see `BackendCopier.copy_object`.

        The kernel copies, and shares the blocks where the file system can. ``content_type`` and
        ``metadata`` are not kept.

        Raises:
            ObjectNotFoundError: no such source.
            InvalidKeyError: see `put_object`; also onto itself with nothing changed.
            PermissionDeniedError: no right to read or write, or a link is in the way.
            UnavailableError: the disk is full, or broken; the source was cut short meanwhile.
        """
        check_copy(source_key, destination_key, content_type=content_type, metadata=metadata)
        split_key(destination_key)
        source = self._open_file(source_key)

        def fill(draft: FileDraft) -> None:
            size = os.fstat(source).st_size
            with self._mapped("written", destination_key):
                copied = draft.copy_from(source)
            if copied != size:
                raise UnavailableError(
                    f"object {source_key!r} of {self.name} changed from {size} to {copied} bytes "
                    "while it was copied: another program is writing to the file in place",
                    key=source_key,
                    code="IncompleteBody",
                )

        try:
            return self._store(destination_key, fill, "", "")
        finally:
            os.close(source)

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Memory grows with the largest single directory, not with the tree.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
            BucketNotFoundError: the base directory is gone.
            PermissionDeniedError: a directory cannot be read.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return self._pages(prefix, start_after, page_size)

    def _pages(self, prefix: str, start_after: str, page_size: int) -> Iterator[ListPage]:
        base = open_base(self._base)
        objects: list[ListedObject] = []
        with self._mapped("listed", prefix):
            after = start_after.encode("utf-8", "surrogatepass")
            for found in walk(base, prefix.encode("utf-8"), after):
                objects.append(found)
                if len(objects) == page_size:
                    yield ListPage(tuple(objects))
                    objects = []
        if objects:
            yield ListPage(tuple(objects))

    def server_time(self) -> datetime:
        """Return this machine's clock; a file store has none of its own."""
        return datetime.now(UTC)

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Ask right before each object is removed; see `bubu_storage.backend.last_look.GuardsDeletions`."""
        return self._last_look.guard(check)

    def close(self) -> None:
        """Do nothing: no descriptor is kept between calls."""

    def remove_leftovers(
        self,
        *,
        older_than_seconds: float = STALE_AFTER_SECONDS,
        should_stop: Callable[[], bool] | None = None,
    ) -> int:
        """Remove what killed writers left behind, anywhere below the base.

        Leftovers are never listed and are removed with the last object of their directory;
        this reaches those in directories where nothing is ever deleted.

        Args:
            older_than_seconds: younger ones are left alone; so are locked ones.
            should_stop: asked before each directory; calls that are stopped early reach everything, in time.

        Returns:
            How many half-written files were removed.

        Raises:
            BucketNotFoundError: the base directory is gone.
        """
        return remove_leftovers(self._base, older_than_seconds=older_than_seconds, should_stop=should_stop)

    # ---- internals

    def _mapped(self, verb: str, key: str) -> contextlib.AbstractContextManager[None]:
        return mapped_errors(self.name, verb, key)

    def _store(self, key: str, fill: Callable[[FileDraft], None], if_match: str, if_none_match: str) -> str:
        """Write an object with what ``fill`` puts into it, and return its ETag."""
        *folders, name = split_key(key)
        with self._mapped("written", key):
            draft = FileDraft(self._base, folders, store=self.name)
        with draft:
            fill(draft)
            with self._mapped("written", key):
                facts = draft.seal(sync=self._fsync)
                placed = draft.put_in_place(
                    name,
                    if_match=if_match,
                    if_none_match=if_none_match,
                    sync=self._fsync,
                    key=key,
                    store=self.name,
                )
        if not placed:
            raise UnavailableError(
                f"object {key!r} of {self.name} was not stored: its directory was removed meanwhile",
                key=key,
                code="ENOENT",
            )
        return etag_of(facts)

    def _open_file(self, key: str) -> int:
        *folders, name = split_key(key)
        missing: OSError | None = None
        with self._mapped("read", key), DirectoryChain(open_base(self._base)) as chain:
            try:
                chain.descend(folders)
                fd = os.open(name, _READ, dir_fd=chain.leaf_fd)
            except FileNotFoundError as error:
                missing = error
            else:
                try:
                    check_regular(os.fstat(fd).st_mode)
                except BaseException:
                    os.close(fd)
                    raise
                return fd
        raise ObjectNotFoundError(
            f"no object {key!r} in {self.name}", key=key, status=404, code="NoSuchKey"
        ) from missing


def _info(key: str, facts: os.stat_result, size_bytes: int) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=size_bytes, etag=etag_of(facts), last_modified=modified_at(facts))
