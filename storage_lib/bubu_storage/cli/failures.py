"""How a command ends when it does not end well: the exit codes, and one line on standard error.

Invariants: no traceback for anything that a person can cause; the line names the thing, the
cause and the way out; no credential of the environment is ever in it, whoever wrote the text.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, Final

import click

from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    KubeRefError,
    LimitExceededError,
    StorageError,
    StorageTimeoutError,
    UnauthenticatedError,
)

__all__ = [
    "PROGRAM",
    "ExitCode",
    "Failure",
    "Misconfigured",
    "PartialFailure",
    "Refusal",
    "complain",
    "describe",
    "exit_code_of",
    "one_line",
    "report",
    "usage_line",
]

PROGRAM: Final = "bubu-storage"


class ExitCode(IntEnum):
    """What the shell gets to see."""

    OK = 0
    FAILED = 1
    """The store, the document or a file: nothing, or nothing complete, was done."""
    USAGE = 2
    """The command line or the configuration is wrong; nothing was done."""
    PARTIAL = 3
    """Some of several objects failed; each is named on standard error."""
    REFUSED = 4
    """Refused for safety, or answered with no; nothing was done."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """The reader of standard output went away."""
    TERMINATED = 143
    """SIGTERM."""


class Failure(click.ClickException):
    """A command cannot do what it was asked for."""

    exit_code = ExitCode.FAILED


class Misconfigured(click.ClickException):
    """It is not clear, or wrong, which store is meant; nothing was contacted."""

    exit_code = ExitCode.USAGE


class PartialFailure(click.ClickException):
    """Some objects failed; they have been named already."""

    exit_code = ExitCode.PARTIAL


class Refusal(click.ClickException):
    """A command could do harm and was not told that it may."""

    exit_code = ExitCode.REFUSED


_HINTS: Final[tuple[tuple[type[StorageError], str], ...]] = (
    (
        UnauthenticatedError,
        "credentials come from BUBU_S3_* or AWS_* variables, or from --profile NAME",
    ),
    (BucketNotFoundError, "the store is chosen by --store, or by BUBU_STORAGE_* variables"),
    (StorageTimeoutError, "--timeout sets how long to wait"),
    (KubeRefError, "--storage-refs-only leaves references to ConfigMaps and Secrets as they are"),
    (LimitExceededError, "BUBU_MAX_HYDRATED_SIZE raises the limit of a document"),
)
_HINTS_OF_DOCUMENTS: Final = (KubeRefError, LimitExceededError)
_SECRET_NAMES: Final = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"(:/{1,2})(?:[^/\s@:'\"]{0,256}:\S{0,1024}|[^/\s@]{1,1024})@")
"""User and password of a URL, also of one that was made a key; a password may hold ``/`` and ``@``."""
_MIN_SECRET_CHARACTERS: Final = 6
"""Shorter values are no credentials; to blot them out everywhere would garble messages."""


def complain(text: str) -> None:
    """Write one line to standard error, under the program's name and free of credentials."""
    with contextlib.suppress(OSError):  # nobody listens
        click.echo(f"{PROGRAM}: {one_line(text)}", err=True)


def one_line(text: str) -> str:
    """Return a message on one line, without control characters and without credentials."""
    line = " ".join(text.split())
    line = "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in line)
    for secret in _secrets():
        line = line.replace(secret, "***")
    return _USER_INFO.sub(r"\1***@", line)


def _secrets() -> Iterator[str]:
    """Give the values of the environment that must never be shown, longest first."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAMES.search(name) and name.startswith(("AWS_", "BUBU_"))
    }
    # A path to a token is no token, and messages need paths.
    kept = (value for value in found if len(value) >= _MIN_SECRET_CHARACTERS and not value.startswith("/"))
    yield from sorted(kept, key=len, reverse=True)


def describe(error: BaseException, *, documents: bool = False) -> str:
    """Return what went wrong, with the option or variable that may help.

    Args:
        error: what was raised.
        documents: the command reads documents, so that hints about these make sense.
    """
    if isinstance(error, StorageError):
        text = error.message
        for kind, hint in _HINTS:
            if isinstance(error, kind) and (documents or kind not in _HINTS_OF_DOCUMENTS):
                return f"{text}; {hint}"
        return text
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return f"{error.filename!r}: {reason}" if error.filename else reason
    return f"unexpected {type(error).__name__}: {error}; this is a bug, --verbose shows where"


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return ExitCode.USAGE if isinstance(error, ConfigurationError) else ExitCode.FAILED


def usage_line(error: click.UsageError, command: str = "") -> str:
    """Return a usage error on one line, with the help to look at.

    Args:
        error: what was raised.
        command: that was running, where the error does not know.
    """
    message = error.format_message().rstrip(".")
    if message[:1].isupper() and not message[1:2].isupper():
        message = message[0].lower() + message[1:]
    context = error.ctx
    if context is not None and context.parent is not None:
        command = _path_of(context)
    if not command:
        return f"{message}; see {PROGRAM} --help"
    return f"{command}: {message}; see {PROGRAM} {command} --help"


def _path_of(context: click.Context) -> str:
    """Return the names of a command and of the groups that it is in, without the program's."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(names)


def report(error: BaseException, *, verbose: bool = False, documents: bool = False, command: str = "") -> int:
    """Write an error to standard error and return the exit code.

    Args:
        error: what ended the command.
        verbose: also write the chain of causes; for a bug, where it is.
        documents: see `describe`.
        command: that was running.
    """
    if isinstance(error, click.UsageError):
        complain(usage_line(error, command))
    else:
        complain(describe(error, documents=documents))
    if verbose:
        for line in _causes(error):
            click.echo(f"    {one_line(line)}", err=True)
    return exit_code_of(error)


def _causes(error: BaseException) -> Iterable[str]:
    known = isinstance(error, (StorageError, click.ClickException, OSError))
    if not known:
        for frame in traceback.extract_tb(error.__traceback__):
            yield f"at {frame.filename}:{frame.lineno} in {frame.name}"
    seen: set[int] = {id(error)}
    cause: Any = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield f"caused by {type(cause).__module__}.{type(cause).__qualname__}: {cause}"
        cause = cause.__cause__ or cause.__context__
