"""``ls``, ``du`` and ``stat``: looking, without changing anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from bubu_storage.cli.failures import Failure, complain
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.scope import (
    KeyArgument,
    Scope,
    check_key_argument,
    objects_in,
    one_level,
    parse_scope,
)
from bubu_storage.cli.show import Out, human_bytes, iso_time, plural, printable, table
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import ObjectNotFoundError, RangeNotSatisfiableError, StorageError

if TYPE_CHECKING:
    from bubu_storage.backend.types import ListedObject, ObjectBackend, ObjectInfo

__all__ = ["du_command", "explain_missing", "ls_command", "stat_command"]

_WRAPPER: Final = re.compile(rb'\s*\{\s*"contentType"\s*:\s*"(json|raw)"\s*,\s*"data"\s*:')
_HEAD_BYTES: Final = 128


@click.command("ls", cls=StoreCommand, short_help="List objects and folders.")
@click.argument("prefix", required=False, default="", type=KeyArgument())
@click.option("--recursive", "-r", is_flag=True, help="All objects below PREFIX instead of one level.")
@click.option("--long", "-l", "long_", is_flag=True, help="Also size and time of last change.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N entries.")
@click.pass_context
def ls_command(context: click.Context, prefix: str, recursive: bool, long_: bool, limit: int | None) -> None:
    """List objects and folders below PREFIX (default: the whole store).

    PREFIX is whole path segments: "ls outputs/team-a" does not find outputs/team-ab. Keys are shown
    whole, as other commands take them; folders end in "/". With -o json, one document a line.
    """
    options = options_of(context)
    scope = parse_scope(prefix)
    out = Out()
    count = 0
    with Stores(options) as stores:
        backend = stores.backend()
        for entries in objects_in(backend, scope) if recursive else one_level(backend, scope):
            for entry in entries:
                if count == limit:
                    out.flush()
                    if not options.quiet:
                        complain(
                            f"stopped after {plural(count, 'entry').replace('entrys', 'entries')} (--limit)"
                        )
                    return
                count += 1
                if options.as_json:
                    out.json(_entry_json(entry))
                else:
                    out.line(_entry_line(entry, long_=long_))
            out.flush()
    if not count and scope.directory:
        raise _nothing_at(scope)


def _entry_json(entry: ListedObject | str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"folder": entry}
    return {
        "key": entry.key,
        "size_bytes": entry.size_bytes,
        "etag": entry.etag,
        "last_modified": iso_time(entry.last_modified),
    }


def _entry_line(entry: ListedObject | str, *, long_: bool) -> str:
    key, size, modified = (
        (entry, "-", "-")
        if isinstance(entry, str)
        else (entry.key, human_bytes(entry.size_bytes), iso_time(entry.last_modified))
    )
    return f"{size:>9}  {modified:<20}  {printable(key)}" if long_ else printable(key)


def _nothing_at(scope: Scope) -> Failure:
    parent = (scope.exact or scope.directory).rstrip("/").rpartition("/")[0]
    return Failure(
        f"there is nothing at {scope.shown}: no such object or folder; look with 'bubu-storage ls"
        + (f" {parent}/'" if parent else "'")
    )


@dataclass(slots=True)
class _Sum:
    """What is below one folder."""

    folder: str
    objects: int = 0
    size_bytes: int = 0

    def add(self, objects: int, size_bytes: int) -> None:
        """Count something more."""
        self.objects += objects
        self.size_bytes += size_bytes


@click.command("du", cls=StoreCommand, short_help="Count objects and bytes.")
@click.argument("prefix", required=False, default="", type=KeyArgument())
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Also each folder up to N levels below PREFIX.",
)
@click.pass_context
def du_command(context: click.Context, prefix: str, depth: int) -> None:
    """Count the objects and bytes below PREFIX (default: the whole store).

    The last line is the sum. The table shows short and exact sizes; with -o json, one document a line.
    """
    options = options_of(context)
    scope = parse_scope(prefix)
    out = Out()
    total = None
    with Stores(options) as stores:
        for total in _sums(stores.backend(), scope, depth):
            if not (total.objects or not scope.directory):
                raise _nothing_at(scope)
            name = total.folder or "."
            if options.as_json:
                out.json({"prefix": total.folder, "objects": total.objects, "size_bytes": total.size_bytes})
            else:
                exact = f"{total.size_bytes:,} bytes"
                line = (
                    f"{human_bytes(total.size_bytes):>9}  {exact:>22}  {plural(total.objects, 'object'):>16}"
                )
                out.line(f"{line}  {printable(name)}")
            out.flush()


def _sums(backend: ObjectBackend, scope: Scope, depth: int) -> Iterator[_Sum]:
    """Give each folder when the listing has left it, the whole scope last."""
    stack = [_Sum(scope.exact or scope.directory)]
    for page in objects_in(backend, scope):
        for item in page:
            folders = item.key[len(scope.directory) :].split("/")[:-1][:depth]
            path = scope.directory + "".join(f"{name}/" for name in folders)
            while len(stack) > 1 and not path.startswith(stack[-1].folder):
                done = stack.pop()
                stack[-1].add(done.objects, done.size_bytes)
                yield done
            for level in range(len(stack) - 1, len(folders)):
                below = scope.directory if level == 0 else stack[-1].folder
                stack.append(_Sum(f"{below}{folders[level]}/"))
            stack[-1].add(1, item.size_bytes)
    while stack:
        done = stack.pop()
        if stack:
            stack[-1].add(done.objects, done.size_bytes)
        yield done


@click.command("stat", cls=StoreCommand, short_help="Show the facts of one object.")
@click.argument("key", type=KeyArgument())
@click.pass_context
def stat_command(context: click.Context, key: str) -> None:
    """Show what is known about one object.

    "stored" tells an object that dehydrate wrote ("json" or "raw") from other data ("no").
    """
    options = options_of(context)
    check_key_argument(key)
    out = Out()
    with Stores(options) as stores:
        backend = stores.backend()
        try:
            info = backend.head_object(key)
            kind = _stored_kind(backend, info)
        except StorageError as error:
            better = explain_missing(backend, key, error)
            if better is None:
                raise
            raise better from error
    if options.as_json:
        out.json(
            {
                "key": info.key,
                "size_bytes": info.size_bytes,
                "etag": info.etag,
                "content_type": info.content_type,
                "last_modified": iso_time(info.last_modified),
                "stored": kind,
                "metadata": dict(info.metadata),
            }
        )
        return
    rows = [
        ("key", printable(info.key)),
        ("size", f"{human_bytes(info.size_bytes)} ({info.size_bytes:,} bytes)"),
        ("etag", printable(info.etag)),
        ("type", printable(info.content_type)),
        ("modified", iso_time(info.last_modified)),
        ("stored", kind or "no"),
        *((f"metadata {name}", printable(value)) for name, value in sorted(info.metadata.items())),
    ]
    for line in table(rows):
        out.line(line)


def _stored_kind(backend: ObjectBackend, info: ObjectInfo) -> str | None:
    """Tell by its first bytes what kind of stored object this is; None: another object."""
    if not info.size_bytes:
        return None
    try:
        with backend.get_object(info.key, range_header=f"bytes=0-{_HEAD_BYTES - 1}") as found:
            head = found.read(_HEAD_BYTES)
    except RangeNotSatisfiableError:
        return None  # it has just been replaced by an empty one
    match = _WRAPPER.match(head)
    return match.group(1).decode("ascii") if match else None


def explain_missing(backend: ObjectBackend, key: str, error: StorageError) -> Failure | None:
    """Return a better error where the key is a folder; None where there is nothing to add."""
    # A file store says of a folder that it is one; others that there is no such object.
    if not isinstance(error, ObjectNotFoundError) and type(error) is not StorageError:
        return None
    folder = key if key.endswith("/") else key + "/"
    try:
        page = next(backend.list_objects(folder, page_size=1), None)
    except StorageError:
        return None
    if page is None:
        return None
    return Failure(
        f"{key!r} is a folder of {backend.name}, not an object; look with 'bubu-storage ls {folder}'"
    )
