"""What a pass finds out about its store before it begins, and holds while it works."""

from __future__ import annotations

import pytest

from bubu_operator.retention.store_use import StoreWishes, use_store
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import ClaimedError, PermissionDeniedError
from bubu_storage.retention.claim import CLAIM_KEY, ClaimSettings, look_at_claim
from bubu_storage.retention.gate import PassStoppedError

CLAIM = ClaimSettings("cluster-a/team-a/tidy/1", "cluster-a")
WISHES = StoreWishes(dry_run=False, claim=CLAIM, cluster_uid="cluster-a")


class Careless(MemoryBackend):
    """A store that ignores the conditions of some deletions in silence."""

    def __init__(self, *, in_batches):
        super().__init__()
        self._in_batches = in_batches

    def delete_object(self, key, *, if_match=""):
        """Delete, whatever the condition."""
        super().delete_object(key, if_match=if_match if self._in_batches else "")

    def delete_objects(self, keys, *, if_match=None):
        """Delete, whatever the conditions."""
        return super().delete_objects(keys, if_match=None if self._in_batches else if_match)


class Silent(MemoryBackend):
    """A store that does not let us put anything where probes are."""

    def put_object(self, key, *args, **options):
        """Write, but no probe."""
        if "/probe/" in key:
            raise PermissionDeniedError("AccessDenied")
        return super().put_object(key, *args, **options)


def use(backend, wishes=WISHES):
    """Use a store; return what was found out."""
    with use_store(backend, wishes, sleep=lambda _: None) as store:
        return store.facts


def keys(backend):
    """Return everything that lies in a store."""
    return [entry.key for page in backend.list_objects("") for entry in page.objects]


def test_conditions_are_used_where_they_are_honoured():
    """Seen by deeds; nothing of the trial is left."""
    backend = MemoryBackend()

    assert use(backend).is_conditional
    assert keys(backend) == [".bubu/retention/clusters/cluster-a.json"]


@pytest.mark.parametrize("in_batches", [True, False])
def test_conditions_are_not_used_where_any_are_ignored(in_batches):
    """A second belt that does not hold is none: deletions may go either way."""
    assert not use(Careless(in_batches=in_batches)).is_conditional


def test_a_trial_that_is_not_allowed_stops_nothing():
    """The pass goes on without conditions."""
    facts = use(Silent())

    assert not facts.is_conditional
    assert facts.ours


@pytest.mark.parametrize("known", [True, False])
def test_what_is_known_already_is_not_tried_again(known):
    """The controller remembers it from pass to pass."""
    backend = Careless(in_batches=known)

    assert use(backend, StoreWishes(dry_run=False, claim=CLAIM, is_conditional=known)).is_conditional is known


def test_the_claim_is_held_until_the_end():
    """And given back; a second pass meanwhile is refused."""
    backend = MemoryBackend()
    with use_store(backend, WISHES, sleep=lambda _: None) as store:
        (permit,) = store.permits
        permit.check()
        with pytest.raises(ClaimedError, match="cluster-a/team-a/tidy/1"):
            use(backend)
    with pytest.raises(PassStoppedError):
        permit.check()
    assert CLAIM_KEY not in keys(backend)


def test_a_pass_that_fails_gives_its_claim_back():
    """The next one need not wait for its end."""
    backend = MemoryBackend()
    with pytest.raises(ZeroDivisionError), use_store(backend, WISHES, sleep=lambda _: None):
        raise ZeroDivisionError

    assert look_at_claim(backend) is None


def test_a_dry_run_tries_and_writes_nothing():
    """It has no permits, for it deletes nothing."""
    backend = MemoryBackend()
    with use_store(
        backend, StoreWishes(dry_run=True, claim=CLAIM, cluster_uid="a"), sleep=lambda _: None
    ) as store:
        assert store.permits == ()
        assert not store.facts.is_conditional
        assert not store.facts.is_shared

    assert keys(backend) == []


def test_two_clusters_see_each_other():
    """Whichever comes second; the first one at its next pass."""
    backend = MemoryBackend()
    other = StoreWishes(dry_run=False, claim=ClaimSettings("b", "cluster-b"), cluster_uid="cluster-b")

    assert not use(backend).is_shared
    assert [one.cluster for one in use(backend, other).shared_with] == ["cluster-a"]
    assert [one.cluster for one in use(backend).shared_with] == ["cluster-b"]
