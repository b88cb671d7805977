"""Sending deletions: what was dealt with, what failed, and when the store counts as down."""

from __future__ import annotations

import pytest

from bubu_storage.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.retention.delete import Deleter
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.report import StoppedBy
from tests.unit.retention.world import World

FOREVER = 1e12


class Bench:
    """A deleter over a world, with its charges."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.charged = 0
        time = world.time
        self.gate = Gate(
            monotonic=time.monotonic,
            sleep=time.sleep,
            should_stop=lambda: False,
            budget_seconds=1000,
            requests_per_second=0,
        )
        self.deleter = Deleter(world.backend, self.gate, self.charge)
        self.keys = world.fill("r/", 6, 1)

    def charge(self, objects: int) -> None:
        """Take note of what the deleter charges."""
        self.charged += objects

    def fail(self, error: StorageError, *, kind: str, times: int = 10**9, key: str = "", late: bool = False):
        """Make calls of a kind fail, before or after they took effect."""
        left = times

        def hook(_index: int, called: str, keys: tuple[str, ...]) -> None:
            nonlocal left
            if called == kind and left and (not key or key in keys):
                left -= 1
                raise error

        if late:
            self.world.backend.after = hook
        else:
            self.world.backend.before = hook


@pytest.fixture
def bench(world) -> Bench:
    """Six objects in a store that deletes in batches."""
    return Bench(world)


@pytest.fixture
def single(single_world) -> Bench:
    """Six objects in a store that deletes one by one."""
    return Bench(single_world)


def test_a_batch_goes_in_one_request(bench):
    """All keys are gone after one request, and charged."""
    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert (result.done, dict(result.failed), result.stop) == (6, {}, None)
    assert bench.gate.requests == 1
    assert bench.charged == 6
    assert bench.world.all_keys() == []


def test_more_than_a_batch_is_left_for_the_next_call(bench):
    """One request takes at most a thousand keys."""
    keys = [f"x/{number:05}" for number in range(1500)]

    assert bench.deleter.delete(keys, valid_until=FOREVER).done == 1000


def test_no_keys_no_request(bench):
    """Nothing to do is not a request."""
    assert bench.deleter.delete([], valid_until=FOREVER).done == 0
    assert bench.gate.requests == 0


def test_keys_that_a_batch_refuses_are_reported(bench):
    """The others are gone; the answer about keys nobody asked for is ignored."""
    refused = PermissionDeniedError("no")
    bench.world.backend.refuse = lambda key: refused if key == bench.keys[2] else None

    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert result.done == 6
    assert dict(result.failed) == {bench.keys[2]: refused}
    assert bench.world.all_keys() == [bench.keys[2]]


def test_a_store_without_batches_gets_single_requests(single):
    """Each key is a request of its own."""
    result = single.deleter.delete(single.keys, valid_until=FOREVER)

    assert result.done == 6
    assert single.gate.requests == 6
    assert single.charged == 6
    assert single.world.all_keys() == []


def test_an_unsupported_batch_falls_back_for_good(bench):
    """A server that knows no bulk deletion is not asked a second time."""
    bench.fail(UnsupportedOperationError("no bulk"), kind="batch")

    assert bench.deleter.delete(bench.keys[:3], valid_until=FOREVER).done == 3
    assert bench.deleter.delete(bench.keys[3:], valid_until=FOREVER).done == 3
    assert bench.gate.requests == 7
    assert bench.charged == 6


@pytest.mark.parametrize("late", [False, True])
def test_a_batch_that_fails_as_a_whole_is_tried_key_by_key(bench, late):
    """Whatever poisons the batch, the good keys go; unknown outcomes are charged once."""
    bench.fail(UnavailableError("broken"), kind="batch", late=late)

    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert (result.done, dict(result.failed), result.stop) == (6, {}, None)
    assert bench.charged == 6
    assert bench.world.all_keys() == []


def test_what_a_lost_batch_may_have_deleted_stays_charged(bench):
    """A later request for other keys cannot exceed the limit that way."""
    bench.fail(UnavailableError("broken"), kind="batch", late=True)
    bench.deleter.delete(bench.keys[:4], valid_until=bench.world.time.seconds - 1)

    assert bench.charged == 4


@pytest.mark.parametrize("error", [BucketNotFoundError("gone"), UnauthenticatedError("who")])
@pytest.mark.parametrize("which", ["bench", "single"])
def test_faults_of_the_set_up_end_the_pass(request, which, error):
    """No bucket, bad credentials: no key is at fault, none is passed by."""
    bench = request.getfixturevalue(which)
    bench.fail(error, kind="batch" if which == "bench" else "delete")

    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert result.done == 0
    assert result.stop.reason is StoppedBy.STORE_ERROR
    assert result.stop.error is error
    assert bench.charged == 0


def test_one_key_that_always_fails_does_not_hold_up_the_rest(single):
    """It is reported and passed by; the others are gone."""
    single.fail(UnavailableError("broken"), kind="delete", key=single.keys[0])

    result = single.deleter.delete(single.keys, valid_until=FOREVER)

    assert (result.done, list(result.failed), result.stop) == (6, [single.keys[0]], None)
    assert single.world.all_keys() == [single.keys[0]]


def test_three_keys_in_a_row_mean_that_the_store_is_down(single):
    """The pass ends; the three are passed by, in case they and not the store are at fault."""
    single.fail(UnavailableError("broken"), kind="delete")

    result = single.deleter.delete(single.keys, valid_until=FOREVER)

    assert result.done == 3
    assert list(result.failed) == single.keys[:3]
    assert result.stop.reason is StoppedBy.STORE_ERROR


def test_refusals_do_not_mean_that_the_store_is_down(single):
    """A store that answers is up, however often it says no."""
    single.fail(PermissionDeniedError("no"), kind="delete")

    result = single.deleter.delete(single.keys, valid_until=FOREVER)

    assert (result.done, len(result.failed), result.stop) == (6, 6, None)


def test_a_missing_object_counts_as_deleted(single):
    """Somebody else deleted it: that is what was wanted."""
    single.fail(ObjectNotFoundError("gone"), kind="delete")

    result = single.deleter.delete(single.keys, valid_until=FOREVER)

    assert (result.done, dict(result.failed)) == (6, {})


@pytest.mark.parametrize("which", ["bench", "single"])
def test_throttling_waits_and_leaves_the_rest_to_the_caller(request, which):
    """Keys dealt with so far are told; the caller checks freshness before it tries again."""
    bench = request.getfixturevalue(which)
    error = ThrottledError("slow down", retry_after_seconds=3)
    bench.fail(error, kind="batch" if which == "bench" else "delete", times=1, key=bench.keys[2])
    before = bench.world.time.seconds

    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert result.done == (0 if which == "bench" else 2)
    assert result.stop is None
    assert bench.world.time.seconds - before >= 3
    assert bench.charged == result.done


def test_throttling_key_by_key_in_a_batch(bench):
    """All keys throttled: nothing dealt with. Some: those count as failed, after a wait."""
    bench.world.backend.refuse = lambda _key: ThrottledError("slow down")
    assert bench.deleter.delete(bench.keys, valid_until=FOREVER).done == 0
    assert bench.charged == 0

    bench.world.backend.refuse = lambda key: ThrottledError("slow") if key == bench.keys[0] else None
    slept = len(bench.world.time.slept)
    result = bench.deleter.delete(bench.keys, valid_until=FOREVER)

    assert (result.done, list(result.failed)) == (6, [bench.keys[0]])
    assert len(bench.world.time.slept) > slept


def test_single_deletions_end_when_the_listing_is_too_old(single):
    """At least one request is sent; what is left must be listed again."""
    single.world.backend.latency_seconds = 1.0
    result = single.deleter.delete(single.keys, valid_until=single.world.time.seconds + 2.5)

    assert result.done == 3
    assert single.deleter.delete(single.keys[3:], valid_until=0).done == 1


@pytest.mark.parametrize("which", ["bench", "single"])
def test_the_reserved_area_is_refused_at_the_last_moment(request, which):
    """Whatever went wrong before, no request with such a key is sent."""
    bench = request.getfixturevalue(which)

    with pytest.raises(InvalidKeyError, match="reserved area"):
        bench.deleter.delete(["r/a", ".bubu/claim"], valid_until=FOREVER)

    assert bench.gate.requests == 0
