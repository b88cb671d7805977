"""Lists of owners from a real API server: whole over many pages, honest about everything else, and cheap."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bubu_operator.controllers.isolation import child_environment
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, Resource
from bubu_operator.owners import gather
from bubu_operator.owners.kinds import OwnerKind
from bubu_operator.owners.served import OwnersAnomalyError
from bubu_operator.owners.source import ApiOwnerSource, open_owners
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.owners import OWNERS_FRESH_SECONDS, OwnerFacts
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import boot_seconds
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.settings import FileSettings
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import install, nudge_crds, until, wait_served
from tests.cluster.etcd_gateway import compact
from tests.cluster.processes import PATIENCE, Stopwatch
from tests.cluster.run_kinds import install_run_kinds, story_run

pytestmark = pytest.mark.cluster

STORY_RUNS = Resource("runs.bubustack.io", "v1alpha1", "storyruns", "StoryRun")
STEP_RUNS = Resource("runs.bubustack.io", "v1alpha1", "stepruns", "StepRun")
MANY = 2_000
DAY = 86400.0


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with the kinds that own runs, and the controller's account."""
    install(cluster)
    install_run_kinds(cluster)
    return cluster


@pytest.fixture(scope="module")
def admin(installed: Cluster) -> Iterator[KubeClient]:
    """A client that may do everything."""
    with KubeClient.load(str(installed.kubeconfig)) as client:
        yield client


def client_of(cluster: Cluster, workdir: Path, namespace: str, account: str) -> KubeClient:
    """Return a client under an account."""
    return KubeClient.load(
        str(cluster.service_account_kubeconfig(namespace, account, workdir / f"{account}.kubeconfig"))
    )


@pytest.fixture
def controller(installed: Cluster, tmp_path: Path) -> Iterator[KubeClient]:
    """A client under the controller's account, with the rights that are shipped."""
    with client_of(installed, tmp_path, "bubu-storage-system", "bubu-storage-controller") as client:
        yield client


class Wrapped(KubeClient):
    """A client that does something before each request that it sends."""

    before: Callable[[str, dict[str, str]], None] | None = None

    def send(self, method: str, path: str, **options: Any) -> urllib3.HTTPResponse:
        """Send a request."""
        if self.before is not None:
            self.before(path, options["query"] or {})
        return super().send(method, path, **options)


@pytest.fixture
def wrapped(installed: Cluster) -> Iterator[Wrapped]:
    """A client that tests may get in the way of."""
    with Wrapped.load(str(installed.kubeconfig)) as client:
        yield client


def opened(client: KubeClient, namespace: str | None, *kinds: OwnerKind, **options: Any) -> ApiOwnerSource:
    """Open a source that must be there."""
    source = open_owners(client, kinds, namespace=namespace, **options)
    assert source is not None
    return source


def create(client: KubeClient, namespace: str, name: str, phase: str = "", **spec: Any) -> None:
    """Create a StoryRun, in a phase if one is given."""
    made = story_run(name, namespace, **spec)
    client.create(STORY_RUNS, made, namespace)
    if phase:
        client.patch_status(STORY_RUNS, name, {"phase": phase}, namespace)


def create_many(client: KubeClient, namespace: str, count: int, *, padding: int) -> None:
    """Create StoryRuns of a realistic size, and one StepRun for every fourth of them."""

    def make(number: int) -> None:
        name = f"run-{number:05d}"
        key = f"inputs/{namespace}/{name}/input.json"
        create(client, namespace, name, inputs={"file": {"$bubuStorageRef": key}, "text": "x" * padding})
        if number % 4 == 0:
            step: JsonObject = {
                "metadata": {"name": f"{name}-a"},
                "spec": {"storyRunRef": {"name": name}, "stepId": "a"},
            }
            client.create(STEP_RUNS, step, namespace)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(count)))


@pytest.fixture(scope="module")
def crowd(installed: Cluster, admin: KubeClient) -> Iterator[str]:
    """A namespace with 2,000 story runs of 3 KiB and 500 step runs."""
    namespace = installed.create_namespace(f"t-crowd-{os.getpid()}")
    create_many(admin, namespace, MANY, padding=3_000)
    yield namespace
    installed.kubectl("delete", "namespace", namespace, "--wait=false")


