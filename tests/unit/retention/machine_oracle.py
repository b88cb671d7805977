"""What must be kept, told without the code under test, and asked whenever the simulated store deletes.

A deletion is wrong if it goes against anything that its sweeper could have known:

* what a view of the owners protected that was given to this pass; and what has been protected for as
  long as a view may be old (`OWNERS_SECONDS`), whatever views were given;
* objects that were not old enough when the pass began, by the store's clock, unless they were stored so
  lately that no listing needed to show them; a member like that protects its whole run, if a pass can see
  the whole of such a run;
* every rule, by age, by rank, and for runs without an owner by two observations at least the grace apart;
* another cluster's registration, another sweeper that could send a deletion at this moment, and a claim in
  the store that is another's, or over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bubu_storage.retention.owners import OwnerView
from bubu_storage.retention.reasons import PROVISIONAL_REASONS, Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.spec import PassSpec

if TYPE_CHECKING:
    from bubu_storage.retention.cursor import Cursor
    from tests.unit.retention.machine_sweeper import Sweeper
    from tests.unit.retention.machine_world import Cluster, Owner, World

OWNERS_SECONDS = 10.0
LISTED_SECONDS = 5.0
CLAIMED_SECONDS = 60.0
REGISTERED_SECONDS = 7 * 86_400.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MARKS = ".bubu/retention/marks/"
OUR_OWN = (MARKS, ".bubu/retention/claim.json", ".bubu/retention/clock/")


class WronglyDeletedError(AssertionError):
    """Something went that had to stay."""


def run_of(key: str) -> str:
    """Return the run directory of a key: two segments and a name that is not empty; "" if in none."""
    parts = key.split("/")
    if len(parts) < 4 or parts[0] not in {"outputs", "inputs"} or not parts[2]:
        return ""
    return "/".join(parts[:3]) + "/"


def name_of(run: str) -> str:
    """Return the name of a run's owner."""
    return "/".join(run.split("/")[1:3])


def is_reserved(key: str) -> bool:
    """Tell whether a key is none of the users'."""
    return ".bubu" in key.split("/")[:-1]


