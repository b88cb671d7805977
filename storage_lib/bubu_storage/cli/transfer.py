"""What ``cp`` does with one object, in each direction, and which objects a recursive copy means.

A `Task` says from where to where; `Copier` carries one out, in any thread. Content type and
metadata go along from store to store; a copy inside one store moves no bytes where the store
can do it by itself.
"""

from __future__ import annotations

import mimetypes
import os
import select
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import click

from bubu_storage.backend.types import BackendCopier, ObjectBackend, check_key
from bubu_storage.cli.failures import Failure
from bubu_storage.cli.pieces import file_pieces, object_pieces, open_object, total_bytes, write_file
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.scope import Scope, is_reserved, objects_in
from bubu_storage.cli.show import Out, printable
from bubu_storage.cli.workers import StoppedError
from bubu_storage.errors import CopyNotSupportedError, InvalidKeyError, PreconditionFailedError
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE, RESERVED_PREFIX

__all__ = ["Copier", "End", "Task", "local_tasks", "store_tasks"]

_TYPES: Final = mimetypes.MimeTypes()
"""Python's own table: the same on every machine."""

_RESERVED_FAULT: Final = f"the target lies in {RESERVED_PREFIX}, the operator's own area"
_READ_BYTES: Final = 1024 * 1024
_SIGNAL_SECONDS: Final = 0.5
_SMALL_BYTES: Final = 5 * 1024 * 1024
"""A file up to this is sent in one request, from memory."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a copy.

    Attributes:
        backend: None = a local file, or a standard stream.
        name: key or path; "-" for a standard stream.
    """

    backend: ObjectBackend | None
    name: str

    @property
    def shown(self) -> str:
        """For messages."""
        if self.backend is None:
            return repr(self.name)
        return f"{self.name!r} of {self.backend.name}"


@dataclass(frozen=True, slots=True)
class Task:
    """One object to copy.

    Attributes:
        source, target: from where to where.
        size_bytes: of the source; None = not known.
        fault: why it cannot be copied at all; "" = it can.
    """

    source: End
    target: End
    size_bytes: int | None = None
    fault: str = ""


