"""Processes that tests start: found, waited for and ended by pid, never by name.

Invariants:
- A process started with ``die_with_parent`` never outlives its starter, SIGKILL included.
- A pid is trusted only together with its start time, so a recycled pid is never signalled.
- Children get their own session: Ctrl-C reaches the starter alone, which stops them in order.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import TYPE_CHECKING

from tests.cluster.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from types import FrameType

__all__ = [
    "PATIENCE",
    "ManagedProcess",
    "PortReservation",
    "Stopwatch",
    "exit_on_signals",
    "free_port",
    "is_running",
    "spawn",
    "start_ticks",
    "stop_pid",
    "tail",
    "wait_until",
]

PATIENCE = 4.0
"""By how much deadlines of tests are stretched beyond what an idle machine needs."""

_PRESSURE = Path("/proc/pressure/cpu")
_SLOWEST = 2.0
_LAUNCHER = Path(__file__).with_name("_launch.py")
_spawner: list[ThreadPoolExecutor] = []

_KERNELS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 20_000
_BLOCK = 64
_MOST_BLOCKS = 4
_blocks: dict[int, socket.socket] = {}
_ports: Iterator[int] = iter(())
_blocks_lock = Lock()


@dataclass(slots=True)
class ManagedProcess:
    """One process of ours.

    Attributes:
        name: what logs and messages call it.
        pid: its process id.
        started_ticks: kernel start time, which tells it from a later process of the same pid.
        log: the file that holds its output.
        popen: the handle, absent where the process was started by an earlier command.
    """

    name: str
    pid: int
    started_ticks: int | None
    log: Path
    popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def is_running(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        if self.popen is not None:
            return self.popen.poll() is None
        return is_running(self.pid, self.started_ticks)

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """Send SIGTERM, wait, and SIGKILL what is left; a process that has gone is fine."""
        if self.popen is None:
            stop_pid(self.pid, self.started_ticks, grace_seconds=grace_seconds)
            return
        if self.popen.poll() is None and grace_seconds > 0:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace_seconds)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


def spawn(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    die_with_parent: bool = True,
) -> ManagedProcess:
    """Start a program in its own session with its output in a file.

    Args:
        name: what logs and messages call the process.
        argv: program and arguments; the program is looked up on PATH if it has no slash.
        log: receives standard output and error, appended.
        env: the whole environment of the process; the starter's own if absent.
        cwd: the folder that it runs in.
        die_with_parent: the kernel kills it when the starter dies, however that happens.

    Raises:
        StartError: the program cannot be executed.
    """
    words = [str(word) for word in argv]
    if die_with_parent:
        words = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *words]

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    try:
        if die_with_parent and current_thread() is not main_thread():
            # The kernel's "parent" is the starting thread: one that lives as long as we do must start it.
            if not _spawner:
                _spawner.append(ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner"))
            popen = _spawner[0].submit(start).result()
        else:
            popen = start()
    except OSError as error:
        raise StartError(f"{name} cannot be started: {error}") from error
    return ManagedProcess(name, popen.pid, start_ticks(popen.pid), log, popen)


def start_ticks(pid: int) -> int | None:
    """Return the kernel's start time of a living process, in ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name may hold spaces and brackets: fields are counted from its closing one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def is_running(pid: int, started_ticks: int | None) -> bool:
    """Tell whether the process that had this pid and start time still runs."""
    now = start_ticks(pid)
    return now is not None and (started_ticks is None or now == started_ticks)


def stop_pid(pid: int, started_ticks: int | None, *, grace_seconds: float = 5.0) -> None:
    """End a process that another command started; does nothing if it has gone or the pid is another's now."""
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        if not is_running(pid, started_ticks):
            return
        if seconds <= 0:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            _poll(lambda: not is_running(pid, started_ticks), seconds, f"process {pid} to end")


