"""Jobs over time: one at a time, few in all, adopted, deleted, ever more rarely while they fail."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.config_status import config_status
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.probe_job_schedule import MAX_JOBS, MAX_JOBS_OF_NAMESPACE
from bubu_operator.controllers.probe_jobs import CLAIMS, YOUNG_CLAIM_SECONDS, YOUNG_SECONDS, ProbeJobs
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.errors import KubeConflictError, KubeForbiddenError, KubeUnreachableError
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.conditions import ConditionStatus, format_time
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import JOBS, PODS, STORAGE_CONFIGS, ObjectKey
from bubu_operator.kube.scrub import Redactor
from bubu_operator.probe.result import ProbeResult
from tests.unit.controllers.fake_api import FakeApi

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INTERVAL = 600.0
NO_RIGHT = (
    'jobs.batch is forbidden: User "system:serviceaccount:bubu-storage-system:bubu-storage-controller" '
    'cannot list resource "jobs"'
)


class Api(FakeApi):
    """Jobs and pods in memory; ``created`` counts, ``fail`` is raised by the next creation."""

    def __init__(self):
        super().__init__()
        self.created = []
        self.fail = None
        self.now = START

    def list_page(self, resource, namespace=None, *, label_selector="", **_):
        """List by one label."""
        name, _, value = label_selector.partition("=")
        found = self.list(resource, namespace).items
        return ObjectList(
            tuple(one for one in found if not name or one["metadata"]["labels"].get(name) == value), "1"
        )

    def create(self, resource, body, _namespace=None, **_):
        """Create a Job."""
        if self.fail is not None:
            raise self.fail
        job = copy.deepcopy(body)
        self.created.append(job["metadata"]["name"])
        job["metadata"] |= {
            "uid": f"job-{len(self.created)}",
            "creationTimestamp": format_time(self.now),
        }
        self.put(resource, job)
        return job

    def delete(self, resource, name, namespace=None, *, uid="", **_):
        """Delete a Job, if it still is that one."""
        job = self.objects.pop((resource.plural, ObjectKey(namespace, name)))
        assert uid == job["metadata"]["uid"]


class Nowhere:
    """Takes events."""

    def create(self, *_args, **_options):
        """Forget it."""


class World:
    """A clock, an API server, and the Jobs of one controller."""

    def __init__(self, **options):
        self.api = Api()
        self.seconds = 0.0
        self.options = ControllerOptions(**({"job_image": "img:1"} | options))
        self.restart()
        self.configs = {}

    def restart(self):
        """Forget what a process remembers."""
        self.context = context = Context(
            client=self.api,
            events=EventRecorder(Nowhere(), Redactor(), controller="c", instance="i"),
            redactor=Redactor(),
            options=self.options,
            clock=lambda: START + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
        )
        self.jobs = ProbeJobs(context, rng=random.Random(1))

    def after(self, seconds):
        """Let time pass."""
        self.seconds += seconds
        self.api.now = START + timedelta(seconds=self.seconds)

    def config(self, name="main", generation=1, annotations=None, spec=None, namespace="team-a"):
        """Return the object with the status that earlier looks have left."""
        s3 = {"s3": {"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}}}
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": f"u-{name}",
            "generation": generation,
            "annotations": annotations or {},
        }
        return {"metadata": metadata, "spec": spec or s3, "status": self.configs.get(name, {})}

    def look(self, name="main", **kwargs):
        """Look once, and write what there is to write, as the reconciler does."""
        obj = self.config(name, **kwargs)
        config = StorageConfig.model_validate(obj)
        look = self.jobs.look(obj, config)
        if look.verdict is not None:
            self.configs[name] = config_status(
                obj["status"],
                config,
                look.verdict,
                generation=obj["metadata"]["generation"],
                now=START + timedelta(seconds=self.seconds),
            )
        look.finish()
        return look

    def names(self):
        """Return the names of the Jobs there are."""
        return [key.name for plural, key in self.api.objects if plural == JOBS.plural]

    def end(self, message, code=0):
        """Let the pod of the newest Job end."""
        uid = f"job-{len(self.api.created)}"
        state = {"terminated": {"exitCode": code, "message": message}}
        pod = {
            "metadata": {
                "name": f"pod-{uid}",
                "namespace": "team-a",
                "labels": {"batch.kubernetes.io/controller-uid": uid},
            },
            "status": {"containerStatuses": [{"name": "probe", "state": state}]},
        }
        self.api.put(PODS, pod)


GOOD = ProbeResult(reason=Reason.PROBE_SUCCEEDED, capabilities=("Read",), latency_milliseconds=5).to_text()
BAD = ProbeResult(reason=Reason.UNREACHABLE, message="no route").to_text()


def test_the_life_of_a_job():
    """Created, awaited in short looks, read, deleted, and the next one ten intervals later."""
    world = World()

    first = world.look()
    assert (first.verdict.reason, len(world.names())) == (Reason.PROBE_JOB_RUNNING, 1)
    assert first.again_seconds <= 1
    world.after(8)
    assert world.look().verdict is None
    world.end(GOOD)
    last = world.look()
    assert (last.verdict.reason, last.again_seconds, world.names()) == (Reason.PROBE_SUCCEEDED, INTERVAL, [])

    world.after(INTERVAL - 1)
    assert world.look().again_seconds == pytest.approx(1)
    assert world.names() == []
    world.after(1)
    # The answer of before stands until there is another.
    assert world.look().verdict is None
    assert len(world.names()) == 1


def test_failures_are_tried_again_ever_more_rarely():
    """From the probe interval up to ten of them, with jitter; one success forgets them."""
    world = World()
    pauses = []
    for _ in range(7):
        world.look()
        world.end(BAD, 1)
        look = world.look()
        assert look.verdict.reason is Reason.UNREACHABLE
        pauses.append(look.again_seconds)
        world.after(look.again_seconds)

    assert 30 <= pauses[0] <= 60
    assert pauses[1] > pauses[0]
    assert all(INTERVAL / 2 <= pause <= INTERVAL for pause in pauses[-2:])
    world.look()
    world.end(GOOD)
    world.look()
    world.after(INTERVAL)
    world.look()
    world.end(BAD)
    assert world.look().again_seconds <= 60


def test_a_restarted_controller_adopts_the_job_and_keeps_to_the_interval():
    """What it must know is in the cluster."""
    world = World()
    world.look()
    world.restart()
    assert world.look().again_seconds <= 10
    assert len(world.api.created) == 1
    world.end(GOOD)
    world.look()

    world.restart()
    world.after(100)

    assert world.look().again_seconds == pytest.approx(INTERVAL - 100)
    world.restart()
    world.seconds = -1000.0  # the clock was set back: not an excuse to wait for ever
    world.look()
    assert len(world.names()) == 1


def test_a_changed_spec_deletes_the_old_job_first():
    """Never two at a time."""
    world = World()
    world.look()
    (old,) = world.names()

    look = world.look(generation=2)
    assert (look.again_seconds, world.names()) == (1.0, [])
    world.look(generation=2)

    assert old not in world.names()
    assert len(world.names()) == 1


@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"annotations": {"storage.bubustack.io/run-now": "1"}}]
)
def test_what_asks_for_a_probe_at_once(change):
    """A new spec and a new value of run-now outrank the pause."""
    world = World()
    world.look()
    world.end(BAD)
    world.look()
    assert world.look().again_seconds > 1
    assert world.names() == []

    world.look(**change)

    assert len(world.names()) == 1


def test_only_so_many_jobs_at_a_time():
    """The rest wait their turn; a Job that ends makes room."""
    world = World()
    for number in range(MAX_JOBS + 2):
        world.look(f"c-{number}", namespace=f"team-{number}")
    assert len(world.names()) == MAX_JOBS
    lists = len(world.api.lists)
    last = {"name": f"c-{MAX_JOBS}", "namespace": f"team-{MAX_JOBS}"}
    waiting = world.look(**last)
    assert waiting.again_seconds >= 10
    assert len(world.api.lists) == lists  # very many may wait

    world.jobs.forget(ObjectKey("team-0", "c-0"))
    world.look(**last)

    assert len(world.names()) == MAX_JOBS + 1


def test_one_team_cannot_take_all_places():
    """However many configs a namespace has, and whatever keeps their Jobs, another namespace's is probed."""
    world = World()
    for number in range(MAX_JOBS + 2):
        world.look(f"c-{number}")
    assert len(world.names()) == MAX_JOBS_OF_NAMESPACE

    world.look("other", namespace="team-b")

    assert len(world.names()) == MAX_JOBS_OF_NAMESPACE + 1


