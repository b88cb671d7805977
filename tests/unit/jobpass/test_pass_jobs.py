"""Jobs of agents over time: one of a config, deleted after its pass, ever more rarely while they fail."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.pass_jobs import PassJobs
from bubu_operator.controllers.probe_job_schedule import MAX_JOBS_OF_NAMESPACE
from bubu_operator.controllers.probe_jobs import CLAIMS
from bubu_operator.errors import KubeConflictError, KubeForbiddenError, KubeUnreachableError
from bubu_operator.jobpass.hello import AUDIENCE
from bubu_operator.jobpass.listener import PodIdentity
from bubu_operator.jobpass.seam import NotYet, PassOrder
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import JOBS, PODS, ObjectKey
from bubu_operator.kube.scrub import Redactor
from bubu_operator.probe.result import ProbeResult
from tests.unit.controllers.fake_api import FakeApi

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PASS_OF = "storage.bubustack.io/pass-of"
NO_RIGHT = (
    'jobs.batch is forbidden: User "system:serviceaccount:bubu-storage-system:bubu-storage-controller" '
    'cannot list resource "jobs"'
)
SERVICE_ACCOUNT = {"s3": {"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}}}


class Api(FakeApi):
    """Jobs and pods in memory; ``created`` counts, ``fail`` is raised by the next request."""

    def __init__(self):
        super().__init__()
        self.created = []
        self.fail = None
        self.now = START

    def list_page(self, resource, namespace=None, *, label_selector="", field_selector="", limit=500, **_):
        """List by one label, without the phases that are not wanted."""
        if self.fail is not None:
            raise self.fail
        name, _, value = label_selector.partition("=")
        found = self.list(resource, namespace).items
        unwanted = {part.partition("!=")[2] for part in field_selector.split(",") if "phase!=" in part}
        wanted = [
            one
            for one in found
            if (not name or one["metadata"]["labels"].get(name) == value)
            and one.get("status", {}).get("phase") not in unwanted
        ]
        return ObjectList(tuple(wanted[:limit]), "1")

    def create(self, resource, body, _namespace=None, **_):
        """Create a Job."""
        job = copy.deepcopy(body)
        self.created.append(job)
        job["metadata"] |= {"uid": f"job-{len(self.created)}", "creationTimestamp": format_time(self.now)}
        self.put(resource, job)
        return job

    def delete(self, resource, name, namespace=None, *, uid="", **_):
        """Delete a Job, if it still is that one."""
        job = self.objects.pop((resource.plural, ObjectKey(namespace, name)))
        assert uid == job["metadata"]["uid"]


class Channel:
    """An agent's line."""

    alive = True
    agent_left = False

    def lend(self):
        """Lend it while it is alive."""
        return self.alive


class Desk:
    """Stands in for the listener: who is expected."""

    pin = "sha256:" + "0" * 64

    def __init__(self):
        self.expected = {}
        self.ended = []

    def start(self):
        """Nothing is opened."""

    def expect(self, pass_id, expected):
        """Take it down."""
        self.expected[pass_id] = expected

    def forget(self, pass_id):
        """Take it down."""
        if self.expected.pop(pass_id, None) is not None:
            self.ended.append(pass_id)


