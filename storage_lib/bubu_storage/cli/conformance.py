"""``conformance``: this library against recorded outcomes of the Go implementation."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

import click

from bubu_storage.cli.failures import complain
from bubu_storage.cli.show import Out

__all__ = ["conformance_command"]


@click.command("conformance", short_help="Compare with recorded outcomes of the Go SDK.")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path)
)
@click.option("--verbose", "-v", is_flag=True, help="Also name the cases that passed.")
def conformance_command(files: tuple[Path, ...], verbose: bool) -> None:
    """Compare this library with recorded outcomes of the Go implementation.

    Prints each difference, and for each case that is a known defect of the Go implementation what is
    done instead. Exits with 1 if a case failed, with 2 if a file is missing or no vector file.
    """
    from bubu_storage.conformance import VectorFileError, Verdict, run_file  # noqa: PLC0415 - loads the library

    # Cases are full of bad values on purpose; the library's own warnings would drown the report.
    logging.getLogger("bubu_storage").setLevel(logging.ERROR)
    out = Out()
    counts: Counter[Verdict] = Counter()
    for path in files:
        try:
            reports = run_file(path)
        except VectorFileError as error:
            out.flush()
            complain(str(error))
            sys.exit(2)
        for report in reports:
            counts[report.verdict] += 1
            if report.verdict is Verdict.PASSED:
                if verbose:
                    out.line(f"{report.case_id}: passed")
            elif report.verdict is Verdict.DEVIATES:
                out.line(f"{report.case_id}: deviates: {'; '.join(report.differences)}")
            else:
                out.line(f"{report.case_id}: FAILED")
                for line in report.differences:
                    out.line(f"    {line}")
    passed, failed, deviates = (counts[verdict] for verdict in Verdict)
    out.line(f"{passed} passed, {failed} failed, {deviates} deviates")
    out.flush()
    if counts[Verdict.FAILED]:
        sys.exit(1)
