"""``rm``: deleting, after a question; never the whole store, never our own area."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from bubu_storage.cli.failures import Failure, PartialFailure, Refusal, complain, describe, one_line
from bubu_storage.cli.options import GlobalOptions, StoreCommand, options_of
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.scope import KeyArgument, Scope, check_key_argument, objects_in, parse_scope
from bubu_storage.cli.show import Out, human_bytes, plural, printable
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import StorageError
from bubu_storage.wire import RESERVED_PREFIX

if TYPE_CHECKING:
    from bubu_storage.backend.bulk import BulkDeleteProgress, BulkDeleteReport
    from bubu_storage.backend.types import ObjectBackend

__all__ = ["rm_command"]

_RESERVED_FOLDER: Final = RESERVED_PREFIX.rstrip("/")


@dataclass(slots=True)
class _Outcome:
    """What a deletion has come to.

    Attributes:
        deleted: objects that are gone.
        failed: how many are not.
        named: keys and reasons of these, or of the first ones.
        stopped_by: what ended it early.
    """

    deleted: int = 0
    failed: int = 0
    named: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    stopped_by: BaseException | None = None


@click.command("rm", cls=StoreCommand, short_help="Delete objects, after a question.")
@click.argument("targets", metavar="KEY...", nargs=-1, required=True, type=KeyArgument())
@click.option("--recursive", "-r", is_flag=True, help="Each KEY is a PREFIX: everything at and below it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", "-n", is_flag=True, help="Only list what would be deleted.")
@click.pass_context
def rm_command(
    context: click.Context, targets: tuple[str, ...], recursive: bool, yes: bool, dry_run: bool
) -> None:
    """Delete objects; a missing one counts as deleted.

    Asks first; where nobody can answer, --yes is needed. Refuses the whole store and .bubu/, which
    holds the operator's own objects. PREFIX is whole path segments, as for ls.
    """
    options = options_of(context)
    scopes = _read_targets(targets, recursive=recursive)
    if not (yes or dry_run) and not _someone_is_there():
        raise Refusal(
            "rm asks before it deletes, and nobody can answer here; add --yes, or --dry-run to see what it "
            "would delete"
        )
    with Stores(options) as stores:
        # A bulk deletion tries again by itself; only listings need the SDK's tries.
        backend = stores.backend(attempts=None if recursive else 1)
        if dry_run:
            _show(options, _keys(backend, scopes))
            return
        if not yes and not _confirmed(backend, scopes, options):
            return
        with Progress("deleting", shown=False if options.quiet else None) as progress:
            outcome = _delete(backend, (key for key, _ in _keys(backend, scopes)), progress)
    _report(options, outcome)


def _read_targets(targets: Iterable[str], *, recursive: bool) -> list[Scope]:
    """Return what is meant, without doubles.

    Raises:
        Refusal: the whole store, or our own area.
        click.UsageError: no key at all.
    """
    scopes: dict[Scope, None] = {}
    for text in targets:
        if recursive and not text.replace("\\", "/").replace("/", "").replace(".", ""):
            if ".." in text:
                parse_scope(text, "KEY")
            raise Refusal(
                f"{text!r} means the whole store, which rm never deletes; name its folders one by one"
            )
        scope = parse_scope(text, "KEY") if recursive else Scope(check_key_argument(text), "")
        if _is_reserved(text):
            raise Refusal(
                f"{text!r} lies in {RESERVED_PREFIX}, the operator's own area, which rm never touches; if "
                "a claim is in the way, see bubu-storage lock; for all else use the store's own tools, with "
                "the operator stopped"
            )
        scopes[scope] = None
    return list(scopes)


def _is_reserved(text: str) -> bool:
    return _RESERVED_FOLDER in text.split("/")


def _someone_is_there() -> bool:
    """Tell whether a question reaches a person."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _keys(backend: ObjectBackend, scopes: Iterable[Scope]) -> Iterator[tuple[str, int | None]]:
    """Give each key once, with its size where a listing told it."""
    scopes = list(scopes)
    for index, scope in enumerate(scopes):
        earlier = scopes[:index]
        if not scope.directory:
            if not any(_covers(one, scope.exact) for one in earlier):
                yield scope.exact, None
            continue
        for page in objects_in(backend, scope):
            for item in page:
                if not any(_covers(one, item.key) for one in earlier):
                    yield item.key, item.size_bytes


