"""The claim of a pass that was killed: the next pass of the same policy need not wait for its end."""

from __future__ import annotations

import pytest

from bubu_operator.retention.store_use import StoreWishes, use_store
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import ClaimedError
from bubu_storage.retention.claim import ClaimSettings, StoreClaim, look_at_claim

ENDED = "cluster-a/team-a/tidy/2026-01-01T00:00:00Z"
NEXT = "cluster-a/team-a/tidy/2026-01-01T00:02:00Z"


def killed(backend, holder):
    """Leave a claim as a process leaves it that was killed."""
    StoreClaim(backend, ClaimSettings(holder, "cluster-a"), in_background=False).acquire()


def use(backend, ended):
    """Use the store for a pass; return who holds the claim meanwhile."""
    wishes = StoreWishes(dry_run=False, claim=ClaimSettings(NEXT, "cluster-a"), ended_claim=ended)
    with use_store(backend, wishes, sleep=lambda _seconds: None) as store:
        return store.facts.holder


def test_the_claim_of_a_pass_that_has_ended_is_removed():
    """It is taken over at once, and given back afterwards."""
    backend = MemoryBackend()
    killed(backend, ENDED)

    assert use(backend, ENDED) == NEXT
    assert look_at_claim(backend) is None


@pytest.mark.parametrize(
    ("holder", "ended"),
    [
        (ENDED, ""),
        (ENDED, NEXT),
        ("cluster-b/team-a/tidy/2026-01-01T00:00:00Z", ENDED),
        (f"{'x' * 250}/one", f"{'x' * 250}/two"),
    ],
)
def test_any_other_claim_is_waited_for(holder, ended):
    """Of another pass, another cluster, or one whose name had to be cut."""
    backend = MemoryBackend()
    killed(backend, holder)

    with pytest.raises(ClaimedError):
        use(backend, ended)
    assert look_at_claim(backend) is not None


def test_a_dry_run_removes_nothing():
    """It writes nothing at all."""
    backend = MemoryBackend()
    killed(backend, ENDED)
    wishes = StoreWishes(dry_run=True, claim=ClaimSettings(NEXT, "cluster-a"), ended_claim=ENDED)

    with use_store(backend, wishes, sleep=lambda _seconds: None) as store:
        assert store.facts.holder == ENDED

    assert look_at_claim(backend) is not None
