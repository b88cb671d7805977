"""``lock``: who may delete in a store just now, and how to remove a claim whose holder is gone.

Invariants: ``show`` writes nothing; ``break`` removes only the claim that it has shown or that was named,
and one that is not over only with ``--force``.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from bubu_storage.cli.failures import Refusal, complain
from bubu_storage.cli.groups import CommandGroup
from bubu_storage.cli.options import StoreCommand, options_of
from bubu_storage.cli.show import Out, iso_time, printable, table
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import PreconditionFailedError, UnsupportedOperationError

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.retention.claim_document import FoundClaim
    from bubu_storage.retention.registration import Registration

__all__ = ["lock_command"]

_TRIES: Final = 5
_DANGER: Final = (
    "its holder may be deleting right now and hears of it only at its next renewal; until then a second "
    "sweeper could begin. Stop it first, or wait"
)


@click.group("lock", cls=CommandGroup, short_help="Show or remove the claim on a store.")
def lock_command() -> None:
    """Show or remove the claim that keeps two sweepers out of one store.

    Whoever deletes by a retention policy claims the store first: the operator for each pass, and
    "retention apply". The claim ends by itself soon after its holder is gone.
    """


@lock_command.command("show", cls=StoreCommand, short_help="Who has claimed the store, and who uses it.")
@click.pass_context
def show_command(context: click.Context) -> None:
    """Show who has claimed the store and which clusters' operators use it.

    All times are by the store's clock. Writes nothing. Exits with 0 also where nobody has claimed it.
    """
    from bubu_storage.retention.claim import look_at_claim  # noqa: PLC0415 - loads the library
    from bubu_storage.retention.registration import list_registrations  # noqa: PLC0415 - likewise

    options = options_of(context)
    with Stores(options) as stores:
        backend = stores.backend()
        claim = look_at_claim(backend)
        registered, more = list_registrations(backend, read_names=True)
        now = backend.server_time()
        if options.as_json:
            clusters = [
                {"cluster": one.cluster, "name": one.name, "renewed_at": iso_time(one.renewed_at)}
                for one in registered
            ]
            content = {
                "store": backend.name,
                "server_time": iso_time(now),
                "claim": None if claim is None else _content(claim, now),
                "clusters": clusters,
                "more_clusters": more,
            }
            Out().json(content)
            return
        _print_claim(backend.name, claim, now)
        _print_clusters(registered, more=more)


def _content(claim: FoundClaim, now: datetime) -> dict[str, Any]:
    document, end = claim.document, claim.expires_at
    return {
        "holder": None if document is None else document.holder,
        "cluster": None if document is None else document.cluster,
        "acquired_at": None if document is None else iso_time(document.acquired_at),
        "renewed_at": iso_time(claim.last_modified),
        "expires_at": None if end is None else iso_time(end),
        "expired": claim.is_expired(now),
        "problem": claim.problem,
    }


def _print_claim(store: str, claim: FoundClaim | None, now: datetime) -> None:
    out = Out()
    if claim is None:
        out.line(f"{printable(store)} is not claimed")
        return
    document, end = claim.document, claim.expires_at
    rows = [("store", store)]
    if document is None or end is None:
        rows += [("claim", f"unreadable: {claim.problem}"), ("written", iso_time(claim.last_modified))]
    else:
        state = "over; the next sweeper takes it" if claim.is_expired(now) else "held"
        rows += [
            ("claim", state),
            ("holder", document.holder),
            ("cluster", document.cluster or "-"),
            ("since", iso_time(document.acquired_at)),
            ("renewed", iso_time(claim.last_modified)),
            ("until", iso_time(end)),
        ]
    rows.append(("store's time", iso_time(now)))
    for line in table([(name, printable(text)) for name, text in rows]):
        out.line(line)


def _print_clusters(registered: tuple[Registration, ...], *, more: bool) -> None:
    if not registered:
        return
    out = Out()
    out.line("")
    rows = [
        (printable(one.cluster), iso_time(one.renewed_at), printable(one.name) or "-") for one in registered
    ]
    for line in table(rows, header=("CLUSTER", "LAST SEEN", "OPERATOR")):
        out.line(line)
    if more:
        out.line(f"and more than these {len(registered)}")


@lock_command.command("break", cls=StoreCommand, short_help="Remove a claim whose holder is gone.")
@click.option("--holder", metavar="NAME", help="Only if it is this holder's; needed with --yes.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also a claim that is not over. Its holder may still delete.")
@click.pass_context
def break_command(context: click.Context, holder: str | None, yes: bool, force: bool) -> None:
    """Remove the claim on a store after its holder is gone for good.

    A claim that is over needs no breaking: the next sweeper takes it. One that is not is refused
    without --force, since its holder may be deleting. Asks first; without a person, name the holder as
    "lock show" has it, and say --yes.
    """
    from bubu_storage.retention.claim import look_at_claim  # noqa: PLC0415 - loads the library

    if yes and holder is None:
        raise Refusal("--yes needs --holder NAME, so that no other claim is broken than the one you mean")
    if not yes and not _someone_is_there():
        raise Refusal(
            "lock break asks before it removes a claim, and nobody can answer here; add --holder NAME --yes"
        )
    options = options_of(context)
    with Stores(options) as stores:
        backend = stores.backend()
        claim = look_at_claim(backend)
        if claim is None:
            if not options.quiet:
                complain(f"{backend.name} is not claimed; there is nothing to break")
            return
        _check_holder(claim, holder)
        _check_over(backend, claim, force=force)
        if not yes and not _confirmed(claim):
            raise Refusal("nothing was changed")
        _remove(backend, claim)
        if not options.quiet:
            complain(f"removed the claim of {_name(claim)!r} on {backend.name}")


def _someone_is_there() -> bool:
    """Tell whether a question reaches a person."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _name(claim: FoundClaim) -> str:
    return claim.document.holder if claim.document is not None else ""


