"""Supervising a pass: whatever its process does, it ends, and the status says how."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial

import pytest

from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.controllers import passes
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.pass_job import PassJob
from bubu_operator.controllers.passes import PassRunner
from bubu_operator.controllers.policy_kinds import NAMESPACED_POLICIES
from bubu_operator.controllers.policy_owners import PolicyOwners
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import NAMESPACES, RETENTION_POLICIES
from bubu_operator.kube.scrub import Redactor
from bubu_operator.owners.census import NO_CENSUS
from bubu_operator.retention.document import LineType, PassLine
from bubu_operator.retention.plan import plan_pass
from bubu_operator.retention.process import PassProcess
from bubu_operator.retention.schedule import decide_due
from bubu_operator.retention.store_facts import StoreFacts
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.report import ErrorSample
from bubu_storage.retention.runner import run_pass
from bubu_storage.settings import FileSettings
from tests.unit.controllers.fake_api import FakeApi

POLICY = {
    "metadata": {"name": "tidy", "namespace": "team-a", "generation": 1, "uid": "u"},
    "spec": {
        "rules": [{"prefix": "outputs/", "keep": {"within": "1d"}}],
        "limits": {"budgetSeconds": 600},
        "interval": "1h",
    },
}


@pytest.fixture
def api():
    """An API server with one policy."""
    return FakeApi(
        (RETENTION_POLICIES, POLICY),
        (NAMESPACES, {"metadata": {"name": "kube-system", "uid": "cluster-uid"}}),
    )


@pytest.fixture
def context(api):
    """What the runner needs."""
    redactor = Redactor()
    events = EventRecorder(api, redactor, controller="c", instance="i")
    return Context(client=api, events=events, redactor=redactor, options=ControllerOptions())


class Access:
    """A way to a store that leads nowhere; remembers what was said to it."""

    def __init__(self):
        self.settings = FileSettings("/nowhere")
        self.told = []
        self.words = ""

    def last_words(self):
        """Why the way broke off."""
        return self.words

    def started(self):
        """The process has been started."""
        self.told.append("started")

    def close(self, *, good):
        """The pass has ended."""
        self.told.append(good)


def job(api, interrupted=lambda: None):
    """A pass that is due now."""
    obj = api.get(RETENTION_POLICIES, "tidy", "team-a")
    policy = RetentionPolicy.model_validate(obj)
    plan = plan_pass(
        policy.spec, namespace="team-a", output_prefix="outputs", input_prefix="inputs", store="s"
    )
    return PassJob(
        kind=NAMESPACED_POLICIES,
        obj=obj,
        policy=policy,
        plan=plan,
        store="s",
        scope="team-a",
        access=Access(),
        due=decide_due(policy, passes_now()),
        owners=PolicyOwners(None, NO_CENSUS),
        interrupted=interrupted,
    )


def passes_now():
    """The wall clock, as the controller has it."""
    return Context.__dataclass_fields__["clock"].default()


def report_line():
    """A report as a process writes it."""
    plan = job(FakeApi((RETENTION_POLICIES, POLICY))).plan
    report = run_pass(MemoryBackend(), plan.spec, Cursor())
    return PassLine(LineType.REPORT, report).to_line()


@pytest.fixture
def child(monkeypatch):
    """Let passes run a Python script instead of the real command; short graces."""
    monkeypatch.setattr(passes, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(passes, "STOP_SECONDS", 0.5)

    def use(script):
        command = [sys.executable, "-c", script]
        monkeypatch.setattr(passes, "PassProcess", partial(PassProcess, command=command))

    return use


def status(api):
    """The policy's status as it is."""
    return api.get(RETENTION_POLICIES, "tidy", "team-a")["status"]


def hurried(made):
    """The same pass, with a second for all of it."""
    return replace(made, plan=replace(made.plan, spec=replace(made.plan.spec, budget_seconds=1.0)))


def enforcing(api, *, dry_run=False):
    """The same pass, and it deletes."""
    made = job(api)
    return replace(made, plan=replace(made.plan, spec=replace(made.plan.spec, dry_run=dry_run)))


