"""Processes are ended by pid and start time, and never outlive their starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.errors import StartError
from tests.cluster.processes import (
    PortReservation,
    Stopwatch,
    exit_on_signals,
    free_port,
    is_running,
    spawn,
    start_ticks,
    stop_pid,
    tail,
    wait_until,
)

REPOSITORY = Path(__file__).parents[3]
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def test_stop_ends_a_process_by_sigterm(tmp_path: Path):
    """A process that obeys is given the time to."""
    process = spawn("sleeper", ["sleep", "60"], log=tmp_path / "log")
    assert process.is_running()

    process.stop()

    assert not process.is_running()
    assert start_ticks(process.pid) is None


def test_stop_kills_what_ignores_sigterm(tmp_path: Path):
    """A process that does not obey is killed when its grace is over."""
    process = spawn("stubborn", ["sh", "-c", STUBBORN], log=tmp_path / "log")
    wait_until(lambda: "ready" in (tmp_path / "log").read_text(encoding="utf-8"), 10, "the trap")

    started = time.monotonic()
    process.stop(grace_seconds=0.3)

    assert not process.is_running()
    assert time.monotonic() - started >= 0.3
    process.stop()


def test_output_goes_to_the_log(tmp_path: Path):
    """Standard output and error end up in one file, whose tail is for error messages."""
    process = spawn("talker", ["sh", "-c", "echo one; echo two >&2; exit 3"], log=tmp_path / "log")
    wait_until(lambda: not process.is_running(), 10, "the end")

    assert sorted(tail(tmp_path / "log").split()) == ["one", "two"]
    assert tail(tmp_path / "log", lines=1).count("\n") == 0
    assert tail(tmp_path / "missing") == ""


def test_child_gets_a_normal_sigpipe(tmp_path: Path):
    """The launcher must not hand on Python's ignored SIGPIPE: a program would never end on a closed pipe."""
    process = spawn("status", ["cat", "/proc/self/status"], log=tmp_path / "log")
    wait_until(lambda: not process.is_running(), 10, "the end")
    ignored = next(
        line for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines() if "SigIgn" in line
    )

    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


@pytest.mark.parametrize("die_with_parent", [False, True])
def test_missing_program_is_reported(tmp_path: Path, *, die_with_parent: bool):
    """A program that does not exist is an error at once, or an early end with the reason in the log."""
    if die_with_parent:
        process = spawn("ghost", ["/no/such/program"], log=tmp_path / "log")
        wait_until(lambda: not process.is_running(), 10, "the end")
        assert "No such file" in tail(tmp_path / "log")
    else:
        with pytest.raises(StartError, match="ghost cannot be started"):
            spawn("ghost", ["/no/such/program"], log=tmp_path / "log", die_with_parent=False)


STARTER = """
import sys, threading, time
from pathlib import Path
from tests.cluster.processes import spawn
folder = Path(sys.argv[1])
def start():
    process = spawn("child", ["sleep", "300"], log=folder / "log", die_with_parent=sys.argv[2] == "die")
    (folder / "pid.new").write_text(str(process.pid))
    (folder / "pid.new").rename(folder / "pid")
if sys.argv[3] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
time.sleep(300)
"""


def _killed_starters_child(folder: Path, mode: str, where: str) -> int:
    """Start a starter, wait for its child, make sure that it lives, SIGKILL the starter; return the child."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder), mode, where], cwd=REPOSITORY)
    try:
        wait_until((folder / "pid").exists, 20, "the child to be started")
        child = int((folder / "pid").read_text(encoding="ascii"))
        # Long enough for the launcher's exec and for a starting thread to be gone.
        wait_until(lambda: "sleep" in Path(f"/proc/{child}/comm").read_text(encoding="utf-8"), 10, "exec")
        assert is_running(child, None)
    finally:
        starter.kill()
        starter.wait()
    return child


@pytest.mark.parametrize("where", ["main", "thread"])
def test_child_dies_with_a_killed_starter(tmp_path: Path, where: str):
    """SIGKILL of the starter ends its children; the end of the thread that started them does not."""
    child = _killed_starters_child(tmp_path, "die", where)

    wait_until(lambda: not is_running(child, None), 5, "the child to end")


def test_detached_child_survives_its_starter(tmp_path: Path):
    """What a person started keeps running until it is stopped by pid."""
    child = _killed_starters_child(tmp_path, "stay", "main")
    ticks = start_ticks(child)

    try:
        assert ticks is not None
    finally:
        stop_pid(child, ticks)
    assert not is_running(child, ticks)


def test_recycled_pid_is_left_alone(tmp_path: Path):
    """A process of the same pid but another start time is somebody else's."""
    process = spawn("bystander", ["sleep", "60"], log=tmp_path / "log")
    assert process.started_ticks is not None

    try:
        stop_pid(process.pid, process.started_ticks - 1)

        assert process.is_running()
        assert not is_running(process.pid, process.started_ticks - 1)
    finally:
        process.stop()


