"""Tests for the claim on a store."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.decorator import Operation
from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import (
    ClaimedError,
    ConfigurationError,
    ObjectNotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from bubu_storage.retention.claim import (
    CLAIM_KEY,
    SETTLE_SECONDS,
    ClaimSettings,
    StoreClaim,
    look_at_claim,
)
from bubu_storage.retention.claim_document import CLOCK_TOLERANCE_SECONDS, MAX_DOCUMENT_BYTES
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.report import StoppedBy
from tests.unit.retention.claim_world import TIMEOUT_SECONDS, TTL_SECONDS, Failing, Lying, NoCompare
from tests.unit.retention.world import START, World, spec_of

if TYPE_CHECKING:
    from pathlib import Path

MARGIN_SECONDS = TIMEOUT_SECONDS + 1
LIARS = {
    "ignores everything": Lying,
    "ignores put-if-absent": lambda inner: Lying(inner, ignores=("if_none_match",)),
    "ignores ETags": lambda inner: Lying(inner, ignores=("if_match",)),
    "knows no ETags": NoCompare,
}


def settings(holder: str = "cluster/team-a/policy/1") -> ClaimSettings:
    """Return short-lived settings."""
    return ClaimSettings(holder, "cluster", ttl_seconds=TTL_SECONDS, request_timeout_seconds=TIMEOUT_SECONDS)


def claim_of(world: World, backend: Any = None, holder: str = "cluster/team-a/policy/1") -> StoreClaim:
    """Return a claim in fake time that nobody renews."""
    return StoreClaim(
        world.store if backend is None else backend,
        settings(holder),
        monotonic=world.time.monotonic,
        sleep=world.time.sleep,
        in_background=False,
    )


def assert_lost(claim: StoreClaim, words: str = "does not hold") -> None:
    """Assert that nothing may be deleted any more, and why."""
    with pytest.raises(PassStoppedError, match=words) as caught:
        claim.check()
    assert caught.value.reason is StoppedBy.CLAIM_LOST
    assert claim.remaining_seconds <= 0


def stored(world: World) -> dict[str, Any]:
    """Return the claim's document."""
    with world.store.get_object(CLAIM_KEY) as found:
        return json.loads(found.read())


class TestHolding:
    """What a holder may do, and until when."""

    def test_a_claim_is_written_checked_and_given_back(self, world: World) -> None:
        """Inside the context deletions may be sent; afterwards the object is gone and they may not."""
        with claim_of(world) as claim:
            claim.check()
            document = stored(world)
            assert claim.is_proven
            assert document["holder"] == "cluster/team-a/policy/1"
            assert document["cluster"] == "cluster"
            assert document["expiresAt"] == (START + timedelta(seconds=TTL_SECONDS)).isoformat()

        assert world.all_keys() == []
        assert_lost(claim, "given back")

    def test_it_counts_until_a_margin_before_its_end(self, world: World) -> None:
        """A deletion sent at the last moment has come to its end before another may take over."""
        claim = claim_of(world)
        claim.acquire()
        world.time.advance(TTL_SECONDS - MARGIN_SECONDS - 0.001)
        claim.check()
        world.time.advance(0.002)

        assert_lost(claim, "not be renewed in time")

    def test_it_is_reckoned_from_before_the_request(self, world: World) -> None:
        """What the request itself takes is not added to the claim's life."""
        world.latency_seconds = world.backend.latency_seconds = 2.0
        slow = Failing(world.store)
        put = slow.inner.put_object

        def late(*args: Any, **facts: Any) -> str:
            etag = put(*args, **facts)
            world.time.advance(2.0)
            return etag

        slow.inner = type("Slow", (), {"__getattr__": lambda _, name: getattr(world.store, name)})()
        slow.inner.put_object = late
        claim = claim_of(world, slow)
        began = world.time.seconds
        claim.acquire()

        assert claim.remaining_seconds <= began + TTL_SECONDS - MARGIN_SECONDS - world.time.seconds

    def test_a_renewal_extends_it(self, world: World) -> None:
        """As long as renewals succeed, it goes on."""
        claim = claim_of(world)
        claim.acquire()
        for _ in range(20):
            world.time.advance(TTL_SECONDS / 2)
            claim.renew()
            claim.check()

        assert stored(world)["sequence"] > 20

    def test_lost_is_lost_for_ever(self, world: World) -> None:
        """A renewal after the end changes nothing, also where nobody has taken over."""
        claim = claim_of(world)
        claim.acquire()
        world.time.advance(TTL_SECONDS)
        claim.renew()

        assert_lost(claim)
        claim.renew()
        assert_lost(claim)

    def test_a_claim_is_made_once(self, world: World) -> None:
        """Another try needs another claim, with a token of its own."""
        claim = claim_of(world)
        with claim, pytest.raises(ClaimedError, match="made before"):
            claim.acquire()

    def test_without_one_nothing_is_deleted(self, world: World) -> None:
        """A claim that was not made permits nothing."""
        assert_lost(claim_of(world), "never made")

    def test_a_pass_asks_it_before_each_deletion(self, world: World) -> None:
        """When the claim ends in the middle of a pass, the pass ends before its next deletion."""
        for number in range(4):
            world.fill(f"outputs/a/r{number}/", 600, age_days=100)
        claim = claim_of(world)
        claim.acquire()
        sent: list[int] = []

        def stand_still(_index: int, kind: str, keys: tuple[str, ...]) -> None:
            if kind == "batch":
                sent.append(len(keys))
                world.time.advance(TTL_SECONDS)

        world.backend.after = stand_still
        report = world.run(spec_of(max_scan=10_000, max_delete=5_000), permits=(claim,))

        assert report.stopped_by is StoppedBy.CLAIM_LOST
        assert len(sent) == 1
        assert len(world.all_keys("outputs/")) == 2400 - sent[0]