def wait_until(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    """Poll a condition until it holds.

    Args:
        condition: what is asked.
        timeout_seconds: what is more than enough on a machine that does nothing else. Deadlines end what
            hangs; they are stretched by ``PATIENCE``, because two cores may be at work on two suites and
            all that they start. A test to which the time itself matters has a `Stopwatch`.
        what: what is waited for, for the message.

    Raises:
        TimeoutError: it did not within the time; the message names ``what``.
    """
    _poll(condition, timeout_seconds * PATIENCE, what)


def _poll(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    deadline = time.monotonic() + timeout_seconds
    pause = 0.01
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class Stopwatch:
    """Runs from its making and shows the time that would have passed on a machine with a CPU for everybody.

    For times that are promised: what the test machine was too busy for is no fault of what is measured.

    - While nothing waits for a CPU it is any other clock.
    - While something does (the kernel counts that) it stands, so that a crowded machine gets longer; but
      never more than twice as long, since a promise that is kept only in a quarter of the speed is none.
    - Where the kernel does not count, it is any other clock, too.
    """

    def __init__(self, pressure: Path = _PRESSURE) -> None:
        self._pressure = pressure
        self._began = time.monotonic()
        self._stalled = _stalled_seconds(pressure)

    @property
    def seconds(self) -> float:
        """What it shows."""
        elapsed, stalled = time.monotonic() - self._began, _stalled_seconds(self._pressure)
        if stalled is None or self._stalled is None:
            return elapsed
        return max(elapsed - (stalled - self._stalled), elapsed / _SLOWEST)


def _stalled_seconds(pressure: Path) -> float | None:
    """Return for how long something has waited for a CPU since the machine came up; None if nobody knows."""
    try:
        some = pressure.read_text(encoding="ascii").splitlines()[0]
    except (OSError, IndexError):
        return None
    name, _, total = some.rpartition(" total=")
    return int(total) / 1e6 if name.startswith("some ") else None


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, indented, for an error message; empty if there is none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def free_port() -> int:
    """Return a free loopback port for a program that is about to be started.

    Nobody takes it before that program does. It lies below the ports that the kernel hands out, be it
    for a connection or to whoever binds port 0; and every process that asks here has blocks of its own.
    """
    if _LOWEST_PORT + _BLOCK > _lowest_of_the_kernel():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    with _blocks_lock:
        for _ in range(1 + _MOST_BLOCKS):
            for _ in range(_BLOCK * len(_blocks)):
                port = next(_ports)
                if _is_free(port):
                    return port
            _claim_block()
    raise StartError(f"no loopback port from {_LOWEST_PORT} to {_lowest_of_the_kernel()} is free")


def _claim_block() -> None:
    """Take a block of ports until this process ends: an abstract socket of its name keeps others out."""
    global _ports  # noqa: PLW0603 -- which ports a process may use is a fact about the process
    starts = list(range(_LOWEST_PORT, _lowest_of_the_kernel() - _BLOCK + 1, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0bubu-storage-test-ports-{start}")
        except OSError:
            mark.close()
            continue
        _blocks[start] = mark
        _ports = itertools.cycle(
            [port for first in reversed(_blocks) for port in range(first, first + _BLOCK)]
        )
        return
    raise StartError("all loopback ports for tests are taken: see which test processes still run")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _lowest_of_the_kernel() -> int:
    """Return the first port that the kernel may hand out; 0 where that is not known."""
    try:
        return int(_KERNELS_PORTS.read_text(encoding="ascii").split()[0])
    except OSError:
        return 0


class PortReservation:
    """A loopback port kept from everyone but a program of ours that sets SO_REUSEPORT.

    The socket is bound and never listens, so the kernel gives it no connections, and no other
    process can be handed the port between our choosing it and the program's start.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def release(self) -> None:
        """Give the port back; may be called twice."""
        self._socket.close()


@contextlib.contextmanager
def exit_on_signals() -> Generator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit while the block runs, so that clean-up code runs."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