def _check_holder(claim: FoundClaim, holder: str | None) -> None:
    if holder is not None and holder != _name(claim):
        raise Refusal(
            f"the claim is held by {_name(claim)!r} and not by {holder!r}; nothing was changed"
            if claim.document is not None
            else f"the claim is unreadable ({claim.problem}), so its holder is not known; its name is ''"
        )


def _check_over(backend: ObjectBackend, claim: FoundClaim, *, force: bool) -> None:
    from bubu_storage.retention.claim import claim_over  # noqa: PLC0415 - loads the library

    if force or claim_over(backend, claim):
        return
    raise Refusal(
        f"the claim is not over: {claim.describe()}; {_DANGER}, or add --force if it is gone for good"
    )


def _confirmed(claim: FoundClaim) -> bool:
    click.echo(f"Remove the claim of {printable(claim.describe())}? [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _remove(backend: ObjectBackend, claim: FoundClaim) -> None:
    """Delete the claim, as long as it is the one that was looked at.

    Raises:
        Refusal: it is another's by now.
    """
    from bubu_storage.retention.claim import CLAIM_KEY, look_at_claim  # noqa: PLC0415 - loads the library

    for _ in range(_TRIES):
        there = look_at_claim(backend)
        if there is None:
            return
        ours, other = claim.document, there.document
        if (ours is None) is not (other is None) or (
            ours is not None and other is not None and ours.token != other.token
        ):
            raise Refusal("the store was claimed anew meanwhile; nothing was changed")
        try:
            backend.delete_object(CLAIM_KEY, if_match=there.etag)
        except PreconditionFailedError:
            continue
        except UnsupportedOperationError:
            backend.delete_object(CLAIM_KEY)
        return
    raise Refusal(
        "the claim is renewed again and again: its holder is alive. Stop it first; nothing was changed"
    )
