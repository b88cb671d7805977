"""A real pass process that asks who owns runs, claims its store, and tells what it has learnt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bubu_operator.controllers.isolation import child_environment
from bubu_operator.retention import child
from bubu_operator.retention.document import LineType, PassDocument, PassLine
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_operator.retention.store_facts import Sharer, StoreFacts
from bubu_storage.backend.factory import open_backend
from bubu_storage.errors import ConfigurationError, OwnersUnknownError
from bubu_storage.retention.claim import ClaimSettings, StoreClaim
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.registration import register
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import boot_seconds
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.settings import FileSettings, S3Settings

SCOPE = "outputs/team-a/"
DAY = 86400.0
RUNS = 20


@pytest.fixture
def store(tmp_path):
    """A file store of 20 old runs of one document."""
    old = time.time() - 20 * DAY
    for number in range(RUNS):
        item = tmp_path / "store" / SCOPE / f"run-{number:03d}" / "output.json"
        item.parent.mkdir(parents=True)
        item.write_text('{"contentType":"json","data":1}', encoding="utf-8")
        os.utime(item, (old, old))
    return tmp_path / "store"


def left(store):
    """Return the numbers of the runs that are left."""
    return {int(path.parent.name[4:]) for path in store.rglob("run-*/output.json")}


def document(store, *, extra=None, **fields):
    """Make a pass over the store that deletes what is older than 10 days."""
    defaults = {"scopes": (SCOPE,), "rules": (RetentionRule(SCOPE, 10 * DAY),), "dry_run": False}
    return PassDocument(FileSettings(str(store)), PassSpec(**(defaults | fields)), Cursor(), **(extra or {}))


def start(*args, **options):
    """Start a real process."""
    return PassProcess(*args, environment=child_environment(os.environ), **options)


def finish(process, seconds=120.0):
    """Return the last line that is no checkpoint, and the end."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        line = process.next(0.2)
        if isinstance(line, PassEnded):
            return last, line
        if line is not None and line.type is not LineType.CHECKPOINT:
            last = line
    raise AssertionError(f"no end within {seconds} s; last line: {last}")


class Source:
    """An owner source that answers as it is told, and remembers that it was asked.

    What it says is as new as can be; or just as old as it may be.
    """

    def __init__(self, make, *, is_old=False):
        self._make = make
        self._is_old = is_old
        self.asked = threading.Event()
        self.times = 0

    def observe(self, not_before):
        """Answer, or raise."""
        self.asked.set()
        self.times += 1
        answer = self._make(self.times)
        if isinstance(answer, BaseException):
            raise answer
        observed_at = not_before if self._is_old else boot_seconds()
        return OwnerView(answer.version, observed_at, answer.owners, answer.references)


def owning(*live, references=(), version=1, strangers=0):
    """Make a view in which the runs of these numbers are live."""
    owners = {f"team-a/run-{number:03d}": OwnerFacts(True) for number in live}
    owners |= {f"team-z/run-{number:06d}": OwnerFacts(False, number + 1) for number in range(strangers)}
    return OwnerView(version, 0.0, owners, frozenset(references))


def test_live_runs_and_what_they_refer_to_stay(store):
    """The process asks, the controller answers, the engine keeps."""
    source = Source(lambda _: owning(3, references=[f"{SCOPE}run-007/output.json"]))
    with start(document(store), owners=source) as process:
        line, end = finish(process)

    assert left(store) == {3, 7}
    assert line.report.stopped_by is StoppedBy.END_OF_CYCLE
    assert line.report.by_reason[Reason.KEPT_LIVE].objects == 1
    assert line.report.by_reason[Reason.KEPT_REFERENCED].objects == 1
    assert end == PassEnded(0, "")


def test_without_a_source_nobody_is_asked(store):
    """As before: age alone decides."""
    with start(document(store)) as process:
        line, _ = finish(process)

    assert line.report.deleted.objects == RUNS


def test_owners_that_are_unknown_end_the_pass_and_delete_nothing(store):
    """The report says why, in the words of the source."""
    source = Source(lambda _: OwnersUnknownError("no right: grant get and list on storyruns"))
    with start(document(store), owners=source) as process:
        line, _ = finish(process)

    assert line.report.stopped_by is StoppedBy.OWNERS_UNKNOWN
    assert "grant get and list on storyruns" in line.report.message
    assert left(store) == set(range(RUNS))