# -- whole lists -------------------------------------------------------------------------


def test_every_owner_is_seen_over_many_pages(crowd: str, controller: KubeClient) -> None:
    """Each once, with its relations, by the rights that are shipped."""
    source = opened(controller, crowd)
    view = source.observe(0.0)

    assert len(view.owners) == MANY + MANY // 4
    assert {f"{crowd}/run-{number:05d}" for number in range(MANY)} <= view.owners.keys()
    assert all(facts.live for facts in view.owners.values())
    assert len(view.references) == MANY
    assert (view.owners[f"{crowd}/run-00000-a"].rank) == view.owners[f"{crowd}/run-00000"].rank
    assert sorted(f.rank or 0 for run, f in view.owners.items() if not run.endswith("-a")) == list(
        range(1, MANY + 1)
    )
    assert source.traffic.requests > 6


def test_small_pages_make_the_same_list(
    crowd: str, controller: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that the server announces on each page agree with what comes."""
    whole = opened(controller, crowd).observe(0.0)
    monkeypatch.setattr(gather, "FIRST_PAGE", 7)
    monkeypatch.setattr(gather, "MOST_PER_PAGE", 111)
    source = opened(controller, crowd)
    again = source.observe(0.0)

    assert again.owners == whole.owners
    assert source.traffic.requests > 2 * MANY // 111


def test_a_snapshot_that_expires_between_two_pages(crowd: str, installed: Cluster, wrapped: Wrapped) -> None:
    """The server has forgotten it and says 410: the list is begun anew and is whole."""
    if installed.provider != "local":
        pytest.skip("only the store of a local control plane can be compacted at will")
    starts = expired = 0

    def before(path: str, query: dict[str, str]) -> None:
        nonlocal starts, expired
        if not path.endswith("/storyruns"):
            return
        if not query["continue"]:
            starts += 1
        elif expired < 2:
            if not expired:
                compact(installed)
            expired += 1
            query["continue"] = aged(query["continue"])

    wrapped.before = before
    view = opened(wrapped, crowd).observe(0.0)

    assert (starts, expired) == (2 + 2, 2)
    assert len(view.owners) == MANY + MANY // 4


def aged(token: str) -> str:
    """Return a token as it would be for a snapshot of long ago: the server keeps younger ones in memory."""
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    content["rv"] = 2
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_owners_made_while_the_pages_are_read(crowd: str, admin: KubeClient, wrapped: Wrapped) -> None:
    """One before and one behind the place in the list: the view is of one moment, and the next has both."""
    made: list[str] = []

    def before(path: str, query: dict[str, str]) -> None:
        if path.endswith("/storyruns") and query.get("continue") and not made:
            for name in ("a-early", "z-late"):
                create(admin, crowd, name)
                made.append(f"{crowd}/{name}")

    wrapped.before = before
    source = opened(wrapped, crowd)
    try:
        source.observe(0.0)
        view = source.observe(boot_seconds())
        assert made
        assert set(made) <= view.owners.keys()
    finally:
        for run in made:
            admin.delete(STORY_RUNS, run.split("/")[1], crowd)


# -- what it costs -----------------------------------------------------------------------


def test_looking_again_at_many_owners_is_cheap(crowd: str, admin: KubeClient, controller: KubeClient) -> None:
    """Metadata of 2,500 objects: a fraction of the bytes; what changed is read, and nothing else."""
    source = opened(controller, crowd)
    source.observe(0.0)
    first = source.traffic.received_bytes
    costs: list[tuple[int, int, float]] = []
    for change in (0, 1, 15):
        for number in range(change):
            admin.patch_status(STORY_RUNS, f"run-{number:05d}", {"phase": "Running"}, crowd)
            admin.patch_status(STORY_RUNS, f"run-{number:05d}", {"phase": "Pending"}, crowd)
        requests, received = source.traffic.requests, source.traffic.received_bytes
        watch = Stopwatch()
        source.observe(boot_seconds())
        costs.append(
            (source.traffic.requests - requests, source.traffic.received_bytes - received, watch.seconds)
        )
    print(f"first reading {first / 2**20:.1f} MiB in all; again (requests, bytes, s): {costs}")

    assert costs[0][0] <= 4
    assert costs[0][1] < first / 3
    assert costs[1][0] == costs[0][0] + 1
    assert costs[2][0] == costs[0][0] + 15
    assert all(seconds < OWNERS_FRESH_SECONDS / 2 for _, _, seconds in costs)


# -- rights and kinds --------------------------------------------------------------------


def test_a_right_that_is_taken_away(
    installed: Cluster, namespace: str, admin: KubeClient, tmp_path: Path
) -> None:
    """While it is used: an error that says what to grant; with the right it goes on."""
    rbac = "rbac.authorization.k8s.io"
    base: dict[str, Any] = {"namespace": namespace}
    role: dict[str, Any] = {
        "apiVersion": f"{rbac}/v1",
        "kind": "Role",
        "metadata": {"name": "owners", **base},
        "rules": [
            {
                "apiGroups": ["runs.bubustack.io"],
                "resources": ["storyruns", "stepruns"],
                "verbs": ["get", "list"],
            }
        ],
    }
    binding: dict[str, Any] = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "owners", **base},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "owners"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", **base}],
    }
    account: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "reader", **base},
    }
    installed.apply(account, role, binding)
    create(admin, namespace, "r1")
    with client_of(installed, tmp_path, namespace, "reader") as client:
        source = opened(client, namespace)
        until(lambda: _allowed(source), "the right to work")
        with pytest.raises(OwnersUnknownError, match="all namespaces: the controller's account may not list"):
            opened(client, None).observe(0.0)

        installed.kubectl("delete", "rolebinding", "owners", "-n", namespace)
        until(lambda: not _allowed(source), "the right to be gone")
        with pytest.raises(
            OwnersUnknownError, match=r"Grant it verbs get and list on resource storyruns"
        ) as raised:
            source.observe(boot_seconds())
        assert f"namespace {namespace}" in str(raised.value)

        installed.apply(binding)
        until(lambda: _allowed(source), "the right to work again")
        assert source.observe(boot_seconds()).owners.keys() == {f"{namespace}/r1"}


def _allowed(source: ApiOwnerSource) -> bool:
    try:
        source.observe(boot_seconds())
    except OwnersUnknownError:
        return False
    return True


def crd(kind: str, plural: str, group: str) -> dict[str, Any]:
    """Make a kind of a test's own."""
    loose: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": loose}}
            ],
        },
    }


