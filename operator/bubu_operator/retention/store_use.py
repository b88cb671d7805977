"""Before a pass touches its store: claim it, register, and see who else uses it; in the pass's process.

Invariants: a dry run writes nothing, it only looks; a pass that deletes holds the claim from before its
first listing until after its report; it registers before it reads who else has, so that of two clusters that
begin at the same time at least one sees the other; where it cannot be known whether the store is shared,
it is; a claim is removed only if its holder is, letter by letter, a pass that is known to have ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from bubu_operator.defaults import OPERATOR_NAME
from bubu_operator.retention.store_facts import Sharer, StoreFacts
from bubu_storage.backend.probe import Capability, probe_backend
from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import PreconditionFailedError, StorageError, UnsupportedOperationError
from bubu_storage.retention.claim import CLAIM_KEY, ClaimSettings, StoreClaim, look_at_claim
from bubu_storage.retention.claim_document import shown
from bubu_storage.retention.gate import Permit
from bubu_storage.retention.registration import foreign_clusters, register

__all__ = ["StoreUse", "StoreWishes", "use_store"]


@dataclass(frozen=True, slots=True)
class StoreWishes:
    """How a pass is to use its store.

    Attributes:
        dry_run: write nothing.
        claim: how to claim; None for without.
        cluster_uid: under which to register; "" for not at all.
        is_shared: it is known already that others use the store.
        ended_claim: holder of a claim whose process is known to have ended, as after a crash; "" for none.
        is_conditional: the store is known to honour (or not) conditions of deletions; None: find out.
    """

    dry_run: bool
    claim: ClaimSettings | None = None
    cluster_uid: str = ""
    is_shared: bool = False
    ended_claim: str = ""
    is_conditional: bool | None = None


@dataclass(frozen=True, slots=True)
class StoreUse:
    """A store that may be used now.

    Attributes:
        permits: what must hold for deletions.
        facts: about others.
    """

    permits: tuple[Permit, ...]
    facts: StoreFacts


@contextlib.contextmanager
def use_store(
    backend: ObjectBackend, wishes: StoreWishes, *, sleep: Callable[[float], None]
) -> Generator[StoreUse]:
    """Hold what a pass needs to hold on its store.

    Args:
        backend: the store.
        wishes: see there.
        sleep: waits; may raise to give up.

    Raises:
        ClaimedError: another sweeper has the store.
        StorageError: the store failed.
    """
    with contextlib.ExitStack() as held:
        if wishes.claim is None or wishes.dry_run:
            claim, facts = None, _look(backend, wishes)
        else:
            _remove_ended(backend, wishes)
            claim = held.enter_context(StoreClaim(backend, wishes.claim, sleep=sleep))
            found = look_at_claim(backend)
            facts = replace(
                StoreFacts.of_claim(found, ours=True),
                is_proven=claim.is_proven,
                is_conditional=_is_conditional(backend, wishes),
            )
        yield StoreUse(() if claim is None else (claim,), _with_sharers(backend, wishes, facts))


def _remove_ended(backend: ObjectBackend, wishes: StoreWishes) -> None:
    """Remove the claim that a pass could not give back: nobody else has to wait for its end."""
    ended = wishes.ended_claim
    # A name that had to be cut may be that of several passes.
    if not ended or shown(ended) != ended:
        return
    found = look_at_claim(backend)
    if found is None or found.document is None or found.document.holder != ended:
        return
    try:
        backend.delete_object(CLAIM_KEY, if_match=found.etag)
    except UnsupportedOperationError:
        backend.delete_object(CLAIM_KEY)
    except PreconditionFailedError:
        return  # somebody has taken over; the claim says who


def _is_conditional(backend: ObjectBackend, wishes: StoreWishes) -> bool:
    """Tell whether the store honours conditions in every kind of request that deletions may use.

    Found out by deeds, in some 17 requests: there are servers that ignore conditions in silence.
    """
    if wishes.is_conditional is not None:
        return wishes.is_conditional
    try:
        seen = probe_backend(backend).capabilities
    except StorageError:
        return False
    wanted = {Capability.CONDITIONAL_DELETE}
    if isinstance(backend, BatchDeleter):
        wanted.add(Capability.CONDITIONAL_BULK_DELETE)
    return wanted <= set(seen)


def _look(backend: ObjectBackend, wishes: StoreWishes) -> StoreFacts:
    """Return who has the claim, where anybody may."""
    if wishes.claim is None:
        return StoreFacts()
    try:
        return StoreFacts.of_claim(look_at_claim(backend))
    except StorageError as error:
        return StoreFacts(problem=f"the claim on the store cannot be read: {error}")


def _with_sharers(backend: ObjectBackend, wishes: StoreWishes, facts: StoreFacts) -> StoreFacts:
    if not wishes.cluster_uid:
        return replace(facts, is_shared=wishes.is_shared)
    try:
        now = backend.server_time()
        if not wishes.dry_run:
            register(backend, wishes.cluster_uid, name=OPERATOR_NAME, now=now)
        others = tuple(map(Sharer.of, foreign_clusters(backend, wishes.cluster_uid, now)))
    except StorageError as error:
        problem = f"nobody can tell whether other clusters use the store, so it counts as shared: {error}"
        return replace(facts, is_shared=True, problem="; ".join(filter(None, (facts.problem, problem))))
    return replace(facts, shared_with=others, is_shared=wishes.is_shared or bool(others))