class Oracle:
    """Watches the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clusters: dict[str, Cluster] = {}
        self.protected_since: dict[str, dict[str, float]] = {}
        # When enforcing passes saw that a run has no owner, by the store's clock.
        self.unowned: dict[str, list[datetime]] = {}
        self.documents: dict[str, tuple[bytes, tuple[str, ...]]] = {}
        self.deletions = 0

    def add(self, cluster: Cluster) -> None:
        """Watch a cluster's owners, too."""
        self.clusters[cluster.uid] = cluster
        self.protected_since[cluster.uid] = {}

    # ---- what is protected

    def references_of(self, key: str) -> tuple[str, ...]:
        """Return what a stored document refers to; nothing where it is missing or no document."""
        try:
            body = self.world.store.get_object(key).read()
        except FileNotFoundError:
            return ()
        known = self.documents.get(key)
        if known is None or known[0] != body:
            try:
                found = tuple(entry["$bubuStorageRef"] for entry in json.loads(body)["data"])
            except (ValueError, TypeError, KeyError):
                found = ()
            known = self.documents[key] = (body, found)
        return known[1]

    def protected_by(self, live: Iterable[str], references: Iterable[str]) -> set[str]:
        """Return the names of live runs (``ns/run``) and the directories of all that is referred to."""
        reached: set[str] = set()
        todo = list(references)
        while todo:
            key = todo.pop()
            if key not in reached:
                reached.add(key)
                todo.extend(self.references_of(key))
        return set(live) | {run for key in reached if (run := run_of(key))}

    def touch(self) -> None:
        """Take note of what is protected at this moment."""
        now = self.world.seconds
        for uid, cluster in self.clusters.items():
            live = [name for name, owner in cluster.owners.items() if owner.live]
            references = [key for name in live for key in cluster.owners[name].refers_to]
            since = self.protected_since[uid]
            protected = self.protected_by(live, references)
            for one in protected - since.keys():
                since[one] = now
            for one in since.keys() - protected:
                del since[one]

    def set_owner(self, uid: str, name: str, owner: Owner | None) -> None:
        """An owner comes, changes, or goes."""
        self.touch()
        cluster = self.clusters[uid]
        if owner is None:
            cluster.owners.pop(name, None)
        else:
            cluster.owners[name] = owner
        cluster.version += 1
        self.touch()

    def observed(self, sweeper: Sweeper, view: OwnerView) -> None:
        """A pass was given a view."""
        live = [name for name, facts in view.owners.items() if facts.live]
        told = self.protected_by(live, view.references)
        if sweeper.concurrency > 1:
            # A thread may have what another one has just been told still before it.
            told, sweeper.told_last = sweeper.told_last, told
        sweeper.known_protected |= told
        if sweeper.now.dry_run:
            return
        # Its date in the store's clock: from then on it holds.
        at = self.world.now() - timedelta(seconds=sweeper.monotonic() - view.observed_at + 1)
        for run in {run for key in self.world.dates() if (run := run_of(key))}:
            if name_of(run) not in view.owners:
                self.unowned.setdefault(run, []).append(at)

    def is_shared(self, own_uid: str) -> bool:
        """Tell whether another cluster is registered."""
        now = self.world.now()
        return any(
            (now - when).total_seconds() < REGISTERED_SECONDS and f"/{own_uid}.json" not in key
            for key, when in self.world.dates().items()
            if key.startswith(".bubu/retention/clusters/")
        )

    # ---- deletions

    def judge_write(self, sweeper: Sweeper, key: str) -> None:
        """Fail if a sweeper writes what it must not write."""
        if sweeper.now.dry_run or not key.startswith(".bubu/retention/"):
            raise WronglyDeletedError(f"{key} was written")
        if not key.startswith(MARKS) or not sweeper.views:
            return
        run, view = key[len(MARKS) : -len("mark")], sweeper.views[-1]
        old = sweeper.awake_seconds(view.observed_at - sweeper.boot_offset, self.world.seconds)
        interval = 1 / sweeper.now.requests_per_second if sweeper.now.requests_per_second else 0.0
        # A mark is dated when it is written: it is as good as the look that it is written by is fresh.
        if name_of(run) not in view.owners and old <= OWNERS_SECONDS + 10 * (sweeper.slowest + interval):
            self.unowned.setdefault(run, []).append(self.world.now())

    def judge(self, sweeper: Sweeper, keys: Sequence[str], entered: float) -> None:
        """Fail if one of these deletions, for which the store was called at ``entered``, is wrong."""
        dates = self.world.dates()
        if sweeper.now.dry_run:
            raise WronglyDeletedError(f"a dry run deletes {keys}")
        self._judge_claims(sweeper, keys)
        for key in keys:
            if sweeper.in_pass and (key in dates or not key.startswith(".bubu/")):
                sweeper.carried_out.add(key)
            if key.startswith(".bubu/"):
                if not key.startswith(OUR_OWN):
                    raise WronglyDeletedError(f"{key} is nobody's to delete")
            elif key in dates:
                self.deletions += 1
                problem = self._problem(sweeper, key, dates, entered)
                if problem:
                    raise WronglyDeletedError(f"{key}: {problem}")

    def _judge_claims(self, sweeper: Sweeper, keys: Sequence[str]) -> None:
        if not sweeper.in_pass:
            return
        holder, seconds = self._claim()
        if holder != sweeper.cluster.uid or seconds > CLAIMED_SECONDS:
            raise WronglyDeletedError(f"{keys} while {holder or 'nobody'} has the claim, for {seconds} s")
        for other in self.world.sweepers:
            if other is not sweeper and other.claim is not None and other.claim.remaining_seconds > 0:
                raise WronglyDeletedError(f"{keys} while {other.cluster.uid} may delete, too")

    def _claim(self) -> tuple[str, float]:
        """Return who has the claim that lies in the store, and how long ago it was renewed."""
        try:
            found = self.world.store.get_object(".bubu/retention/claim.json")
        except FileNotFoundError:
            return "", 0.0
        renewed = (self.world.now() - found.info.last_modified).total_seconds()
        return json.loads(found.read())["holder"], renewed

    def _problem(self, sweeper: Sweeper, key: str, dates: dict[str, datetime], entered: float) -> str:
        spec, run = sweeper.now, run_of(key)
        if not run or not any(run.startswith(scope) for scope in spec.scopes):
            return "it is in no run of the policy"
        rules = [rule for rule in spec.rules if run.startswith(rule.prefix)]
        if not rules:
            return "no rule covers it"
        began = sweeper.pass_began
        if began is None:
            return "the store's clock was not asked for"
        interval = 1 / spec.requests_per_second if spec.requests_per_second else 0.0
        window = 2 * LISTED_SECONDS + 6 * sweeper.concurrency * (sweeper.slowest + interval) + 0.1
        members = [other for other in dates if other.startswith(run)]
        fits = len(members) < spec.max_scan and len(members) <= spec.max_delete
        for member in members:
            if member != key and not fits:
                continue
            reason = self._why_young(spec, member, dates[member], began, rules)
            since = sweeper.awake_seconds(self.world.written_at.get(member, 0.0), entered)
            if reason and since > window:
                return f"{member} {reason} and was there for {since:.1f} s"
        known = [dates[one] for one in members if entered - self.world.written_at.get(one, 0.0) > window]
        return self._why_owned(sweeper, run, rules, known, entered)

    def _why_young(self, spec: PassSpec, key: str, when: datetime, began: datetime, rules) -> str:
        """Say why an object may not be deleted by what it is; "" if it may."""
        if is_reserved(key):
            return "is reserved"
        if when <= EPOCH:
            return "has no date"
        age = (began - when).total_seconds()
        longest = max([spec.min_age_seconds] + [rule.keep_within_seconds or 0.0 for rule in rules])
        return f"is only {age:.0f} s old" if age <= longest else ""

    def _why_owned(self, sweeper: Sweeper, run: str, rules, dates: list[datetime], entered: float) -> str:
        """Say why a run may not be deleted by what is known of its owner; "" if it may."""
        counting = [rule for rule in rules if rule.keep_last_runs is not None]
        if not sweeper.knows_owners:
            return "nobody knows its rank" if counting else ""
        if not sweeper.views:
            return "the owners were not looked at"
        old = sweeper.awake_seconds(sweeper.views[-1].observed_at - sweeper.boot_offset, entered)
        # Requests of other threads may come between a look and what is sent by it.
        most = OWNERS_SECONDS + 0.05 + (sweeper.concurrency - 1) * 2 * self.world.latency_seconds
        if old > most:
            return f"the owners were last looked at {old:.1f} s before"
        names = {run, name_of(run)}
        if names & sweeper.known_protected:
            return "the pass was told that it is protected"
        since = self.protected_since[sweeper.cluster.uid]
        for name in names & since.keys():
            protected_for = sweeper.awake_seconds(since[name], entered)
            if protected_for > most:
                return f"it has been protected for {protected_for:.1f} s"
        views = sweeper.views if sweeper.concurrency == 1 else sweeper.views[:-1] or sweeper.views
        seen = [owner for view in views if (owner := view.owners.get(name_of(run))) is not None]
        for rule in counting:
            if seen:
                if any(owner.rank is None or owner.rank <= (rule.keep_last_runs or 0) for owner in seen):
                    return f"it is one of the last {rule.keep_last_runs} runs"
            elif rule.orphan_grace_seconds is None:
                return "orphans are kept"
            elif sweeper.was_shared:
                return "it may be another cluster's"
            elif not self._was_unowned(sweeper, run, dates, rule.orphan_grace_seconds):
                return "it was not seen without an owner for long enough"
        return ""

    def _was_unowned(self, sweeper: Sweeper, run: str, dates: list[datetime], grace: float) -> bool:
        began = sweeper.pass_began
        assert began is not None
        return any(
            (began - at).total_seconds() >= grace and at + timedelta(seconds=2) >= max(dates, default=at)
            for at in self.unowned.get(run, [])
        )

    # ---- reports

    def passed(self, sweeper: Sweeper, cursor: Cursor) -> None:
        """Fail if the cursor is behind a run whose end nobody was told, so whatever becomes of it is lost."""
        if sweeper.began_with.run is not None or not cursor.after:
            return
        told = {outcome.prefix for outcome in sweeper.outcomes}
        runs: dict[str, list[str]] = {}
        for key in self.world.dates():
            if (run := run_of(key)) and run.startswith(sweeper.now.scopes):
                runs.setdefault(run, []).append(key)
        for run, members in runs.items():
            is_old = all(self.world.written_at.get(key, 0.0) < sweeper.prepared_at for key in members)
            is_behind = sweeper.began_with.after < min(members) and max(members) <= cursor.after
            assert not (is_old and is_behind) or run in told, (
                f"the cursor is behind {run}, which is undecided"
            )

    def end_of_pass(self, sweeper: Sweeper) -> None:
        """Fail if a pass went over its limits, or reports what is not so."""
        spec, report = sweeper.now, sweeper.report
        assert sweeper.listed <= spec.max_scan, f"{sweeper.listed} entries listed"
        assert len(sweeper.carried_out) <= spec.max_delete, sweeper.carried_out
        if report is None:
            return
        assert report.scanned <= spec.max_scan
        assert report.attempted <= spec.max_delete
        assert report.attempted >= report.deleted.objects + report.failed.objects
        assert report.complete_cycle == (report.stopped_by is StoppedBy.END_OF_CYCLE)
        assert not report.complete_cycle or report.cursor.is_start
        assert not (sweeper.was_mixed_up and report.complete_cycle), "a listing out of order was believed"
        data = {key for key in sweeper.carried_out if not key.startswith(".bubu/")}
        if spec.max_due_objects is not None and sweeper.began_with.run is None and not spec.dry_run:
            assert len(data) + sweeper.began_with.cycle.due <= max(
                spec.max_due_objects, sweeper.began_with.cycle.due
            ), f"{len(data)} deleted after {sweeper.began_with.cycle.due}"
        if report.complete_cycle:
            self._forget_owned(sweeper)

    def _forget_owned(self, sweeper: Sweeper) -> None:
        """A whole cycle at once has seen these with an owner: their grace begins anew."""
        if sweeper.now.dry_run or not sweeper.began_with.is_start or not sweeper.views:
            return
        if all(rule.orphan_grace_seconds is None for rule in sweeper.now.rules):
            # Who has no use for marks removes those that it comes across, and goes to no trouble for others.
            return
        began = sweeper.pass_began
        assert began is not None
        for outcome in sweeper.outcomes:
            if all(name_of(outcome.prefix) in view.owners for view in sweeper.views):
                later = [at for at in self.unowned.get(outcome.prefix, []) if at >= began]
                self.unowned[outcome.prefix] = later

    # ---- what must go

    def must_go(self, sweeper: Sweeper) -> set[str]:
        """Return the runs that a quiet cycle must delete, sooner or later."""
        dates = self.world.dates()
        runs: dict[str, list[str]] = {}
        for key in dates:
            if run := run_of(key):
                runs.setdefault(run, []).append(key)
        return {run for run, members in runs.items() if self._must_go(sweeper, run, members, dates)}

    def _must_go(self, sweeper: Sweeper, run: str, members: list[str], dates: dict[str, datetime]) -> bool:
        spec, cluster = sweeper.spec, sweeper.cluster
        rules = [rule for rule in spec.rules if run.startswith(rule.prefix)]
        if not rules or not any(run.startswith(scope) for scope in spec.scopes):
            return False
        now = self.world.now()
        if any(self._why_young(spec, key, dates[key], now, rules) for key in members):
            return False
        counting = [rule for rule in rules if rule.keep_last_runs is not None]
        if not sweeper.knows_owners:
            return not counting
        if {run, name_of(run)} & self.protected_since[cluster.uid].keys():
            return False
        owner = cluster.owners.get(name_of(run))
        if owner is None:
            return all(rule.orphan_grace_seconds is not None for rule in counting)
        return all(owner.rank is not None and owner.rank > (rule.keep_last_runs or 0) for rule in counting)

    def count(self, reports: Sequence) -> int:
        """Return how many objects a cycle's reports account for."""
        final = set(Reason) - PROVISIONAL_REASONS
        return sum(report.total(final).objects for report in reports)