class World:
    """A clock, an API server, and the Jobs of one controller."""

    def __init__(self):
        self.api = Api()
        self.desk = Desk()
        self.seconds = 0.0
        self.woken = []
        self.context = Context(
            client=self.api,
            events=EventRecorder(self.api, Redactor(), controller="c", instance="i"),
            redactor=Redactor(),
            options=ControllerOptions(job_image="img:1"),
            clock=lambda: START + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
        )
        self.jobs = PassJobs(
            self.context,
            lambda: (self.desk, "https://10.0.0.1:8444"),
            wake=self.woken.append,
            rng=random.Random(1),
        )
        self.jobs.start()

    def after(self, seconds):
        """Let time pass."""
        self.seconds += seconds
        self.api.now = START + timedelta(seconds=self.seconds)

    @staticmethod
    def config(name="main", spec=None, generation=1):
        """Make a config."""
        metadata = {"name": name, "namespace": "team-a", "uid": f"u-{name}", "generation": generation}
        return StorageConfig.model_validate({"metadata": metadata, "spec": spec or SERVICE_ACCOUNT})

    @staticmethod
    def order(policy="tidy"):
        """Make an order."""
        return PassOrder(ObjectKey("team-a", policy), f"p-{policy}", ("outputs/team-a/",), 60.0)

    def open(self, policy="tidy", **config):
        """Ask for an agent."""
        return self.jobs.open(self.order(policy), self.config(**config))

    def names(self):
        """Return the names of the Jobs there are."""
        return [key.name for plural, key in self.api.objects if plural == JOBS.plural]

    def pod(self, number=1, *, owner=None, state=None):
        """Make the pod of the n-th Job."""
        uid = f"job-{number}"
        metadata = {
            "name": f"pod-{number}",
            "namespace": "team-a",
            "uid": f"pod-uid-{number}",
            "creationTimestamp": format_time(self.api.now),
            "labels": {"batch.kubernetes.io/controller-uid": uid},
            "ownerReferences": [{"kind": "Job", "uid": owner or uid}],
        }
        statuses = [{"name": "retention-agent", "state": state or {"running": {}}}]
        self.api.put(PODS, {"metadata": metadata, "status": {"containerStatuses": statuses}})

    def arrive(self):
        """Let the expected agent in."""
        (expected,) = self.desk.expected.values()
        expected.channel = Channel()
        return expected


@pytest.fixture
def world():
    """A world."""
    return World()


def test_a_pass_and_the_next(world):
    """Made when asked for, handed out when the agent is there, deleted after the pass, and made anew."""
    first = world.open()
    assert (first.quiet, first.keeps_turn) == (True, True)
    assert world.open().quiet
    assert len(world.api.created) == 1
    expected = world.arrive()

    assert world.open() is expected.channel
    expected.on_arrival()
    assert world.woken == [ObjectKey("team-a", "tidy")]
    world.jobs.finished(world.config(), good=True)
    assert world.names() == []
    assert len(world.desk.ended) == 1

    world.open()
    names = [job["metadata"]["name"] for job in world.api.created]
    assert len(set(names)) == 2