def test_an_owner_that_appears_during_the_pass_keeps_its_run(store):
    """Before a deletion that is based on an old view, another one is asked for."""
    slow = threading.Event()

    def answer(times):
        # As old as it may be, and 4 s under way: by the time of the first deletion it is too old.
        if times == 1:
            slow.wait(4.0)
        return owning(*([5] if times > 1 else []), version=times)

    source = Source(answer, is_old=True)
    with start(document(store, requests_per_second=0.7), owners=source) as process:
        finish(process)

    assert source.times > 1
    assert left(store) == {5}


def test_a_slow_controller_is_waited_for(store):
    """An observation takes what it takes; nothing is deleted meanwhile."""
    release = threading.Event()
    source = Source(lambda _: release.wait(200) and owning(1))
    with start(document(store), owners=source) as process:
        assert source.asked.wait(60)
        assert process.next(1.0) is None
        assert left(store) == set(range(RUNS))
        release.set()
        line, _ = finish(process)

    assert line.report.stopped_by is StoppedBy.END_OF_CYCLE
    assert left(store) == {1}


def test_a_stop_is_heard_while_it_waits(store):
    """In good order: a report, not an error."""
    release = threading.Event()
    source = Source(lambda _: release.wait(200) and owning())
    try:
        with start(document(store), owners=source) as process:
            assert source.asked.wait(60)
            process.ask_to_stop()
            line, _ = finish(process)
    finally:
        release.set()

    assert line.report.stopped_by is StoppedBy.STOPPED
    assert left(store) == set(range(RUNS))


def test_it_ends_while_it_waits_when_its_controller_may_lead_no_longer(store):
    """Nobody renews: the wait ends, and the process."""
    release = threading.Event()
    source = Source(lambda _: release.wait(200) and owning())
    try:
        for seconds in (5.0, 15.0, 45.0):
            bounded = document(store, extra={"valid_until": boot_seconds() + seconds})
            with start(bounded, owners=source) as process:
                line, end = finish(process)
                late = boot_seconds() - bounded.valid_until
            if source.asked.is_set():
                break  # else the machine was so slow that it did not come to that
    finally:
        release.set()

    assert source.asked.is_set()

    assert line is None or line.report.stopped_by is StoppedBy.STOPPED
    assert end.exit_code in {child.EXIT_OK, child.EXIT_LEADERSHIP_OVER}
    assert late < 60
    assert left(store) == set(range(RUNS))


def test_killed_while_it_waits_it_is_gone_at_once(store):
    """The controller does not wait for an observation that nobody wants any more."""
    release = threading.Event()
    source = Source(lambda _: release.wait(200) and owning())
    try:
        with start(document(store), owners=source) as process:
            assert source.asked.wait(60)
            began = time.monotonic()
            process.kill()
            _, end = finish(process)
        assert time.monotonic() - began < 60
    finally:
        release.set()

    assert end.exit_code == -signal.SIGKILL
    assert left(store) == set(range(RUNS))