def test_a_kind_that_is_removed_while_it_is_used(
    installed: Cluster, namespace: str, admin: KubeClient
) -> None:
    """Its plural is found by discovery; once it is gone nothing is believed until that is approved."""
    group = f"flows{os.getpid()}.example.org"
    flow = OwnerKind.named(group, "v1", "Flow", "result.state", ["Done"])
    flows = Resource(group, "v1", "flowsofdata", "Flow")
    with pytest.raises(OwnersUnknownError, match="does not serve"):
        open_owners(admin, [flow], namespace=namespace)

    installed.apply(crd("Flow", flows.plural, group))
    wait_served(installed, flows.plural)
    until(lambda: _served(admin, flows, namespace), "the kind to be served")
    for name, state in (("open", "Busy"), ("done", "Done")):
        admin.create(flows, {"metadata": {"name": name}, "result": {"state": state}}, namespace)
    source = opened(admin, namespace, flow)
    view = source.observe(0.0)
    assert view.owners == {f"{namespace}/open": OwnerFacts(True), f"{namespace}/done": OwnerFacts(False)}
    census = source.census
    assert f"Flow.v1.{group}" in census.kinds

    name = f"{flows.plural}.{group}"
    installed.kubectl("delete", "crd", name, "--wait=false")

    def gone() -> bool:
        nudge_crds(installed, name)
        return not _served(admin, flows, namespace)

    until(gone, "the kind to be gone", 60)
    with pytest.raises(OwnersAnomalyError, match=f"Flow.v1.{group}") as raised:
        source.observe(boot_seconds())
    assert raised.value.code == "OwnerKindVanished"
    assert source.census == census

    with pytest.raises(OwnersAnomalyError):
        open_owners(admin, [flow], namespace=namespace, before=census)
    approved = opened(admin, namespace, flow, before=census, acknowledged=raised.value.anomaly.token)
    assert approved.kinds == census.kinds - {f"Flow.v1.{group}"}