def test_the_job(world):
    """Injection's environment, the policy's scopes, a token for us alone, and nothing of the API server."""
    world.open()
    (job,) = world.api.created
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = container["args"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "runner"
    assert job["metadata"]["labels"][PASS_OF] == "main"
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u-main"
    assert container["command"] == ["bubu-operator", "retention-agent"]
    assert arguments[arguments.index("--scope") + 1] == "outputs/team-a/"
    assert arguments[arguments.index("--controller") + 1] == "https://10.0.0.1:8444"
    assert "--require-identity" in arguments
    (token,) = [
        source["serviceAccountToken"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    ]
    assert token["audience"] == AUDIENCE
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert job["spec"]["activeDeadlineSeconds"] == 300 + 300 + 60 + 60
    assert job["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("pod", "good"),
    [
        (PodIdentity("team-a", "runner", "pod-1", "pod-uid-1"), True),
        (PodIdentity("team-a", "runner", "pod-1", "pod-uid-2"), False),
        (PodIdentity("team-b", "runner", "pod-1", "pod-uid-1"), False),
        (PodIdentity("team-a", "default", "pod-1", "pod-uid-1"), False),
    ],
)
def test_only_the_jobs_own_pod_is_let_in(world, pod, good):
    """Of the namespace, under the account, that very pod."""
    world.open()
    world.pod()
    (expected,) = world.desk.expected.values()

    assert expected.admit(pod) is good


def test_a_pod_that_only_looks_like_the_jobs(world):
    """A label is anybody's to write."""
    world.open()
    world.pod(owner="another-job")
    (expected,) = world.desk.expected.values()

    assert not expected.admit(PodIdentity("team-a", "runner", "pod-1", "pod-uid-1"))


def test_leftovers_are_deleted_first(world):
    """A Job of an earlier controller is of no use: its agent does not know this one."""
    metadata = {
        "name": "bubu-pass-main-old",
        "namespace": "team-a",
        "uid": "old",
        "labels": {PASS_OF: "main"},
        "ownerReferences": [{"uid": "u-main"}],
    }
    world.api.put(JOBS, {"metadata": metadata})

    assert world.open().quiet
    assert world.names() == []
    assert world.api.created == []
    world.open()
    assert len(world.names()) == 1


def test_an_earlier_agents_pod_has_ended_first(world):
    """Its Job may be gone while it still deletes."""
    world.pod(9)
    labels = {PASS_OF: "main", "batch.kubernetes.io/controller-uid": "job-9"}
    pod = world.api.get(PODS, "pod-9", "team-a")
    world.api.put(PODS, pod | {"metadata": pod["metadata"] | {"labels": labels}})

    waiting = world.open()
    assert (waiting.reason, waiting.keeps_turn) == ("PassJobStuck", False)
    assert "pod-9" in waiting.message
    assert world.api.created == []

    pod = world.api.get(PODS, "pod-9", "team-a")
    world.api.put(PODS, pod | {"status": {"phase": "Failed"}})
    assert world.open().quiet
    assert len(world.api.created) == 1


def test_somebody_elses_job_is_left_alone(world):
    """Also with our label."""
    metadata = {"name": "theirs", "namespace": "team-a", "uid": "x", "labels": {PASS_OF: "main"}}
    world.api.put(JOBS, {"metadata": metadata})

    world.open()

    assert "theirs" in world.names()


def test_a_job_of_the_same_name_that_somebody_else_made(world):
    """It is none of ours: not waited for, its pod's words are not passed on, and it goes."""
    world.open()
    (name,) = world.names()
    ours = world.api.get(JOBS, name, "team-a")
    forged = copy.deepcopy(ours)
    forged["metadata"]["uid"] = "job-7"
    world.api.put(JOBS, forged)
    world.pod(7, state={"terminated": {"message": ProbeResult(reason="Timeout", message="forged").to_text()}})

    found = world.open()

    assert "forged" not in found.message
    assert world.names() == []
    assert (found.quiet, len(world.api.created)) == (True, 1)
    assert world.open().reason == "PassJobFailed"


def test_nobody_can_tell_the_name_of_the_next_job(world):
    """Whoever knows all that a Job says cannot make the next one beforehand."""
    other = World()
    world.open()
    other.open()

    assert world.names() != other.names()


def test_another_policys_look_leaves_an_agent_at_work_alone(world):
    """Whatever comes of that look: a right that was taken away is no reason to break a pass off."""
    spec = {"file": {"volumeClaimName": "flows"}}
    bound = {"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.api.put(CLAIMS, bound | {"metadata": {"name": "flows", "namespace": "team-a"}})
    world.open(spec=spec)
    world.arrive()
    world.open(spec=spec)

    def forbidden(*_args, **_options):
        raise KubeForbiddenError(NO_RIGHT, status=403)

    world.api.get = world.api.list_page = forbidden

    world.open(policy="other", spec=spec)
    world.open(policy="other", spec=spec, generation=2)

    assert world.desk.ended == []
    world.jobs.finished(world.config(), good=True)
    assert len(world.desk.ended) == 1


def test_a_claim_that_goes_leaves_an_agent_at_work_alone(world):
    """The pass has it mounted."""
    spec = {"file": {"volumeClaimName": "flows"}}
    bound = {"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.api.put(CLAIMS, bound | {"metadata": {"name": "flows", "namespace": "team-a"}})
    world.open(spec=spec)
    world.arrive()
    world.open(spec=spec)

    gone = world.open(policy="other", spec={"file": {"volumeClaimName": "other"}}, generation=2)

    assert not isinstance(gone, Channel)
    assert world.desk.ended == []


def test_an_agent_that_runs_and_does_not_call(world):
    """Its Job's own deadline is the team's to change: it has so long to call, and no longer."""
    world.open()
    world.pod()
    world.after(300)
    assert world.open().quiet
    world.after(300)

    failed = world.open()

    assert (failed.reason, failed.quiet) == ("PassJobFailed", False)
    assert "has not called" in failed.message
    assert world.names() == []


def test_pods_that_have_ended_hide_no_pod_that_has_not(world):
    """A namespace may hold any number of pods with our label."""
    for number in range(30, 60):
        world.pod(number)
        pod = world.api.get(PODS, f"pod-{number}", "team-a")
        pod["metadata"]["labels"] = {PASS_OF: "main"}
        world.api.put(PODS, pod | {"status": {"phase": "Failed" if number < 59 else "Running"}})

    assert "pod-59" in world.open().message
    assert world.api.created == []


def test_another_policy_waits_for_the_first_ones_agent(world):
    """And gets its turn when that one's pass is over, or when it has given up."""
    world.open()
    world.arrive()
    world.open()
    second = world.open(policy="other")
    assert isinstance(second, NotYet)
    assert (second.quiet, second.keeps_turn) == (True, False)
    assert len(world.api.created) == 1
    world.jobs.finished(world.config(), good=True)

    world.open(policy="other")
    assert len(world.api.created) == 2
    world.after(61)
    for _ in range(3):
        world.open()
    assert len(world.api.created) == 3


def test_an_agent_that_ends_before_the_pass(world):
    """Its own words are the reason; the next try is later each time."""
    pauses = []
    for number in range(1, 5):
        world.open()
        result = ProbeResult(reason="Unauthenticated", message="the store does not know the account")
        world.pod(number, state={"terminated": {"exitCode": 1, "message": result.to_text()}})
        failed = world.open()
        assert failed.reason == "Unauthenticated"
        assert "does not know the account" in failed.message
        assert not failed.quiet
        assert world.names() == []
        assert world.open().message == failed.message, "no Job during the pause"
        pauses.append(failed.again_seconds)
        world.after(failed.again_seconds)

    assert len(world.api.created) == 4
    assert pauses[-1] > 2 * pauses[0]


def test_a_job_that_cannot_start(world):
    """The reason is told while it may still start, and the Job goes at its deadline."""
    world.open()
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "img:1: not found"}}
    world.pod(state=waiting)
    assert world.open().quiet
    world.after(20)
    stuck = world.open()
    assert (stuck.reason, stuck.quiet, stuck.keeps_turn) == ("PassJobStuck", False, False)
    assert "ErrImagePull" in stuck.message
    assert len(world.names()) == 1

    world.after(300)
    assert "ErrImagePull" in world.open().message
    assert world.names() == []


def test_a_refused_right_is_a_command(world):
    """As it stands in the message."""
    world.api.fail = KubeForbiddenError(NO_RIGHT, status=403)

    refused = world.open()

    assert refused.reason == "PassJobRefused"
    assert "kubectl create rolebinding bubu-storage-prober --namespace team-a" in refused.message


def test_an_api_server_that_is_away(world):
    """No reason of the policy's: it is tried again as everything is."""
    world.api.fail = KubeUnreachableError("no connection")

    with pytest.raises(KubeUnreachableError):
        world.open()


def test_a_name_that_is_taken(world, monkeypatch):
    """Waited for: it is most likely our own Job that is going."""

    def taken(*_args, **_options):
        raise KubeConflictError("exists", status=409)

    monkeypatch.setattr(world.api, "create", taken)

    assert world.open().quiet


@pytest.mark.parametrize(
    ("claim", "reason", "message"),
    [
        (None, "ClaimNotFound", "does not exist"),
        ({"status": {"phase": "Pending"}}, "PassJobRefused", "is Pending"),
        (
            {"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteOnce"]}},
            "PassJobRefused",
            "ReadWriteOnce",
        ),
    ],
)
def test_claims_that_are_not_mounted(world, claim, reason, message):
    """Missing, not bound, of one node: no Job, and a reason."""
    if claim is not None:
        world.api.put(CLAIMS, claim | {"metadata": {"name": "flows", "namespace": "team-a"}})

    found = world.open(spec={"file": {"volumeClaimName": "flows"}})

    assert found.reason == reason
    assert message in found.message
    assert world.api.created == []