@pytest.mark.parametrize("why", ["no right", "no claim"])
def test_a_config_that_may_have_no_job_any_more_holds_no_place(why):
    """Else a few of them would keep all others waiting until the controller starts again."""
    world = World()
    names = [f"c-{number}" for number in range(MAX_JOBS_OF_NAMESPACE)]
    for name in names:
        world.look(name)

    def forbidden(*_args, **_options):
        raise KubeForbiddenError(NO_RIGHT, status=403)

    spec = {"file": {"volumeClaimName": "gone"}} if why == "no claim" else None
    list_page = world.api.list_page
    if why == "no right":
        world.api.list_page = forbidden
    for name in names:
        world.look(name, spec=spec, generation=2)
    world.api.list_page = list_page
    world.look("next")

    assert "next" in world.api.created[-1]


@pytest.mark.parametrize("phase", ["Pending", None])
def test_a_claim_that_comes_with_its_config_is_soon_looked_at_again(phase):
    """Both are often in one file: the claim is bound a moment later. Who waits for days is asked rarely."""
    world = World()
    spec = {"file": {"volumeClaimName": "flows"}}
    if phase is not None:
        metadata = {"name": "flows", "namespace": "team-a"}
        world.api.put(CLAIMS, {"metadata": metadata, "status": {"phase": phase}})
    obj = world.config(spec=spec)
    obj["metadata"]["creationTimestamp"] = format_time(START)
    config = StorageConfig.model_validate(obj)
    world.after(1)
    young = world.jobs.look(obj, config).again_seconds
    world.after(YOUNG_SECONDS)

    old = world.jobs.look(obj, config).again_seconds

    assert young <= YOUNG_CLAIM_SECONDS
    assert old > 30


