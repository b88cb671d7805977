"""Which provider serves the tests, and what is said when none can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.build import cache_root, control_plane_program, program_key
from tests.cluster.errors import ClusterError, ContextRefusedError, PrerequisiteError
from tests.cluster.kind import docker_answers
from tests.cluster.providers import choose_provider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def choose(env: dict[str, str], *, docker: bool = False, go: bool = False) -> str:
    """Return the chosen provider's name on a machine with these programs."""
    return choose_provider(env, has_docker=lambda: docker, has_go=lambda: go).name


@pytest.fixture
def loopback_kubeconfig(tmp_path: Path) -> Path:
    """A kubeconfig of a cluster on this machine."""
    path = tmp_path / "loopback"
    path.write_text(
        "current-context: mine\n"
        "contexts: [{name: mine, context: {cluster: mine, user: me}}]\n"
        "clusters: [{name: mine, cluster: {server: 'https://127.0.0.1:6443'}}]\n",
        encoding="utf-8",
    )
    return path


def test_docker_engine_means_kind():
    """Kind is used where Docker answers, whether or not Go is there."""
    assert choose({}, docker=True, go=True) == "kind"
    assert choose({}, docker=True, go=False) == "kind"


def test_go_without_docker_means_local_control_plane():
    """Without a Docker engine the control plane is built from source."""
    assert choose({}, go=True) == "local"


def test_built_control_plane_needs_no_go():
    """What is in the cache already runs on a machine without Go."""
    (cache_root() / program_key(control_plane_program())).mkdir(parents=True)

    assert choose({}) == "local"


def test_kubeconfig_comes_before_everything_found(loopback_kubeconfig: Path):
    """A KUBECONFIG that is set wins over Docker and Go."""
    env = {"KUBECONFIG": str(loopback_kubeconfig)}

    assert choose(env, docker=True, go=True) == "kubeconfig"


def test_unfit_kubeconfig_is_refused_and_not_skipped(tmp_path: Path):
    """A context that is no test cluster is an error even where another provider would work."""
    path = tmp_path / "production"
    path.write_text(
        "current-context: payments\n"
        "contexts: [{name: payments, context: {cluster: eu, user: me}}]\n"
        "clusters: [{name: eu, cluster: {server: 'https://k8s.example.com'}}]\n",
        encoding="utf-8",
    )

    with pytest.raises(ContextRefusedError, match="BUBU_TEST_CLUSTER_ALLOW=payments"):
        choose({"KUBECONFIG": str(path)}, docker=True, go=True)


def test_named_provider_wins_over_kubeconfig(loopback_kubeconfig: Path):
    """BUBU_TEST_CLUSTER=local leaves KUBECONFIG and Docker alone."""
    env = {"KUBECONFIG": str(loopback_kubeconfig), "BUBU_TEST_CLUSTER": "local"}

    assert choose(env, docker=True, go=True) == "local"


def test_empty_kubeconfig_counts_as_unset():
    """An exported but empty KUBECONFIG is no wish."""
    assert choose({"KUBECONFIG": ""}, go=True) == "local"


def test_neither_docker_nor_go_is_one_sentence():
    """The message names both ways out and the third, and has no second line."""
    with pytest.raises(PrerequisiteError) as caught:
        choose({})

    message = str(caught.value)
    assert "neither Docker" in message
    assert "nor Go" in message
    assert "https://go.dev/dl/" in message
    assert "KUBECONFIG" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"BUBU_TEST_CLUSTER": "k3s"}, "BUBU_TEST_CLUSTER=k3s is unknown"),
        ({"BUBU_TEST_CLUSTER": "kubeconfig"}, "KUBECONFIG is not set"),
        ({"BUBU_TEST_CLUSTER": "kind"}, "needs a Docker engine"),
    ],
)
def test_impossible_wish_is_refused(env: dict[str, str], expected: str):
    """A provider that was asked for by name is never replaced by another."""
    with pytest.raises(ClusterError, match=expected):
        choose(env, go=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('28.1.1')", True),
        ("sys.exit(1)", False),
        # The client's own part of `docker info` succeeds while the engine is away.
        ("print('')", False),
        ("print('Cannot connect to the Docker daemon', file=sys.stderr); sys.exit(1)", False),
    ],
)
def test_docker_counts_only_if_its_engine_answers(
    fake_path: Callable[..., Path], source: str, expected: bool
):
    """A docker program alone is not an engine."""
    fake_path(docker=source)

    assert docker_answers() is expected


def test_hanging_docker_is_given_up(fake_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """An engine that does not answer in time is none."""
    fake_path(docker="time.sleep(60)")
    monkeypatch.setattr("tests.cluster.kind._DOCKER_SECONDS", 0.3)

    assert docker_answers() is False


def test_no_docker_program_is_no_engine(fake_path: Callable[..., Path]):
    """An empty PATH has no engine."""
    fake_path()

    assert docker_answers() is False
