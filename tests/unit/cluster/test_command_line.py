"""What a person sees of ``python -m tests.cluster`` when something is wrong."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.__main__ import main
from tests.cluster.errors import ClusterError, StartError
from tests.cluster.local import ClusterOptions, LocalProvider
from tests.cluster.processes import is_running, spawn, wait_until
from tests.cluster.standing import Record, StandingCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.cluster import Cluster
    from tests.cluster.processes import ManagedProcess

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("module", ["tests.cluster", "tests.s3server"])
def test_machine_without_docker_and_go_gets_one_sentence(
    fake_path: Callable[..., Path], tmp_path: Path, module: str
):
    """Exit code 1, one line on standard error, no traceback."""
    folder = fake_path()

    done = subprocess.run(
        [sys.executable, "-m", module, "ensure"],
        cwd=REPOSITORY,
        env={"PATH": str(folder), "BUBU_CACHE_DIR": str(tmp_path / "empty"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "https://go.dev/dl/" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["tests.cluster", "tests.s3server"])
def test_interrupted_build_ends_go_and_leaves_nothing(
    fake_path: Callable[..., Path], tmp_path: Path, module: str, number: signal.Signals
):
    """Ctrl-C or SIGTERM while Go works: the compiler does not go on in the background."""
    folder = fake_path(
        go="if sys.argv[1] == 'env': print('go1.26.8\\nlocal'); sys.exit()\n"
        "open(os.path.join(os.path.dirname(__file__), 'pid'), 'w').write(str(os.getpid()))\n"
        "time.sleep(300)"
    )
    cache = tmp_path / "empty"
    ensure = subprocess.Popen(
        [sys.executable, "-m", module, "ensure"],
        cwd=REPOSITORY,
        env={"PATH": str(folder), "BUBU_CACHE_DIR": str(cache), "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (folder / "pid").exists() and bool((folder / "pid").read_text()), 20, "go")
        ensure.send_signal(number)

        assert ensure.wait(120) == 128 + number
    finally:
        ensure.kill()
        ensure.wait()

    assert not is_running(int((folder / "pid").read_text(encoding="ascii")), None)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("arguments", [[], ["explode"], ["up", "extra"], ["ensure", "--home", "x"]])
def test_bad_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """The commands are listed on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_unreadable_state_is_not_guessed_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A damaged record might hide running processes: nothing is started over it, the message says so."""
    (tmp_path / "state.json").write_text("{not json", encoding="utf-8")

    for command in ("up", "down", "status"):
        assert main([command, "--home", str(tmp_path)]) == 1
        assert "cannot be read" in capsys.readouterr().err


def test_two_commands_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """While one command starts or stops the cluster, another leaves it alone."""
    with (tmp_path / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        assert main(["up", "--home", str(tmp_path)]) == 1

    assert "another command is at work" in capsys.readouterr().err


def test_nothing_is_started_where_kubeconfig_selects_a_cluster(tmp_path: Path):
    """Who exports a test cluster has one already."""
    config = tmp_path / "config"
    config.write_text(
        "current-context: test\n"
        "contexts: [{name: test, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n",
        encoding="utf-8",
    )
    standing = StandingCluster(tmp_path / "home", env={"KUBECONFIG": str(config)})

    with pytest.raises(ClusterError, match="nothing to start"):
        standing.up(print)


class HalfWay(LocalProvider):
    """A provider whose start is cut off after its first process, as by SIGKILL: it undoes nothing."""

    started: ManagedProcess

    def start(self, options: ClusterOptions | None = None) -> Cluster:
        """Start one process, record it, and fail."""
        assert options is not None
        assert options.workdir is not None
        options.workdir.mkdir()
        process = spawn("etcd", ["sleep", "300"], log=options.workdir / "log", die_with_parent=False)
        assert self.on_spawn is not None
        self.on_spawn([process])
        self.started = process
        raise StartError("cut off")

    def prepare(self, report: Callable[[str], None] | None = None) -> None:
        """Build nothing."""


def test_processes_are_on_record_before_the_start_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """If the starter is killed half-way, down still ends what it had started."""
    provider = HalfWay()
    standing = StandingCluster(tmp_path, choose=lambda _env: provider, env={})
    # A killed starter does not get to remove its record.
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_options: None)
    with pytest.raises(StartError):
        standing.up(print)
    monkeypatch.undo()
    assert provider.started.is_running()

    said: list[str] = []
    assert standing.status(said.append) is False
    standing.down(said.append)

    assert not provider.started.is_running()
    assert not (tmp_path / "state.json").exists()
    assert said[-1] == "The cluster is stopped."


def test_down_leaves_strangers_alone(tmp_path: Path):
    """After a reboot the recorded pids may be anybody's: start times tell."""
    bystander = spawn("bystander", ["sleep", "60"], log=tmp_path / "log")
    assert bystander.started_ticks is not None
    row = ("etcd", bystander.pid, bystander.started_ticks - 1, "log")
    record = Record("local", ready=True, server="https://127.0.0.1:1", processes=[row])
    (tmp_path / "state.json").write_text(json.dumps(asdict(record)), encoding="utf-8")

    try:
        StandingCluster(tmp_path).down(print)

        assert bystander.is_running()
    finally:
        bystander.stop()
