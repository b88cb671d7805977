"""Healing as a whole on a small cluster: what is said, told, counted and restarted."""

from __future__ import annotations

import threading

import pytest

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers import heal_report
from bubu_operator.controllers.heal import HealService
from bubu_operator.controllers.heal_report import LISTED_OWNERS
from bubu_operator.controllers.rollout import MAX_ROLLOUTS, RolloutGate
from bubu_operator.kube.resources import PODS, STORAGE_CONFIGS
from tests.unit.controllers.heal_world import ASKING, NAMESPACE, World, broken, denied

ROLL = {"injection": {"rolloutOnChange": True}}


class Proof:
    """A webhook that works, or says why not."""

    def __init__(self):
        self.trouble = ""
        self.asked = 0

    def problem(self, *_):
        """Answer as told."""
        self.asked += 1
        return self.trouble


class Gate(RolloutGate):
    """The real gate, whose waits pass at once."""

    def __init__(self, world):
        super().__init__(world.context)
        self._world = world

    def request(self, *args, **more):
        """Ask; time runs until the answer may change."""
        wait = super().request(*args, **more)
        if 0 < wait <= 1:
            self._world.pass_time(wait)
            wait = super().request(*args, **more)
        return wait


class Healing:
    """The service without its thread."""

    def __init__(self, world):
        self.world = world
        self.proof = Proof()
        self.service = HealService(world.context, Gate(world), sweeper=world.sweeper(), proof=self.proof)

    def sweep(self):
        """Sweep once; returns the pause."""
        return self.service._guarded()


@pytest.fixture
def world():
    """A cluster whose config restarts owners."""
    return World(**ROLL)


@pytest.fixture
def healing(world):
    """The service on it."""
    return Healing(world)


def restarted(world):
    """Names of the Deployments that were restarted, in order."""
    return [name for kind, name in world.api.patches if kind == "Deployment"]


def test_drift_is_told_in_words_that_are_credentials_elsewhere():
    """Only what the config's own namespace keeps secret is hidden."""
    world = World()
    world.deployment("planted", 1)
    world.deployment("kubectl", 1)
    world.context.redactor.add(["planted"], NAMESPACE)
    world.context.redactor.add(["kubectl"], "another-team")

    Healing(world).sweep()

    message = world.drift()[1]
    assert "Deployment [redacted]" in message.replace(f"{NAMESPACE}/", "")
    assert "Deployment kubectl" in message.replace(f"{NAMESPACE}/", "")


def test_drift_is_said_counted_and_told_once():
    """Condition and PODS, numbers by state, one event on the Deployment however often it is swept."""
    world = World()
    world.deployment("good", 3, injected=True)
    world.deployment("bad", 2)
    healing = Healing(world)

    for _ in range(3):
        healing.sweep()

    reason, message = world.drift()
    assert reason == "PodsNotInjected"
    assert message == (
        "2 of 5 pods that this config is meant for run without it: Deployment flows/bad (2 pods); "
        "restart them, as by kubectl rollout restart deployment/bad -n flows, "
        "or set injection.rolloutOnChange"
    )
    assert world.status()["injectedPods"] == 3
    assert world.api.events == [("Deployment", "bad", "InjectionMissing")]
    labels = {"kind": "StorageConfig", "namespace": NAMESPACE, "name": "main"}
    assert world.metric("bubu_injection_pods", **labels, state="missing") == 2
    assert world.metric("bubu_injection_pods", **labels, state="current") == 3
    assert world.metric("bubu_heal_sweeps_total", result="complete") == 3
    assert world.metric("bubu_heal_last_success_timestamp_seconds") == world.now.timestamp()
    assert restarted(world) == []


@pytest.mark.parametrize(("pods", "said"), [(1, "1 pod runs"), (2, "2 pods run")])
def test_events_count_in_whole_sentences(pods, said):
    """They are read by people, in `kubectl describe` of their workload."""
    world = World()
    world.deployment("bad", pods)

    Healing(world).sweep()

    assert world.api.notes == [f"{said} without StorageConfig flows/main"]


def test_a_second_sweep_writes_nothing(world, healing):
    """The status stands still while nothing changes."""
    world.deployment("good", 1, injected=True)
    healing.sweep()
    version = world.api.get(STORAGE_CONFIGS, "main", NAMESPACE)["metadata"]["resourceVersion"]

    healing.sweep()

    assert world.api.get(STORAGE_CONFIGS, "main", NAMESPACE)["metadata"]["resourceVersion"] == version
    assert world.drift()[0] == "PodsUpToDate"