def test_zombie_counts_as_ended(tmp_path: Path):
    """An ended child that nobody has waited for does not run any more."""
    process = spawn("short", ["true"], log=tmp_path / "log")
    assert process.popen is not None

    wait_until(lambda: start_ticks(process.pid) is None, 10, "the child to end")

    assert Path(f"/proc/{process.pid}").exists()
    process.popen.wait()


def test_children_do_not_get_the_terminals_ctrl_c(tmp_path: Path):
    """Each child is in a session of its own, so that the starter alone decides the order of the end."""
    process = spawn("sleeper", ["sleep", "60"], log=tmp_path / "log")

    try:
        assert os.getsid(process.pid) == process.pid
    finally:
        process.stop()


def test_waiting_has_a_deadline_and_names_its_object():
    """A condition that never holds is a timeout that says what was waited for."""
    with pytest.raises(TimeoutError, match=r"waited [0-9.]+ s for the moon"):
        wait_until(lambda: False, 0.1, "the moon")


def test_a_stopwatch_stands_while_something_waits_for_a_cpu(tmp_path: Path):
    """What the kernel says was a wait is not counted, up to half of the time; without its word all is."""
    pressure = tmp_path / "cpu"

    def said(stalled_seconds: float) -> None:
        line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={int(stalled_seconds * 1e6)}"
        pressure.write_text(
            f"some {line}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", encoding="ascii"
        )

    said(5.0)
    watches = [Stopwatch(pressure), Stopwatch(tmp_path / "no-such-file")]
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.4, 1, "some time")
    idle, unknown = (watch.seconds for watch in watches)
    said(5.1)
    crowded = watches[0].seconds
    said(900.0)
    starved = watches[0].seconds
    elapsed = time.monotonic() - began

    assert 0.4 < idle
    assert 0.4 < unknown <= elapsed
    assert idle - 0.101 < crowded <= elapsed - 0.09
    assert elapsed / 2 - 0.1 < starved <= elapsed / 2 + 0.01


def test_reserved_port_is_kept_from_others_but_shared_with_us():
    """Nobody binds the port by accident; a program that sets SO_REUSEPORT can, and gets the connections."""
    reservation = PortReservation()
    try:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", reservation.port))
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", reservation.port))
            server.listen()
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", reservation.port), timeout=5):
                    server.accept()[0].close()
    finally:
        reservation.release()
    reservation.release()


def test_free_port_can_be_bound():
    """The port is really free when it is returned."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_become_an_orderly_exit(number: signal.Signals):
    """SIGTERM and SIGHUP run clean-up code, and the handlers are put back."""
    before = signal.getsignal(number)

    def receive() -> None:
        with exit_on_signals():
            os.kill(os.getpid(), number)
            threading.Event().wait(5)

    with pytest.raises(SystemExit) as caught:
        receive()

    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_port_is_given_by_nobody_else():
    """Not by the kernel, which gives higher ones, nor by another process that asks at the same time."""
    ask = "from tests.cluster.processes import free_port; print(*(free_port() for _ in range(64)))"
    mine = {free_port() for _ in range(64)}
    other = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    theirs = {int(word) for word in other.stdout.split()}
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    assert len(theirs) == 64
    assert mine.isdisjoint(theirs)
    assert max(mine | theirs) < lowest


def test_a_port_in_use_is_not_given():
    """Although it belongs to this process: what it started may still listen there."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))

        assert server.getsockname()[1] not in {free_port() for _ in range(200)}
