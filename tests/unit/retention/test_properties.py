"""Random stores, clocks, limits, crashes and concurrent writers: what must stay stays, what must go goes.

The oracle knows when each run was last due as a whole. A deletion is wrong if its run was not
due at any moment of the few seconds that listings count as fresh, or if the object itself was
not old enough at any moment of them.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bubu_storage.errors import PermissionDeniedError, ThrottledError, UnavailableError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.relist import FRESH_SECONDS
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.rules import FUTURE_TOLERANCE_SECONDS
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.testing.fakes import SimulatedCrash
from tests.unit.retention.world import DAY, World

RUNS = (
    "outputs/a/r1/",
    "outputs/a/r1-x/",
    "outputs/a/r2/",
    "outputs/a/r3/",
    "outputs/a/.bubu/",
    "inputs/a/r1/",
    "inputs/a/r9/",
    "outputs/b/r1/",
)
NAMES = ("", "a", "b/c", "b/d", "m", "z", "é", ".bubu/x")
LOOSE = ("outputs/a/readme", "outputs/a/", ".bubu/claim", "outputs/a//odd")
AGES = (0.0, 0.004, 0.9, 1.1, 5.0, 20.0, 29.9, 30.1, 61.0, 400.0, -1.0)

keys = st.one_of(
    st.tuples(st.sampled_from(RUNS), st.sampled_from(NAMES)).map("".join),
    st.sampled_from(LOOSE),
)
ages = st.sampled_from(AGES)


def keep_seconds(spec: PassSpec, run: str) -> float | None:
    """Return how long a run is kept, None for ever. Written anew, not with the code under test."""
    if not any(run.startswith(scope) for scope in spec.scopes) or ".bubu/" in run:
        return None
    keeps = [rule.keep_within_seconds for rule in spec.rules if run.startswith(rule.prefix)]
    return max(keeps, default=None) and max(*keeps, spec.min_age_seconds)


def run_of(key: str) -> str | None:
    """Return the run directory of a key: two segments and a name that is not empty."""
    parts = key.split("/")
    return "/".join(parts[:3]) + "/" if len(parts) > 3 and parts[2] else None


class Oracle:
    """Judges each deletion at the moment when it is made."""

    def __init__(self, world: World, spec: PassSpec) -> None:
        self.world = world
        self.spec = spec
        self.dates: dict[str, datetime] = {}
        self.young_since: dict[str, float] = {}
        self.run_kept_since: dict[str, float] = {}

    def is_old(self, key: str, run: str) -> bool:
        """Tell whether an object is old enough on its own."""
        limit = keep_seconds(self.spec, run)
        when = self.dates[key]
        if limit is None or when <= datetime(1970, 1, 1, tzinfo=UTC) or "/.bubu/" in key:
            return False
        return (self.world.time.now() - when).total_seconds() > limit

    def look(self) -> None:
        """Take note of the store as it is now."""
        now = self.world.time.seconds
        self.dates = {entry.key: entry.last_modified for entry in self.world.listed()}
        kept_runs: set[str] = set()
        for key in self.dates:
            run = run_of(key)
            if run is None:
                self.young_since[key] = -1.0
            elif self.is_old(key, run):
                self.young_since.pop(key, None)
            else:
                self.young_since.setdefault(key, now)
                kept_runs.add(run)
        for run in kept_runs:
            self.run_kept_since.setdefault(run, now)
        for run in set(self.run_kept_since) - kept_runs:
            del self.run_kept_since[run]

    def check(self, key: str, now: float) -> None:
        """Fail if this deletion, sent at ``now``, is wrong.

        How long a request is under way is beyond any client.
        """
        if key not in self.dates:
            return
        run = run_of(key)
        assert run is not None, f"{key} is in no run"
        backend = self.world.backend
        rate = self.spec.requests_per_second
        interval = 1 / rate if rate else 0.0
        window = 2 * FRESH_SECONDS + 6 * (backend.latency_seconds + interval) + 0.1
        assert now - self.young_since.get(key, now) <= window, f"{key} has not been old for {window} s"
        members = sum(1 for other in self.dates if run_of(other) == run)
        # The promise for whole runs is for those that a pass can list and delete as a whole.
        if members < self.spec.max_scan and members <= self.spec.max_delete:
            kept_for = now - self.run_kept_since.get(run, now)
            assert kept_for <= window, f"{key}: its run has been kept for {kept_for} s"

    def due_runs(self) -> set[str]:
        """Return the runs that must be gone in the end."""
        self.look()
        runs = {run for key in self.dates if (run := run_of(key)) is not None}
        return runs - set(self.run_kept_since)


def pass_bound(spec: PassSpec, members: dict[str, int], others: int) -> int:
    """Return in how many passes a cycle over a quiet store must end.

    Each pass either uses up its scan, or its deletions, or ends at a run that it leaves to
    the next one. A run costs its scan, a look again (at half speed in the worst case), and
    its deletion in instalments.
    """
    half = max(1, spec.max_scan // 2)
    passes = 2 + ceil(others / spec.max_scan)
    for count in members.values():
        passes += 3 + ceil((count + 1) / half) + ceil(count / min(spec.max_delete, half))
    return passes


actions = st.one_of(
    st.tuples(st.just("put"), keys, ages),
    st.tuples(st.just("put"), keys, st.just(0.0)),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("stall"), st.sampled_from([1.0, 6.0, 30.0])),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("error"), st.booleans(), st.sampled_from(["throttled", "unavailable", "denied"])),
    st.tuples(st.just("stop"), st.just(0)),
)
interference = st.lists(st.tuples(st.integers(0, 12), actions), min_size=1, max_size=7)


class Trouble:
    """What happens between and to the requests of one pass."""

    def __init__(self, machine: RetentionMachine, plan) -> None:
        self.machine = machine
        self.pending = sorted(plan, key=lambda step: step[0])
        self.start = machine.world.backend.calls
        self.sent: set[str] = set()
        self.removed: set[str] = set()
        self.late: list[BaseException] = []
        self.is_stopping = False

    def before(self, index: int, kind: str, called: tuple[str, ...]) -> None:
        """Interfere as planned; then let the oracle judge the request."""
        sent_at = self.machine.world.time.seconds
        while self.pending and index - self.start >= self.pending[0][0]:
            _, (what, *how) = self.pending.pop(0)
            if threading.current_thread() is threading.main_thread():
                event(f"interfered: {what}")
            self.interfere(what, how)
        oracle = self.machine.oracle
        oracle.look()
        if kind in {"delete", "batch"}:
            self.sent.update(called)
            for key in called:
                if kind == "delete" and (error := self.machine.refuse(key)):
                    raise error
                oracle.check(key, sent_at)

    def after(self, _index: int, _kind: str, _called: tuple[str, ...]) -> None:
        """Lose the answer if that was planned."""
        self.machine.oracle.look()
        if self.late:
            raise self.late.pop()

    def interfere(self, what: str, how: list) -> None:
        """Do one planned thing."""
        world = self.machine.world
        match what:
            case "put":
                self.machine.put(*how)
            case "remove":
                world.store.delete_object(how[0])
                self.removed.add(how[0])
            case "stall":
                world.time.advance(how[0])
            case "stop":
                self.is_stopping = True
            case _:
                error = SimulatedCrash() if what == "crash" else failure(how[1])
                if how[0]:
                    raise error
                self.late.append(error)


class RetentionMachine(RuleBasedStateMachine):
    """Passes among everything that can happen to a store.

    Attributes:
        concurrency: deletions in flight of each pass.
    """

    concurrency = 1

    @initialize(
        batch=st.booleans(),
        latency=st.sampled_from([0.01, 0.01, 0.7, 3.0]),
        max_scan=st.integers(1, 14),
        max_delete=st.integers(1, 9),
        rate=st.sampled_from([0.0, 0.0, 0.5, 4.0]),
        refused=st.frozensets(keys, max_size=2),
        short=st.sampled_from([1.0, 10.0, 60.0]),
        rules_on_inputs=st.booleans(),
    )
    def build(self, *, batch, latency, max_scan, max_delete, rate, refused, short, rules_on_inputs):
        """Choose the world and the policy."""
        self.world = World(batch=batch, latency_seconds=latency, concurrency=self.concurrency)
        rules = [
            RetentionRule("outputs/a/", 30 * DAY),
            RetentionRule("outputs/a/r2/", short * DAY),
        ]
        if rules_on_inputs:
            rules.append(RetentionRule("inputs/a/", 5 * DAY))
        self.spec = PassSpec(
            scopes=("outputs/a/", "inputs/a/"),
            rules=tuple(rules),
            max_scan=max_scan,
            max_delete=max_delete,
            requests_per_second=rate,
            budget_seconds=10_000,
            dry_run=False,
        )
        self.refused = refused
        self.oracle = Oracle(self.world, self.spec)
        self.saved = Cursor()
        self.sent: set[str] = set()
        if batch:
            self.world.backend.refuse = self.refuse
        for run in RUNS[:4]:
            for name in NAMES[:5]:
                self.put(run + name, 61.0)

    def refuse(self, key: str):
        """Keys that no store will ever let go."""
        return PermissionDeniedError("retained") if key in self.refused else None

    def put(self, key: str, age: float) -> None:
        """Store an object that looks so many days old."""
        self.world.store.put_object(key or "x", b"x")
        self.world.store.set_last_modified(key or "x", self.world.time.now() - timedelta(days=age))

    @rule(key=keys, age=ages)
    def write(self, key, age):
        """Somebody stores an object, or it turns up with an old date."""
        self.put(key, age)

    @rule(run=st.sampled_from(RUNS), age=ages, count=st.integers(1, 25))
    def write_large_run(self, run, age, count):
        """A run that is larger than the limits of a pass."""
        for number in range(count):
            self.put(f"{run}n{number:02}", age)

    @rule(days=st.sampled_from([0.01, 1.0, 12.0, 45.0]))
    def time_passes(self, days):
        """Runs grow old, also in the middle of their deletion."""
        self.world.time.advance(days * DAY)

    @rule(plan=interference)
    def enforce(self, plan):
        """A pass, while others write and the network and the process fail."""
        self.enforce_once(plan)

    def enforce_once(self, plan):
        """Nothing vanishes but what the pass sent for deletion or others removed."""
        before = {entry.key: entry for entry in self.world.listed()}
        removed = self.run_pass(self.spec, plan)
        gone = set(before) - {entry.key for entry in self.world.listed()}
        assert gone <= set(self.world.backend.deletions) | removed | self.sent

    @rule(plans=st.lists(interference, min_size=2, max_size=4))
    def enforce_several_times(self, plans):
        """Passes one after the other, each troubled in its own way."""
        for plan in plans:
            self.enforce_once(plan)

    @rule(plan=interference)
    def dry_run(self, plan):
        """A dry pass only reads, whatever happens."""
        quiet = [(index, action) for index, action in plan if action[0] not in {"put", "remove"}]
        before = self.world.listed()
        saved = self.saved
        self.run_pass(replace(self.spec, dry_run=True), quiet)
        self.saved = saved
        assert self.world.listed() == before
        assert self.sent == set()

    def run_pass(self, spec: PassSpec, plan) -> set[str]:
        """Run one pass; return what others removed during it."""
        backend, world = self.world.backend, self.world
        backend.requests.clear()
        trouble = Trouble(self, plan)
        self.sent = trouble.sent
        backend.before, backend.after = trouble.before, trouble.after
        world.cursor = self.saved
        last: list[Cursor] = [self.saved]
        try:
            report = world.run(
                spec,
                on_checkpoint=lambda part: last.append(Cursor.from_dict(part.cursor.to_dict())),
                should_stop=lambda: trouble.is_stopping,
            )
            self.saved = report.cursor
            self.check_report(report, spec)
        except SimulatedCrash:
            self.saved = last[-1]
        finally:
            backend.before = backend.after = lambda *_: None
        assert backend.scanned <= spec.max_scan
        assert len(self.sent) <= spec.max_delete
        return trouble.removed

    def check_report(self, report: PassReport, spec: PassSpec) -> None:
        """The books agree with what the store saw."""
        assert PassReport.from_dict(report.to_dict()) == replace(
            report, duration_seconds=round(report.duration_seconds, 3)
        )
        assert report.scanned <= spec.max_scan
        assert report.attempted <= spec.max_delete
        assert report.attempted >= report.deleted.objects + report.failed.objects
        assert report.complete_cycle == (report.stopped_by is StoppedBy.END_OF_CYCLE)
        assert not report.complete_cycle or report.cursor.is_start
        event(f"stopped by {report.stopped_by}")

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def what_is_never_touched(self):
        """No deletion outside the scopes or in the reserved area, ever."""
        for key in self.world.backend.deletions:
            assert key.startswith(("outputs/a/", "inputs/a/"))
            assert ".bubu/" not in key

    def teardown(self):
        """When it becomes quiet, everything due goes, in a bounded number of passes."""
        if not hasattr(self, "world"):
            return
        members: dict[str, int] = {}
        others = 0
        for key in self.world.all_keys():
            run = run_of(key)
            if run is None:
                others += 1
            else:
                members[run] = members.get(run, 0) + 1
        due = self.oracle.due_runs()
        for _cycle in range(2):
            for _ in range(pass_bound(self.spec, members, others)):
                self.run_pass(self.spec, [])
                if self.saved.is_start:
                    break
            else:
                raise AssertionError("the cycle did not end within the bound")
        left = [key for key in self.world.all_keys() if run_of(key) in due]
        assert set(left) <= self.refused, f"still there: {left}"


def failure(name: str):
    """Return an error as the network or the store makes it."""
    return {
        "throttled": ThrottledError("slow down", retry_after_seconds=1.0),
        "unavailable": UnavailableError("connection reset"),
        "denied": PermissionDeniedError("not now"),
    }[name]


RetentionMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRetentionMachine = RetentionMachine.TestCase


class ConcurrentRetentionMachine(RetentionMachine):
    """The same with several deletions in flight, in threads that come in any order."""

    concurrency = 3


ConcurrentRetentionMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
TestConcurrentRetentionMachine = ConcurrentRetentionMachine.TestCase


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    objects=st.dictionaries(keys, ages, max_size=40),
    max_scan=st.integers(1, 50),
    max_delete=st.integers(1, 50),
    batch=st.booleans(),
)
def test_a_dry_cycle_names_exactly_what_enforcing_deletes(objects, max_scan, max_delete, batch):
    """Equal snapshot, equal decisions: the plan is what happens."""
    world = World(batch=batch)
    for key, age in objects.items():
        world.put(key, age)
    spec = PassSpec(
        scopes=("outputs/a/", "inputs/a/"),
        rules=(RetentionRule("outputs/a/", 30 * DAY), RetentionRule("inputs/a/", 10 * DAY)),
        max_scan=max_scan,
        max_delete=max_delete,
        dry_run=True,
    )
    before = world.listed()
    world.cycle(spec, most_passes=200)
    planned = {outcome.prefix for outcome in world.outcomes if outcome.reason is Reason.DUE}
    assert world.listed() == before

    world.cycle(replace(spec, dry_run=False), most_passes=400)

    gone = {entry.key for entry in before} - set(world.all_keys())
    assert {run_of(key) for key in gone} == planned
    assert gone == {entry.key for entry in before if run_of(entry.key) in planned}


@settings(max_examples=100, deadline=None)
@given(age=st.floats(-2 * FUTURE_TOLERANCE_SECONDS, 40 * DAY), keep=st.floats(1, 35 * DAY))
def test_a_single_object_goes_exactly_when_it_is_older_than_all_keeps(age, keep):
    """End to end, to the microsecond of the store's clock."""
    world = World(latency_seconds=0.0)
    world.put("outputs/a/r/x", age / DAY)
    age = (world.time.now() - world.listed()[0].last_modified).total_seconds()
    spec = PassSpec(("outputs/a/",), (RetentionRule("outputs/a/", keep),), dry_run=False)

    world.run(spec)

    assert (world.all_keys() == []) is (age > max(keep, DAY))