def _covers(scope: Scope, key: str) -> bool:
    return key == scope.exact or bool(scope.directory and key.startswith(scope.directory))


def _confirmed(backend: ObjectBackend, scopes: list[Scope], options: GlobalOptions) -> bool:
    """Ask; return False where there is nothing to delete.

    Raises:
        Refusal: the answer was no.
    """
    count = size = 0
    first = ""
    for key, size_bytes in _keys(backend, scopes):
        first = first or key
        count += 1
        size += size_bytes or 0
    if not count:
        if not options.quiet:
            complain("there is nothing to delete")
        return False
    what = repr(printable(first)) if count == 1 else plural(count, "object")
    if size:
        what += f" ({human_bytes(size)})"
    click.echo(f"Delete {what} from {printable(backend.name)}? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Refusal("nothing was deleted")
    return True


def _show(options: GlobalOptions, found: Iterable[tuple[str, int | None]]) -> None:
    """List what would be deleted."""
    out = Out()
    count = size = 0
    for key, size_bytes in found:
        count += 1
        size += size_bytes or 0
        if options.as_json:
            out.json({"key": key, "size_bytes": size_bytes})
        else:
            out.line(printable(key))
    out.flush()
    if not options.quiet:
        amount = f", {human_bytes(size)}" if size else ""
        complain(f"would delete {plural(count, 'object')}{amount}; nothing was deleted (--dry-run)")


def _delete(backend: ObjectBackend, keys: Iterator[str], progress: Progress) -> _Outcome:
    from bubu_storage.backend.bulk import delete_keys, partial_report  # noqa: PLC0415 - only to delete

    seen = 0

    def tell(state: BulkDeleteProgress) -> None:
        nonlocal seen
        progress.add(objects=state.deleted - seen)
        seen = state.deleted

    try:
        return _outcome_of(delete_keys(backend, keys, on_progress=tell))
    except BaseException as error:
        outcome = _outcome_of(partial_report(error))
        if not isinstance(error, StorageError):
            with contextlib.suppress(Exception):
                complain(f"ended early: {plural(outcome.deleted, 'object')} had been deleted")
            raise
        outcome.stopped_by = error
        return outcome


def _outcome_of(report: BulkDeleteReport | None) -> _Outcome:
    if report is None:
        return _Outcome()
    named = [(key, one_line(describe(error))) for key, error in report.failed.items()]
    return _Outcome(report.deleted, report.failed_count, named)


def _report(options: GlobalOptions, outcome: _Outcome) -> None:
    """Say what happened, and raise what the exit code needs."""
    for _, text in outcome.named:
        complain(text)
    unnamed = outcome.failed - len(outcome.named)
    if unnamed > 0:
        complain(f"and {plural(unnamed, 'more failure')}")
    if options.as_json:
        document: dict[str, Any] = {
            "deleted": outcome.deleted,
            "failed": outcome.failed,
            "failures": [{"key": key, "error": text} for key, text in outcome.named],
        }
        Out().json(document)
    if outcome.stopped_by is not None:
        if not outcome.deleted:
            raise outcome.stopped_by
        raise PartialFailure(
            f"{describe(outcome.stopped_by)}; {plural(outcome.deleted, 'object')} had been deleted, "
            "the rest is still there"
        )
    summary = f"deleted {plural(outcome.deleted, 'object')}"
    if outcome.failed:
        text = f"{summary}; {plural(outcome.failed, 'failure')}, named above"
        raise PartialFailure(text) if outcome.deleted else Failure(text)
    if not options.quiet:
        complain(summary)
