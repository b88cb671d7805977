"""The API server that all cluster tests rely on: real, complete, and gone without a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import ClusterOptions, KubectlError, ensure_binaries, start_cluster
from tests.cluster.errors import StartError
from tests.cluster.local import LocalProvider
from tests.cluster.processes import PATIENCE, is_running, start_ticks, wait_until

if TYPE_CHECKING:
    from tests.cluster import Cluster

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
COMPONENTS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


@pytest.fixture
def local_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, where clusters put theirs; the local provider is chosen."""
    monkeypatch.setenv("BUBU_TEST_CLUSTER", "local")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_server_is_a_supported_kubernetes(cluster: Cluster):
    """Our own control plane is exactly the pinned version; another cluster is at least 1.30."""
    version = cluster.server_version()

    if cluster.provider == "local":
        assert version == "v1.36.3"
    match = re.match(r"v1\.(\d+)\.", version)
    assert match is not None
    assert int(match[1]) >= 30


def test_kubectl_is_of_the_same_version(cluster: Cluster):
    """The client that tests use reports the version that it was built from, not v0.0.0."""
    versions = json.loads(cluster.kubectl("version", "-o", "json").stdout)

    assert versions["clientVersion"]["gitVersion"].startswith("v1.")
    if cluster.provider == "local":
        assert versions["clientVersion"]["gitVersion"] == "v1.36.3"


def test_kubeconfig_is_private(cluster: Cluster):
    """It is an administrator's credential: nobody else on the machine may read it."""
    assert stat.S_IMODE(cluster.kubeconfig.stat().st_mode) == 0o600


def test_pods_can_be_created_in_a_fresh_namespace(cluster: Cluster, namespace: str):
    """The namespace fixture waits for the default account, so admission accepts a pod at once."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "engram", "namespace": namespace},
            "spec": {"containers": [{"name": "main", "image": "example.invalid/none"}]},
        }
    )

    pod = cluster.get("pod", "engram", "-n", namespace)

    assert pod["spec"]["serviceAccountName"] == "default"


def test_controllers_run(cluster: Cluster, namespace: str):
    """Deleting an owner deletes what it owns: the garbage collector of the controller manager is at work."""
    owner = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "owner", "namespace": namespace},
    }
    cluster.apply(owner)
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": cluster.get("configmap", "owner", "-n", namespace)["metadata"]["uid"],
    }
    cluster.apply(
        owner | {"metadata": {"name": "owned", "namespace": namespace, "ownerReferences": [reference]}}
    )

    cluster.kubectl("delete", "configmap", "owner", "-n", namespace)

    cluster.kubectl("wait", "--for=delete", "configmap/owned", "-n", namespace, "--timeout=150s")


def test_service_account_has_only_its_own_rights(cluster: Cluster, namespace: str, tmp_path: Path):
    """A process with an account's kubeconfig is that account: what RBAC does not grant is forbidden."""
    cluster.kubectl("create", "serviceaccount", "worker", "-n", namespace)
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", "-n", namespace)
    cluster.kubectl(
        *("create", "rolebinding", "reader", "--role=reader", "-n", namespace),
        f"--serviceaccount={namespace}:worker",
    )

    path = cluster.service_account_kubeconfig(namespace, "worker", tmp_path / "worker")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    me = cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=path)
    assert me.stdout == f"system:serviceaccount:{namespace}:worker"

    def listed() -> bool:
        # The context carries the namespace: no -n needed.
        done = cluster.kubectl("get", "configmaps", kubeconfig=path, check=False)
        return "kube-root-ca.crt" in done.stdout

    # The API server learns of rights by a watch.
    wait_until(listed, 10, "the right to count")
    for forbidden in (["get", "secrets"], ["get", "configmaps", "-n", "default"], ["get", "namespaces"]):
        with pytest.raises(KubectlError, match="Forbidden"):
            cluster.kubectl(*forbidden, kubeconfig=path)


def test_token_of_a_missing_account_is_an_error(cluster: Cluster, namespace: str, tmp_path: Path):
    """No kubeconfig is written for an account that does not exist."""
    with pytest.raises(KubectlError, match='"ghost" not found'):
        cluster.service_account_kubeconfig(namespace, "ghost", tmp_path / "ghost")

    assert not (tmp_path / "ghost").exists()


