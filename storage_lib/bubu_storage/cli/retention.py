"""``retention``: what a policy would delete, and deleting exactly that.

Invariants: ``plan`` writes nothing; ``apply`` deletes nothing but what a plan of this hash found due, holds
the claim on the store from before it looks until it is done, and says where to go on however it ends.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from bubu_storage.cli.failures import Failure, Refusal, complain
from bubu_storage.cli.groups import CommandGroup
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.retention_show import ShownRuns, counter_of, print_plan, tell_end, why
from bubu_storage.cli.show import human_bytes, plural, printable
from bubu_storage.cli.stores import Stores
from bubu_storage.wire import DEFAULT_INPUT_PREFIX, DEFAULT_OUTPUT_PREFIX

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.cli.retention_cycle import Cycle, CycleTotals
    from bubu_storage.cli.retention_owners import StaticOwners
    from bubu_storage.cli.retention_policy import RetentionPlan
    from bubu_storage.retention.report import PassReport, RunOutcome
    from bubu_storage.retention.spec import PassSpec

__all__ = ["retention_command"]

_PASS_TIMEOUT_SECONDS: Final = 30.0
_WHOLE_SCAN: Final = 1_000_000


@click.group("retention", cls=CommandGroup, short_help="What a retention policy deletes: plan, apply.")
def retention_command() -> None:
    """Plan what a retention policy would delete, and delete exactly that.

    For stores that no operator cleans, and to see what one would do. The policy is a RetentionPolicy as
    for the operator, or its rules alone.
    """


def _policy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what ``plan`` and ``apply`` have in common."""
    options = (
        click.option(
            "--policy",
            "-f",
            "policies",
            metavar="FILE",
            multiple=True,
            required=True,
            help="RetentionPolicy, or {rules: ...}; JSON or YAML, - for standard input. Repeatable: a run "
            "goes only if all let it go.",
        ),
        click.option(
            "--namespace",
            "-n",
            "namespaces",
            metavar="NAME",
            multiple=True,
            help="Whose runs, where the policy does not say; repeatable.",
        ),
        click.option(
            "--live-refs",
            metavar="FILE",
            help="Who owns runs: {owners: [{run: NS/ID, live: true, rank: 1}], references: [KEY]}. Taken as "
            "complete. Without it nothing is known live, and rules with lastRuns keep everything.",
        ),
        click.option(
            "--cluster",
            metavar="UID",
            default="",
            help="Cluster that --live-refs is about. Other clusters in the store turn orphan rules off.",
        ),
        click.option(
            "--output-prefix", default=DEFAULT_OUTPUT_PREFIX, show_default=True, help="Of the store."
        ),
        click.option("--input-prefix", default=DEFAULT_INPUT_PREFIX, show_default=True, help="Of the store."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class _Wishes:
    """The options of `_policy_options`."""

    policies: tuple[str, ...]
    namespaces: tuple[str, ...]
    live_refs: str | None
    cluster: str
    output_prefix: str
    input_prefix: str

    def read(self) -> tuple[RetentionPlan, StaticOwners | None]:
        """Read the files.

        Raises:
            Misconfigured: one is missing or wrong.
        """
        from bubu_storage.cli.retention_owners import read_owners  # noqa: PLC0415 - loads the library
        from bubu_storage.cli.retention_policy import PolicyPlaces, read_plan  # noqa: PLC0415 - likewise

        places = PolicyPlaces(self.output_prefix, self.input_prefix, self.namespaces)
        plan = read_plan(self.policies, places)
        return plan, None if self.live_refs is None else read_owners(self.live_refs)


@retention_command.command("plan", cls=StoreCommand, short_help="What would be deleted and kept, and why.")
@_policy_options
@click.option("--due", "only_due", is_flag=True, help="Only list what would be deleted.")
@click.pass_context
def plan_command(context: click.Context, only_due: bool, **wishes: Any) -> None:
    """List each run with what a whole cycle of passes would do with it, and why; write nothing.

    The last lines are the sums and the plan's hash, which "retention apply" wants. With -o json, one
    document a run and one with the sums.
    """
    from bubu_storage.cli.retention_consent import missing_owners  # noqa: PLC0415 - loads the library

    wanted = _Wishes(**wishes)
    plan, owners = wanted.read()
    options = options_of(context)
    if owners is None and not options.quiet and (missing := missing_owners(plan)):
        complain(f"{missing}, and nobody is known to be live without --live-refs; apply will refuse that")
    with Stores(options) as stores:
        backend = stores.backend(timeout_seconds=_PASS_TIMEOUT_SECONDS)
        shown = ShownRuns(options, lambda outcome: not only_due or not outcome.reason.startswith("Kept"))
        with Progress("looking", shown=False if options.quiet or sys.stdout.isatty() else None) as progress:
            stop = _Stop()
            with stop.heard():
                totals = _rehearse(backend, plan, owners, wanted.cluster, stop, shown.run, progress)
        if stop.asked:
            raise KeyboardInterrupt
        if not totals.is_complete:
            raise Failure(f"the plan is not complete: {why(totals)}; what was listed is right")
        print_plan(options, backend, plan, totals)


def _rehearse(  # noqa: PLR0917 - the parts of one cycle
    backend: ObjectBackend,
    plan: RetentionPlan,
    owners: StaticOwners | None,
    cluster: str,
    stop: _Stop,
    on_run: Callable[[RunOutcome], None],
    progress: Progress,
) -> CycleTotals:
    """Run a whole dry cycle."""
    spec = replace(
        plan.spec, dry_run=True, max_scan=_WHOLE_SCAN, max_delete=_WHOLE_SCAN, budget_seconds=3600.0
    )
    return _cycle(backend, spec, owners, cluster, stop, on_run, counter_of(progress)).run()


def _cycle(  # noqa: PLR0917 - likewise
    backend: ObjectBackend,
    spec: PassSpec,
    owners: StaticOwners | None,
    cluster: str,
    stop: _Stop,
    on_run: Callable[[RunOutcome], None],
    on_checkpoint: Callable[[PassReport], None],
) -> Cycle:
    from bubu_storage.cli.retention_cycle import Cycle  # noqa: PLC0415 - loads the library
    from bubu_storage.retention.registration import foreign_clusters  # noqa: PLC0415 - likewise

    is_shared = bool(foreign_clusters(backend, cluster))
    return Cycle(backend, spec, owners, is_shared, lambda: stop.asked, on_run, on_checkpoint)


@retention_command.command("apply", cls=StoreCommand, short_help="Delete what a plan found due.")
@_policy_options
@click.option("--plan", "plan_hash", metavar="HASH", required=True, help="As printed by retention plan.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--enforce", is_flag=True, help="Also by a policy whose mode is DryRun.")
@click.option("--approve", is_flag=True, help="Also if more than the policy's maxDuePercent is due.")
@click.option("--cursor", "cursor_file", metavar="FILE", help="Keep the place in FILE, and go on from there.")
@click.option("--max-passes", type=click.IntRange(min=1), metavar="N", help="End after N passes.")
@click.option("--max-delete", type=click.IntRange(min=1), metavar="N", help="End after N objects.")
@click.pass_context
def apply_command(
    context: click.Context,
    *,
    plan_hash: str,
    yes: bool,
    enforce: bool,
    approve: bool,
    cursor_file: str | None,
    max_passes: int | None,
    max_delete: int | None,
    **wishes: Any,
) -> None:
    """Delete what a plan found due, in passes within the policy's limits.

    Claims the store, plans again, and refuses with exit code 4 if that is another plan, or if it is more
    than the policy's maxDuePercent (see --approve); also by a policy that is suspended, whose mode is
    DryRun (see --enforce), or that goes by owners without --live-refs. Asks before it deletes. Ctrl-C ends
    it in good order; the cursor says where to go on.
    """
    from bubu_storage.cli.retention_apply import Apply  # noqa: PLC0415 - loads the library
    from bubu_storage.cli.retention_consent import check_apply  # noqa: PLC0415 - likewise
    from bubu_storage.cli.retention_cycle import CycleLimits  # noqa: PLC0415 - likewise
    from bubu_storage.retention.claim import ClaimSettings, StoreClaim  # noqa: PLC0415 - likewise

    wanted = _Wishes(**wishes)
    plan, owners = wanted.read()
    check_apply(plan, enforce=enforce, has_owners=owners is not None)
    if not yes and not _someone_is_there():
        raise Refusal("apply asks before it deletes, and nobody can answer here; add --yes")
    options = options_of(context)
    stop = _Stop()
    with Stores(options) as stores:
        backend = stores.backend(timeout_seconds=_PASS_TIMEOUT_SECONDS)
        settings = ClaimSettings.fitting(
            _holder(), wanted.cluster, request_timeout_seconds=stores.longest_wait_seconds
        )
        with StoreClaim(backend, settings) as claim:
            work = Apply(backend, plan, options, plan_hash, cursor_file)
            cursor = work.resume()
            if cursor is None:
                with stop.heard(), Progress("looking", shown=False if options.quiet else None) as progress:
                    totals = _rehearse(backend, plan, owners, wanted.cluster, stop, lambda _: None, progress)
                if stop.asked:
                    raise KeyboardInterrupt
                if not totals.is_complete:
                    raise Failure(f"the plan is not complete: {why(totals)}; nothing was deleted")
                work.check(totals, approve=approve)
                marks = owners is not None and any(
                    rule.orphan_grace_seconds is not None for rule in plan.spec.rules
                )
                if not work.due.objects and not marks:
                    if not options.quiet:
                        complain("nothing is due")
                    return
                if not yes and work.due.objects:
                    _ask(work.due.objects, work.due.size_bytes, backend)
            elif not yes:
                _ask(None, 0, backend)
            work.begin(cursor)
            with stop.heard(), Progress("deleting", shown=False if options.quiet else None) as progress:
                shown = ShownRuns(options, lambda outcome: not outcome.reason.startswith("Kept"), progress)
                cycle = _cycle(
                    backend, work.spec(), owners, wanted.cluster, stop, shown.run, work.keep_place(progress)
                )
                cycle.permits = (claim,)
                totals = cycle.run(cursor, CycleLimits(max_passes, max_delete))
            work.finish(totals)
    tell_end(totals, interrupted=stop.asked, quiet=options.quiet)


def _holder() -> str:
    """Say who claims, for people."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    return f"bubu-storage retention apply by {user} on {socket.gethostname()}, process {os.getpid()}"


def _someone_is_there() -> bool:
    """Tell whether a question reaches a person."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(objects: int | None, size_bytes: int, backend: ObjectBackend) -> None:
    """Ask whether to delete.

    Raises:
        Refusal: the answer was no.
    """
    what = (
        "the rest of the plan"
        if objects is None
        else f"{plural(objects, 'object')} ({human_bytes(size_bytes)})"
    )
    click.echo(f"Delete {what} from {printable(backend.name)}? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Refusal("nothing was deleted")


class _Stop:
    """Hears Ctrl-C: the first ends the work in good order, the second at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def heard(self) -> Generator[None]:
        """Listen for as long as the context lasts."""

        def hear(number: int, frame: Any) -> None:
            del number, frame
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            complain("stopping after what is under way; once more Ctrl-C ends at once")

        try:
            before = signal.signal(signal.SIGINT, hear)
        except ValueError:  # not the main thread: nobody presses anything here
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
