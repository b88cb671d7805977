"""The kind provider's conversation with docker, kind and kubectl, played by small programs.

A Docker engine is not needed here; what a real kind does is kind's own business.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.errors import ClusterError, PrerequisiteError, StartError
from tests.cluster.explicit import find_kubectl
from tests.cluster.kind import KindProvider, delete_kind_cluster, find_kind
from tests.cluster.local import ClusterOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECORD = """
with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as calls:
    calls.write(os.path.basename(__file__) + " " + " ".join(sys.argv[1:]) + "\\n")
"""
KIND = (
    RECORD
    + """
if sys.argv[1] == "create":
    print("Creating cluster ...")
    open(sys.argv[sys.argv.index("--kubeconfig") + 1], "w").write("{}")
"""
)
FAILING_KIND = RECORD + "if sys.argv[1] == 'create': print('ERROR: no space left'); sys.exit(1)"
KUBECTL = (
    RECORD
    + """
if sys.argv[1:3] == ["config", "view"]:
    assert os.path.exists(os.environ["KUBECONFIG"])
    print('{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:40001"}}]}')
elif sys.argv[1:3] == ["version", "--client"]:
    print('{"clientVersion": {"gitVersion": "v1.35.0"}}')
else:
    print('{"gitVersion": "v1.35.0"}')
"""
)
DOCKER = RECORD + 'print(\'[{"IPAM": {"Config": [{"Gateway": "fc00::1"}, {"Gateway": "172.18.0.1"}]}}]\')'


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Where the cluster keeps its files."""
    return tmp_path / "work"


def calls(folder: Path, program: str) -> list[str]:
    """Return how a program was called, without what is random."""
    lines = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


def test_cluster_is_created_used_and_deleted(fake_path: Callable[..., Path], workdir: Path):
    """One cluster of a random name with its own kubeconfig, deleted by that name."""
    folder = fake_path(kind=KIND, kubectl=KUBECTL, docker=DOCKER)
    names: list[str] = []

    with KindProvider(names.append).start(ClusterOptions(workdir=workdir)) as cluster:
        (name,) = names
        assert cluster.name == f"kind-{name}"
        assert cluster.server == "https://127.0.0.1:40001"
        assert cluster.server_version() == "v1.35.0"
        # A webhook on this machine is reached through the bridge, not through the node's loopback.
        assert cluster.callback_host == "172.18.0.1"
        created = f"create cluster --name {name} --kubeconfig {workdir}/kind-kubeconfig --wait 180s"
        assert calls(folder, "kind") == [created]

    assert calls(folder, "kind")[1:] == [f"delete cluster --name {name} --kubeconfig /dev/null"]
    assert not workdir.exists()


def test_logs_are_exported_before_the_cluster_goes(fake_path: Callable[..., Path], workdir: Path):
    """After a failure the logs of the node are saved first."""
    folder = fake_path(kind=KIND, kubectl=KUBECTL, docker=DOCKER)
    cluster = KindProvider().start(ClusterOptions(workdir=workdir))

    cluster.stop(keep_logs=True)

    assert [line.split()[0] for line in calls(folder, "kind")] == ["create", "export", "delete"]


def test_failed_creation_shows_kinds_words_and_leaves_nothing(fake_path: Callable[..., Path], workdir: Path):
    """The error ends with kind's own output and names the other provider."""
    folder = fake_path(kind=FAILING_KIND, kubectl=KUBECTL, docker=DOCKER)

    with pytest.raises(StartError, match=r"(?s)BUBU_TEST_CLUSTER=local.*no space left"):
        KindProvider().start(ClusterOptions(workdir=workdir))

    assert calls(folder, "kind")[-1].startswith("delete cluster")
    assert not workdir.exists()


def test_failed_deletion_is_told(fake_path: Callable[..., Path]):
    """Containers that stay behind are not passed over in silence."""
    fake_path(kind="print('permission denied', file=sys.stderr); sys.exit(1)")

    with pytest.raises(ClusterError, match="could not delete the cluster some: permission denied"):
        delete_kind_cluster("some")


def test_kind_is_built_where_it_is_not_installed(fake_path: Callable[..., Path]):
    """With Go, kind comes from its module, at a pinned version, into the cache."""
    fake_path(
        go="if sys.argv[1] == 'env': print('go1.26.8\\nlocal'); sys.exit()\n"
        "assert sys.argv[-1].startswith('sigs.k8s.io/kind@v')\n"
        "open(os.path.join(os.environ['GOBIN'], 'kind'), 'w').close()"
    )

    found = find_kind(print)

    assert found.is_file()
    assert find_kind(print) == found


def test_missing_kind_without_go_is_one_sentence(fake_path: Callable[..., Path]):
    """A Docker engine alone is not enough; the message names both ways on."""
    fake_path(docker=DOCKER)

    with pytest.raises(PrerequisiteError) as caught:
        find_kind(print)

    assert "install kind" in str(caught.value)
    assert "or Go" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_kubectl_without_go_is_one_sentence(fake_path: Callable[..., Path], workdir: Path):
    """Nothing is created before it is known that the cluster can be used."""
    folder = fake_path(kind=KIND, docker=DOCKER)

    with pytest.raises(PrerequisiteError, match=r"no kubectl 1\.31 or newer") as caught:
        KindProvider().start(ClusterOptions(workdir=workdir))

    assert "\n" not in str(caught.value)
    assert not (folder / "calls").exists()


@pytest.mark.parametrize(
    "source",
    [
        """print('{"clientVersion": {"gitVersion": "v1.30.4"}}')""",
        "print('Client Version: v1.99')",
        "sys.exit(1)",
    ],
)
def test_old_or_broken_kubectl_is_not_used(fake_path: Callable[..., Path], source: str):
    """A client that lacks what we need is the same as none."""
    fake_path(kubectl=source)

    with pytest.raises(PrerequisiteError, match=r"no kubectl 1\.31 or newer"):
        find_kubectl(print)


def test_copied_kubeconfig_is_kinds_own(fake_path: Callable[..., Path], workdir: Path):
    """What kubectl printed is what tests use, in a file of their own."""
    fake_path(kind=KIND, kubectl=KUBECTL, docker=DOCKER)

    with KindProvider().start(ClusterOptions(workdir=workdir)) as cluster:
        config: dict[str, Any] = json.loads(cluster.kubeconfig.read_text(encoding="utf-8"))
        assert config["clusters"][0]["cluster"]["server"] == cluster.server
