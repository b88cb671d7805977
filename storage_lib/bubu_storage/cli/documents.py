"""``hydrate``, ``dehydrate`` and ``resolve``: what the library does to documents, by hand.

Documents are read and written as BubuStack's Go SDK does it: numbers keep their exact value, and
the output is one line of JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, cast

import click

from bubu_storage.cli.failures import Failure, complain
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.scope import refuse_url
from bubu_storage.cli.show import Out
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import InvalidKeyError

__all__ = ["dehydrate_command", "hydrate_command", "resolve_command"]

_DOCUMENT: Final = click.argument("file", required=False, default="-", metavar="[FILE|-]")


@click.command("hydrate", cls=StoreCommand, short_help="Resolve the references in a document.")
@_DOCUMENT
@click.option(
    "--storage-refs-only",
    is_flag=True,
    help="Leave references to ConfigMaps and Secrets as they are.",
)
@click.option(
    "--allowed-prefix",
    "allowed_prefixes",
    multiple=True,
    metavar="PREFIX",
    help="Refuse references to anywhere else; repeatable. Use it for documents of others.",
)
@click.pass_context
def hydrate_command(
    context: click.Context, file: str, storage_refs_only: bool, allowed_prefixes: tuple[str, ...]
) -> None:
    """Replace the references in a JSON document by what they lead to.

    Reads FILE or standard input, writes one line of JSON.
    """
    data = _read_document(file)
    prefixes = list(allowed_prefixes) or None
    with Stores(options_of(context)) as stores:
        manager = stores.manager()
        try:
            if storage_refs_only:
                result = manager.hydrate_storage_refs_only(data, allowed_prefixes=prefixes)
            else:
                result = manager.hydrate(data, allowed_prefixes=prefixes)
        except InvalidKeyError as error:
            if error.key in allowed_prefixes:
                raise click.UsageError(f"--allowed-prefix: {error.message}") from None
            raise
    _write_document(result)


@click.command("dehydrate", cls=StoreCommand, short_help="Store what is large in a document.")
@_DOCUMENT
@click.option(
    "--run-id",
    required=True,
    metavar="NS/NAME",
    help="Whose objects these are: namespace and name of the step run, or story run with --inputs.",
)
@click.option("--inputs", is_flag=True, help="As a story run's inputs: below inputs/, and short for certain.")
@click.option(
    "--max-inline-size",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Larger values are stored. Default: BUBU_MAX_INLINE_SIZE, else 1024.",
)
@click.pass_context
def dehydrate_command(
    context: click.Context, file: str, run_id: str, inputs: bool, max_inline_size: int | None
) -> None:
    """Store what is large in a JSON document and put references in its place.

    Reads FILE or standard input, writes one line of JSON. The same run id writes to the same keys.
    """
    namespace, _, name = run_id.partition("/")
    if not namespace.strip() or not name.strip():
        raise click.UsageError(f"--run-id {run_id!r} is not NAMESPACE/NAME, as team-a/run-1")
    data = _read_document(file)
    with Stores(options_of(context)) as stores:
        manager = stores.manager(create=True, max_inline_size_bytes=max_inline_size)
        try:
            if inputs:
                result = manager.dehydrate_inputs(data, run_id=run_id)
            else:
                result = manager.dehydrate(data, run_id=run_id)
        except InvalidKeyError as error:
            if ".." in run_id or run_id.startswith("/"):
                raise click.UsageError(f"--run-id: {error.message}") from None
            raise
    _write_document(result)


@click.command("resolve", cls=StoreCommand, short_help="Print what a reference leads to.")
@click.argument("reference", metavar="REFERENCE")
@click.option("--text", is_flag=True, help="Write a text as it is instead of as JSON.")
@click.pass_context
def resolve_command(context: click.Context, reference: str, text: bool) -> None:
    """Print the value that a reference leads to, as one line of JSON.

    \b
    REFERENCE is
      KEY               of a stored object
      KEY#SELECTOR      a part of it, as outputs/team-a/run-1/output.json#items[0].name
      {...}             a reference as it stands in a document ("-": read it from standard input)

    References inside the value are resolved too, those to ConfigMaps and Secrets are not.
    """  # noqa: D301 - click's mark for lines to be left alone
    ref = _parse_reference(reference)
    with Stores(options_of(context)) as stores:
        value = stores.manager().hydrate_storage_refs_only(ref)
    out = Out()
    if text:
        if not isinstance(value, str):
            raise Failure("the value is no text; leave --text out to get it as JSON")
        out.write(value.encode("utf-8", "replace"))
    else:
        _write_document(value)


def _parse_reference(text: str) -> dict[Any, Any]:
    """Return the reference as a document.

    Raises:
        click.UsageError: it is none.
    """
    from bubu_storage.payload.refs import is_storage_ref, storage_ref  # noqa: PLC0415 - only here

    if text == "-" or text.lstrip().startswith("{"):
        value = _read_document("-") if text == "-" else _decode(text.encode("utf-8", "replace"), "REFERENCE")
        ref = cast("dict[Any, Any]", value) if isinstance(value, dict) else {}
        if not is_storage_ref(ref):
            raise click.UsageError(
                'REFERENCE is JSON but no reference; it looks like {"$bubuStorageRef": "KEY"}, with '
                '"$bubuStoragePath" for a part'
            )
        return ref
    key, _, selector = text.partition("#")
    refuse_url(text, "REFERENCE")
    try:
        return dict(storage_ref(key, selector=selector))
    except InvalidKeyError as error:
        raise click.UsageError(f"REFERENCE: {error.message}") from None


def _read_document(file: str) -> Any:
    if file == "-":
        if sys.stdin.isatty():
            complain("reading a JSON document from the terminal; end it with Ctrl-D")
        name = "standard input"
        try:
            data = sys.stdin.buffer.read()
        except OSError as error:
            raise Failure(f"{name} cannot be read: {error.strerror}") from error
    else:
        name = repr(file)
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise Failure(f"{name} cannot be read: {error.strerror}") from error
    if not data.strip():
        raise Failure(f"{name} is empty; give one JSON document")
    return _decode(data, name)


def _decode(data: bytes, name: str) -> Any:
    from bubu_storage.payload.decoder import MalformedJsonError, decode_json  # noqa: PLC0415 - only here

    try:
        return decode_json(data)
    except MalformedJsonError as error:
        raise Failure(f"{name} is no JSON document: {error}") from error


def _write_document(value: Any) -> None:
    from bubu_storage.payload.codec import encode  # noqa: PLC0415 - only here

    out = Out()
    out.write(encode(value) + b"\n")
    out.flush()
