"""What ``retention apply`` holds against a plan, and the file that keeps its place.

Invariants: no more objects are found due than the plan had, over all calls that go on from one place; a
place that was kept under another plan, other rules or another store is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.cli.failures import Failure, Misconfigured, Refusal, complain
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.cli.pieces import write_file
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.retention_cycle import CycleTotals, fingerprint_of, hash_of_plan
from bubu_storage.cli.retention_policy import RetentionPlan
from bubu_storage.cli.retention_show import counter_of
from bubu_storage.cli.show import Out, human_bytes, plural
from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import PassReport, Tally
from bubu_storage.retention.spec import PassSpec

__all__ = ["Apply"]

_VERSION: Final = 1
_WHOLE: Final = 100


class Apply:
    """One call of ``retention apply``.

    Args:
        backend: the store.
        plan: what the files say.
        options: the global options.
        plan_hash: what was agreed to.
        cursor_file: where the place is kept; None for nowhere.

    Attributes:
        due: what the plan deletes.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        plan: RetentionPlan,
        options: GlobalOptions,
        plan_hash: str,
        cursor_file: str | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._hash = plan_hash
        self._file = cursor_file
        self._fingerprint = fingerprint_of(plan.spec, backend.name)
        self.due = Tally()

    def resume(self) -> Cursor | None:
        """Return the place that was kept; None where there is none, so that the plan is made again.

        Raises:
            Refusal: it is of another plan.
            Misconfigured: the file is something else.
        """
        if self._file is None:
            return None
        try:
            data = Path(self._file).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Misconfigured(f"cursor file {self._file!r} cannot be read: {error.strerror}") from error
        try:
            kept = cast("dict[str, Any]", json.loads(data))
            _check_version(kept["version"])
            plan, fingerprint, due = str(kept["plan"]), str(kept["fingerprint"]), int(kept["due"])
            cursor = Cursor.from_dict(kept["cursor"])
        except (KeyError, TypeError, ValueError, RecursionError, ConfigurationError) as error:
            raise Misconfigured(
                f"{self._file!r} is no file that retention apply has written; name another, or remove it"
            ) from error
        if plan != self._hash or fingerprint != self._fingerprint:
            raise Refusal(
                f"{self._file!r} keeps the place in plan {plan}, not in plan {self._hash} of these rules "
                "and this store; name another file, or remove it to begin anew. Nothing was deleted"
            )
        self.due = Tally(due)
        if not self._options.quiet:
            complain(f"going on from {self._file!r}")
        return cursor

    def check(self, totals: CycleTotals, *, approve: bool) -> None:
        """Compare a fresh whole cycle with what was agreed to.

        Raises:
            Refusal: it is another plan, or more than the policy's share.
        """
        last = totals.last
        assert last is not None  # noqa: S101 - the cycle is complete
        found = hash_of_plan(self._fingerprint, last)
        cycle = last.cycle
        due = f"{plural(cycle.due, 'object')} ({human_bytes(cycle.due_bytes)})"
        if found != self._hash:
            raise Refusal(
                f"what is due has changed since plan {self._hash}: by plan {found} it is {due} now; look at "
                "it with retention plan, then apply that. Nothing was deleted"
            )
        if cycle.due * _WHOLE > self._plan.max_due_percent * cycle.decided and not approve:
            raise Refusal(
                f"{cycle.due:,} of {plural(cycle.decided, 'object')} are due, more than maxDuePercent "
                f"{self._plan.max_due_percent} lets go; if that is right, add --approve. Nothing was deleted"
            )
        self.due = Tally(cycle.due, cycle.due_bytes)

    def spec(self) -> PassSpec:
        """Return the passes that delete: never more than the plan had."""
        return replace(self._plan.spec, dry_run=False, max_due_objects=self.due.objects)

    def begin(self, cursor: Cursor | None) -> None:
        """Write the file before anything is deleted, so that a place that cannot be kept is noticed in time.

        Raises:
            Failure: the file cannot be written.
        """
        self._write(cursor or Cursor())

    def keep_place(self, progress: Progress) -> Callable[[PassReport], None]:
        """Return what to do at a checkpoint: draw, and write the file."""
        count = counter_of(progress, lambda report: report.attempted)

        def checkpoint(report: PassReport) -> None:
            count(report)
            self._write(report.cursor)

        return checkpoint

    def finish(self, totals: CycleTotals) -> None:
        """Print what was done; remove the file at the end of the plan, or say where to go on.

        Raises:
            Failure: the file cannot be written or removed.
        """
        last = totals.last
        cursor = Cursor() if last is None else last.cursor
        place: dict[str, Any] | None = None
        if totals.is_complete:
            self._remove()
        else:
            place = self._content(cursor)
            self._write(cursor)
        if self._options.as_json:
            Out().json(
                {
                    "plan": self._hash,
                    "complete": totals.is_complete,
                    "passes": totals.passes,
                    "deleted": totals.tally(Reason.DELETED).objects,
                    "deleted_bytes": totals.tally(Reason.DELETED).size_bytes,
                    "failed": totals.tally(Reason.DELETE_FAILED).objects,
                    "stopped_by": None if last is None or last.stopped_by is None else last.stopped_by.value,
                    "resume": place,
                }
            )
        elif place is not None and self._file is None:
            Out().json(place)
        if place is not None and not self._options.quiet:
            how = (
                f"the same command goes on from {self._file!r}"
                if self._file is not None
                else "to go on, store the place that was printed in a file and name it by --cursor"
            )
            complain(how)

    def _content(self, cursor: Cursor) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "plan": self._hash,
            "fingerprint": self._fingerprint,
            "due": self.due.objects,
            "cursor": cursor.to_dict(),
        }

    def _write(self, cursor: Cursor) -> None:
        if self._file is None:
            return
        data = json.dumps(self._content(cursor)).encode() + b"\n"
        try:
            write_file(self._file, [data])
        except OSError as error:
            raise Failure(f"cursor file {self._file!r} cannot be written: {error.strerror}") from error

    def _remove(self) -> None:
        if self._file is None:
            return
        try:
            Path(self._file).unlink(missing_ok=True)
        except OSError as error:
            raise Failure(f"cursor file {self._file!r} cannot be removed: {error.strerror}") from error


def _check_version(version: object) -> None:
    if version != _VERSION:
        raise ValueError("another version")
