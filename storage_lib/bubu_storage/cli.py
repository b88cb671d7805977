"""``bubu-storage``: the library's command line.

Exit codes: 0 fine, 1 failed, 2 wrong usage. Data goes to standard output, trouble to
standard error.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer

from bubu_storage._version import __version__

__all__ = ["app", "main"]

app: Final = typer.Typer(
    name="bubu-storage",
    help="Object storage for workflow pods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line (entry point)."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bubu-storage {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Object storage for workflow pods."""


@app.command()
def conformance(
    files: Annotated[list[Path], typer.Argument(help="Vector files (JSON).", metavar="FILE...")],
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also name the cases that passed.")
    ] = False,
) -> None:
    """Compare this library with recorded outcomes of the Go implementation.

    Prints each difference, and for each case that is a known defect of the Go implementation what is
    done instead. Exits with 1 if a case failed, with 2 if a file is missing or no vector file.
    """
    from bubu_storage.conformance import VectorFileError, Verdict, run_file  # noqa: PLC0415 - loads the library

    # Cases are full of bad values on purpose; the library's own warnings would drown the report.
    logging.getLogger("bubu_storage").setLevel(logging.ERROR)
    counts: Counter[Verdict] = Counter()
    for path in files:
        try:
            reports = run_file(path)
        except VectorFileError as error:
            typer.echo(f"bubu-storage: {error}", err=True)
            raise typer.Exit(2) from None
        for report in reports:
            counts[report.verdict] += 1
            if report.verdict is Verdict.PASSED:
                if verbose:
                    typer.echo(f"{report.case_id}: passed")
            elif report.verdict is Verdict.DEVIATES:
                typer.echo(f"{report.case_id}: deviates: {'; '.join(report.differences)}")
            else:
                typer.echo(f"{report.case_id}: FAILED")
                for line in report.differences:
                    typer.echo(f"    {line}")
    passed, failed, deviates = (counts[verdict] for verdict in Verdict)
    typer.echo(f"{passed} passed, {failed} failed, {deviates} deviates")
    if counts[Verdict.FAILED]:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
