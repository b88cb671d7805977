"""One look at one workload: turns, fights, refusals, and objects that change under our hands."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.controllers.rollout import SETTLE_SECONDS, RolloutGate
from bubu_operator.controllers.template import RECHECK_SECONDS, RESYNC_SECONDS, TemplateReconciler
from bubu_operator.controllers.template_decision import DIGEST_ANNOTATION
from bubu_operator.controllers.template_fights import (
    LIMIT,
    MAX_PAUSE_SECONDS,
    PAUSE_SECONDS,
    WINDOW_SECONDS,
    Fights,
)
from bubu_operator.errors import (
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeNotFoundError,
    KubeUnreachableError,
)
from bubu_operator.injection.patch import apply_patch
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.resources import DEPLOYMENTS, NAMESPACES, STORAGE_CONFIGS, ObjectKey
from bubu_operator.observability.controller_metrics import ControllerMetrics
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team", "web")


class TemplateApi(FakeApi):
    """Understands the patches of templates; `refusal` is raised instead, `meanwhile` runs before each."""

    refusal: Exception | None = None

    def __init__(self, *objects):
        super().__init__(*objects)
        self.meanwhile = lambda: None
        self.patched = []

    def patch(self, resource, name, body, namespace=None, **options):
        """Apply a JSON patch whose first operation tests the version."""
        self.meanwhile()
        if self.refusal is not None:
            raise self.refusal
        obj = self.get(resource, name, namespace)
        if obj["metadata"]["resourceVersion"] != body[0]["value"]:
            raise KubeInvalidError("the test failed", status=422)
        self.patched.append(options)
        changed = apply_patch(obj, body[1:])
        changed["metadata"]["generation"] += 1
        self.put(resource, changed)
        return self.get(resource, name, namespace)

    def list_page(self, resource, namespace=None, **_):
        """All in one page."""
        return ObjectList(self.list(resource, namespace).items, "1")


def deployment(name="web", **spec):
    """Make a labelled Deployment."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name, "namespace": "team", "generation": 1, "uid": name,
            "labels": {"storage.bubustack.io/inject": "true"},
        },
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"name": "main"}]}}} | spec,
    }  # fmt: skip


def config(path="/a", *, rollout=True):
    """Make a StorageConfig."""
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig",
        "metadata": {"name": "main", "namespace": "team", "uid": "c", "generation": 1},
        "spec": {"file": {"path": path}, "injection": {"rolloutOnChange": rollout}},
    }


class World:
    """A namespace, a clock, and the controller's look at it."""

    def __init__(self, *workloads, exclude_namespaces=()):
        self.api = TemplateApi(
            (NAMESPACES, {"metadata": {"name": "team"}}),
            (STORAGE_CONFIGS, config()),
            *((DEPLOYMENTS, workload) for workload in workloads or (deployment(),)),
        )
        self.now = 0.0
        self.events = []
        self.metrics = ControllerMetrics()
        context = types.SimpleNamespace(
            client=self.api,
            metrics=self.metrics,
            options=ControllerOptions(exclude_namespaces=exclude_namespaces),
            events=types.SimpleNamespace(emit=self._emit),
            clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now),
            monotonic=lambda: self.now,
        )
        self.look = TemplateReconciler(context, DEPLOYMENTS, RolloutGate(context))

    def _emit(self, _resource, obj, *, reason, note, **_):
        self.events.append((obj["metadata"]["name"], reason, note))

    def path(self, name="web"):
        """Where the injected store is; "" without one."""
        found = self.api.get(DEPLOYMENTS, name, "team")
        env = found["spec"]["template"]["spec"]["containers"][0].get("env", [])
        return next((item["value"] for item in env if item["name"] == "BUBU_STORAGE_PATH"), "")

    def replace(self, workload):
        """Write an object as ``kubectl replace`` does."""
        version = self.api.get(DEPLOYMENTS, "web", "team")["metadata"]["resourceVersion"]
        workload["metadata"]["resourceVersion"] = version
        self.api.put(DEPLOYMENTS, workload)

    def reasons(self):
        """What was said."""
        return [reason for _, reason, _ in self.events]