class TestOthers:
    """Who else wants the store, and who is told what."""

    def test_another_is_told_who_has_it_since_when_until_when_and_the_way_out(self, world: World) -> None:
        """One message answers all that an operator asks."""
        with claim_of(world), pytest.raises(ClaimedError) as caught:
            claim_of(world, holder="another").acquire()

        text = str(caught.value)
        for part in (
            "memory://",
            "cluster/team-a/policy/1",
            "since 2030-01-01T12:00:00Z",
            "until 2030-01-01T12:00:30Z",
            "lock show",
            "lock break",
        ):
            assert part in text

    def test_it_is_taken_over_after_its_end_and_a_tolerance(self, world: World) -> None:
        """Not a moment earlier; the one who had it finds out and leaves the other's alone."""
        first, second = claim_of(world, holder="first"), claim_of(world, holder="second")
        first.acquire()
        world.time.advance(TTL_SECONDS + CLOCK_TOLERANCE_SECONDS)
        with pytest.raises(ClaimedError, match="first"):
            claim_of(world, holder="early").acquire()
        world.time.advance(0.001)
        second.acquire()
        first.renew()
        first.release()

        second.check()
        assert_lost(first)
        assert stored(world)["holder"] == "second"
        assert world.all_keys() == [CLAIM_KEY]

    def test_a_holder_that_is_overtaken_while_valid_stops(self, world: World) -> None:
        """Whatever went wrong with clocks, the renewal that is refused ends the claim and names the other."""
        first = claim_of(world, holder="first")
        first.acquire()
        world.store.delete_object(CLAIM_KEY)
        claim_of(world, holder="second").acquire()
        first.renew()

        assert_lost(first, "second")

    def test_a_claim_that_somebody_removed_is_lost(self, world: World) -> None:
        """Breaking a claim ends its holder at the next renewal."""
        claim = claim_of(world)
        claim.acquire()
        world.store.delete_object(CLAIM_KEY)
        claim.renew()

        assert_lost(claim, "removed")
        assert world.all_keys() == []

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_the_claimers_own_clock_does_not_matter(self, world: World, hours: int) -> None:
        """Expiry goes by the store's clock, validity by time passed: a clock an hour off changes nothing."""
        first = claim_of(world, holder="first")
        first.acquire()
        off = StoreClaim(
            world.store,
            settings("off"),
            monotonic=lambda: world.time.seconds + hours * 3600,
            in_background=False,
        )
        with pytest.raises(ClaimedError, match="first"):
            off.acquire()

    def test_both_of_the_stores_clocks_must_say_that_it_is_over(self, world: World) -> None:
        """A proxy's date an hour ahead takes nobody's claim, nor does a machine's before a network file."""
        ahead = Failing(world.store)
        ahead.server_time = lambda: world.store.server_time() + timedelta(hours=1)  # type: ignore[method-assign]
        first = claim_of(world, holder="first")
        first.acquire()
        with pytest.raises(ClaimedError, match="first"):
            claim_of(world, ahead, holder="second").acquire()

        first.check()
        assert world.all_keys() == [CLAIM_KEY]

    def test_the_end_is_reckoned_from_the_stores_own_date(self, world: World) -> None:
        """A holder that wrote a date long past, as after a sleep, is not taken over before its time."""
        first = claim_of(world, holder="first")
        first.acquire()
        document = stored(world) | {"expiresAt": (START - timedelta(hours=1)).isoformat()}
        world.store.put_object(CLAIM_KEY, json.dumps(document).encode())
        world.time.advance(TTL_SECONDS - 1)
        with pytest.raises(ClaimedError, match="first"):
            claim_of(world, holder="second").acquire()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b'"claim"',
            b'{"version": 2}',
            b"\xff\xfe",
            b"[" * 10_000,
            b"x" * (MAX_DOCUMENT_BYTES + 100),
        ],
    )
    def test_what_cannot_be_read_is_never_taken_over(self, world: World, content: bytes) -> None:
        """Nobody can tell whose it is: it stays until somebody removes it, and the error says how."""
        world.store.put_object(CLAIM_KEY, content)
        world.time.advance(1e6)
        with pytest.raises(ClaimedError, match=r"unreadable claim.*lock break"):
            claim_of(world).acquire()

        with world.store.get_object(CLAIM_KEY) as found:
            assert found.read() == content

    @pytest.mark.parametrize(
        "change",
        [
            {"ttlSeconds": 1e12},
            {"ttlSeconds": True},
            {"ttlSeconds": -1},
            {"sequence": "1"},
            {"expiresAt": "2030-01-01T12:00:00"},
            {"expiresAt": 5},
            {"holder": None},
            {"version": True, "token": 1},
        ],
    )
    def test_a_field_out_of_range_makes_it_unreadable(self, world: World, change: dict[str, Any]) -> None:
        """A document with a wrong field is no document."""
        with claim_of(world):
            document = stored(world) | change
        world.store.put_object(CLAIM_KEY, json.dumps(document).encode())
        found = look_at_claim(world.store)

        assert found is not None
        assert found.document is None
        assert not found.is_expired(START + timedelta(days=1000))

    def test_texts_of_others_are_made_fit_for_a_message(self, world: World) -> None:
        """Control characters and endless names of a claim do not reach a terminal."""
        with claim_of(world):
            document = stored(world) | {"holder": "\x1b[2J" + "x" * 5000}
            world.store.put_object(CLAIM_KEY, json.dumps(document).encode())
            with pytest.raises(ClaimedError) as caught:
                claim_of(world).acquire()

        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 1000

    def test_of_two_at_once_one_gets_it(self, world: World) -> None:
        """The one whose put is refused is told who was faster."""
        late = Failing(world.store)
        winner = claim_of(world, holder="winner")
        get = world.store.get_object
        late.get_object = lambda *args, **facts: _after(get, winner.acquire, args, facts)  # type: ignore[method-assign]
        with pytest.raises(ClaimedError, match="winner"):
            claim_of(world, late, holder="loser").acquire()

        winner.check()
        assert stored(world)["holder"] == "winner"