def _served(client: KubeClient, resource: Resource, namespace: str) -> bool:
    try:
        client.list_page(resource, namespace)
    except KubeNotFoundError:
        return False
    return resource.plural in client.served(resource.group, resource.version)


def test_live_owners_that_are_removed_all_at_once(namespace: str, admin: KubeClient) -> None:
    """As when somebody removes a kind: its objects go first, and the list is short before it is gone."""
    for number in range(5):
        create(admin, namespace, f"r{number}", "Running")
    source = opened(admin, namespace)
    view = source.observe(0.0)
    for number in range(3):
        admin.delete(STORY_RUNS, f"r{number}", namespace)

    with pytest.raises(OwnersAnomalyError, match="of 5 live owners 3 are gone"):
        source.observe(boot_seconds())

    assert source.observe(view.observed_at) is view


# -- through a pass ----------------------------------------------------------------------


def run_pass(
    store: Path,
    namespace: str,
    owners: ApiOwnerSource,
    at: Callable[[PassReport], None] = lambda _: None,
    **limits: Any,
) -> PassReport:
    """Sweep a store in a real process that asks this source; ``at`` is called with each checkpoint."""
    scope = f"outputs/{namespace}/"
    spec = PassSpec(scopes=(scope,), rules=(RetentionRule(scope, 10 * DAY),), dry_run=False, **limits)
    document = PassDocument(FileSettings(str(store)), spec, Cursor())
    report: PassReport | None = None
    with PassProcess(document, environment=child_environment(os.environ), owners=owners) as process:
        deadline = time.monotonic() + 90 * PATIENCE
        while not isinstance(line := process.next(0.1), PassEnded):
            assert time.monotonic() < deadline
            if line is not None and line.report is not None:
                report = line.report
                if line.type is LineType.CHECKPOINT:
                    at(report)
    assert report is not None
    return report


def fill(store: Path, namespace: str, runs: int, objects: int) -> None:
    """Write old runs."""
    old = time.time() - 20 * DAY
    for number in range(runs):
        folder = store / "outputs" / namespace / f"run-{number:05d}"
        folder.mkdir(parents=True)
        for index in range(objects):
            (folder / f"o{index}").write_bytes(b"x")
            os.utime(folder / f"o{index}", (old, old))


def left(store: Path, namespace: str) -> set[str]:
    """Return the runs of which something is left."""
    return {path.parent.name for path in (store / "outputs" / namespace).glob("*/*") if path.is_file()}


def test_an_owner_made_between_listing_and_deleting_protects_its_run(
    namespace: str, admin: KubeClient, controller: KubeClient, tmp_path: Path
) -> None:
    """The listing is ahead and deletions are under way when it is created; the last of them are later."""
    fill(tmp_path, namespace, runs=500, objects=20)
    made: list[str] = []

    def at(report: PassReport) -> None:
        if report.deleted.objects and not made:
            made.append(max(left(tmp_path, namespace)))
            create(admin, namespace, made[0])

    limits: dict[str, Any] = {"max_scan": 20_000, "max_delete": 20_000, "requests_per_second": 1.0}
    report = run_pass(tmp_path, namespace, opened(controller, namespace), at, **limits)

    assert made
    assert left(tmp_path, namespace) == set(made)
    assert len(list((tmp_path / "outputs" / namespace / made[0]).iterdir())) == 20
    assert report.deleted.objects == 499 * 20


def test_a_pass_under_two_thousand_owners(crowd: str, controller: KubeClient, tmp_path: Path) -> None:
    """Everything between the API server and the engine: the live ones stay, the strangers go."""
    fill(tmp_path, crowd, runs=MANY + 50, objects=1)
    began = time.monotonic()
    report = run_pass(tmp_path, crowd, opened(controller, crowd), max_scan=10_000, max_delete=10_000)
    print(f"{MANY + 50} runs under {MANY} owners in {time.monotonic() - began:.1f} s")

    assert report.stopped_by is StoppedBy.END_OF_CYCLE
    assert left(tmp_path, crowd) == {f"run-{number:05d}" for number in range(MANY)}