def test_written_once_under_our_name():
    """The second look writes nothing; both ask to look again after a while, for a namespace's labels."""
    world = World()

    again = world.look(KEY)
    assert world.look(KEY) == again
    assert 0.7 * RESYNC_SECONDS < again < 1.3 * RESYNC_SECONDS

    assert world.path() == "/a"
    assert [options["field_manager"] for options in world.api.patched] == ["bubu-storage-controller"]
    assert world.reasons() == ["Injected"]
    labels = {"kind": "Deployment", "action": "Injected"}
    assert world.metrics.registry.get_sample_value("bubu_templates_written_total", labels) == 1


def test_two_owners_wait_for_each_other():
    """The gate is asked for what the config alone brings, and the mark goes with the write."""
    world = World(deployment("a"), deployment("b"))
    first, second = ObjectKey("team", "a"), ObjectKey("team", "b")
    world.look(first)
    world.look(second)
    world.api.put(STORAGE_CONFIGS, config("/b"))

    assert 0 < world.look(second) < 10
    assert 0 < world.look(first) < 10
    world.now += SETTLE_SECONDS
    world.look(second)
    world.look(first)

    assert (world.path("a"), world.path("b")) == ("/b", "/a")
    marked = world.api.get(DEPLOYMENTS, "a", "team")["metadata"]["annotations"]
    assert "storage.bubustack.io/rollout" in marked


