"""The group ``bubu-storage``: finds commands when they are used, and ends each of them properly.

Invariants: ``--help`` and ``--version`` load no SDK; however a command ends, there is at most
one line of trouble on standard error (more with ``--verbose``), and never a traceback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from bubu_storage._version import __version__
from bubu_storage.cli.failures import PROGRAM, ExitCode, Failure, complain, report
from bubu_storage.cli.options import global_options, options_of
from bubu_storage.cli.show import Out, discard_stdout

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: Final = {
    "ls": "browse",
    "du": "browse",
    "stat": "browse",
    "cat": "cat",
    "cp": "cp",
    "rm": "rm",
    "hydrate": "documents",
    "dehydrate": "documents",
    "resolve": "documents",
    "retention": "retention",
    "lock": "lock",
    "check": "check",
    "conformance": "conformance",
    "completion": "completion",
}
"""Each command and the module that holds it, in the order of the help."""

_OF_DOCUMENTS: Final = frozenset({"hydrate", "dehydrate", "resolve", "cat"})


class _LogLines(logging.Handler):
    """Shows the library's own warnings as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with contextlib.suppress(Exception):
            complain(f"{record.levelname.lower()}: {record.getMessage()}")


class _Root(click.Group):
    """A group whose commands are loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command; None where there is none of that name."""
        del ctx
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        return getattr(import_module(f"bubu_storage.cli.{module}"), f"{cmd_name}_command")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn whatever ends it into an exit code."""
        options = options_of(ctx)
        log = logging.getLogger("bubu_storage")
        handler = _LogLines(logging.ERROR if options.quiet else logging.WARNING)
        log.addHandler(handler)
        try:
            result = super().invoke(ctx)
            Out().flush()
        except click.exceptions.Exit:
            raise
        except click.UsageError as error:
            if error.ctx is not None:
                raise
            return self._end(report(error, command=ctx.invoked_subcommand or ""))
        except KeyboardInterrupt:
            click.echo(err=True)
            complain("interrupted")
            return self._end(ExitCode.INTERRUPTED)
        except click.Abort:
            complain("interrupted")
            return self._end(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            discard_stdout()
            return self._end(ExitCode.BROKEN_PIPE)
        except Exception as error:  # noqa: BLE001 - the last stop: all become a line and a code
            documents = ctx.invoked_subcommand in _OF_DOCUMENTS
            return self._end(report(_failed_output() or error, verbose=options.verbose, documents=documents))
        finally:
            log.removeHandler(handler)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; errors of usage become one line here."""
        try:
            code = super().main(
                args,
                prog_name or PROGRAM,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 does not have it
                click.echo(error.format_message(), err=True)
                code = ExitCode.USAGE
            else:
                code = report(error)
        except click.Abort:
            complain("interrupted")
            code = ExitCode.INTERRUPTED
        except OSError as error:  # while writing the help of the group; commands end in `invoke`
            code = report(_failed_output() or error)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    @staticmethod
    def _end(code: int) -> Any:
        raise click.exceptions.Exit(code)


@click.group(
    cls=_Root,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Global options may also follow the command. Exit codes: 0 done, 1 failed, 2 wrong usage or "
    "configuration, 3 some objects failed, 4 refused for safety.",
)
@global_options
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Object storage for workflow pods: look, copy, delete, resolve, check.

    The store is given by --store, or by the BUBU_* variables that a workflow pod has.
    """


def _failed_output() -> Failure | None:
    """Return what is wrong with standard output: it comes up wherever something is written."""
    try:
        Out().flush()
    except Failure as failure:
        return failure
    except BrokenPipeError:
        pass
    return None


def _terminated(number: int, frame: Any) -> None:
    del number, frame
    raise SystemExit(int(ExitCode.TERMINATED))


def _replace_closed_streams() -> None:
    """Where a caller closed a standard stream, let reading and writing fail properly."""
    names = {"stdin": "r", "stdout": "w", "stderr": "w"}
    for name, mode in names.items():
        if getattr(sys, name) is None:
            # The wrong way round: data that nobody can get, or nobody gives, is a failure, not an empty file.
            flags = os.O_RDONLY if name == "stdout" else os.O_WRONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def main() -> None:
    """Run the command line (entry point)."""
    # Temporary files are removed on the way out, also when a pod or a supervisor ends us.
    signal.signal(signal.SIGTERM, _terminated)
    _replace_closed_streams()
    cli()