def test_statuses_beyond_the_limit_of_a_sweep_take_turns(world, healing, monkeypatch):
    """Some configs have another number of pods each time; the others are written all the same."""
    monkeypatch.setattr(heal_report, "MAX_WRITES", 2)
    for name in "abcdef":
        world.configure(name)

    for _ in range(4):
        for name in "abc":
            obj = world.api.get(STORAGE_CONFIGS, name, NAMESPACE)
            world.api.put(STORAGE_CONFIGS, obj | {"status": {"injectedPods": 7}})
        healing.sweep()

    assert [world.drift(name)[0] for name in "def"] == ["PodsUpToDate"] * 3


def test_an_owner_that_drifts_again_is_told_of_again(world, healing):
    """An event is for a transition; here are two."""
    healing.proof.trouble = "away"
    for injected in (False, True, False):
        world.deployment("web", 1, injected=injected)
        healing.sweep()
        world.pass_time(700)

    assert [event for event in world.api.events if event[2] == "InjectionMissing"] == [
        ("Deployment", "web", "InjectionMissing")
    ] * 2


def test_what_is_said_fits_into_the_api(world, healing):
    """Many owners with long names: some are named, and the status is a valid one."""
    healing.proof.trouble = "away"
    for number in range(30):
        world.deployment(f"{'long-name-' * 6}{number:02}", 1)

    healing.sweep()

    message = world.drift()[1]
    assert message.count("(1 pod)") == LISTED_OWNERS
    assert "and more" in message
    StorageConfig.model_validate(world.api.get(STORAGE_CONFIGS, "main", NAMESPACE))


def test_owners_are_restarted_one_at_a_time(world, healing):
    """The next one goes when the pods of the one before are well."""
    for name in ("b", "a", "c"):
        world.deployment(name, 2)

    for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
        for _ in range(3):
            healing.sweep()
            assert restarted(world) == expected
            world.pass_time(30)
        done = expected[-1]
        world.pods(done, 2, injected=True)
        world.roll_out(done)
    world.pods("c", 2, injected=True)
    healing.sweep()
    assert world.drift()[0] == "PodsUpToDate"
    assert world.metric("bubu_heal_restarts_total", kind="Deployment") == 3


@pytest.mark.parametrize(("took", "low", "high"), [(1, 9, 11.1), (10, 36, 50), (100, 54, 66)])
def test_a_large_cluster_is_not_listed_all_the_time_while_owners_roll(world, healing, took, low, high):
    """Soon is ten seconds, or four times what a sweep takes; never longer than the interval."""
    world.deployment("web")
    world.api.on_page = lambda: world.pass_time(took)

    pause = healing.sweep()

    assert restarted(world) == ["web"]
    assert low <= pause <= high


def test_nothing_is_restarted_without_proof(world, healing):
    """The condition says why, and nothing waits in the gate."""
    world.deployment("web")
    healing.proof.trouble = "the webhook cannot be asked: NewConnectionError"

    healing.sweep()

    assert restarted(world) == []
    assert world.drift()[1].endswith("nothing is restarted: the webhook cannot be asked: NewConnectionError")
    assert world.metric("bubu_rollouts_waiting") == 0


def test_pods_that_nobody_replaces_do_not_hide_an_owner(world, healing):
    """Hundreds of bare pods come first in the list; the Deployment after them is found and restarted."""
    for number in range(300):
        name = f"bare-{number:03}"
        metadata = {"name": name, "namespace": NAMESPACE, "uid": name, "labels": dict(ASKING)}
        world.api.put(PODS, {"metadata": metadata, "spec": {"containers": [{"name": "main"}]}})
    world.deployment("web", 1)

    healing.sweep()

    assert restarted(world) == ["web"]


def test_restarts_that_never_help_end_and_keep_the_others_safe(world, healing):
    """A week of sweeps with a webhook that is never called: three restarts of one owner, no more."""
    world.deployment("a")
    world.deployment("b")

    for _ in range(7 * 24):
        healing.sweep()
        world.roll_out("a")
        world.pass_time(3600)

    assert restarted(world) == ["a", "a", "a"]
    assert "given up after 3 restarts" in world.drift()[1]
    assert "no other owner is restarted" in world.drift()[1]
    assert world.metric("bubu_heal_given_up") == 1

    # A pod that came later and has its storage shows that the trouble was that owner's alone.
    world.deployment("fresh", 1, injected=True, created="2026-12-01T00:00:00Z")
    healing.sweep()
    assert restarted(world)[3:] == ["b"]


