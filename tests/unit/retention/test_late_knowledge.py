"""What is learnt while a deletion waits for its turn: it is not sent by what was known before."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bubu_storage.backend.types import ListPage
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import boot_seconds
from tests.unit.retention.test_judge import LIVE
from tests.unit.retention.test_owned_passes import OwnedWorld
from tests.unit.retention.test_pipeline import Busy
from tests.unit.retention.world import spec_of


class Slow(Busy):
    """A store whose third page comes only when a deletion waits, and whose clock can be put forward."""

    def __init__(self) -> None:
        super().__init__(8, 500)
        self.ahead = 0.0
        self.is_waiting = threading.Event()
        self.pages = 0

    def monotonic(self) -> float:
        """Seconds of the pass."""
        return boot_seconds() + self.ahead

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """The first page is listed when the first look at the owners is 8 s old."""
        for page in super().list_objects(prefix, start_after=start_after, page_size=page_size):
            self.ahead = max(self.ahead, 8.0)
            self.pages += 1
            assert self.pages < 3 or self.is_waiting.wait(60)
            yield page


def test_a_batch_that_waited_while_owners_were_looked_up_again_is_judged_again():
    """It was judged by a look that is too old by now; the newer one protects one of its runs."""
    store = Slow()
    looked_again = threading.Event()

    class Owners:
        views = 0

        def observe(self, not_before: float) -> OwnerView:
            """The second look shows the first run to be live."""
            del not_before
            self.views += 1
            if self.views > 1:
                looked_again.set()
            owners = {"a/r00000": OwnerFacts(live=True)} if self.views > 1 else {}
            return OwnerView(self.views, store.monotonic(), owners)

    class Permit:
        def check(self) -> None:
            """Take long once, until the owners have been looked up again."""
            if not store.is_waiting.is_set():
                store.ahead = 11.0
                store.is_waiting.set()
                assert looked_again.wait(60)

    report = store.run(
        owners=Owners(), permits=[Permit()], monotonic=store.monotonic, budget_seconds=500.0, concurrency=4
    )

    assert report.stopped_by is StoppedBy.END_OF_CYCLE
    assert {key.split("/")[2] for key in store.world.all_keys()} == {"r00000"}
    assert len(store.world.all_keys()) == 500
    assert report.by_reason[Reason.KEPT_LIVE].objects == 500
    assert report.attempted == report.deleted.objects == 3500


@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_what_is_learnt_while_a_request_waits_for_its_turn_counts(rate: float):
    """A low request rate: the look at the owners may be old when the turn comes, and is made again then."""
    owned = OwnedWorld()
    owned.fill("outputs/a/r1/", 3, 40)
    owned.fill("outputs/a/r2/", 3, 40)
    spec = spec_of(requests_per_second=rate, budget_seconds=100_000.0, max_scan=100, max_delete=100)
    oldest = [0.0]

    def note(_index: int, kind: str, _keys: tuple[str, ...]) -> None:
        if kind in {"batch", "delete"}:
            oldest[0] = max(oldest[0], owned.time.seconds - owned.owners.last.observed_at)

    owned.backend.before = note
    report = owned.run(spec)

    assert report.complete_cycle
    assert report.deleted.objects == 6
    assert oldest[0] <= 10.0


def test_a_run_that_becomes_live_while_a_request_waits_for_its_turn_is_spared():
    """The turn comes twenty seconds later; by then the first run has an owner."""
    owned = OwnedWorld()
    owned.fill("outputs/a/r1/", 3, 40)
    owned.fill("outputs/a/r2/", 3, 40)
    spec = spec_of(requests_per_second=0.05, budget_seconds=100_000.0, max_scan=100, max_delete=100)
    observe = owned.owners.observe

    def grow(not_before: float):
        if owned.time.seconds > 1050:
            owned.owners.set(r1=LIVE)
        return observe(not_before)

    owned.owners.observe = grow
    report = owned.run(spec)
    while not report.complete_cycle:
        report = owned.run(spec)

    assert owned.backend.deletions == [f"outputs/a/r2/o{number:05}" for number in range(3)]
    assert owned.all_keys() == [f"outputs/a/r1/o{number:05}" for number in range(3)]