def test_places_are_bounded_and_given_back(world):
    """Configs of one namespace have only so many; who has stopped asking loses its place."""
    for number in range(MAX_JOBS_OF_NAMESPACE + 1):
        world.open(policy=f"p{number}", name=f"c{number}")
    assert len(world.api.created) == MAX_JOBS_OF_NAMESPACE
    last = f"p{MAX_JOBS_OF_NAMESPACE}", f"c{MAX_JOBS_OF_NAMESPACE}"
    waiting = world.open(policy=last[0], name=last[1])
    assert (waiting.quiet, waiting.keeps_turn) == (True, False)

    world.after(121)
    world.open(policy=last[0], name=last[1])

    assert len(world.api.created) == MAX_JOBS_OF_NAMESPACE + 1
    assert len(world.desk.expected) == 1


def test_without_a_port_nothing_is_wanted(world):
    """Such policies are refused as before."""
    jobs = PassJobs(world.context, lambda: None, wake=world.woken.append)
    jobs.start()

    assert not jobs.wants(world.config())
    assert world.jobs.wants(world.config())
    assert not world.jobs.wants(
        world.config(spec={"s3": {"bucket": "flows", "authentication": {"anonymous": {}}}})
    )


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            "its pod ended with exit code 137 (OOMKilled)",
        ),
        ({"terminated": {"exitCode": 0, "message": ProbeResult(reason="ProbeSucceeded").to_text()}}, ""),
        (
            {
                "terminated": {
                    "exitCode": 1,
                    "message": ProbeResult(reason="Timeout", message="660 s\nfor everything").to_text(),
                }
            },
            "its last words: 660 s for everything",
        ),
        ({"running": {}}, ""),
    ],
    ids=["killed", "fine", "words", "runs"],
)
def test_an_agent_that_leaves_in_the_middle_of_a_pass(world, status, told):
    """What the kubelet has written down is told; it is waited for, but not for ever."""
    world.open()
    expected = world.arrive()
    world.open()
    expected.channel.agent_left = True
    world.pod(state=status)
    world.context.stopping.wait = world.after

    assert world.jobs.last_words(world.config()) == told
    assert world.seconds < 10