@pytest.mark.parametrize("honours", [True, False])
def test_what_a_pass_found_out_about_its_store_is_told_to_the_next(api, context, child, tmp_path, honours):
    """Some 15 requests before every pass are saved; a dry run finds nothing out."""
    documents = tmp_path / "documents"
    facts = PassLine(LineType.FACTS, facts=StoreFacts(is_conditional=honours)).to_line()
    child(
        f"import sys; open({str(documents)!r}, 'a').write(sys.stdin.readline()); "
        f"sys.stdout.write({facts!r}); sys.stdout.write({report_line()!r})"
    )
    runner = PassRunner(context)

    assert runner.run(enforcing(api, dry_run=True))
    assert runner.run(enforcing(api))
    assert runner.run(enforcing(api))

    told = [json.loads(line)["conditional"] for line in documents.read_text().splitlines()]
    assert told == [None, None, honours]


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (STUBBORN + "time.sleep(300)", "outlived its budget"),
        ("print('{\"type\": \"report\"'); print('rubbish')", "none of its own"),
        ("import os; os.write(1, bytes(range(256)) * 100)", "before its report"),
        ("import sys; sys.stderr.write('x' * 5_000_000 + ' the end'); sys.exit(7)", "the end"),
        ("import sys; sys.stdout.write('y' * 9_000_000); sys.exit(7)", "code 7"),
        ("import sys; sys.exit('AKIAIOSFODNN7EXAMPLE')", "[redacted]"),
    ],
)
def test_a_process_that_misbehaves(api, context, child, script, message):
    """It hangs, babbles, floods or tells secrets: the pass has failed, the reason is short and clean."""
    child(script)
    began = time.monotonic()
    due = job(api)

    assert PassRunner(context).run(hurried(due) if "budget" in message else due)

    assert time.monotonic() - began < 120
    reconciled = find_condition(status(api)["conditions"], "Reconciled")
    assert (reconciled["status"], reconciled["reason"]) == ("False", "PassFailed")
    assert message in reconciled["message"]
    assert len(reconciled["message"]) <= 1000
    assert "finishTime" in status(api)["lastPass"]
    assert [reason for reason, _ in api.events] == ["PassFailed"]


def test_a_way_that_broke_off_says_why(api, context, child):
    """What became of it is told with what became of the pass."""
    child("import sys; sys.exit(7)")
    made = job(api)
    made.access.words = "its pod ended with exit code 137 (OOMKilled)"

    assert PassRunner(context).run(made)

    assert "(OOMKilled)" in find_condition(status(api)["conditions"], "Reconciled")["message"]


@pytest.mark.parametrize("scope", ["team-a", "ClusterStorageConfig/main"])
def test_what_a_pass_says_is_cleaned_of_the_credentials_of_its_store(api, context, child, scope):
    """Of these, also where the store is not of the policy's namespace; not of anybody else's words."""
    context.redactor.add(["planted"], scope)
    context.redactor.add(["kubectl"], "team-b")
    child("import sys; sys.exit('planted: see kubectl')")

    assert PassRunner(context).run(replace(job(api), scope=scope))

    message = find_condition(status(api)["conditions"], "Reconciled")["message"]
    assert message.endswith("[redacted]: see kubectl")
    assert [note for _, note in api.events] == [message]
    assert status(api)["lastPass"]["message"] == message


@pytest.mark.parametrize("scope", ["team-a", "ClusterStorageConfig/main"])
def test_what_a_pass_reports_is_cleaned_of_the_credentials_of_its_store(api, context, child, scope):
    """Samples of errors quote what a store says."""
    context.redactor.add(["planted"], scope)
    context.redactor.add(["kubectl"], "team-b")
    made = run_pass(MemoryBackend(), job(api).plan.spec, Cursor())
    sample = ErrorSample("kubectl", "StorageError", "planted")
    line = PassLine(LineType.REPORT, replace(made, errors=(sample,))).to_line()
    child(f"import sys; sys.stdout.write({line!r})")

    assert PassRunner(context).run(replace(job(api), scope=scope))

    assert status(api)["lastPass"]["errorSamples"] == ["kubectl: StorageError: [redacted]"]


def test_a_process_that_reports_and_then_hangs(api, context, child):
    """The report counts; the process is killed and holds nothing up."""
    child(STUBBORN + f"print({report_line().strip()!r}, flush=True); time.sleep(300)")
    began = time.monotonic()
    due = job(api)

    assert PassRunner(context).run(due)

    assert due.access.told == ["started", True]

    assert time.monotonic() - began < 120
    assert find_condition(status(api)["conditions"], "Reconciled")["reason"] == "PassSucceeded"