@pytest.mark.parametrize("change", ["deleted", "invalid"])
def test_a_config_that_is_being_deleted_or_invalid_holds_no_place(change):
    """A finalizer of somebody's may keep it for ever; the Jobs of the others go on."""
    world = World()
    reconcile = ConfigReconciler(world.context, STORAGE_CONFIGS)
    names = [f"c-{number}" for number in range(MAX_JOBS_OF_NAMESPACE)]
    for name in names:
        obj = world.config(name)
        world.api.put(STORAGE_CONFIGS, obj)
        reconcile(ObjectKey("team-a", name))
        if change == "deleted":
            obj["metadata"]["deletionTimestamp"] = format_time(START)
        else:
            obj["spec"] = {}
        world.api.put(STORAGE_CONFIGS, obj)
        reconcile(ObjectKey("team-a", name))
    world.api.put(STORAGE_CONFIGS, world.config("next"))

    reconcile(ObjectKey("team-a", "next"))

    assert "next" in world.api.created[-1]


def test_without_an_image():
    """As before there were Jobs, with the way out."""
    world = World(job_image="")

    look = world.look()

    assert (look.verdict.reason, look.verdict.ready) == (Reason.NO_CREDENTIALS, ConditionStatus.UNKNOWN)
    assert "--job-image" in look.verdict.message
    assert "never lends its own identity" in look.verdict.message


def test_in_the_operators_own_namespace():
    """No tenant's account runs there."""
    world = World(operator_namespace="team-a")

    assert "operator's own namespace" in world.look().verdict.message
    assert world.names() == []


def test_refusals_of_the_api_server():
    """A quota is not a missing right; each has its reason, and neither keeps a place."""
    world = World()
    for number in range(MAX_JOBS + 1):
        world.api.fail = KubeForbiddenError('jobs.batch "x" is forbidden: exceeded quota: none', status=403)
        refused = world.look(f"c-{number}")
        assert refused.verdict.reason is Reason.PROBE_JOB_REFUSED
        assert "exceeded quota" in refused.verdict.message
    world.api.fail = KubeForbiddenError(NO_RIGHT, status=403)
    lacking = world.look("other")
    assert lacking.verdict.reason is Reason.NO_CREDENTIALS
    assert "kubectl create rolebinding bubu-storage-prober --namespace team-a" in lacking.verdict.message
    scoped = World(namespaces=("team-a",), prober_role="mine-prober")
    scoped.api.fail = KubeForbiddenError(NO_RIGHT, status=403)
    message = scoped.look("other").verdict.message
    assert "create rolebinding mine-prober --namespace team-a --role mine-prober " in message
    world.api.fail = KubeConflictError("exists", status=409)
    assert "not this config's" in world.look("third").verdict.message
    world.api.fail = KubeUnreachableError("away", status=503)
    with pytest.raises(KubeUnreachableError):
        world.look("fourth")
    world.api.fail = None

    world.look("fifth")

    assert len(world.names()) == 1


def test_a_job_of_somebody_elses_is_left_alone():
    """The label alone makes it no Job of this config's: the owner's uid does."""
    world = World()
    world.look()
    (name,) = world.names()
    foreign = world.api.get(JOBS, name, "team-a")
    foreign["metadata"] |= {"name": "foreign", "ownerReferences": [{"uid": "u-before"}]}
    world.api.put(JOBS, foreign)

    world.look(generation=2)

    assert world.names() == ["foreign"]


def test_what_kept_a_job_from_starting_outlives_it():
    """The Job's end says only that its deadline passed."""
    world = World()
    world.look()
    world.after(100)
    stuck = world.look()
    assert stuck.verdict.reason is Reason.PROBE_JOB_STUCK
    (name,) = world.names()
    job = world.api.get(JOBS, name, "team-a")
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}
    world.api.put(JOBS, job)

    ended = world.look()

    assert ended.verdict is None
    assert ended.again_seconds > 1
    assert world.names() == []


def test_a_config_that_needs_no_job_any_more():
    """What this process has started is deleted; other configs cost no request."""
    world = World()
    world.look()
    config = StorageConfig.model_validate(world.config())

    world.jobs.discard(config)
    lists = len(world.api.lists)
    world.jobs.discard(config)

    assert world.names() == []
    assert len(world.api.lists) == lists
