"""A whole store in motion: owners, references, marks, clocks, crashes, two sweepers, servers that lie.

`machine_world` moves, `machine_oracle` judges each deletion at the moment when the store carries it out.
``BUBU_LONG_TESTS=1`` runs many more examples.
"""

from __future__ import annotations

import os
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bubu_storage.retention import crew
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.spec import PassSpec, RetentionRule
from tests.unit.retention.machine_oracle import Oracle, run_of
from tests.unit.retention.machine_sweeper import Sweeper
from tests.unit.retention.machine_world import Cluster, Owner, World

DAY = 86_400.0
HOUR = 3_600.0
GRACE = 2 * DAY
SCOPES = ("inputs/a/", "outputs/a/", "outputs/b/")
RUNS = (
    "outputs/a/r1/",
    "outputs/a/r1-x/",
    "outputs/a/r2/",
    "outputs/a/r3/",
    "outputs/b/r1/",
    "outputs/b/r4/",
    "inputs/a/r1/",
    "inputs/a/r9/",
)
NAMES = ("a/r1", "a/r1-x", "a/r2", "a/r3", "b/r1", "b/r4", "a/r9", "b/elsewhere")
MEMBERS = ("", "a", "b/c", "m", "z", "é", ".bubu/x")
ODD = ("outputs/a/readme", "outputs/a//odd", "outputs/a/.bubu/x", ".bubu/x", "outputs/c/r1/a", "other/a/r1/a")
CLUSTERS = ("east", "west")

runs = st.sampled_from(RUNS)
members = st.tuples(runs, st.sampled_from(MEMBERS)).map("".join)
keys = st.one_of(members, members, members, st.sampled_from(ODD))
ages = st.sampled_from([0.0, 400.0, 0.9 * DAY, 1.5 * DAY, 9 * DAY, 29.9 * DAY, 40 * DAY, 400 * DAY])
odd_ages = st.one_of(ages, st.sampled_from([-60.0, -DAY]))
targets = st.one_of(
    runs.map(lambda run: run + "doc.json"),
    runs.map(lambda run: run + "doc.json"),
    runs.map(lambda run: run + "a"),
    st.just("outputs/a/nowhere/x"),
)
documents = st.lists(targets, max_size=2).map(tuple)
owners = st.one_of(
    st.none(),
    st.none(),
    st.builds(Owner, st.just(value=True), st.sampled_from([1, 5]), st.lists(targets, min_size=1).map(tuple)),
    st.builds(Owner, st.booleans(), st.sampled_from([None, 1, 2, 5, 9]), documents),
    st.builds(Owner, st.just(value=False), st.sampled_from([5, 9]), documents),
)
referring = runs.map(lambda run: Owner(live=True, rank=1, refers_to=(run + "a",)))
clusters = st.sampled_from(CLUSTERS)
moods = st.sampled_from(["fresh", "watched", "watched", "slow", "very slow", "unknown"])
skews = st.sampled_from([0.0, HOUR, -HOUR, 10 * DAY])

actions = st.one_of(
    st.tuples(st.just("put"), members, st.just(0.0)),
    st.tuples(st.just("put"), members, odd_ages),
    st.tuples(st.just("remove"), members),
    st.tuples(st.just("owner"), clusters, st.sampled_from(NAMES), owners),
    st.tuples(st.just("owner"), st.just("east"), st.sampled_from(NAMES), owners),
    st.tuples(st.just("arrival"), st.just("east"), st.sampled_from(NAMES), owners),
    st.tuples(st.just("arrival"), st.just("east"), st.just("b/elsewhere"), referring),
    st.tuples(st.just("departure"), st.just("east"), st.integers(0, 5)),
    st.tuples(st.just("visit"), members),
    st.tuples(st.just("stall"), st.sampled_from([1.0, 6.0, 12.0, 30.0])),
    st.tuples(st.just("freeze"), st.sampled_from([3.0, 20.0, 45.0, 59.0, 70.0, 200.0, DAY])),
    st.tuples(st.just("clock"), skews),
    st.tuples(st.just("mood"), moods),
    st.tuples(st.just("lie"), st.sampled_from(["ends early", "out of order"])),
    st.tuples(st.just("stop")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("fail"), st.sampled_from(["throttled", "unavailable", "denied"])),
)
moments = st.one_of(st.integers(1, 200), st.integers(-6, -1), st.just(-1))
plans = st.lists(
    st.tuples(moments, actions),
    min_size=1,
    max_size=6,
)
schedules = st.lists(st.sampled_from([1, 1, 2, 3, 7, 30]), max_size=40)


