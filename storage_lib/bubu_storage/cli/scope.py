"""Prefixes as people mean them: whole path segments, and a listing of one level.

``ls outputs`` means the object ``outputs`` and what is below ``outputs/``, never
``outputs-old``. A prefix is not cleaned up otherwise, so odd keys (``a//b``) can be reached.
Our own area ``.bubu/`` (of the store, or of a folder) is left out unless it is asked for by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from bubu_storage.backend.types import MAX_KEY_BYTES, ListedObject, ObjectBackend, check_key, check_prefix
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.errors import InvalidKeyError
from bubu_storage.wire import RESERVED_PREFIX

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "KeyArgument",
    "Scope",
    "check_key_argument",
    "complete_keys",
    "is_reserved",
    "objects_in",
    "one_level",
    "parse_scope",
    "refuse_url",
]

_LAST: Final = "\U0010ffff"
"""Sorts after every character: what is listed after ``a/`` and this is no longer below ``a/``."""

_MAX_COMPLETIONS: Final = 100
_COMPLETION_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What a PREFIX means.

    Attributes:
        exact: the key of an object that is meant too; "" for none.
        directory: "" for the whole store, else it ends in ``/``.
    """

    exact: str
    directory: str

    @property
    def shown(self) -> str:
        """For messages."""
        return repr(self.exact or self.directory) if self.directory else "the store"

    def holds(self, key: str) -> bool:
        """Tell whether a key is meant, going by its text."""
        if is_reserved(key) and not is_reserved(self.directory):
            return False
        return key == self.exact or key.startswith(self.directory)


def is_reserved(key: str) -> bool:
    """Tell whether a key lies in our own area, of the store or of a folder."""
    return key.startswith(RESERVED_PREFIX) or "/" + RESERVED_PREFIX in key


def check_key_argument(text: str, what: str = "KEY") -> str:
    """Return a key from the command line.

    Raises:
        click.UsageError: it names no object; says what to write.
    """
    refuse_url(text, what)
    try:
        return check_key(text)
    except InvalidKeyError as error:
        raise click.UsageError(f"{what}: {error.message}") from None


def parse_scope(text: str, what: str = "PREFIX") -> Scope:
    """Read a prefix from the command line; "" and ``.`` are the whole store.

    Raises:
        click.UsageError: it could leave the store; says what to write.
    """
    if text in {"", ".", "./"}:
        return Scope("", "")
    refuse_url(text, what)
    try:
        check_prefix(text)
    except InvalidKeyError as error:
        raise click.UsageError(f"{what}: {error.message}") from None
    return Scope("", text) if text.endswith("/") else Scope(text, text + "/")


def refuse_url(text: str, what: str) -> None:
    """Refuse what is a place for ``cp`` and no key.

    Raises:
        click.UsageError: says how to choose the store.
    """
    for start, store in (("s3://", "s3://BUCKET"), ("file://", "file:///DIR"), ("store:", "")):
        if text.startswith(start):
            way = (
                f"choose the store with --store {store} and give the key alone"
                if store
                else "leave 'store:' out"
            )
            raise click.UsageError(f"{what} {text!r} is not relative to the store; {way}")


def objects_in(backend: ObjectBackend, scope: Scope) -> Iterator[tuple[ListedObject, ...]]:
    """Stream the objects of a scope page by page, in byte order of keys.

    Raises:
        StorageError: the store failed; what was given before is right.
    """
    if scope.exact:
        first = next(backend.list_objects(scope.exact, page_size=1), None)
        if first is not None and first.objects[0].key == scope.exact:
            yield first.objects
    for page in backend.list_objects(scope.directory):
        shown = tuple(item for item in page.objects if scope.holds(item.key))
        if shown:
            yield shown


def one_level(
    backend: ObjectBackend, scope: Scope, begins_with: str = ""
) -> Iterator[list[ListedObject | str]]:
    """Stream one level of a scope: its objects, and its folders as texts that end in ``/``.

    What lies deep in a folder is not listed: at the end of a page inside one, the listing
    starts again behind it.

    Args:
        backend: the store.
        scope: where.
        begins_with: only keys and folders that begin so; "" for all.
    """
    if scope.exact:
        first = next(backend.list_objects(scope.exact, page_size=1), None)
        if first is not None and first.objects[0].key == scope.exact:
            yield [first.objects[0]]
    folder = ""
    start_after = ""
    while True:
        skip = ""
        for page in backend.list_objects(begins_with or scope.directory, start_after=start_after):
            entries: list[ListedObject | str] = []
            for item in page.objects:
                if (folder and item.key.startswith(folder)) or not scope.holds(item.key):
                    continue
                name, slash, _ = item.key[len(scope.directory) :].partition("/")
                if slash:
                    folder = f"{scope.directory}{name}/"
                    entries.append(folder)
                else:
                    entries.append(item)
            if entries:
                yield entries
            last = page.objects[-1].key
            if folder and last.startswith(folder) and len((folder + _LAST).encode()) <= MAX_KEY_BYTES:
                skip = folder + _LAST
                if skip > start_after:
                    break
                skip = ""
        if not skip:
            return
        start_after = skip


class KeyArgument(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - older versions have none
    """A key or prefix of the store, which the shell can complete."""

    name = "key"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the keys and folders that begin with what has been typed."""
        del param
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while completing

        options = ctx.find_root().ensure_object(GlobalOptions)
        try:
            return [CompletionItem(text) for text in complete_keys(options, incomplete)]
        except Exception:  # noqa: BLE001 - a shell is waiting; nothing to say means no completions
            return []


def complete_keys(options: GlobalOptions, incomplete: str) -> list[str]:
    """Return up to 100 keys and folders that begin with a text, or what is found in two seconds."""
    from bubu_storage.cli.stores import Stores  # noqa: PLC0415 - only while completing

    options.timeout_seconds = min(options.timeout_seconds or _COMPLETION_SECONDS, _COMPLETION_SECONDS)
    folder, slash, _ = incomplete.rpartition("/")
    scope = Scope("", folder + slash)
    found: list[str] = []
    give_up_at = time.monotonic() + _COMPLETION_SECONDS
    with Stores(options) as stores:
        for entries in one_level(stores.backend(attempts=1), scope, incomplete):
            names = (entry if isinstance(entry, str) else entry.key for entry in entries)
            found.extend(name for name in names if name.startswith(incomplete))
            if len(found) >= _MAX_COMPLETIONS or time.monotonic() >= give_up_at:
                break
    return found[:_MAX_COMPLETIONS]
