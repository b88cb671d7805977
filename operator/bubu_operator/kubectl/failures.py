"""How a command ends when it does not end well: exit codes, and one line on standard error.

Invariants: no traceback for anything that a person can cause; the line names the thing, the
cause and the way out; control characters of foreign texts never reach the terminal.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from enum import IntEnum
from typing import IO, Any, Final

import click

from bubu_operator.errors import (
    KubeApiError,
    KubeForbiddenError,
    KubeNotFoundError,
    KubeUnauthorizedError,
    KubeUnreachableError,
    OperatorError,
)

__all__ = ["PROGRAM", "BadInputError", "CommandFailedError", "ExitCode", "one_line", "reported"]

PROGRAM: Final = "kubectl bubu"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class ExitCode(IntEnum):
    """What the shell gets to see."""

    OK = 0
    FAILED = 1
    """The cluster could not be asked or has no such object; for ``check``: something is broken."""
    USAGE = 2
    """The command line or a file is wrong; nothing was done."""
    PARTIAL = 3
    """An answer with gaps: something may not be looked at; for ``check``: warnings only."""


class CommandFailedError(click.ClickException):
    """Ends the command with its message and code 1."""

    exit_code = ExitCode.FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line."""
        del file
        click.echo(f"{PROGRAM}: {one_line(self.message)}", err=True)


class BadInputError(CommandFailedError):
    """Ends the command with its message and code 2."""

    exit_code = ExitCode.USAGE


def one_line(text: str) -> str:
    """Foreign text made fit for a terminal: one line, no control characters."""
    return _CONTROL.sub(" ", text).strip()


@contextlib.contextmanager
def reported() -> Generator[None]:
    """Turn the operator's own errors into one line with a way out.

    Raises:
        CommandFailedError: any of them.
    """
    try:
        yield
    except KubeUnauthorizedError as error:
        raise CommandFailedError(
            f"{error}; the API server does not know you: renew your login, or choose another --context"
        ) from error
    except KubeForbiddenError as error:
        raise CommandFailedError(f"{error}; ask for that right, or use another --context") from error
    except KubeNotFoundError as error:
        raise CommandFailedError(str(error)) from error
    except KubeUnreachableError as error:
        raise CommandFailedError(f"{error}; is --context or --kubeconfig the right one?") from error
    except (KubeApiError, OperatorError) as error:
        raise CommandFailedError(str(error)) from error