@st.composite
def rule_sets(draw) -> tuple[RetentionRule, ...]:
    """Draw rules for all scopes, and some for single runs."""
    rules: list[RetentionRule] = []
    others = st.lists(st.sampled_from([scope for scope in SCOPES if scope != "outputs/a/"]), unique=True)
    for scope in ["outputs/a/", *draw(others)]:
        kind = draw(st.sampled_from(["within", "rank", "orphans", "orphans", "both", "single"]))
        within = draw(st.sampled_from([DAY, 5 * DAY, 30 * DAY]))
        number = draw(st.integers(1, 3))
        if kind == "within":
            rules.append(RetentionRule(scope, within))
        elif kind == "rank":
            rules.append(RetentionRule(scope, None, number))
        elif kind == "orphans":
            rules.append(RetentionRule(scope, None, number, GRACE))
        elif kind == "both":
            rules.append(RetentionRule(scope, within, number, GRACE))
        else:
            rules.append(RetentionRule(scope, 1.0))
            rules.append(RetentionRule(scope + "r1/", 20 * DAY, 2))
    return tuple(rules)


@st.composite
def specs(draw) -> PassSpec:
    """Draw a policy and limits, small and large."""
    return PassSpec(
        scopes=SCOPES,
        rules=draw(rule_sets()),
        min_age_seconds=draw(st.sampled_from([300.0, DAY, 10 * DAY])),
        max_scan=draw(st.one_of(st.integers(1, 25), st.just(500))),
        max_delete=draw(st.one_of(st.integers(1, 9), st.just(500))),
        budget_seconds=draw(st.sampled_from([60.0, 10_000.0])),
        requests_per_second=draw(st.sampled_from([0.0, 0.0, 0.0, 2.0, 0.2])),
        max_due_objects=draw(st.sampled_from([None, None, None, 2, 4, 30])),
    )


