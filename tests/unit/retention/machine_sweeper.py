"""The operator of one cluster in simulated time: a process that sweeps, stands still, dies and starts anew.

A whole pass (claim, registration, `run_pass`) runs in a thread of its own, but only one thread runs at a
time, from one *point* to the next: before, within and after each request, after each permit, and while
owners are looked up. At a point a sweeper may be stopped as by SIGSTOP, may crash, and anything may happen
to the world. So a failing example is the same each time.

With several deletions in flight (`Sweeper.concurrency`) the threads of a pass run as they like, and only
their requests take turns; time that a plan lets pass then counts for the whole process, as if it had stood
still.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bubu_storage.errors import ClaimedError, OwnersUnknownError, StorageError
from bubu_storage.retention.claim import ClaimSettings, StoreClaim
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.owners import OwnerView
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.registration import foreign_clusters, register
from bubu_storage.retention.report import PassReport, RunOutcome
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import PassSpec
from bubu_storage.testing.fakes import SimulatedCrash
from tests.unit.retention.machine_store import TIMEOUT_SECONDS, BatchClient, Client, failure

if TYPE_CHECKING:
    pass

from tests.unit.retention.machine_world import START, Cluster, World

Step = tuple[int, tuple[Any, ...]]
"""When, in points of a pass, or in permits if it is negative, and what happens then."""


class _EndedError(BaseException):
    """Ends a sweeper's thread when the machine is torn down."""


