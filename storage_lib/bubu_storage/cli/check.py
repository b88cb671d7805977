"""``check``: the capability probe for people: what works, what it is for, what to do about the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from bubu_storage.cli.failures import describe, one_line, report
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.show import Out, printable, table
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import (
    BucketNotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
)

if TYPE_CHECKING:
    from bubu_storage.backend.probe import ProbeReport
    from bubu_storage.backend.types import ObjectBackend

__all__ = ["MEANINGS", "check_command"]

MEANINGS: Final = {
    "Read": ("objects can be read", "hydrate fails without it: allow s3:GetObject"),
    "Write": ("objects can be written", "dehydrate fails without it: allow s3:PutObject"),
    "List": ("objects can be listed", "ls, du and retention need it: allow s3:ListBucket"),
    "Delete": ("objects can be deleted", "retention needs it: allow s3:DeleteObject"),
    "BulkDelete": (
        "many objects go in one request",
        "objects are deleted one by one: slower, nothing to do where the store cannot",
    ),
    "ConditionalPut": (
        "a write can depend on the ETag",
        "cp --if-absent and locks are not safe against others on this store",
    ),
    "ConditionalDelete": (
        "a deletion can depend on the ETag",
        "an object that changes just before its deletion is deleted all the same",
    ),
    "ConditionalBulkDelete": (
        "a deletion of many can depend on ETags",
        "send conditional deletions one by one; they hold where ConditionalDelete does",
    ),
    "Copy": ("objects are copied inside the store", "copies go through this machine: slower"),
}
"""Capability: what it means, and what follows where it is missing."""

_VERSIONS: Final = {True: "old ones are kept", False: "old ones are not kept", None: "the store does not say"}
_SKEW_SECONDS: Final = 5.0
_BAD_SKEW_SECONDS: Final = 300.0
_SLOW_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 10.0
_MILLISECONDS: Final = 1000


@dataclass(slots=True)
class _Findings:
    """What a check has come to."""

    store: str
    reachable: bool
    report: ProbeReport | None = None
    error: StorageError | None = None
    advice: list[str] = field(default_factory=list[str])


@click.command("check", cls=StoreCommand, short_help="Try what the store lets us do.")
@click.option("--read-only", is_flag=True, help="Change nothing: only list, and read one object.")
@click.pass_context
def check_command(context: click.Context, read_only: bool) -> None:
    """Try what a store lets us do, and say what to do about the rest.

    Writes, reads, lists, copies and deletes two small objects below .bubu/probe/ (with --read-only
    nothing is written). Each question is asked once; without --timeout an answer may take 10 seconds.
    Exits with 1 if the store cannot be used.
    """
    options = options_of(context)
    with Stores(options) as stores:
        findings = _probe(stores.backend(attempts=1, timeout_seconds=_TIMEOUT_SECONDS), read_only=read_only)
    if options.as_json:
        Out().json(_as_json(findings, read_only=read_only))
    else:
        _print(findings, read_only=read_only)
    if findings.error is not None:
        raise click.exceptions.Exit(report(findings.error, verbose=options.verbose))


def _probe(backend: ObjectBackend, *, read_only: bool) -> _Findings:
    from bubu_storage.backend.probe import probe_backend  # noqa: PLC0415 - only here

    try:
        outcome = probe_backend(backend, write=not read_only)
    except StorageError as error:
        reachable = not isinstance(error, (UnavailableError, StorageTimeoutError))
        findings = _Findings(backend.name, reachable, error=error)
        if isinstance(error, PermissionDeniedError) and not read_only:
            _try_reading(backend, findings)
        findings.advice.extend(_advice_on(error))
        return findings
    findings = _Findings(backend.name, reachable=True, report=outcome)
    findings.advice.extend(_advice(outcome, read_only=read_only))
    return findings


def _try_reading(backend: ObjectBackend, findings: _Findings) -> None:
    from bubu_storage.backend.probe import probe_backend  # noqa: PLC0415 - only here

    try:
        findings.report = probe_backend(backend, write=False)
    except StorageError:
        return
    findings.advice.append("the store can be read; if that is all you want, check it with --read-only")


def _advice_on(error: StorageError) -> list[str]:
    if isinstance(error, StorageTimeoutError):
        return ["is the address right, and is a firewall or a NetworkPolicy in between?"]
    if isinstance(error, UnavailableError):
        return ["is the address (--endpoint-url) right, with its port and http or https, and the store up?"]
    if isinstance(error, BucketNotFoundError):
        return ["create the bucket or directory, or correct its name"]
    if isinstance(error, PermissionDeniedError):
        return [
            (
                "allow these credentials s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and "
                "s3:DeleteObject on its objects"
            )
        ]
    return []


def _advice(report: ProbeReport, *, read_only: bool) -> list[str]:
    lines: list[str] = []
    skew = abs(report.clock_skew_seconds)
    if skew > _SKEW_SECONDS:
        worse = (
            "; requests fail once it is over 15 minutes, retention stops before"
            if skew > _BAD_SKEW_SECONDS
            else ""
        )
        lines.append(
            f"the store's clock and this machine's differ by {skew:.0f} s: correct the wrong one{worse}"
        )
    if report.latency_seconds > _SLOW_SECONDS:
        lines.append(
            f"one operation takes {report.latency_seconds:.1f} s: use a store nearer to this machine, "
            "or raise BUBU_STORAGE_CONCURRENCY"
        )
    if report.versioned:
        lines.append(_versioned())
    if not read_only:
        seen = {str(one) for one in report.capabilities}
        lines.extend(
            f"{name}: {_meaning(name)[1]}" for name in _known() if name not in seen and _meaning(name)[1]
        )
    return lines


def _versioned() -> str:
    from bubu_storage.backend.probe import VERSIONED, VERSIONED_MEANING  # noqa: PLC0415 - only here

    return f"{VERSIONED}: the store {VERSIONED_MEANING}"


def _known() -> list[str]:
    from bubu_storage.backend.probe import Capability  # noqa: PLC0415 - only here

    return [str(one) for one in Capability]


def _meaning(name: str) -> tuple[str, str]:
    return MEANINGS.get(name, ("", ""))


def _as_json(findings: _Findings, *, read_only: bool) -> dict[str, Any]:
    report = findings.report
    # null: not tried, which is not the same as not working.
    missing = None if read_only or findings.error is not None else False
    seen = {str(one) for one in report.capabilities} if report else set[str]()
    return {
        "store": findings.store,
        "usable": findings.error is None,
        "reachable": findings.reachable,
        "latency_seconds": report.latency_seconds if report else None,
        "clock_skew_seconds": report.clock_skew_seconds if report else None,
        "capabilities": {name: name in seen or missing for name in _known()} if report else {},
        "versioned": report.versioned if report else None,
        "error": one_line(describe(findings.error)) if findings.error else None,
        "advice": findings.advice,
    }


def _print(findings: _Findings, *, read_only: bool) -> None:
    out = Out()
    rows = [
        ("store", printable(findings.store)),
        ("usable", ("yes, for reading" if read_only else "yes") if findings.error is None else "no"),
        ("reachable", "yes" if findings.reachable else "no"),
    ]
    report = findings.report
    if report is not None:
        rows.append(("latency", f"{report.latency_seconds * _MILLISECONDS:.1f} ms an operation"))
        rows.append(("clock", _clock(report.clock_skew_seconds)))
        rows.append(("versions", _VERSIONS[report.versioned]))
    for line in table(rows):
        out.line(line)
    if report is not None:
        seen = {str(one) for one in report.capabilities}
        untried = "not tried" if read_only or findings.error is not None else "no"
        out.line("")
        for line in table(
            [(name, "yes" if name in seen else untried, _meaning(name)[0]) for name in _known()]
        ):
            out.line(line.rstrip())
    if findings.advice:
        out.line("")
        out.line("What to do:")
        for line in findings.advice:
            out.line(f"  - {line}")
    out.flush()


def _clock(skew_seconds: float) -> str:
    if abs(skew_seconds) <= 1:
        return "agrees with this machine's"
    return f"{abs(skew_seconds):.0f} s {'ahead of' if skew_seconds > 0 else 'behind'} this machine's"