@pytest.mark.parametrize("rollout", [False, True])
def test_a_release_of_the_users_does_not_make_the_next_config_roll(rollout):
    """Once the user's change was looked at, a later change of the config is again the config's alone."""
    world = World()
    world.api.put(STORAGE_CONFIGS, config(rollout=rollout))
    world.look(KEY)
    released = world.api.get(DEPLOYMENTS, "web", "team")
    released["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"
    world.api.put(DEPLOYMENTS, released)
    world.look(KEY)
    template = world.api.get(DEPLOYMENTS, "web", "team")["spec"]["template"]
    assert template == released["spec"]["template"], "nothing restarts for the sake of a note"

    world.api.put(STORAGE_CONFIGS, config("/b", rollout=rollout))
    world.look(KEY)

    assert world.path() == "/a", "it waits for its user, or for its turn"
    assert ("ConfigChanged" in world.reasons()) is not rollout


def test_a_lost_note_comes_back_and_does_not_make_the_next_config_roll():
    """A tool that sets the annotations of the object takes the digest away; the template is what it was."""
    world = World()
    world.api.put(STORAGE_CONFIGS, config(rollout=False))
    world.look(KEY)
    stripped = world.api.get(DEPLOYMENTS, "web", "team")
    del stripped["metadata"]["annotations"]
    world.api.put(DEPLOYMENTS, stripped)
    world.look(KEY)
    assert DIGEST_ANNOTATION in world.api.get(DEPLOYMENTS, "web", "team")["metadata"]["annotations"]

    world.api.put(STORAGE_CONFIGS, config("/b", rollout=False))
    world.look(KEY)
    assert world.path() == "/a"


def test_notes_that_never_hold_come_to_an_end():
    """A policy that changes the template at every write would restart its pods with each note of ours."""
    world = World()
    world.look(KEY)
    for number in range(10 * LIMIT):
        restless = world.api.get(DEPLOYMENTS, "web", "team")
        restless["spec"]["template"]["metadata"]["annotations"]["written"] = str(number)
        world.api.put(DEPLOYMENTS, restless)
        assert world.look(KEY) > 0

    assert len(world.api.patched) == 1 + LIMIT
    assert world.reasons() == ["Injected"], "nobody undoes the injection itself"


@pytest.mark.parametrize("namespace", ["kube-system", "bubu-storage-system", "excluded"])
@pytest.mark.parametrize("annotations", [{}, {DIGEST_ANNOTATION: "0123456789abcdef"}])
def test_workloads_of_the_system_the_operator_and_excluded_namespaces_are_never_touched(
    namespace, annotations
):
    """Whatever their labels and annotations say; the operator must not restart itself for them."""
    own = deployment()
    own["metadata"] |= {"namespace": namespace, "annotations": annotations}
    world = World(own, exclude_namespaces=("excluded",))
    world.api.put(NAMESPACES, {"metadata": {"name": namespace}})
    wanted = config()
    wanted["metadata"]["namespace"] = namespace
    world.api.put(STORAGE_CONFIGS, wanted)

    assert world.look(ObjectKey(namespace, "web")) is None
    assert world.api.patched == []
    assert world.events == []


@pytest.mark.parametrize(
    ("namespace_labels", "on_template", "default", "said"),
    [
        ({"inject": "true"}, {}, True, "they get StorageConfig team/main; put the label"),
        ({"inject": "true"}, {}, False, "they keep what the pod template holds, with a warning (namespace"),
        ({"inject": "true", "strict": "true"}, {}, False, "they are refused (namespace team has several"),
        ({"inject": "true", "config": "other"}, {}, True, ""),
        ({"inject": "true"}, {"storage.bubustack.io/config": "other"}, True, ""),
        ({}, {}, True, ""),
    ],
)
def test_a_config_that_admission_would_not_choose_is_told_of(namespace_labels, on_template, default, said):
    """Pods do not have their workload's labels; where they ask by themselves, the webhook goes by theirs."""
    asking = deployment()
    asking["metadata"]["labels"]["storage.bubustack.io/config"] = "other"
    asking["spec"]["template"]["metadata"]["labels"] = on_template
    world = World(asking)
    labels = {f"storage.bubustack.io/{name}": value for name, value in namespace_labels.items()}
    main, other = config(), config("/other")
    main["spec"]["default"] = default
    other["metadata"]["name"] = "other"
    world.api.put(STORAGE_CONFIGS, main)
    world.api.put(STORAGE_CONFIGS, other)
    world.look(KEY)
    assert (world.path(), world.reasons()) == ("/other", ["Injected"])

    world.api.put(NAMESPACES, {"metadata": {"name": "team", "labels": labels}})
    world.look(KEY)
    world.look(KEY)

    assert world.path() == "/other"
    assert world.reasons() == ["Injected", *["AdmissionDiffers"] * bool(said)], "once, also without a write"
    assert said in world.events[-1][2]


@pytest.mark.parametrize("leaves", ["label", "release", "no longer rolls"])
def test_who_leaves_the_queue_frees_it_at_once(leaves):
    """A label that is taken away, a change of the user's, a config that need not roll any more."""
    world = World()
    world.look(KEY)
    world.api.put(STORAGE_CONFIGS, config("/b"))
    assert world.look(KEY) > 0
    waiting = "bubu_rollouts_waiting"
    assert world.metrics.registry.get_sample_value(waiting) == 1

    changed = world.api.get(DEPLOYMENTS, "web", "team")
    if leaves == "label":
        del changed["metadata"]["labels"]
    elif leaves == "release":
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"
    else:
        world.api.put(STORAGE_CONFIGS, config("/b", rollout=False))
    world.api.put(DEPLOYMENTS, changed)
    world.look(KEY)

    assert world.metrics.registry.get_sample_value(waiting) == 0


def test_a_workload_that_changes_under_our_hands_is_judged_anew():
    """What was decided for the old one is not written into the new one."""
    world = World()
    edits = iter(["x:1", "x:2"])

    def edit():
        image = next(edits, None)
        if image is not None:
            edited = world.api.get(DEPLOYMENTS, "web", "team")
            edited["spec"]["template"]["spec"]["containers"][0]["image"] = image
            world.api.put(DEPLOYMENTS, edited)

    world.api.meanwhile = edit
    world.look(KEY)

    assert world.path() == "/a"
    found = world.api.get(DEPLOYMENTS, "web", "team")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "x:2"
    assert len(world.api.patched) == 1


def test_a_workload_that_never_stands_still():
    """The lane tries again later."""
    world = World()
    world.api.meanwhile = lambda: world.api.put(DEPLOYMENTS, world.api.get(DEPLOYMENTS, "web", "team"))

    with pytest.raises(KubeConflictError, match="changes faster"):
        world.look(KEY)


@pytest.mark.parametrize(
    "refusal",
    [KubeInvalidError("not allowed here", status=422), KubeForbiddenError("not allowed here", status=403)],
)
def test_a_refusal_is_said_and_tried_again_later(refusal):
    """By an admission policy, or by missing rights."""
    world = World()
    world.api.refusal = refusal

    assert world.look(KEY) == RECHECK_SECONDS
    assert world.reasons() == ["InjectionRefused"]
    world.api.refusal = None
    world.look(KEY)
    assert world.path() == "/a"


def test_a_server_that_is_away_is_the_lanes_affair():
    """With its back-off."""
    world = World()
    world.api.refusal = KubeUnreachableError("gone fishing")

    with pytest.raises(KubeUnreachableError):
        world.look(KEY)


def test_gone_workloads_are_nobodys_affair():
    """Deleted before the look, under it, or being deleted."""
    world = World()
    world.api.refusal = KubeNotFoundError("gone", status=404)
    assert world.look(KEY) is None
    assert world.look(ObjectKey("team", "other")) is None
    dying = deployment("dying")
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.api.put(DEPLOYMENTS, dying)
    assert world.look(ObjectKey("team", "dying")) is None
    assert world.path("dying") == ""


def test_a_config_that_is_gone_leaves_the_template():
    """With a word, and another look later."""
    world = World()
    world.look(KEY)
    del world.api.objects["storageconfigs", ObjectKey("team", "main")]

    assert world.look(KEY) == RECHECK_SECONDS
    assert world.path() == "/a"
    assert world.reasons() == ["Injected", "NoConfig"]


def test_who_undoes_our_writes_is_named_and_not_fought():
    """Until the pause is over, or the user writes something else."""
    world = World()
    owned = deployment()
    owned["metadata"] |= {
        "ownerReferences": [{"kind": "Machine", "name": "maker", "controller": True}],
        "managedFields": [{"manager": "machine"}, {"manager": "kubelet", "subresource": "status"}],
    }
    for _ in range(LIMIT):
        world.look(KEY)
        assert world.path() == "/a"
        world.replace(owned)

    assert world.look(KEY) == PAUSE_SECONDS
    assert world.path() == ""
    assert world.reasons()[-1] == "InjectionReverted"
    assert "(it is managed by Machine maker, written to by machine)" in world.events[-1][2]

    world.now += PAUSE_SECONDS
    world.look(KEY)
    world.replace(owned)
    assert world.look(KEY) == 2 * PAUSE_SECONDS
    owned["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"
    world.replace(owned)
    world.look(KEY)
    assert world.path() == "/a"


def test_pauses_grow_to_a_limit_and_end_with_peace():
    """Each further try that is undone doubles it; one that stands for a window ends the fight."""
    now = [0.0]
    fights = Fights(lambda: now[0])
    for _ in range(LIMIT):
        assert fights.pause(KEY, "i") == 0.0
        fights.wrote(KEY, "i")
    pauses = []
    for _ in range(6):
        pauses.append(fights.pause(KEY, "i"))
        now[0] += pauses[-1]
        fights.wrote(KEY, "i")

    assert pauses[:3] == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS]
    assert pauses[-1] == MAX_PAUSE_SECONDS
    now[0] += MAX_PAUSE_SECONDS + WINDOW_SECONDS + 1
    fights.wrote(KEY, "i")
    assert fights.pause(KEY, "i") == 0.0


def test_rare_writes_are_no_fight():
    """Somebody who replaces the object once an hour gets it back each time."""
    now = [0.0]
    fights = Fights(lambda: now[0])
    for _ in range(20):
        fights.wrote(KEY, "i")
        assert fights.pause(KEY, "i") == 0.0
        now[0] += WINDOW_SECONDS * 2 / 3