@dataclass(slots=True)
class Copier:
    """Carries out tasks.

    Attributes:
        progress: told of every piece.
        stop: once set, work ends at the next piece.
        if_absent: never replace anything.
        content_type: of what is stored; "" = the source's, or guessed from the name.
        unfinished: temporary files of the moment.
    """

    progress: Progress
    stop: threading.Event
    if_absent: bool = False
    content_type: str = ""
    unfinished: set[str] = field(default_factory=set[str])

    def copy(self, task: Task) -> None:
        """Copy one object.

        Raises:
            StorageError, OSError: it was not copied; the target is as it was.
            StoppedError: `stop` was set.
        """
        self._check_stop()
        if task.fault:
            raise click.ClickException(task.fault)
        if task.source.backend is None:
            self._upload(task)
        elif task.target.backend is None:
            self._download(task, task.source.backend)
        else:
            self._between(task, task.source.backend, task.target.backend)
        self.progress.add(objects=1)

    def _upload(self, task: Task) -> None:
        backend = task.target.backend
        assert backend is not None  # noqa: S101 - cp refuses local to local
        if task.source.name == "-":
            body: Iterable[bytes] | bytes = self._counted(_stdin_pieces())
            size = None
        else:
            size = task.size_bytes if task.size_bytes is not None else os.stat(task.source.name).st_size  # noqa: PTH116 - text
            body = self._counted(file_pieces(task.source.name))
            if size <= _SMALL_BYTES:
                body = b"".join(body)
        content_type = self.content_type or _guess_type(task.target.name, task.source.name)
        self._put(backend, task.target.name, body, size_bytes=size, content_type=content_type, metadata={})

    def _download(self, task: Task, backend: ObjectBackend) -> None:
        found = open_object(backend, task.source.name, task.size_bytes)
        if self.progress.total_bytes is None and task.size_bytes is None:
            self.progress.total_bytes = total_bytes(found)
        pieces = self._counted(object_pieces(backend, found))
        try:
            if task.target.name == "-":
                out = Out()
                for piece in pieces:
                    out.write(piece)
                out.flush()
            else:
                write_file(task.target.name, pieces, if_absent=self.if_absent, unfinished=self.unfinished)
        finally:
            found.close()

    def _between(self, task: Task, source: ObjectBackend, target: ObjectBackend) -> None:
        if source is target and isinstance(source, BackendCopier) and not self.if_absent:
            size = (
                source.head_object(task.source.name).size_bytes
                if task.size_bytes is None
                else task.size_bytes
            )
            try:
                source.copy_object(task.source.name, task.target.name, content_type=self.content_type)
            except CopyNotSupportedError:
                pass
            else:
                self.progress.add(size_bytes=size)
                return
        found = open_object(source, task.source.name, task.size_bytes)
        with found:
            size = total_bytes(found)
            body: Iterable[bytes] | bytes = self._counted(object_pieces(source, found))
            if size <= _SMALL_BYTES:
                body = b"".join(body)
            self._put(
                target,
                task.target.name,
                body,
                size_bytes=size,
                content_type=self.content_type or found.info.content_type,
                metadata=found.info.metadata,
            )

    def _put(
        self,
        backend: ObjectBackend,
        key: str,
        body: Iterable[bytes] | bytes,
        *,
        size_bytes: int | None,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        try:
            backend.put_object(
                key,
                body,
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                if_none_match="*" if self.if_absent else "",
            )
        except PreconditionFailedError as error:
            if not self.if_absent or error.key != key:
                raise
            raise PreconditionFailedError(
                f"object {key!r} of {backend.name} exists already and --if-absent was given; "
                "it was left as it is",
                key=key,
            ) from error

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._check_stop()
            yield piece
            self.progress.add(size_bytes=len(piece))

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError


def _stdin_pieces() -> Iterator[bytes]:
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # not a real file, in tests
        yield sys.stdin.buffer.read()
        return
    while True:
        # A buffered read is one long wait: a signal that comes between two of its system calls is
        # seen after the next bytes only, which may never come.
        while not select.select([descriptor], [], [], _SIGNAL_SECONDS)[0]:
            pass
        try:
            piece = os.read(descriptor, _READ_BYTES)
        except OSError as error:
            raise Failure(f"standard input cannot be read: {error.strerror}") from error
        if not piece:
            return
        yield piece


def _guess_type(key: str, path: str) -> str:
    return _TYPES.guess_type(key)[0] or _TYPES.guess_type(path)[0] or DEFAULT_BLOB_CONTENT_TYPE


def store_tasks(
    source: ObjectBackend, scope: Scope, target: ObjectBackend | None, target_base: str
) -> Iterator[Task]:
    """Give a task for each object below a folder, in order of keys, while it is being listed.

    A key that would leave the local target, or is no file name, becomes a task with a fault.
    """
    for page in objects_in(source, Scope("", scope.directory)):
        for item in page:
            rest = item.key[len(scope.directory) :]
            name, fault = _target_name(target, target_base, rest)
            if fault:
                fault = f"{item.key!r} of {source.name} cannot be copied: {fault}"
            yield Task(End(source, item.key), End(target, name), item.size_bytes, fault)


def _target_name(target: ObjectBackend | None, base: str, rest: str) -> tuple[str, str]:
    """Return the key or path of a copy, or a fault."""
    if target is not None:
        key = base + rest
        try:
            check_key(key)
        except InvalidKeyError as error:
            return key, error.message
        return key, _RESERVED_FAULT if is_reserved(key) else ""
    segments = rest.split("/")
    if any(segment in {"", ".", ".."} for segment in segments) or "\x00" in rest:
        return rest, "its key is no path of a local file (an empty, '.' or '..' segment)"
    return os.path.join(base, *segments), ""  # noqa: PTH118 - text in, text out


def local_tasks(directory: str, target: ObjectBackend, target_base: str) -> Iterator[Task]:
    """Give a task for each file below a local directory, sorted by name.

    Links and special files become tasks with a fault: following a link could copy anything.

    Raises:
        OSError: a directory cannot be read.
    """
    pending = [(directory, target_base)]
    while pending:
        folder, base = pending.pop()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        folders: list[tuple[str, str]] = []
        for entry in entries:
            key = base + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, key + "/"))
                continue
            fault = ""
            size = None
            if entry.is_symlink() or not entry.is_file(follow_symlinks=False):
                fault = f"{entry.path!r} was left out: it is a link or no ordinary file"
            else:
                try:
                    check_key(key)
                    if is_reserved(key):
                        fault = f"{entry.path!r} was left out: {_RESERVED_FAULT}"
                    size = entry.stat(follow_symlinks=False).st_size
                except InvalidKeyError as error:
                    fault = f"{printable(entry.path)!r} cannot be stored: {error.message}"
                except FileNotFoundError:
                    continue
            yield Task(End(None, entry.path), End(target, key), size, fault)
        pending.extend(reversed(folders))
