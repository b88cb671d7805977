"""``cat``: an object's bytes, or the value inside a stored object, to standard output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

from bubu_storage.cli.browse import explain_missing
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.scope import KeyArgument, check_key_argument
from bubu_storage.cli.show import Out
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import StorageError

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend

__all__ = ["cat_command"]

_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


def _parse_range(context: click.Context, param: click.Parameter, value: str | None) -> str:
    """Return a Range header, "" for none."""
    if value is None:
        return ""
    match = _RANGE.fullmatch(value)
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(first) > int(last)):
        raise click.BadParameter(
            f"{value!r} is no range; write 0-99 (the first 100 bytes), 100- or -50 (the last 50)",
            ctx=context,
            param=param,
        )
    return f"bytes={value}"


@click.command("cat", cls=StoreCommand, short_help="Write objects to standard output.")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, type=KeyArgument())
@click.option(
    "--range",
    "range_header",
    metavar="A-B",
    callback=_parse_range,
    help="Only these bytes, counted from 0: 0-99, 100- or -50.",
)
@click.option(
    "--raw/--decoded",
    "raw",
    default=True,
    help="The bytes as they are (default), or the value inside a stored object: JSON, or the text itself.",
)
@click.pass_context
def cat_command(context: click.Context, keys: tuple[str, ...], range_header: str, raw: bool) -> None:
    """Write objects to standard output, byte for byte.

    Nothing is added, also no line end; several objects follow each other directly.
    """
    if range_header and not raw:
        raise click.UsageError(
            "--range and --decoded exclude each other: a part of a stored object has no value"
        )
    for key in keys:
        check_key_argument(key)
    out = Out()
    with Stores(options_of(context)) as stores:
        backend = stores.backend()
        for key in keys:
            try:
                if raw:
                    _copy(backend, key, range_header, out)
                else:
                    _decode(backend, key, out)
            except StorageError as error:
                better = explain_missing(backend, key, error)
                if better is None:
                    raise
                raise better from error
            out.flush()


def _copy(backend: ObjectBackend, key: str, range_header: str, out: Out) -> None:
    if range_header:
        with backend.get_object(key, range_header=range_header) as found:
            for chunk in found:
                out.write(chunk)
        return
    from bubu_storage.cli.pieces import object_pieces, open_object  # noqa: PLC0415 - not for --decoded

    for chunk in object_pieces(backend, open_object(backend, key)):
        out.write(chunk)


def _decode(backend: ObjectBackend, key: str, out: Out) -> None:
    from bubu_storage.payload.codec import encode  # noqa: PLC0415 - only for --decoded
    from bubu_storage.payload.stored import decode_stored_object  # noqa: PLC0415 - only for --decoded

    with backend.get_object(key) as found:
        value = decode_stored_object(found.read(), key)
    # A text is written as it is; what comes from a JSON object ends its line.
    out.write(value.encode("utf-8", "replace") if isinstance(value, str) else encode(value) + b"\n")