def test_a_config_that_changes_all_the_time_does_not_restart_its_owners_for_ever(world, healing):
    """Back and forth, once a minute for a day; the condition says what is held back."""
    world.deployment("web", 1, injected=True)

    for number in range(24 * 60):
        world.configure(generation=number + 2, timeoutSeconds=100 + number % 2, **ROLL)
        healing.sweep()
        world.pods("web", 1, injected=True)
        world.roll_out("web")
        world.pass_time(60)

    assert len(restarted(world)) <= MAX_ROLLOUTS * 49
    for number in range(MAX_ROLLOUTS + 1):
        world.configure(generation=9000 + number, timeoutSeconds=200 + number, **ROLL)
        healing.sweep()
        world.roll_out("web")
        world.pass_time(60)
    assert "rolled out 3 times within 30 minutes, and left alone" in world.drift()[1]


def test_a_moment_without_pods_is_no_help(world, healing):
    """The one pod of an owner ends before its successor is there; that is no storage yet."""
    world.deployment("web", 1)

    for _ in range(50):
        healing.sweep()
        world.delete_pods()
        healing.sweep()
        world.pods("web", 1, injected=False)
        world.roll_out("web")
        world.pass_time(3600)

    healing.sweep()
    assert restarted(world) == ["web"] * 3
    assert "given up after 3 restarts" in world.drift()[1]


def test_restarts_that_helped_are_not_held_against_an_owner_by_the_next_process(world):
    """Each process sees one outage of the webhook, and one restart that mends it."""
    world.deployment("web", 2, injected=True)

    for number in range(1, 7):
        process = Healing(world)
        process.sweep()
        world.pods("web", 1, injected=False)
        process.sweep()
        assert restarted(world) == ["web"] * number
        assert world.annotation("web").endswith(" 1")
        world.pods("web", 2, injected=True)
        world.roll_out("web")
        world.pass_time(3600)


def test_a_template_that_is_reset_does_not_make_a_loop(world, healing):
    """A tool that takes our annotation away at once: what this process did still counts."""
    world.deployment("web")

    for _ in range(100):
        healing.sweep()
        world.deployment("web")
        world.pass_time(600)

    assert len(restarted(world)) == 3


def test_a_new_process_goes_on_where_the_old_one_was(world, healing):
    """What was tried stands on the template."""
    world.deployment("web")
    healing.sweep()
    assert world.annotation("web").endswith(" 1")

    for _ in range(5):
        Healing(world).sweep()

    assert restarted(world) == ["web"]


def test_a_restart_that_the_api_server_refuses_is_not_asked_for_again_and_again(world, healing):
    """Another admission plugin says no: said in the condition, counted like one that did not help."""
    world.deployment("web")
    asked = []

    def refuse(_resource, name, *_args, **_more):
        asked.append(name)
        raise denied()

    world.api.patch = refuse
    healing.sweep()
    assert "the API server refuses its restart" in world.drift()[1]
    for _ in range(200):
        world.pass_time(600)
        healing.sweep()

    assert asked == ["web"] * 3
    assert "given up" in world.drift()[1]
    assert world.metric("bubu_rollouts_waiting") == 0


def test_without_rollout_on_change_nobody_is_restarted():
    """Nor is the webhook asked."""
    world = World()
    world.deployment("web")
    healing = Healing(world)

    healing.sweep()

    assert restarted(world) == []
    assert healing.proof.asked == 0


def test_pods_without_a_config_are_told_and_counted_only():
    """No config's condition speaks of them."""
    world = World()
    pod = {
        "metadata": {
            "name": "lost", "namespace": NAMESPACE, "uid": "u",
            "labels": {**ASKING, "storage.bubustack.io/config": "nowhere"},
        },
        "spec": {"containers": []},
    }  # fmt: skip
    world.api.put(PODS, pod)
    healing = Healing(world)

    healing.sweep()
    healing.sweep()

    assert world.api.events == [("Pod", "lost", "ConfigNotFound")]
    assert world.metric("bubu_injection_unconfigured_pods", reason="ConfigNotFound") == 1
    assert world.drift()[0] == "PodsUpToDate"
    del world.api.objects["pods", next(key for plural, key in world.api.objects if plural == "pods")]
    healing.sweep()
    assert world.metric("bubu_injection_unconfigured_pods", reason="ConfigNotFound") is None