def _after(act: Any, then: Any, args: Any, facts: Any) -> Any:
    """Do something between a request's effect and its answer, the first time."""
    try:
        return act(*args, **facts)
    finally:
        with contextlib.suppress(ClaimedError):
            then()


class TestTrouble:
    """Stores that fail, and settings that cannot work."""

    def test_a_renewal_whose_answer_is_lost_is_found_again(self, world: World) -> None:
        """The store has our newer claim; the next renewal goes on from it."""
        backend = Failing(world.store)
        claim = claim_of(world, backend)
        claim.acquire()
        backend.after, backend.errors = True, {Operation.PUT: UnavailableError("lost")}
        world.time.advance(10)
        with pytest.raises(UnavailableError):
            claim.renew()
        backend.errors = {}
        claim.renew()
        world.time.advance(TTL_SECONDS - MARGIN_SECONDS - 0.1)

        claim.check()

    def test_a_store_that_is_away_for_long_ends_the_claim(self, world: World) -> None:
        """Renewals are tried until the claim counts no more, and no longer."""
        backend = Failing(world.store)
        claim = claim_of(world, backend)
        claim.acquire()
        backend.errors = {Operation.PUT: UnavailableError("away")}
        tries = 0
        while claim.remaining_seconds > 0:
            with pytest.raises(UnavailableError):
                claim.renew()
            tries += 1
            world.time.advance(2)
        calls = len(backend.calls)
        claim.renew()

        assert tries == 12
        assert len(backend.calls) == calls
        assert_lost(claim)

    def test_an_acquisition_whose_answer_is_lost_ends_by_itself(self, world: World) -> None:
        """It is not taken away: on a store without conditions it may lie over a claim that counts."""
        backend = Failing(world.store)
        backend.after, backend.errors = True, {Operation.PUT: UnavailableError("lost")}
        claim = claim_of(world, backend)
        with pytest.raises(UnavailableError):
            claim.acquire()
        claim.release()

        assert_lost(claim)
        assert world.all_keys() == [CLAIM_KEY]
        world.time.advance(TTL_SECONDS + CLOCK_TOLERANCE_SECONDS + 0.1)
        claim_of(world).acquire()

    @pytest.mark.parametrize("operation", [Operation.GET, Operation.PUT])
    def test_a_missing_permission_is_named(self, world: World, operation: Operation) -> None:
        """Who may not write the claim is told what has to be allowed."""
        backend = Failing(world.store)
        backend.errors = {operation: PermissionDeniedError("access denied")}
        with pytest.raises(ClaimedError, match=r"\.bubu/retention/.*s3:PutObject.*s3:DeleteObject"):
            claim_of(world, backend).acquire()

    def test_a_claim_that_cannot_be_given_back_ends_by_itself(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Giving back never fails the pass that is over."""
        backend = Failing(world.store)
        with claim_of(world, backend):
            backend.errors = {Operation.DELETE: UnavailableError("away")}

        assert "ends by itself" in caplog.text
        assert world.all_keys() == [CLAIM_KEY]

    def test_one_that_counts_no_more_is_not_given_back(self, world: World) -> None:
        """It may be another's by the time the deletion arrives."""
        with claim_of(world):
            world.time.advance(TTL_SECONDS - MARGIN_SECONDS)

        assert world.all_keys() == [CLAIM_KEY]

    @pytest.mark.parametrize(
        ("ttl", "timeout"), [(30, 10), (0, 1), (float("inf"), 1), (1e6, 1), (30, 0), (30, float("nan"))]
    )
    def test_a_claim_too_short_for_its_requests_is_refused(self, ttl: float, timeout: float) -> None:
        """It would be over before a renewal; so are times that are none."""
        with pytest.raises(ConfigurationError):
            ClaimSettings("me", ttl_seconds=ttl, request_timeout_seconds=timeout)

    def test_a_holder_has_a_name(self) -> None:
        """Nobody could be asked about a claim without one."""
        with pytest.raises(ConfigurationError, match="holder"):
            ClaimSettings("  ")

    @pytest.mark.parametrize("timeout", [1.0, 30.0, 300.0])
    def test_fitting_settings_leave_time_for_two_failures(self, timeout: float) -> None:
        """Whatever the store's timeout, two renewals may fail before the claim counts no more."""
        fitting = ClaimSettings.fitting("me", request_timeout_seconds=timeout)

        assert fitting.ttl_seconds >= 60
        assert 3 * fitting.renew_every_seconds <= fitting.ttl_seconds - fitting.margin_seconds


@pytest.mark.parametrize("liar", LIARS)
class TestWithoutConditions:
    """Stores that do not honour conditional requests."""

    def test_it_is_noticed_and_said(self, world: World, liar: str, caplog: pytest.LogCaptureFixture) -> None:
        """Each kind of lie is found out before the claim counts, and the log says what that means."""
        claim = claim_of(world, LIARS[liar](world.store))
        with claim:
            claim.check()
            assert not claim.is_proven
            assert world.time.slept == [SETTLE_SECONDS]

        assert "does not honour conditional requests" in caplog.text
        assert world.all_keys() == []

    def test_it_is_renewed_and_keeps_others_out(self, world: World, liar: str) -> None:
        """The claim is weaker, but still one."""
        backend = LIARS[liar](world.store)
        claim = claim_of(world, backend)
        claim.acquire()
        for _ in range(5):
            world.time.advance(TTL_SECONDS / 2)
            claim.renew()
            claim.check()
            with pytest.raises(ClaimedError, match="team-a"):
                claim_of(world, backend, holder="another").acquire()

    def test_it_is_taken_over_when_it_is_over(self, world: World, liar: str) -> None:
        """A crashed holder's claim does not last for ever."""
        backend = LIARS[liar](world.store)
        first, second = claim_of(world, backend, holder="first"), claim_of(world, backend, holder="second")
        first.acquire()
        world.time.advance(TTL_SECONDS + CLOCK_TOLERANCE_SECONDS + 0.1)
        second.acquire()
        first.renew()

        second.check()
        assert_lost(first)
        assert stored(world)["holder"] == "second"

    def test_who_is_overwritten_while_it_settles_gives_up(self, world: World, liar: str) -> None:
        """The later writer is seen by the earlier one."""
        backend = LIARS[liar](world.store)
        other = claim_of(world, holder="other")

        def sleep(seconds: float) -> None:
            world.time.advance(seconds)
            world.store.delete_object(CLAIM_KEY)
            other.acquire()

        claim = StoreClaim(
            backend, settings("slow"), monotonic=world.time.monotonic, sleep=sleep, in_background=False
        )
        with pytest.raises(ClaimedError, match="other"):
            claim.acquire()

        assert_lost(claim)
        assert stored(world)["holder"] == "other"

    def test_who_is_too_slow_gives_up(self, world: World, liar: str) -> None:
        """Others wait so long and no longer for who may be writing."""
        slow = Failing(LIARS[liar](world.store))
        around = slow._around
        slow._around = lambda call, act: (world.time.advance(2), around(call, act))[1]  # type: ignore[method-assign]
        claim = claim_of(world, slow)
        with pytest.raises(ClaimedError, match=r"conditional requests.*within 5 s"):
            claim.acquire()

        assert_lost(claim)

    def test_a_slow_renewal_loses_the_claim(self, world: World, liar: str) -> None:
        """Between reading and writing it may have been broken and taken."""
        slow = Failing(LIARS[liar](world.store))
        claim = claim_of(world, slow)
        claim.acquire()
        around = slow._around
        slow._around = lambda call, act: (world.time.advance(3), around(call, act))[1]  # type: ignore[method-assign]
        claim.renew()

        assert_lost(claim, "took so long")


class TestOnRealClocks:
    """The background thread, and threads that race."""

    def test_the_background_keeps_it(self, world: World) -> None:
        """Renewals happen by themselves, and stop when the claim is given back."""
        brief = ClaimSettings("me", ttl_seconds=8.0, request_timeout_seconds=0.2)
        with StoreClaim(world.store, brief) as claim:
            deadline = time.monotonic() + 60
            while stored(world)["sequence"] < 3 + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
                claim.check()
            assert stored(world)["sequence"] >= 5

        assert world.all_keys() == []
        assert not [one for one in threading.enumerate() if one.name == "store-claim"]

    def test_the_background_ends_a_claim_that_is_broken(self, world: World) -> None:
        """Without anybody calling anything but `check`."""
        brief = ClaimSettings("me", ttl_seconds=8.0, request_timeout_seconds=0.2)
        with StoreClaim(world.store, brief) as claim:
            world.store.delete_object(CLAIM_KEY)
            deadline = time.monotonic() + 60
            while claim.remaining_seconds > 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert_lost(claim, "removed")

    def test_many_threads_one_claim(self, tmp_path: Path) -> None:
        """On a directory, of many that claim at the same moment exactly one gets it."""
        start = threading.Barrier(8)
        won: list[StoreClaim] = []
        refused: list[str] = []

        def run(number: int) -> None:
            claim = StoreClaim(FileBackend(tmp_path), settings(f"claimer {number}"))
            start.wait()
            try:
                claim.acquire()
            except ClaimedError as error:
                refused.append(str(error))
            else:
                won.append(claim)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(won) == 1
        assert len(refused) == 7
        won[0].check()
        won[0].release()
        with pytest.raises(ObjectNotFoundError):
            FileBackend(tmp_path).head_object(CLAIM_KEY)

    def test_a_check_costs_next_to_nothing(self, world: World) -> None:
        """It is asked before each deletion: no request is made for it."""
        backend = Failing(world.store)
        with StoreClaim(backend, settings()) as claim:
            calls = len(backend.calls)
            for _ in range(1000):
                claim.check()
            assert len(backend.calls) == calls