def test_an_agent_that_did_not_leave_has_no_last_words(world):
    """The pass failed for another reason; nobody waits for the pod."""
    world.open()
    world.arrive()
    world.open()
    world.pod(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})

    assert world.jobs.last_words(world.config()) == ""
    assert world.jobs.last_words(world.config(name="other")) == ""


def test_last_words_are_cleaned_of_the_own_credentials_only(world):
    """What another tenant keeps in a Secret is no word to hide here."""
    world.open()
    expected = world.arrive()
    world.open()
    expected.channel.agent_left = True
    said = ProbeResult(reason="Timeout", message="planted: see kubectl").to_text()
    world.pod(state={"terminated": {"exitCode": 1, "message": said}})
    world.context.redactor.add(["planted"], "team-a")
    world.context.redactor.add(["kubectl"], "team-b")

    assert world.jobs.last_words(world.config()) == "its last words: [redacted]: see kubectl"


def test_a_pod_that_was_evicted(world):
    """Its own status says why; it may have none of its container, and text without an end."""
    world.open()
    expected = world.arrive()
    world.open()
    expected.channel.agent_left = True
    world.pod()
    pod = world.api.get(PODS, "pod-1", "team-a")
    told = "low on resource: memory, see https://u:secretPLANTED@node/\n" * 100
    world.api.put(PODS, pod | {"status": {"phase": "Failed", "reason": "Evicted", "message": told}})

    words = world.jobs.last_words(world.config())

    assert words.startswith("its pod ended: Evicted: low on resource: memory")
    assert len(words) <= 300
    assert "PLANTED" not in words