def test_a_failing_api_server_changes_nothing_that_was_said(world, healing):
    """The last whole sweep stays; the next try is soon, and then less so."""
    healing.proof.trouble = "away"
    world.deployment("web")
    healing.sweep()
    before = world.status()
    world.api.troubles = [broken()] * 9

    pauses = [healing.sweep() for _ in range(9)]

    assert world.status() == before
    assert world.metric("bubu_heal_sweeps_total", result="failed") == 9
    assert pauses[0] < 3
    assert max(pauses) <= 66


def test_a_missing_right_is_said_and_the_pods_column_stays(world, healing):
    """Unknown is not "no drift"; with the right, the next sweep says what is."""
    world.deployment("web", 2, injected=True)
    healing.sweep()
    world.api.troubles = [denied()]

    healing.sweep()

    reason, message = world.drift()
    assert reason == "PodsForbidden"
    assert "pods is forbidden" in message
    assert world.status()["injectedPods"] == 2
    assert world.metric("bubu_heal_sweeps_total", result="forbidden") == 1
    healing.sweep()
    assert world.drift()[0] == "PodsUpToDate"


def test_a_config_that_goes_in_the_middle_of_a_sweep_is_no_trouble(world, healing):
    """Its status is simply not written; its numbers go with it."""
    world.deployment("web", 1, injected=True)
    healing.sweep()
    world.deployment("bad")
    healing.proof.trouble = "away"

    def delete():
        world.api.objects.pop(
            ("storageconfigs", next(k for p, k in world.api.objects if p == "storageconfigs")), None
        )
        world.api.on_page = lambda: None

    world.api.on_page = delete
    healing.sweep()
    healing.sweep()

    assert world.metric("bubu_heal_sweeps_total", result="complete") == 3
    labels = {"kind": "StorageConfig", "namespace": NAMESPACE, "name": "main", "state": "missing"}
    assert world.metric("bubu_injection_pods", **labels) is None


def test_a_config_that_changed_in_the_middle_is_judged_by_the_next_sweep(world, healing):
    """What was found is about another form of it."""
    world.deployment("web", 1, injected=True)

    def change():
        world.configure(generation=2, timeoutSeconds=9, **ROLL)
        world.api.on_page = lambda: None

    world.api.on_page = change
    healing.sweep()
    assert world.drift() == ("", "")

    healing.proof.trouble = "away"
    healing.sweep()
    assert world.drift()[0] == "PodsStale"


def test_a_bug_does_not_end_healing(world, healing, caplog):
    """It is logged and counted, and the next sweep comes."""
    world.api.troubles = [TypeError("a bug")]

    healing.sweep()
    healing.sweep()

    assert "a sweep over the pods failed" in caplog.text
    assert world.metric("bubu_heal_sweeps_total", result="complete") == 1


def test_nor_does_one_in_saying_that_a_right_is_missing(world, healing, caplog, monkeypatch):
    """What is said about a sweep that failed may fail, too."""

    def stumble(*_args, **_more):
        raise TypeError("a bug")

    world.api.troubles = [denied()]
    with monkeypatch.context() as patched:
        patched.setattr(heal_report.Reporter, "write_words", stumble)
        healing.sweep()
    healing.sweep()

    assert "a sweep over the pods failed" in caplog.text
    assert world.metric("bubu_heal_sweeps_total", result="complete") == 1


def test_the_thread_sweeps_soon_hears_of_changes_and_stops_at_once():
    """Started, a first sweep follows without waiting for the interval; stopped, it ends."""
    world = World()
    object.__setattr__(world.context, "monotonic", __import__("time").monotonic)
    object.__setattr__(world.context, "options", type(world.context.options)(heal_interval_seconds=0.2))
    swept = threading.Event()
    world.api.on_page = swept.set
    service = HealService(world.context, RolloutGate(world.context))

    service.start()
    assert swept.wait(60)
    swept.clear()
    assert swept.wait(60), "a second sweep"
    service.stop()

    assert service.join(60)


def test_one_that_was_never_started_can_be_joined():
    """As when the process ends before it leads."""
    world = World()
    service = HealService(world.context, RolloutGate(world.context))

    service.stop()

    assert service.join(0.1)
