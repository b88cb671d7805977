"""One line of ``kubectl bubu check``: what was looked at, how it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bubu_operator.kubectl.failures import ExitCode

__all__ = ["Finding", "Status", "exit_code_of", "fail", "ok", "warn"]


class Status(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """Something is not as it should be, or could not be looked at."""
    FAIL = "fail"
    """Pods go without storage, or will soon."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        area: what was looked at, in a word or two.
        status: see `Status`.
        text: what was found.
        remedy: what to do; "" where nothing is to be done.
    """

    area: str
    status: Status
    text: str
    remedy: str = ""


def ok(area: str, text: str) -> Finding:
    """All is well."""
    return Finding(area, Status.OK, text)


def warn(area: str, text: str, remedy: str) -> Finding:
    """Not as it should be."""
    return Finding(area, Status.WARN, text, remedy)


def fail(area: str, text: str, remedy: str) -> Finding:
    """Broken."""
    return Finding(area, Status.FAIL, text, remedy)


def exit_code_of(findings: Iterable[Finding]) -> ExitCode:
    """The worst of them decides."""
    found = {finding.status for finding in findings}
    if Status.FAIL in found:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if Status.WARN in found else ExitCode.OK