def test_it_dies_with_its_parent_while_it_waits(store):
    """Also when the parent dies in the middle of an observation."""
    code = (
        "import os, sys, time\n"
        "from bubu_operator.controllers.isolation import child_environment\n"
        "from bubu_operator.retention.document import PassDocument\n"
        "from bubu_operator.retention.process import PassProcess\n"
        "class Slow:\n"
        "    def observe(self, not_before):\n"
        "        print(p.pid, flush=True)\n"
        "        time.sleep(300)\n"
        "p = PassProcess(PassDocument.from_line(sys.stdin.readline()),"
        " environment=child_environment(os.environ), owners=Slow())\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        parent.stdin.write(document(store).to_line())
        parent.stdin.flush()
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while _runs(pid) and time.monotonic() < deadline:
            threading.Event().wait(0.02)

    assert not _runs(pid)
    assert left(store) == set(range(RUNS))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_hundred_thousand_owners_fit_through_the_pipe(store):
    """In parts, between which a renewal of the leadership gets through."""
    source = Source(lambda _: owning(9, strangers=100_000, references=[f"x/{n:06d}/y" for n in range(2_000)]))
    bounded = document(store, extra={"valid_until": boot_seconds() + 20.0})
    with start(bounded, owners=source) as process:
        assert source.asked.wait(60)
        renewals = 0
        deadline = time.monotonic() + 120
        while not isinstance(line := process.next(0.05), PassEnded):
            assert time.monotonic() < deadline
            renewals += 1
            process.grant(bounded.valid_until + renewals)
            if line is not None and line.report is not None:
                report = line.report

    assert report.stopped_by is StoppedBy.END_OF_CYCLE, report.message
    assert left(store) == {9}
    assert process._granted_until > bounded.valid_until


def test_a_process_that_asks_out_of_turn_is_not_answered(store):
    """A pass without owners has no questions; what it says is noted."""
    asks = '{"type":"owners","id":1,"not_before":0,"have":null}'
    with start(document(store), command=[sys.executable, "-c", f"print({asks!r})"]) as process:
        _, end = finish(process)

    assert "out of turn" in end.complaint


# -- claims, registrations, facts ------------------------------------------------------------


CLAIM = ClaimSettings("cluster-a/team-a/tidy/1", "cluster-a")


def backend_of(store):
    """Open the store in this process."""
    return open_backend(FileSettings(str(store)))


def reserved(store):
    """Return what lies in the operator's own area."""
    return sorted(
        str(path.relative_to(store)) for path in store.rglob("*") if ".bubu" in path.parts and path.is_file()
    )


def test_a_pass_that_deletes_claims_and_registers(store):
    """And tells so; afterwards the claim is given back, the registration stays, and when it was tidied."""
    left_behind = store / ".bubu/retention/clock/0123"
    left_behind.parent.mkdir(parents=True)
    left_behind.touch()
    os.utime(left_behind, (0, 1))
    claimed = document(store, extra={"claim": CLAIM, "cluster_uid": "cluster-a"})
    with start(claimed) as process:
        line, _ = finish(process)

    assert line.report.deleted.objects == RUNS
    assert (process.facts.holder, process.facts.ours) == (CLAIM.holder, True)
    assert process.facts.expires_at > datetime.now(UTC)
    assert (process.facts.is_shared, process.facts.shared_with, process.facts.problem) == (False, (), "")
    assert process.facts.is_proven
    assert reserved(store) == [".bubu/retention/clusters/cluster-a.json", ".bubu/retention/tidied"]


def test_a_dry_run_writes_nothing(store):
    """It looks at the claim of another, and at who is registered."""
    backend = backend_of(store)
    register(backend, "cluster-b")
    claim = StoreClaim(backend, ClaimSettings("another", "cluster-b"), in_background=False)
    claim.acquire()
    before = reserved(store)
    looking = document(store, dry_run=True, extra={"claim": CLAIM, "cluster_uid": "cluster-a"})
    with start(looking) as process:
        line, _ = finish(process)

    assert line.report.stopped_by is StoppedBy.END_OF_CYCLE
    assert (process.facts.holder, process.facts.cluster, process.facts.ours) == (
        "another",
        "cluster-b",
        False,
    )
    assert [one.cluster for one in process.facts.shared_with] == ["cluster-b"]
    assert process.facts.is_shared
    assert reserved(store) == before


def test_a_store_that_another_sweeper_has_is_left_alone(store):
    """A line of its own kind says who has it; nothing is deleted, nothing is written."""
    backend = backend_of(store)
    StoreClaim(backend, ClaimSettings("another", "cluster-b"), in_background=False).acquire()
    before = reserved(store)
    with start(document(store, extra={"claim": CLAIM, "cluster_uid": "cluster-a"})) as process:
        line, end = finish(process)

    assert line.type is LineType.CLAIMED
    assert "another" in line.message
    assert end == PassEnded(child.EXIT_CLAIMED, "")
    assert left(store) == set(range(RUNS))
    assert reserved(store) == before


def test_orphans_of_a_shared_store_are_kept(store):
    """Somebody else's registration is enough; so is the word of the controller."""
    rule = RetentionRule(SCOPE, None, keep_last_runs=1, orphan_grace_seconds=1.0)
    register(backend_of(store), "cluster-b")
    orphans = document(store, rules=(rule,), extra={"claim": CLAIM, "cluster_uid": "cluster-a"})
    told = document(store, rules=(rule,), dry_run=True, extra={"shared": True})
    for each in (orphans, told):
        with start(each, owners=Source(lambda _: owning())) as process:
            line, _ = finish(process)

        assert process.facts.is_shared
        assert line.report.by_reason[Reason.KEPT_SHARED_STORE].objects == RUNS
    assert left(store) == set(range(RUNS))


def test_where_nobody_can_tell_the_store_counts_as_shared(store):
    """The registrations cannot be read; the facts say what is the matter."""
    clusters = store / ".bubu" / "retention" / "clusters"
    clusters.parent.mkdir(parents=True)
    clusters.write_text("no folder", encoding="utf-8")
    with start(document(store, extra={"claim": CLAIM, "cluster_uid": "cluster-a"})) as process:
        finish(process)

    assert process.facts.is_shared
    assert "counts as shared" in process.facts.problem


def test_what_was_read_is_remembered_for_the_next_pass(store):
    """Documents that live runs refer to; one that has not changed is not read again."""
    source = Source(lambda _: owning(1, references=[f"{SCOPE}run-007/output.json"]))
    with start(document(store), owners=source) as process:
        finish(process)
    cache = process.reference_cache
    assert [entry[0] for entry in cache["documents"]] == [f"{SCOPE}run-007/output.json"]

    with start(document(store, extra={"reference_cache": cache}), owners=source) as process:
        finish(process)
    assert process.reference_cache == cache


def test_what_cannot_be_read_of_an_earlier_pass_is_forgotten(store):
    """It only saves time."""
    broken = document(store, extra={"reference_cache": {"documents": [7]}})
    with start(broken, owners=Source(lambda _: owning(2))) as process:
        line, _ = finish(process)

    assert line.report.stopped_by is StoppedBy.END_OF_CYCLE
    assert left(store) == {2}


def test_what_is_remembered_is_bounded():
    """The documents that were used last, as many as fit."""
    cache = ReferenceCache()
    for number in range(40_000):
        cache.put(f"outputs/team-a/run-{number}/output.json", "e" * 34, (f"outputs/team-a/run-{number}/x",))

    kept = child._bounded(cache)
    assert child.MAX_CACHE_BYTES // 2 < len(json.dumps(kept)) <= child.MAX_CACHE_BYTES
    assert kept["documents"][-1] == cache.to_dict()["documents"][-1]
    assert ReferenceCache.from_dict(kept)


def test_everything_in_a_document_arrives():
    """Whatever the pass is told."""
    original = PassDocument(
        S3Settings(bucket="b"),
        PassSpec(scopes=(SCOPE,), rules=(RetentionRule(SCOPE, None, 3, 60.0),), dry_run=False),
        Cursor(),
        1.5,
        owners=True,
        claim=CLAIM,
        cluster_uid="cluster-a",
        shared=True,
        reference_cache={"documents": [["a", "b", ["c"]]]},
        ended_claim="x",
        conditional=False,
    )

    assert PassDocument.from_line(original.to_line()) == original


@pytest.mark.parametrize(
    "facts",
    [
        StoreFacts(),
        StoreFacts(
            "h",
            "c",
            True,
            datetime.now(UTC),
            True,
            True,
            (Sharer("d", datetime.now(UTC) - timedelta(1)),),
            True,
            "p",
        ),
    ],
)
def test_facts_arrive(facts):
    """With their dates."""
    line = PassLine(LineType.FACTS, facts=facts)

    assert PassLine.from_line(line.to_line()) == line


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"facts"}',
        '{"type":"facts","facts":{}}',
        '{"type":"owners","id":1}',
        '{"type":"owners","id":"x","not_before":1,"have":null}',
        '{"type":"cache","cache":7}',
    ],
)
def test_broken_lines_are_none_of_ours(line):
    """They are noted, not believed."""
    with pytest.raises(ConfigurationError):
        PassLine.from_line(line)