class WholeMachine(RuleBasedStateMachine):
    """Everything that may happen, in any order.

    Attributes:
        concurrency: deletions in flight of each pass.
    """

    concurrency = 1

    @initialize(
        batch=st.booleans(),
        latency=st.sampled_from([0.01, 0.01, 0.4, 2.0]),
        ignores=st.sampled_from(
            [frozenset(), frozenset(), frozenset({"if_match"}), frozenset({"if_match", "if_none_match"})]
        ),
        refused=st.one_of(st.just(frozenset()), st.frozensets(members, max_size=2)),
        spec=specs(),
        references=st.dictionaries(runs, documents, max_size=5),
        found=st.dictionaries(st.sampled_from(NAMES), owners, max_size=6),
        spoiled=st.lists(st.tuples(members, st.sampled_from([None, None, 0.0, 9 * DAY, -DAY])), max_size=4),
        age=st.sampled_from([12 * DAY, 61 * DAY]),
        boots=st.tuples(st.sampled_from([0.0, 5e6]), st.sampled_from([0.0, 77.7])),
        skew=skews,
    )
    def build(self, *, batch, latency, ignores, refused, spec, references, found, spoiled, age, boots, skew):
        """Choose the store, who owns what, and the policy."""
        # With one deletion in flight one thread a request, so that one step follows the other.
        self.threads, crew.THREADS = crew.THREADS, self.concurrency
        self.world = world = World(batch=batch, latency_seconds=latency, ignores=ignores)
        world.refused = refused
        world.oracle = self.oracle = Oracle(world)
        for uid, boot in zip(CLUSTERS, boots, strict=True):
            cluster = Cluster(uid)
            self.oracle.add(cluster)
            sweeper = Sweeper(world, cluster, spec, boot_offset=boot)
            sweeper.wall_offset = skew
            sweeper.concurrency = self.concurrency
            world.sweepers.append(sweeper)
        for run in RUNS:
            for name in MEMBERS[1:4]:
                world.put(run + name, age)
        for key, odd_age in spoiled:
            world.put(key, age if odd_age is None and ".bubu" in key else odd_age or 0.0)
            if odd_age is None and ".bubu" not in key:
                world.undate(key)
        for run, refers_to in references.items():
            world.write_document(run + "doc.json", refers_to, age)
        for name, owner in found.items():
            self.oracle.set_owner("east", name, owner)

    def teardown(self):
        """Let it become quiet, and see what must go, go."""
        if not hasattr(self, "world"):
            return
        try:
            for sweeper in self.world.sweepers:
                sweeper.end()
            if not self.is_broken:
                self.settle_down()
        finally:
            crew.THREADS = self.threads

    is_broken = False

    def do(self, work) -> None:
        """Do something that may find a fault; after that nothing is settled."""
        try:
            work()
        except BaseException:
            self.is_broken = True
            raise
        finally:
            for what in sorted(self.world.said):
                event(what)
            self.world.said.clear()

    # ---- between passes

    @rule(
        changes=st.lists(
            st.one_of(
                st.tuples(st.just("object"), keys, odd_ages),
                st.tuples(st.just("undated"), members),
                st.tuples(st.just("large"), runs, ages, st.integers(5, 22)),
                st.tuples(st.just("document"), runs, documents, ages),
                st.tuples(st.just("removed"), members),
                st.tuples(st.just("no document"), runs),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def change_store(self, changes):
        """Somebody stores and removes objects; some turn up with old dates, or with none."""
        for change in changes:
            match change:
                case "object", key, age:
                    self.world.put(key, age)
                case "undated", key:
                    self.world.put(key)
                    self.world.undate(key)
                case "large", run, age, count:
                    for number in range(count):
                        self.world.put(f"{run}n{number:02}", age)
                case "document", run, refers_to, age:
                    self.world.write_document(run + "doc.json", refers_to, age)
                case "removed", key:
                    self.world.remove(key)
                case _, run:
                    self.world.remove(run + "doc.json")

    @rule(seconds=st.sampled_from([7.0, HOUR, DAY, GRACE + 60, GRACE + 60, 8 * DAY, 45 * DAY]))
    def time_passes(self, seconds):
        """Runs grow old, graces end, registrations and marks lose their meaning."""
        self.world.seconds += seconds

    @rule(
        changes=st.dictionaries(
            st.tuples(st.sampled_from(["east", "east", "west"]), st.sampled_from(NAMES)),
            owners,
            min_size=1,
            max_size=8,
        )
    )
    def change_owners(self, changes):
        """Owners come, end, go or return."""
        for (uid, name), owner in changes.items():
            self.oracle.set_owner(uid, name, owner)

    @rule(who=st.integers(0, 1), spec=specs())
    def change_policy(self, who, spec):
        """A policy is edited; its cursors go on."""
        self.world.sweepers[who].spec = spec

    @rule(
        who=st.integers(0, 1),
        change=st.one_of(
            st.tuples(st.just("conditional"), st.booleans()),
            st.tuples(st.just("owners_mood"), moods),
            st.tuples(st.just("wall_offset"), skews),
            st.tuples(st.just("knows_owners"), st.sampled_from([True, True, False])),
            st.tuples(st.just("cursor"), st.integers(0, 5)),
            st.tuples(st.just("third"), st.sampled_from([60.0, 6 * DAY, 8 * DAY])),
        ),
    )
    def change_operator(self, who, change):
        """An operator is started anew, with an older cursor or none; another cluster uses the store, too."""
        what, how = change
        sweeper = self.world.sweepers[who]
        if what == "third":
            self.world.put(".bubu/retention/clusters/third.json", how, b"{}")
        elif what == "cursor":
            sweeper.saved[False] = sweeper.older[-how] if 0 < how <= len(sweeper.older) else Cursor()
        else:
            setattr(sweeper, what, how)

    # ---- passes

    @rule(who=st.integers(0, 1), plan=plans)
    def enforce(self, who, plan):
        """A pass among everything that can happen to it."""
        self.do(lambda: self.one_pass(who, plan))

    @rule(who=st.integers(0, 1), times=st.integers(1, 4))
    def enforce_in_peace(self, who, times):
        """Passes in which nothing happens; the one before may have left its claim."""
        for _ in range(times):
            self.do(lambda: self.one_pass(who, []))
            self.world.seconds += 100.0

    @rule(
        who=st.integers(0, 1),
        run=st.sampled_from(RUNS[:4]),
        meanwhile=st.sampled_from(["nothing", "it is written anew", "an owner comes and goes"]),
        times=st.sampled_from([(HOUR, DAY + 60), (DAY, DAY + 60), (HOUR, GRACE), (DAY, GRACE)]),
    )
    def wait_for_an_orphan(self, who, run, meanwhile, times):
        """A run without an owner is met, and met again; its grace may begin anew in between."""
        uid, name = self.world.sweepers[who].cluster.uid, "/".join(run.split("/")[1:3])
        # Nobody else has used the store of late, or orphans would be left alone.
        self.world.seconds += 8 * DAY
        self.oracle.set_owner(uid, name, None)
        self.enforce_in_peace(who, 3)
        self.world.seconds += times[0]
        if meanwhile == "it is written anew":
            self.world.put(run + "a")
        elif meanwhile == "an owner comes and goes":
            self.oracle.set_owner(uid, name, Owner(live=False, rank=1))
            self.enforce_in_peace(who, 3)
            self.oracle.set_owner(uid, name, None)
        self.world.seconds += times[1]
        self.oracle.touch()
        self.enforce_in_peace(who, 3)

    @rule(who=st.integers(0, 1), run=runs, first=documents, then=targets)
    def rewrite_a_document(self, who, run, first, then):
        """What a live run refers to refers to something else by the next pass."""
        document = run + "doc.json"
        owner = Owner(live=True, rank=1, refers_to=(document,))
        self.oracle.set_owner(self.world.sweepers[who].cluster.uid, "b/elsewhere", owner)
        for refers_to in (first, (then,)):
            self.world.write_document(document, refers_to, 9 * DAY)
            self.enforce_in_peace(who, 1)

    def one_pass(self, who, plan) -> None:
        """Run it."""
        sweeper = self.world.sweepers[who]
        sweeper.run(dry_run=False, plan=plan)
        self.tell(sweeper)

    @rule(
        first=plans,
        second=plans,
        schedule=schedules,
        frozen=st.tuples(moments, st.sampled_from([3.0, 64.0, 200.0])),
        late=st.sampled_from([0.0, 30.0, 64.0, 80.0]),
    )
    def enforce_both(self, first, second, schedule, frozen, late):
        """Two sweepers at once, one of which stands still in between."""
        when, seconds = frozen
        plan = [*first, (when, ("freeze", seconds))]
        self.do(lambda: self.two_passes(plan, second, schedule, late))

    def two_passes(self, first, second, schedule, late) -> None:
        """Run them by turns; with threads of their own, one after the other."""
        one, other = self.world.sweepers
        if self.concurrency > 1:
            for sweeper, plan in ((one, first), (other, second)):
                sweeper.run(dry_run=False, plan=plan)
                self.tell(sweeper)
            return
        one.start(dry_run=False, plan=first)
        other.start(dry_run=False, plan=second)
        other.wake_at += late
        self.world.run_together(schedule)
        self.tell(one)
        self.tell(other)
        if one.carried_out and other.carried_out:
            event("both deleted in turn")

    @rule(who=st.integers(0, 1), plan=plans)
    def dry_run(self, who, plan):
        """A dry pass changes no byte, whatever happens to it."""
        quiet = [step for step in plan if step[1][0] not in {"put", "remove", "visit"}]
        before = self.world.snapshot()
        self.do(lambda: self.world.sweepers[who].run(dry_run=True, plan=quiet))
        assert self.world.snapshot() == before
        assert not self.world.sweepers[who].carried_out

    @rule(who=st.integers(0, 1), small=st.integers(3, 40))
    @precondition(lambda self: self.world.sweepers)
    def plan_twice(self, who, small):
        """Equal snapshots give equal plans, however a cycle is cut; a plan accounts for every object."""
        sweeper, latency = self.world.sweepers[who], self.world.latency_seconds
        spec, mood, self.world.latency_seconds = sweeper.spec, sweeper.owners_mood, 0.0
        sweeper.owners_mood = "fresh"
        before = self.world.snapshot()
        found: list[tuple] = []
        for max_scan in (small, 500):
            sweeper.spec = replace(spec, max_scan=max_scan, requests_per_second=0.0, max_due_objects=None)
            sweeper.saved[True] = Cursor()
            reports, outcomes = [], []
            while not reports or not reports[-1].complete_cycle:
                assert len(reports) < 300, reports[-1]
                self.do(lambda: sweeper.run(dry_run=True))
                assert sweeper.report is not None, sweeper.ended_as
                reports.append(sweeper.report)
                outcomes += [
                    (one.prefix, one.reason, one.objects, one.size_bytes) for one in sweeper.outcomes
                ]
            cycle = reports[-1].cycle
            found.append((cycle, outcomes))
            objects = sum(1 for key in before if key.startswith(SCOPES))
            assert cycle.decided == objects == self.oracle.count(reports)
            assert cycle.due == sum(one[2] for one in outcomes if one[1] is Reason.DUE)
            event(f"plan: {min(4, sum(1 for one in outcomes if one[1] is Reason.DUE))} runs due")
        assert found[0] == found[1]
        assert self.world.snapshot() == before
        sweeper.spec, sweeper.owners_mood, self.world.latency_seconds = spec, mood, latency

    def tell(self, sweeper: Sweeper) -> None:
        """Say what happened, for the statistics."""
        report = sweeper.report
        if report is None:
            return
        event(f"stopped by {report.stopped_by}")
        for reason in report.by_reason:
            event(f"reason: {reason}")
        if any(key.startswith(".bubu/retention/marks/") for key in sweeper.carried_out):
            event("a mark was removed")
        if report.by_reason.get(Reason.DELETED) and report.orphans.objects:
            event("orphans met while deleting")

    # ---- the end

    def settle_down(self) -> None:
        """When it becomes quiet, everything due goes, in a bounded number of passes, and is counted."""
        world, sweeper = self.world, self.world.sweepers[0]
        world.latency_seconds = 0.01
        world.seconds += 8 * DAY
        for key in [key for key in world.dates() if "clusters/third" in key]:
            world.remove(key)
        sweeper.owners_mood = "fresh"
        sweeper.spec = spec = replace(
            sweeper.spec, requests_per_second=0.0, max_due_objects=None, budget_seconds=10_000
        )
        self.oracle.touch()
        due = self.oracle.must_go(sweeper)
        # Each cycle has room for so many marks at least.
        for number in range(4 + ceil(len(RUNS) / spec.max_delete)):
            before = world.dates()
            began_at_start = sweeper.saved[False].is_start
            reports = []
            bound = self.pass_bound(spec, before)
            while not reports or not reports[-1].complete_cycle:
                assert len(reports) < bound, (
                    f"no end of cycle {number} after {bound} passes: "
                    f"{[(one.message, one.cursor.after, one.scanned) for one in reports[-3:]]}"
                )
                sweeper.run(dry_run=False)
                assert sweeper.report is not None, sweeper.ended_as
                assert sweeper.report.stopped_by is not StoppedBy.BAD_LISTING
                reports.append(sweeper.report)
            if began_at_start:
                data = sum(1 for key in before if key.startswith(SCOPES))
                assert self.oracle.count(reports) == data, f"cycle {number} counts wrongly"
            world.seconds += GRACE + 10
        left = {key for key in world.dates() if run_of(key) in due}
        assert left <= world.refused, f"still there: {left}"
        event(f"quiet end: {min(5, len(due))} runs had to go")

    def pass_bound(self, spec: PassSpec, dates) -> int:
        """Return in how many passes a cycle over a quiet store must end."""
        half = max(1, spec.max_scan // 2)
        sizes: dict[str, int] = {}
        for key in dates:
            sizes[run_of(key)] = sizes.get(run_of(key), 0) + 1
        passes = 4 + ceil(len(dates) / spec.max_scan)
        for count in sizes.values():
            passes += 4 + ceil((count + 1) / half) + ceil((count + 1) / min(spec.max_delete, half))
        return passes


IS_LONG = os.environ.get("BUBU_LONG_TESTS") == "1"
WholeMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("BUBU_MACHINE_EXAMPLES", "3000")) if IS_LONG else 80,
    stateful_step_count=40 if IS_LONG else 14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestWholeMachine = pytest.mark.timeout(7200 if IS_LONG else 300)(WholeMachine.TestCase)


class ConcurrentWholeMachine(WholeMachine):
    """The same with several deletions in flight, in threads that come in any order."""

    concurrency = 3


ConcurrentWholeMachine.TestCase.settings = settings(
    WholeMachine.TestCase.settings,
    max_examples=int(os.environ.get("BUBU_MACHINE_EXAMPLES", "3000")) // 3 if IS_LONG else 25,
)
TestConcurrentWholeMachine = pytest.mark.timeout(7200 if IS_LONG else 300)(ConcurrentWholeMachine.TestCase)