class Sweeper:
    """The operator of one cluster: its process, its clocks, what it remembers from pass to pass."""

    def __init__(self, world: World, cluster: Cluster, spec: PassSpec, *, boot_offset: float) -> None:
        self.world = world
        self.cluster = cluster
        self.spec = spec
        self.boot_offset = boot_offset
        self.wall_offset = 0.0
        self.owners_mood = "fresh"
        self.knows_owners = True
        self.conditional = False
        self.concurrency = 1
        self._reading = threading.local()
        self.saved = {True: Cursor(), False: Cursor()}
        self.older: list[Cursor] = []
        self.cache = ReferenceCache()
        self.claim: StoreClaim | None = None
        self.reset()
        self.wake_at = 0.0
        self.is_running = False
        self._thread: threading.Thread | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        self._failure: BaseException | None = None

    def reset(self) -> None:
        """Forget the pass before."""
        self.plan: list[Step] = []
        self.points = self.checks = 0
        self.in_pass = False
        self.is_stopping = False
        self.error: StorageError | None = None
        self.lie = ""
        self.now: PassSpec = self.spec
        self.frozen: list[tuple[float, float]] = []
        self.began_with = Cursor()
        self.pass_began: datetime | None = None
        self.prepared_at = self.world.seconds
        self.was_shared = False
        self.views: list[OwnerView] = []
        self.known_protected: set[str] = set()
        self.told_last: set[str] = set()
        self.listed = 0
        self.slowest = 0.0
        self.was_mixed_up = False
        self.carried_out: set[str] = set()
        self.outcomes: list[RunOutcome] = []
        self.report: PassReport | None = None
        self.ended_as = ""
        self._renew_at = 0.0

    # ---- time

    def monotonic(self) -> float:
        """Return seconds since this machine was started: they never jump."""
        self._reading.at = self.world.seconds
        return self._reading.at + self.boot_offset

    @property
    def known_seconds(self) -> float:
        """The time as the present thread knows it: others may have spent some since it looked."""
        return self.world.seconds if self.concurrency == 1 else getattr(self._reading, "at", 0.0)

    def wall_clock(self) -> datetime:
        """Return the time of this machine, which is wrong."""
        return START + timedelta(seconds=self.world.seconds + self.wall_offset)

    def sleep(self, seconds: float) -> None:
        """Wait while others go on."""
        self._wait_until(self.world.seconds + seconds)
        self.point()

    def awake_seconds(self, since: float, until: float) -> float:
        """Return how much time passed without that between the last check and a request."""
        return (
            until - since - sum(max(0.0, min(end, until) - max(start, since)) for start, end in self.frozen)
        )

    def _wait_until(self, when: float) -> None:
        if self.is_running:
            self.wake_at = when
            self._yield()
        else:
            self.world.seconds = max(self.world.seconds, when)
            self.world.oracle.touch()

    # ---- taking turns

    def start(self, *, dry_run: bool, plan: Sequence[Step]) -> None:
        """Begin a pass in a thread, which waits for its first step."""
        self._prepare(dry_run=dry_run, plan=plan)
        self.is_running = True
        self.wake_at = self.world.seconds
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def run(self, *, dry_run: bool, plan: Sequence[Step] = ()) -> None:
        """Run a pass alone."""
        if plan and self.concurrency == 1:
            self.start(dry_run=dry_run, plan=plan)
            self.world.run_together([])
        else:
            self._prepare(dry_run=dry_run, plan=plan)
            self._live()

    def step(self) -> None:
        """Let it go on to its next point."""
        self._go.release()
        assert self._paused.acquire(timeout=60)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def end(self) -> None:
        """End a pass in the middle of which the machine is torn down."""
        if self._thread is not None and self._thread.is_alive():
            self._ending = True
            self._go.release()
            self._thread.join(60)

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._ending:
                self._live()
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            self._failure = error
        self.is_running = False
        self._paused.release()

    def _yield(self) -> None:
        if self._ending:
            raise _EndedError
        self._paused.release()
        self._go.acquire()
        if self._ending:
            raise _EndedError

    def point(self, *, is_call: bool = False, is_check: bool = False) -> None:
        """Do what the plan says for this moment; let others go on."""
        if self.concurrency == 1:
            self._take_steps(is_check=is_check)
        else:
            with self.world.lock:
                began = self.world.seconds
                self._take_steps(is_check=is_check)
                if self.world.seconds > began:
                    self.frozen.append((began, self.world.seconds))
        if self.is_running:
            self._yield()
        if is_call and self.error is not None:
            error, self.error = self.error, None
            raise error

    def _take_steps(self, *, is_check: bool) -> None:
        """Count this point, and do what is planned for it; a freeze lets others go on meanwhile."""
        self.points += 1
        self.checks += is_check
        for step in [step for step in self.plan if self._is_now(step[0])]:
            self.plan.remove(step)
            self._act(*step[1])

    def _is_now(self, when: int) -> bool:
        """Tell whether the time of a step has come: a point; or, if negative, that many permits."""
        return self.points >= when if when > 0 else self.checks >= -when

    def _act(self, what: str, *how: Any) -> None:
        self.world.say(f"in a pass: {what}")
        world = self.world
        match what:
            case "put":
                world.put(*how)
            case "remove":
                world.remove(*how)
            case "owner":
                world.oracle.set_owner(*how)
            case "arrival":
                world.oracle.set_owner(*how)
                self._let_pass(12.0)
            case "departure":
                uid, number = how
                live = sorted(name for name, owner in world.oracle.clusters[uid].owners.items() if owner.live)
                if live:
                    world.oracle.set_owner(uid, live[number % len(live)], None)
                    self._let_pass(12.0)
            case "visit":
                world.put(how[0])
                self._let_pass(40.0)
            case "stall":
                self._let_pass(how[0])
            case "freeze":
                self._wait_until(world.seconds + how[0])
            case "clock":
                self.wall_offset = how[0]
            case "mood":
                self.owners_mood = how[0]
            case "lie":
                self.lie = how[0]
            case "stop":
                self.is_stopping = True
            case "crash":
                raise SimulatedCrash
            case _:
                self.error = failure(how[0])

    def _let_pass(self, seconds: float) -> None:
        self.world.seconds += seconds
        self.world.oracle.touch()

    # ---- a pass

    def _prepare(self, *, dry_run: bool, plan: Sequence[Step]) -> None:
        self.reset()
        self.plan = sorted(plan, key=lambda step: step[0])
        self.now = replace(self.spec, dry_run=dry_run)
        self.began_with = self.saved[dry_run]

    def _live(self) -> None:
        try:
            self._sweep()
            self.ended_as = "over"
        except SimulatedCrash:
            self.ended_as = "crashed"
        except ClaimedError:
            self.ended_as = "claimed by another"
        except (StorageError, PassStoppedError):
            self.ended_as = "failed before it began"
        finally:
            self.claim = None
        self.world.say(f"pass: {self.ended_as}")
        self.world.oracle.end_of_pass(self)

    def _sweep(self) -> None:
        backend = (BatchClient if self.world.batch else Client)(self)
        if self.now.dry_run:
            self._pass(backend, ())
            return
        settings = ClaimSettings(
            self.cluster.uid, self.cluster.uid, ttl_seconds=60.0, request_timeout_seconds=TIMEOUT_SECONDS
        )
        claim = StoreClaim(backend, settings, monotonic=self.monotonic, sleep=self.sleep, in_background=False)
        claim.acquire()
        self.claim = claim
        self._renew_at = self.monotonic() + settings.renew_every_seconds
        self.world.say(f"claim: {'proven' if claim.is_proven else 'by times alone'}")
        try:
            register(backend, self.cluster.uid)
            self._pass(backend, (_RenewedClaim(self, claim, settings),))
        except SimulatedCrash:
            # A process that died gives nothing back.
            raise
        except BaseException:
            claim.release()
            raise
        claim.release()

    def _pass(self, backend: Client, permits: tuple[Any, ...]) -> None:
        self.was_shared = self.world.oracle.is_shared(self.cluster.uid)
        shared = bool(foreign_clusters(backend, self.cluster.uid))
        self.in_pass = True
        try:
            report = run_pass(
                backend,
                self.now,
                self.saved[self.now.dry_run],
                monotonic=self.monotonic,
                sleep=self.sleep,
                wall_clock=self.wall_clock,
                on_checkpoint=self._keep,
                on_run=self.outcomes.append,
                should_stop=lambda: self.is_stopping,
                owners=Source(self) if self.knows_owners else None,
                permits=permits,
                shared_store=shared,
                reference_cache=self.cache,
                conditional_batches=self.conditional and not self.now.dry_run,
                concurrency=self.concurrency,
            )
        finally:
            self.in_pass = False
        self.report = report
        self._keep(report)

    def _keep(self, report: PassReport) -> None:
        cursor = Cursor.from_dict(json.loads(json.dumps(report.cursor.to_dict())))
        self.world.oracle.passed(self, cursor)
        self.saved[self.now.dry_run] = cursor
        if not self.now.dry_run:
            self.older = [*self.older[-5:], cursor]

    def renew(self, claim: StoreClaim, settings: ClaimSettings) -> None:
        """Do what the thread does that renews a claim."""
        if self.monotonic() >= self._renew_at:
            self._renew_at = self.monotonic() + settings.renew_every_seconds
            try:
                claim.renew()
            except StorageError:
                self._renew_at = self.monotonic() + 1.0


