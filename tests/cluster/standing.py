"""A cluster that outlives the command that started it: ``up``, ``down`` and ``status``.

What runs is recorded in ``.cluster/state.json``, before or at once after it starts, so that ``down``
can end it whatever happened to the command in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.certs import write_private
from tests.cluster.errors import ClusterError
from tests.cluster.kind import KindProvider, delete_kind_cluster
from tests.cluster.local import ClusterOptions, LocalProvider, stop_processes
from tests.cluster.processes import ManagedProcess
from tests.cluster.providers import choose_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from tests.cluster.providers import ClusterProvider

__all__ = ["REPOSITORY", "Record", "StandingCluster"]

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Record:
    """What ``up`` started.

    Attributes:
        provider: ``local`` or ``kind``.
        ready: the start was completed.
        server: the API server's URL, once it is known.
        kind_name: name of the kind cluster, if it is one.
        processes: name, pid, start ticks and log of each process, in the order of their start.
    """

    provider: str
    ready: bool = False
    server: str = ""
    kind_name: str = ""
    processes: list[tuple[str, int, int | None, str]] = field(
        default_factory=list[tuple[str, int, int | None, str]]
    )

    def managed(self) -> list[ManagedProcess]:
        """Return the processes, with handles by pid."""
        return [ManagedProcess(name, pid, ticks, Path(log)) for name, pid, ticks, log in self.processes]


class StandingCluster:
    """The one cluster of a repository that a person plays with.

    Attributes:
        home: the folder that holds its kubeconfig, state and logs.
    """

    def __init__(
        self,
        home: Path = REPOSITORY / ".cluster",
        choose: Callable[[Mapping[str, str]], ClusterProvider] = choose_provider,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self._choose = choose
        self._env = dict(os.environ if env is None else env)
        self._state = home / "state.json"
        self._kubectl = home / "kubectl"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "run" / "kubeconfig"

    def up(self, say: Callable[[str], None]) -> None:
        """Start the cluster unless it runs; ``say`` receives what a person should read.

        Raises:
            ClusterError: it cannot be started; nothing is left running.
        """
        with self._lock():
            record = self._read()
            if record is not None and self._runs(record):
                say(f"The cluster is already running ({record.provider}, {record.server}).")
                self._say_how_to_use(say)
                return
            if record is not None:
                self._remove(record)
            env = self._env
            if env.get("KUBECONFIG") == str(self.kubeconfig):
                # Our own of last time: it says nothing about where the next one should run.
                env = {key: value for key, value in env.items() if key != "KUBECONFIG"}
            provider = self._choose(env)
            if provider.name == "kubeconfig":
                raise ClusterError("KUBECONFIG already selects a test cluster: there is nothing to start.")
            provider.prepare(say)
            self._start(provider, say)

    def down(self, say: Callable[[str], None]) -> None:
        """Stop what ``up`` started; saying so if there is nothing."""
        with self._lock():
            record = self._read()
            if record is None:
                say("No cluster is running.")
            else:
                self._remove(record)
                say("The cluster is stopped.")

    def status(self, say: Callable[[str], None]) -> bool:
        """Say what runs; True if the cluster is complete."""
        record = self._read()
        if record is None:
            say("No cluster is running.")
            return False
        for process in record.managed():
            state = "running" if process.is_running() else "ended"
            say(f"{process.name:24} pid {process.pid:<8} {state:8} {process.log}")
        if not self._runs(record):
            say("The cluster is not complete: stop it and start it again.")
            return False
        say(f"The cluster is running ({record.provider}, {record.server}).")
        self._say_how_to_use(say)
        return True

    def _start(self, provider: ClusterProvider, say: Callable[[str], None]) -> None:
        record = Record(provider.name)

        def save(changed: Record) -> None:
            nonlocal record
            record = changed
            write_private(self._state, json.dumps(asdict(record), indent=1) + "\n")

        def save_processes(processes: list[ManagedProcess]) -> None:
            rows = [(item.name, item.pid, item.started_ticks, str(item.log)) for item in processes]
            save(replace(record, processes=rows))

        if isinstance(provider, LocalProvider):
            provider.on_spawn = save_processes
        elif isinstance(provider, KindProvider):
            provider.on_name = lambda name: save(replace(record, kind_name=name))
        run = self.home / "run"
        shutil.rmtree(run, ignore_errors=True)
        say(f"starting a cluster ({provider.name})")
        try:
            cluster = provider.start(ClusterOptions(detached=True, workdir=run))
        except BaseException:
            # The provider has undone its start; its logs, if it kept them, stay until the next one.
            self._state.unlink(missing_ok=True)
            raise
        self._kubectl.unlink(missing_ok=True)
        self._kubectl.symlink_to(cluster.kubectl_path)
        save(replace(record, ready=True, server=cluster.server))
        say(f"Kubernetes {cluster.server_version()} serves at {cluster.server}.")
        self._say_how_to_use(say)

    def _say_how_to_use(self, say: Callable[[str], None]) -> None:
        say("")
        say(f"    export KUBECONFIG={self.kubeconfig}")
        say(f"    {self._kubectl} get namespaces")
        say("")
        say("Stop it with: make cluster-down")

    def _remove(self, record: Record) -> None:
        stop_processes(record.managed())
        if record.kind_name:
            delete_kind_cluster(record.kind_name)
        shutil.rmtree(self.home / "run", ignore_errors=True)
        self._kubectl.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    @staticmethod
    def _runs(record: Record) -> bool:
        return record.ready and all(process.is_running() for process in record.managed())

    def _read(self) -> Record | None:
        try:
            raw = cast("dict[str, Any]", json.loads(self._state.read_text(encoding="utf-8")))
            rows = [(str(n), int(p), t, str(log)) for n, p, t, log in raw.pop("processes")]
            return Record(**raw, processes=rows)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ClusterError(
                f"{self._state} cannot be read ({error}): see with ps whether {self.home} is still in use, "
                "then remove that folder."
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        """Keep a second ``up`` or ``down`` out."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.home / "lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClusterError(f"another command is at work on {self.home}: wait for it.") from None
            yield
