"""``kubectl bubu retention`` on a real API server, with a real controller behind it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from bubu_operator.kubectl.main import cli
from tests.cluster.controller_harness import condition
from tests.cluster.retention_world import World, finished

pytestmark = pytest.mark.cluster

Ask = Callable[..., Result]


@pytest.fixture
def ask(world: World) -> Ask:
    """Runs one of the commands as the administrator, in the world's namespace."""

    def run(*words: str, answer: str = "") -> Result:
        where = ["-n", world.namespace, "--kubeconfig", str(world.cluster.kubeconfig)]
        return CliRunner().invoke(cli, ["retention", *words, *where], input=answer)

    return run


def test_a_plan_is_seen_approved_and_run(world: World, ask: Ask) -> None:
    """Four of five objects are due: the plan says so, a wrong hash is refused, the right one deletes them."""
    world.fill(old=40, young=10)
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", safety={}, interval="1h")
    world.wait(lambda s: condition({"status": s}).get("reason") == "ApprovalRequired", "the block")

    told = ask("plan", "tidy")
    assert told.exit_code == 0, told.output
    assert "40 of 50 objects (80 %, 400 B) may be deleted" in " ".join(told.stdout.split())
    assert (
        f"to approve: kubectl bubu retention approve retentionpolicy/tidy -n {world.namespace}" in told.stdout
    )
    document = json.loads(ask("plan", "brp/tidy", "-o", "json").stdout)
    assert document["pending"]["hash"] == world.status()["planHash"]

    looked_again = ask("run", "tidy")
    assert looked_again.exit_code == 0, looked_again.output
    assert "nothing is deleted until somebody approves (Plan)" in " ".join(looked_again.stdout.split())
    other = ask("approve", "tidy", "--hash", "0123456789abcdef", "--yes")
    assert other.exit_code == 1
    assert "it has changed" in other.stderr
    refused = ask("approve", "tidy", answer="n\n")
    assert refused.exit_code == 1
    assert "nothing was approved" in refused.stderr
    assert len(world.objects()) == 50

    approved = ask("approve", "tidy", answer="y\n")
    assert approved.exit_code == 0, approved.output
    world.wait(lambda s: finished(s) and s["totals"]["deletedObjects"] == 40, "what is due to go")
    assert len(world.objects()) == 10

    again = ask("approve", "tidy", "--yes")
    assert again.exit_code == 1
    assert "nothing waits for approval" in again.stderr
    passes = world.status()["totals"]["passes"]
    ran = ask("run", "tidy")
    assert ran.exit_code == 0, ran.output
    assert "it deletes what is due (Enforce)" in ran.stdout
    assert world.status()["totals"]["passes"] > passes


def test_a_pass_that_cannot_start_says_why(world: World, ask: Ask) -> None:
    """No store, a suspended policy, no policy, no controller: each in a line, none waits for ever."""
    world.controller().start()
    world.policy()
    world.wait(lambda s: condition({"status": s}).get("status") == "False", "the refusal")

    without_store = ask("run", "tidy")
    assert without_store.exit_code == 1
    assert "cannot run a pass: StorageConfigNotFound" in without_store.stderr

    world.policy(suspend=True)
    suspended = ask("run", "tidy")
    assert suspended.exit_code == 1
    assert "is suspended" in suspended.stderr

    unknown = ask("plan", "nobody")
    assert unknown.exit_code == 1
    assert "nobody" in unknown.stderr


def test_without_a_controller_waiting_ends(world: World, ask: Ask) -> None:
    """The wait has a bound, and the message a way out."""
    world.policy()

    done = ask("run", "tidy", "--timeout-seconds", "1")

    assert done.exit_code == 1
    assert "no pass ended within 1 s; is the controller well?" in done.stderr
    assert ask("run", "tidy", "--no-wait").exit_code == 0
