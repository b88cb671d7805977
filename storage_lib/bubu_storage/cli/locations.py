"""The two ends of ``cp``: what a SRC or DST means, decided by its text alone.

====================  ==========================================================
``store:KEY``         an object of the store that ``--store`` or the environment choose
``s3://BUCKET/KEY``   an object of any bucket, same endpoint and credentials
``-``                 standard input, standard output
``file:///PATH``      a local file, literally (no ``%`` escapes)
anything else         a local file; write ``./store:x`` for one that looks otherwise
====================  ==========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import click

from bubu_storage.backend.types import check_key, check_prefix
from bubu_storage.errors import InvalidKeyError

__all__ = ["InStore", "LocalPath", "Location", "StandardStream", "parse_location"]

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class InStore:
    """A key or prefix of a store.

    Attributes:
        text: as given.
        bucket: "" for the chosen store.
        key: "" for the whole store.
    """

    text: str
    bucket: str
    key: str

    @property
    def is_folder(self) -> bool:
        """Whether the text itself says that this is no object."""
        return not self.key or self.key.endswith("/")


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A local file or directory."""

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class StandardStream:
    """Standard input or output."""

    text: str = "-"


Location = InStore | LocalPath | StandardStream


def parse_location(text: str, what: str) -> Location:
    """Read SRC or DST.

    Args:
        text: from the command line.
        what: ``SRC`` or ``DST``, for messages.

    Raises:
        click.UsageError: it means nothing; says what to write.
    """
    if text == "-":
        return StandardStream()
    if not text:
        raise click.UsageError(f"{what} is empty; write store:KEY, s3://BUCKET/KEY, a path, or -")
    if "\x00" in text:
        raise click.UsageError(f"{what} holds a NUL character")
    if text.startswith("store:"):
        return _in_store(text, "", text.removeprefix("store:"), what)
    if text.startswith("s3://"):
        bucket, _, key = text.removeprefix("s3://").partition("/")
        if "@" in bucket:
            raise click.UsageError(f"{what} takes no credentials; write s3://BUCKET/KEY")
        if not bucket:
            raise click.UsageError(f"{what} {text!r} names no bucket; write s3://BUCKET/KEY")
        return _in_store(text, bucket, key, what)
    if text.startswith("file://"):
        path = text.removeprefix("file://")
        if not path.startswith("/"):
            raise click.UsageError(f"{what} {text!r} is not absolute; write three slashes, as file:///tmp/x")
        return LocalPath(text, path)
    if _SCHEME.match(text):
        scheme = text.partition("://")[0]
        raise click.UsageError(
            f"{what} begins with {scheme}://, which is no place this command knows; write store:KEY, "
            "s3://BUCKET/KEY, file:///PATH, or ./… for a local file"
        )
    return LocalPath(text, text)


def _in_store(text: str, bucket: str, key: str, what: str) -> InStore:
    try:
        check_prefix(key) if not key or key.endswith("/") else check_key(key)
    except InvalidKeyError as error:
        raise click.UsageError(f"{what}: {error.message}") from None
    return InStore(text, bucket, key)