def test_request_without_credentials_is_refused(cluster: Cluster, tmp_path: Path):
    """The server does not take an unknown token for anybody."""
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": "wrong"}
    path = tmp_path / "stranger"
    path.write_text(json.dumps(config), encoding="utf-8")

    done = cluster.kubectl("get", "namespaces", kubeconfig=path, check=False)

    assert done.returncode != 0
    assert "Unauthorized" in done.stderr or "logged in" in done.stderr


def test_failed_kubectl_call_tells_its_story(cluster: Cluster):
    """The error has the arguments, the code and kubectl's own words; unchecked calls just return."""
    with pytest.raises(KubectlError, match=r"kubectl get nothing-like-this ended with 1: .*resource type"):
        cluster.kubectl("get", "nothing-like-this")

    assert cluster.kubectl("get", "nothing-like-this", check=False).returncode == 1


def test_own_kubectl_settings_do_not_matter(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """A KUBECONFIG that appears in the environment later does not redirect a running cluster."""
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")

    assert cluster.server_version().startswith("v1.")


def test_stop_leaves_no_process_and_no_file(local_temp: Path):
    """Everything is ended by pid, in seconds, and the folder with credentials is removed; twice is fine."""
    running = start_cluster()
    pids = [(process.name, process.pid, process.started_ticks) for process in running.processes]
    assert [name for name, _, _ in pids] == COMPONENTS
    assert all(is_running(pid, ticks) for _, pid, ticks in pids)

    running.stop()
    running.stop()

    assert [name for name, pid, ticks in pids if is_running(pid, ticks)] == []
    assert list(local_temp.iterdir()) == []


def test_logs_are_kept_when_asked(local_temp: Path):
    """After a failure somebody wants to read them; credentials do not stay with them."""
    running = start_cluster(ClusterOptions(scheduler=False, controller_manager=False))

    running.stop(keep_logs=True)

    kept = [path.relative_to(running.workdir) for path in running.workdir.rglob("*") if path.is_file()]
    assert sorted(map(str, kept)) == ["logs/etcd.log", "logs/kube-apiserver.log"]


def test_stop_does_not_wait_for_an_api_server_without_etcd(local_temp: Path):
    """An API server whose etcd has died is ended in seconds, not minutes."""
    running = start_cluster(ClusterOptions(scheduler=False, controller_manager=False))
    etcd = running.processes[0]
    os.kill(etcd.pid, signal.SIGKILL)
    wait_until(lambda: not etcd.is_running(), 10, "etcd to end")

    # The call itself is bounded: a test that hangs here fails by its time limit.
    running.stop()

    assert not any(process.is_running() for process in running.processes)


def test_failed_start_names_the_component_and_its_last_words(local_temp: Path):
    """An API server that refuses its flags: the error shows why, and nothing keeps running."""
    spawned: list[tuple[int, int | None]] = []
    provider = LocalProvider(lambda items: spawned.append((items[-1].pid, items[-1].started_ticks)))

    with pytest.raises(StartError, match=r"(?s)kube-apiserver ended early.*unknown flag: --no-such-flag"):
        provider.start(ClusterOptions(apiserver_arguments=("--no-such-flag",)))

    assert len(spawned) == 2
    assert not any(is_running(pid, ticks) for pid, ticks in spawned)
    assert len(list(local_temp.glob("bubu-cluster-*/logs/kube-apiserver.log"))) == 1
    assert list(local_temp.glob("bubu-cluster-*/state")) == []


STARTER = """
import json, sys, time
from pathlib import Path
from tests.cluster import start_cluster
from tests.cluster.processes import exit_on_signals
with exit_on_signals(), start_cluster() as running:
    rows = [(p.pid, p.started_ticks) for p in running.processes]
    Path(sys.argv[1]).with_suffix(".new").write_text(json.dumps([str(running.workdir), rows]))
    Path(sys.argv[1]).with_suffix(".new").rename(sys.argv[1])
    time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_end_of_the_starter_ends_the_cluster(local_temp: Path, number: signal.Signals):
    """Whether it is killed, terminated or interrupted, no process of the cluster stays behind."""
    report = local_temp / "report"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(report)], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: report.exists() or starter.poll() is not None, 60, "the cluster")
        workdir, rows = json.loads(report.read_text(encoding="utf-8"))
        assert len(rows) == len(COMPONENTS)
        assert all(is_running(pid, ticks) for pid, ticks in rows)

        starter.send_signal(number)
        starter.wait(30 * PATIENCE)
    finally:
        starter.kill()
        starter.wait()

    wait_until(lambda: not any(is_running(pid, ticks) for pid, ticks in rows), 10, "the processes to end")
    # A killed process cannot clean up; the others do.
    assert Path(workdir).exists() is (number == signal.SIGKILL)


SESSION = """
import json, os, time
from pathlib import Path
def test_that_takes_long(cluster):
    rows = [(p.pid, p.started_ticks) for p in cluster.processes]
    report = Path(os.environ["REPORT"])
    report.with_suffix(".new").write_text(json.dumps([str(cluster.workdir), rows]))
    report.with_suffix(".new").rename(report)
    time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_test_run_leaves_nothing(local_temp: Path, number: signal.Signals):
    """Ctrl-C in the middle of a test, or a CI system's SIGTERM, stops the session's cluster."""
    suite = local_temp / "suite"
    suite.mkdir()
    (suite / "test_long.py").write_text(SESSION, encoding="utf-8")
    (suite / "conftest.py").write_text("from tests.conftest import pytest_plugins\n", encoding="utf-8")
    (suite / "pytest.ini").write_text("[pytest]\nmarkers =\n  cluster: c\n  s3: s\n", encoding="utf-8")
    report = local_temp / "report"
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "REPORT": str(report)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: report.exists() or run.poll() is not None, 60, "the test to run")
        workdir, rows = json.loads(report.read_text(encoding="utf-8"))
        assert all(is_running(pid, ticks) for pid, ticks in rows)

        run.send_signal(number)

        assert run.wait(30 * PATIENCE) != 0
    finally:
        run.kill()
        run.wait()
    assert not any(is_running(pid, ticks) for pid, ticks in rows)
    assert not Path(workdir).exists()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.cluster``."""
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_up_status_down_round_trip(local_temp: Path):
    """A cluster for a person outlives the command, is not started twice, and ends on demand."""
    home = str(local_temp / "standing")
    assert command("status", "--home", home).returncode == 3

    first = command("up", "--home", home)
    try:
        assert first.returncode == 0, first.stderr
        exported = re.search(r"export KUBECONFIG=(\S+)", first.stdout)
        assert exported is not None
        state = json.loads((Path(home) / "state.json").read_text(encoding="utf-8"))
        rows = [(pid, ticks) for _, pid, ticks, _ in state["processes"]]
        assert len(rows) == len(COMPONENTS)
        listed = subprocess.run(
            [f"{home}/kubectl", "get", "namespaces", "-o", "name"],
            env={**os.environ, "KUBECONFIG": exported[1]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "namespace/kube-system" in listed.stdout

        second = command("up", "--home", home, KUBECONFIG=exported[1])
        assert second.returncode == 0
        assert "already running" in second.stdout
        status = command("status", "--home", home)
        assert status.returncode == 0
        assert all(name in status.stdout for name in COMPONENTS)
        assert all(start_ticks(pid) == ticks for pid, ticks in rows)

        os.kill(rows[0][0], signal.SIGKILL)
        wait_until(lambda: not is_running(*rows[0]), 10, "etcd to end")
        broken = command("status", "--home", home)
        assert broken.returncode == 3
        assert "not complete" in broken.stdout

        # A cluster that broke is replaced, even in a shell that still exports its kubeconfig.
        again = command("up", "--home", home, KUBECONFIG=exported[1], BUBU_TEST_CLUSTER="")
        assert again.returncode == 0, again.stderr
        assert not any(is_running(pid, ticks) for pid, ticks in rows)
        state = json.loads((Path(home) / "state.json").read_text(encoding="utf-8"))
        rows = [(pid, ticks) for _, pid, ticks, _ in state["processes"]]
    finally:
        down = command("down", "--home", home)
    assert down.returncode == 0
    assert "stopped" in down.stdout
    assert not any(is_running(pid, ticks) for pid, ticks in rows)
    assert not (Path(home) / "run").exists()
    assert "No cluster is running" in command("down", "--home", home).stdout


def test_binaries_are_upstreams_commands():
    """Every link behaves as the program of its name."""
    binaries = ensure_binaries()

    for name in COMPONENTS:
        done = subprocess.run(
            [binaries.path(name), "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        assert ("3.6" if name == "etcd" else "v1.36.3") in done.stdout


def test_binary_under_its_own_name_explains_itself():
    """Without a link's name there is nothing to run: usage error, and the names."""
    done = subprocess.run(
        [ensure_binaries().path("controlplane")], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "kube-apiserver" in done.stderr