@dataclass
class _RenewedClaim:
    """The permit of a pass; another may go on between its check and the request."""

    sweeper: Sweeper
    claim: StoreClaim
    settings: ClaimSettings

    def check(self) -> None:
        """See `Permit`."""
        sweeper = self.sweeper
        began = sweeper.world.seconds
        # In truth another thread does this, and nobody waits for it.
        sweeper.renew(self.claim, self.settings)
        self.claim.check()
        checked_at = sweeper.world.seconds
        sweeper.point(is_check=True)
        if sweeper.concurrency == 1 and began < sweeper.world.seconds:
            sweeper.frozen.append((began, sweeper.world.seconds))
        if sweeper.world.seconds > checked_at:
            sweeper.world.say("time passed between a check and its request")


class Source:
    """Looks at the owners of a cluster, in the mood that the sweeper is in."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        self.last: OwnerView | None = None

    def observe(self, not_before: float) -> OwnerView:
        """See `OwnerSource`."""
        sweeper = self.sweeper
        sweeper.point()
        mood = sweeper.owners_mood
        sweeper.world.say(f"owners: {mood}")
        if mood == "unknown":
            raise OwnersUnknownError("the API server does not answer")
        if mood == "watched" and self.last is not None and self.last.observed_at >= not_before:
            return self._note(self.last)
        began = sweeper.monotonic()
        if mood == "slow":
            sweeper.world.seconds += 4.0
            sweeper.world.oracle.touch()
        # What is seen is seen at some moment after the observation began.
        self.last = sweeper.cluster.view(began)
        sweeper.point()
        if mood == "very slow":
            sweeper.world.seconds += 11.0
            sweeper.owners_mood = "fresh"
        return self._note(self.last)

    def _note(self, view: OwnerView) -> OwnerView:
        with self.sweeper.world.lock:
            self.sweeper.views.append(view)
            self.sweeper.world.oracle.observed(self.sweeper, view)
        return view
