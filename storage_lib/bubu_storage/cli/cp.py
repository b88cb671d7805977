"""``cp``: copying into, out of and between stores."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bubu_storage.backend.types import check_key
from bubu_storage.cli.browse import explain_missing
from bubu_storage.cli.failures import Failure, PartialFailure, Refusal, complain, describe, one_line
from bubu_storage.cli.locations import InStore, LocalPath, Location, StandardStream, parse_location
from bubu_storage.cli.options import GlobalOptions, StoreCommand, options_of
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.scope import Scope, is_reserved
from bubu_storage.cli.show import Out, human_bytes, plural
from bubu_storage.cli.stores import Stores
from bubu_storage.cli.transfer import Copier, End, Task, local_tasks, store_tasks
from bubu_storage.cli.workers import StoppedError, each
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    InvalidKeyError,
    StorageError,
    TransientError,
    UnauthenticatedError,
    UnsupportedOperationError,
)
from bubu_storage.wire import RESERVED_PREFIX

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend

__all__ = ["cp_command"]

_HOPELESS: Final = (BucketNotFoundError, UnauthenticatedError, ConfigurationError, UnsupportedOperationError)
"""What fails for one object will fail for all."""


@dataclass(slots=True)
class _Outcome:
    """What a copy has come to."""

    copied: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@click.command("cp", cls=StoreCommand, short_help="Copy into, out of and between stores.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--recursive", "-r", is_flag=True, help="All that is below SRC goes below DST, under the same names."
)
@click.option("--if-absent", is_flag=True, help="Never replace anything; what exists already is a failure.")
@click.option(
    "--content-type",
    default="",
    metavar="TYPE",
    help="Of what is stored. Default: the source's, or by its name.",
)
@click.option(
    "--jobs", "-j", type=click.IntRange(1, 64), default=8, show_default=True, help="Objects copied at a time."
)
@click.pass_context
def cp_command(
    context: click.Context,
    *,
    source: str,
    target: str,
    recursive: bool,
    if_absent: bool,
    content_type: str,
    jobs: int,
) -> None:
    """Copy an object or, with -r, everything below a folder.

    \b
    SRC and DST, one of them in a store:
      store:KEY          an object of the chosen store
      s3://BUCKET/KEY    an object of any bucket there
      file:///PATH       a local file
      -                  standard input or output
      anything else      a local file (write ./store:x for one with such a name)

    A DST that ends in "/", a folder of the store given as "store:", or an existing local directory
    takes the object under its own name. A file or object is replaced whole or left as it was.
    """  # noqa: D301 - click's mark for lines to be left alone
    options = options_of(context)
    src, dst = parse_location(source, "SRC"), parse_location(target, "DST")
    _check_pair(src, dst, recursive=recursive)
    with Stores(options) as stores:
        job = _Job(
            options,
            stores,
            Copier(Progress("copying", shown=False if options.quiet else None), threading.Event()),
        )
        job.copier.if_absent = if_absent
        job.copier.content_type = content_type
        job.run(src, dst, recursive=recursive, jobs=jobs)


def _check_pair(src: Location, dst: Location, *, recursive: bool) -> None:
    if not isinstance(src, InStore) and not isinstance(dst, InStore):
        raise click.UsageError(
            "neither SRC nor DST is in a store; write store:KEY or s3://BUCKET/KEY for one of them"
        )
    if recursive and (isinstance(src, StandardStream) or isinstance(dst, StandardStream)):
        raise click.UsageError("-r copies many objects, which - cannot hold; give a folder")
    if not recursive and isinstance(src, InStore) and src.is_folder:
        raise click.UsageError(f"SRC {src.text!r} is a folder; add -r to copy what is below it")
    if isinstance(src, StandardStream) and isinstance(dst, InStore) and dst.is_folder:
        raise click.UsageError(
            f"DST {dst.text!r} is a folder, and standard input has no name; write a whole key"
        )
    if isinstance(src, InStore) and isinstance(dst, InStore) and src.bucket == dst.bucket:
        inside = recursive and (dst.key.rstrip("/") + "/").startswith(_folder(src.key))
        if src.key == dst.key or inside:
            raise click.UsageError(
                "SRC and DST are the same place, or DST lies below SRC; choose another DST"
            )


def _refuse_reserved(key: str) -> None:
    if is_reserved(key):
        raise Refusal(f"{key!r} lies in {RESERVED_PREFIX}, the operator's own area, which cp never writes to")


def _folder(key: str) -> str:
    return key if not key or key.endswith("/") else key + "/"


@dataclass(slots=True)
class _Job:
    """One run of the command."""

    options: GlobalOptions
    stores: Stores
    copier: Copier
    outcome: _Outcome = field(default_factory=_Outcome)

    def run(self, src: Location, dst: Location, *, recursive: bool, jobs: int) -> None:
        """Copy, report, and raise what the exit code needs."""
        source = self._open(src, create=False)
        target = source if _same_store(src, dst) else self._open(dst, create=True)
        try:
            with self.copier.progress:
                if recursive:
                    self._run_many(self._tasks(src, source, dst, target), jobs)
                else:
                    self._run_one(self._task(src, source, dst, target))
        finally:
            for name in list(self.copier.unfinished):
                with contextlib.suppress(OSError):
                    os.unlink(name)  # noqa: PTH108 - text
        self._report(src, dst, recursive=recursive)

    def _open(self, location: Location, *, create: bool) -> ObjectBackend | None:
        if not isinstance(location, InStore):
            return None
        return self.stores.bucket(location.bucket) if location.bucket else self.stores.backend(create=create)

    def _task(
        self, src: Location, source: ObjectBackend | None, dst: Location, target: ObjectBackend | None
    ) -> Task:
        """Return the one task of a copy without -r."""
        size = None
        if isinstance(src, LocalPath):
            if Path(src.path).is_dir():
                raise click.UsageError(f"SRC {src.text!r} is a directory; add -r to copy what is below it")
            size = _regular_size(src.path)
            self.copier.progress.total_bytes = size
        origin = End(
            source, src.key if isinstance(src, InStore) else src.path if isinstance(src, LocalPath) else "-"
        )
        if isinstance(dst, StandardStream):
            return Task(origin, End(None, "-"), size)
        own_name = origin.name.rstrip("/").rpartition("/")[2]
        if isinstance(dst, LocalPath):
            path = dst.path
            if path.endswith("/") or Path(path).is_dir():
                if own_name in {"", ".", ".."}:
                    raise click.UsageError(f"SRC {src.text!r} has no name for a file; give DST with one")
                path = os.path.join(path, own_name)  # noqa: PTH118 - text
            return Task(origin, End(None, path), size)
        key = dst.key + own_name if dst.is_folder else dst.key
        try:
            check_key(key)
        except InvalidKeyError as error:
            raise click.UsageError(f"DST: {error.message}") from None
        _refuse_reserved(key)
        if source is target and key == origin.name:
            raise click.UsageError("SRC and DST are the same object; choose another DST")
        return Task(origin, End(target, key), size)

    def _run_one(self, task: Task) -> None:
        try:
            self.copier.copy(task)
        except StorageError as error:
            backend = task.source.backend
            better = None if backend is None else explain_missing(backend, task.source.name, error)
            if better is None:
                raise
            raise better from error
        except BrokenPipeError:
            raise
        except OSError as error:
            # The system does not always say of what it speaks.
            raise Failure(f"{task.source.shown} was not copied: {describe(error)}") from error
        self.outcome.copied += 1

    def _tasks(
        self, src: Location, source: ObjectBackend | None, dst: Location, target: ObjectBackend | None
    ) -> Iterator[Task]:
        if isinstance(dst, InStore):
            base = _folder(dst.key)
            _refuse_reserved(base)
        else:
            assert isinstance(dst, LocalPath)  # noqa: S101 - checked by _check_pair
            base = dst.path
            if Path(base).exists() and not Path(base).is_dir():
                raise click.UsageError(f"DST {dst.text!r} is a file; with -r it has to be a directory")
        if isinstance(src, InStore) and source is not None:
            return store_tasks(source, Scope("", _folder(src.key)), target, base)
        assert isinstance(src, LocalPath)  # noqa: S101 - checked by _check_pair
        assert target is not None  # noqa: S101 - likewise
        if not Path(src.path).is_dir():
            _regular_size(src.path)
            raise click.UsageError(f"SRC {src.text!r} is a file; leave -r out")
        return local_tasks(src.path, target, base)

    def _run_many(self, tasks: Iterator[Task], jobs: int) -> None:
        outcome, copier = self.outcome, self.copier
        in_a_row = 0
        with closing(each(tasks, copier.copy, jobs=jobs, stop=copier.stop)) as results:
            try:
                for task, error in results:
                    if error is None:
                        outcome.copied += 1
                        in_a_row = 0
                        continue
                    if isinstance(error, StoppedError):
                        continue
                    if isinstance(error, _HOPELESS) and not outcome.copied:
                        raise error
                    if not isinstance(error, (StorageError, OSError, click.ClickException)):
                        raise error
                    self._note_failure(task, error)
                    in_a_row = in_a_row + 1 if isinstance(error, TransientError) else 0
                    if in_a_row >= 2 * jobs:
                        outcome.failed.append(("…", "gave up: the store fails throughout"))
                        complain("gave up: the store fails throughout; copy again what is missing")
                        return
            except (StorageError, OSError) as error:
                if isinstance(error, BrokenPipeError) or not outcome.copied:
                    raise
                outcome.failed.append(("…", one_line(describe(error))))
                complain(f"gave up: {describe(error)}")

    def _note_failure(self, task: Task, error: Exception) -> None:
        self.copier.progress.clear()
        text = one_line(describe(error))
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            text = f"{one_line(task.source.shown)} was not copied: {text}"
        self.outcome.failed.append((task.source.name, text))
        complain(text)

    def _report(self, src: Location, dst: Location, *, recursive: bool) -> None:
        outcome, size = self.outcome, self.copier.progress.size_bytes
        if self.options.as_json and not isinstance(dst, StandardStream):
            Out().json(
                {
                    "copied": outcome.copied,
                    "size_bytes": size,
                    "failed": [{"source": name, "error": text} for name, text in outcome.failed],
                }
            )
        summary = f"copied {plural(outcome.copied, 'object')}, {human_bytes(size)}"
        if outcome.failed:
            text = f"{summary}; {plural(len(outcome.failed), 'failure')}, named above"
            raise PartialFailure(text) if outcome.copied else Failure(text)
        if recursive and not outcome.copied:
            raise Failure(f"there is nothing below {src.text!r}; nothing was copied")
        if not self.options.quiet and not isinstance(dst, StandardStream):
            complain(summary)


def _same_store(src: Location, dst: Location) -> bool:
    return isinstance(src, InStore) and isinstance(dst, InStore) and src.bucket == dst.bucket


def _regular_size(path: str) -> int | None:
    """Return a file's length; None for what has none, as a pipe.

    Raises:
        Failure: it cannot be read.
    """
    try:
        facts = os.stat(path)  # noqa: PTH116 - text
    except OSError as error:
        raise Failure(f"{path!r} cannot be read: {error.strerror}") from error
    return facts.st_size if Path(path).is_file() else None