def test_a_process_that_ignores_the_request_to_stop(api, context, child):
    """A pass whose policy has changed is killed soon; the message says why it was cut short."""
    child(STUBBORN + "time.sleep(300)")

    assert PassRunner(context).run(job(api, interrupted=lambda: "the policy has changed"))

    reconciled = find_condition(status(api)["conditions"], "Reconciled")
    assert reconciled["message"] == "cut short: the policy has changed; the next pass resumes"


def test_a_pass_that_another_controller_takes_over(api, context, child):
    """The loser ends, writes nothing more, and says that the policy is somebody else's."""
    child(f"import time; print({report_line().strip()!r}, flush=True)")
    taken = {**POLICY, "status": {"lastPass": {"startTime": "2020-01-01T00:00:00Z", "mode": "DryRun"}}}
    writes = []

    def other_controller():
        writes.append(1)
        if len(writes) == 2:
            version = api.get(RETENTION_POLICIES, "tidy", "team-a")["metadata"]["resourceVersion"]
            api.put(
                RETENTION_POLICIES, {**taken, "metadata": {**POLICY["metadata"], "resourceVersion": version}}
            )

    api.before_patch = other_controller

    assert not PassRunner(context).run(job(api))

    assert status(api) == taken["status"]
    assert api.events == []


def test_no_process_can_be_started(api, context, monkeypatch):
    """No memory, no disk for its files: a failed pass with the cause, not a crash."""

    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(passes, "PassProcess", refuse)

    assert PassRunner(context).run(job(api))

    message = find_condition(status(api)["conditions"], "Reconciled")["message"]
    assert "No space left on device" in message


def test_totals_written_by_hand_do_not_stop_passes(api, context, child):
    """A sum at the end of the API's numbers stands still; one more would be refused for ever."""
    child(f"print({report_line().strip()!r}, flush=True)")
    huge = {"passes": 2**63 - 1, "deletedObjects": 2**63 - 1, "deletedBytes": 2**63 - 1}
    api.put(RETENTION_POLICIES, {**POLICY, "status": {"totals": huge}})

    assert PassRunner(context).run(job(api))

    assert all(value <= 2**53 for value in status(api)["totals"].values())
    assert find_condition(status(api)["conditions"], "Reconciled")["reason"] == "PassSucceeded"


def test_a_policy_that_changed_before_its_pass_starts(api, context, child):
    """The old spec is not followed any more: nothing is started, nothing is written."""
    child("raise SystemExit('must not run')")
    old = job(api)
    assert old.access.told == []
    api.put(
        RETENTION_POLICIES,
        {**POLICY, "metadata": {**POLICY["metadata"], "generation": 2, "resourceVersion": "1"}},
    )

    assert PassRunner(context).run(old)

    assert "status" not in api.get(RETENTION_POLICIES, "tidy", "team-a")
    assert api.events == []
    assert old.access.told == [False], "the way to the store is closed all the same"


def test_everything_that_runs_ends_when_retention_is_paused(api, context, child):
    """The kill switch reaches a pass under way, also one that does not listen."""
    child(STUBBORN + "time.sleep(300)")
    context.pause.set("somebody said so")
    began = time.monotonic()

    assert PassRunner(context).run(job(api))

    assert time.monotonic() - began < 120
    reconciled = find_condition(status(api)["conditions"], "Reconciled")
    assert (
        reconciled["message"] == "cut short: all passes are paused: somebody said so; the next pass resumes"
    )


def test_what_a_pass_did_is_in_the_metrics_until_the_policy_goes(api, context, child):
    """Counts by policy, the result, what stopped it; nothing of a policy is left when it is gone."""
    child(f"print({report_line().strip()!r}, flush=True)")
    registry = context.metrics.registry
    labels = {"namespace": "team-a", "policy": "tidy"}

    PassRunner(context).run(job(api))

    value = registry.get_sample_value
    assert value("bubu_retention_passes_total", labels | {"result": "succeeded"}) == 1
    assert value("bubu_retention_pass_stops_total", {"stopped_by": "EndOfCycle"}) == 1
    assert value("bubu_retention_last_success_timestamp_seconds", labels) > 0
    assert value("bubu_retention_due_objects", labels) == 0
    assert value("bubu_retention_passes_running") == 0
    context.metrics.retention.forget(("team-a", "tidy"))
    left = [sample for metric in registry.collect() for sample in metric.samples if sample.labels == labels]
    assert left == []
