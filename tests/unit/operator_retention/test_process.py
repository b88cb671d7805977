"""A pass in a process of its own: what goes in, what comes out, and that it never stays behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bubu_operator.controllers.isolation import child_environment
from bubu_operator.retention import child
from bubu_operator.retention.child import run_child
from bubu_operator.retention.document import LineType, PassDocument, PassLine, read_until, until_line
from bubu_operator.retention.process import MAX_LINE_BYTES, PassEnded, PassProcess, _lines_of, pass_command
from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import boot_seconds
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.settings import FileSettings, S3Settings
from tests.cluster.processes import wait_until

SCOPE = "outputs/team-a/"
DAY = 86400.0


def spec(**fields):
    """Make a spec over one scope."""
    defaults = {"scopes": (SCOPE,), "rules": (RetentionRule(SCOPE, 10 * DAY),), "dry_run": False}
    return PassSpec(**(defaults | fields))


@pytest.fixture
def store(tmp_path):
    """A file store of 60 runs of one object: 50 old, 10 young."""
    for number in range(60):
        run = tmp_path / "store" / SCOPE / f"run-{number:03d}"
        run.mkdir(parents=True)
        item = run / "data"
        item.write_bytes(b"x")
        if number < 50:
            old = time.time() - 20 * DAY
            os.utime(item, (old, old))
    return tmp_path / "store"


def left(store):
    """Count the objects of a store."""
    return sum(1 for path in store.rglob("data") if path.is_file())


def document(store, **fields):
    """Make a pass over a store."""
    return PassDocument(FileSettings(str(store)), spec(**fields), Cursor())


def long_document(store, *, valid_until=None):
    """Make a pass that deletes soon and then has minutes to go: it lists many scopes, slowly."""
    scopes = (SCOPE, *(f"outputs/team-b/{number:03d}/" for number in range(600)))
    rules = tuple(RetentionRule(scope, 10 * DAY) for scope in scopes)
    limits = {"requests_per_second": 3.0, "max_delete": 1_000}
    return PassDocument(
        FileSettings(str(store)), spec(scopes=scopes, rules=rules, **limits), Cursor(), valid_until
    )


def start(*args, **options):
    """Start a real process."""
    return PassProcess(*args, environment=child_environment(os.environ), **options)


def wait_for(process, wanted, seconds=120.0):
    """Return the first line that is wanted, or the end; collects what came before."""
    deadline = time.monotonic() + seconds
    seen = []
    while time.monotonic() < deadline:
        line = process.next(0.2)
        if line is None:
            continue
        seen.append(line)
        if isinstance(line, PassEnded) or wanted(line):
            return line, seen
    raise AssertionError(f"nothing of the kind within {seconds} s: {seen}")


class NoOwners:
    """An `OwnerSource` that nobody asks."""

    def observe(self, not_before):
        """Refuse."""
        raise AssertionError(not_before)


def alive(pid):
    """Tell whether a process exists (a zombie does not count)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_documents_round_trip():
    """All settings, secrets included, arrive as they were; nothing shows in a repr."""
    settings = S3Settings(bucket="b", access_key_id="AK", secret_access_key="planted", anonymous=False)
    original = PassDocument(settings, spec(max_scan=5), Cursor(after="outputs/team-a/r/x"))

    line = original.to_line()

    assert PassDocument.from_line(line) == original
    assert line.count("\n") == 1
    assert "planted" not in repr(original)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"version": 9}', '{"version":1,"store":{"kind":"ftp"}}'])
def test_a_wrong_document_is_refused_without_repeating_it(line):
    """What is on stdin may hold secrets; the complaint does not quote it."""
    with pytest.raises(ConfigurationError) as raised:
        PassDocument.from_line(line[:-1] + ',"secret":"planted"}' if line.endswith("}") else line)

    assert "planted" not in str(raised.value)


def test_a_whole_pass(store):
    """Checkpoints, then the report, then the end with code 0; the store is as the rules say."""
    with start(document(store)) as process:
        end, seen = wait_for(process, lambda _: False)

    reports = [line for line in seen if isinstance(line, PassLine)]
    assert reports[-1].type is LineType.REPORT
    assert {line.type for line in reports[:-1]} == {LineType.CHECKPOINT}
    assert reports[-1].report.deleted.objects == 50
    assert end == PassEnded(0, "")
    assert left(store) == 10


def test_nothing_secret_is_visible_to_other_processes(store):
    """Credentials are in neither the arguments nor the environment of the process."""
    settings = S3Settings(
        bucket="b", endpoint="http://127.0.0.1:9", access_key_id="AKPLANTED", secret_access_key="SKPLANTED"
    )
    paced = PassDocument(settings, spec(), Cursor())
    with start(paced) as process:
        shown = [Path(f"/proc/{process.pid}/{name}") for name in ("cmdline", "environ")]
        # For a moment the kernel shows neither of a program that has just taken a process over.
        wait_until(lambda: all(path.read_bytes() for path in shown), 20, "the process to be visible")
        visible = b"".join(path.read_bytes() for path in shown)
        end, seen = wait_for(process, lambda _: False)

    assert b"PLANTED" not in visible
    assert b"AWS_CONFIG_FILE=/dev/null" in visible
    text = "".join(line.to_line() for line in seen if isinstance(line, PassLine)) + end.complaint
    assert "PLANTED" not in text


def test_asked_to_stop_it_ends_in_good_order(store):
    """The report comes with a cursor that goes on exactly there."""
    with start(long_document(store)) as process:
        wait_for(process, lambda line: line.report is not None)
        process.ask_to_stop()
        line, _ = wait_for(process, lambda line: line.type is LineType.REPORT)

    assert line.report.stopped_by is StoppedBy.STOPPED
    assert left(store) == 60 - line.report.deleted.objects


def test_it_dies_with_its_parent(store, tmp_path):
    """SIGKILL of the parent ends the pass within seconds, in the middle of its work."""
    code = (
        "import os, sys, time\n"
        "from bubu_operator.controllers.isolation import child_environment\n"
        "from bubu_operator.retention.document import PassDocument\n"
        "from bubu_operator.retention.process import PassProcess\n"
        "p = PassProcess(PassDocument.from_line(sys.stdin.readline()),"
        " environment=child_environment(os.environ))\n"
        "while p.next(0.2) is None: pass\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        parent.stdin.write(long_document(store).to_line())
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while alive(child) and time.monotonic() < deadline:
            threading.Event().wait(0.02)

    assert not alive(child)


def test_a_signal_at_any_moment_is_heard():
    """The pass waits for the event that the handler sets, and may hold its lock just then."""
    code = (
        "import os, signal\n"
        "from bubu_operator.retention import child\n"
        "def run(_stdin, _out, stop):\n"
        "    with stop._cond:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return 0 if stop.wait(60) else 1\n"
        "child.run_child = run\n"
        "raise SystemExit(child.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_it_ends_when_only_its_stdin_does(store):
    """The lifeline alone is enough: a pass that is waiting for its store writes nothing that could fail."""
    with start(long_document(store)) as process:
        wait_for(process, lambda line: line.report is not None)
        process._process.stdin.close()
        end, _ = wait_for(process, lambda _: False)

    assert end.exit_code == 4


def test_a_line_without_an_end_is_cut():
    """What is remembered of a line is bounded, and the next one is whole again."""
    read, write = os.pipe()

    def fill():
        with os.fdopen(write, "wb") as pipe:
            pipe.write(b"x" * (MAX_LINE_BYTES + 1_000_000) + b"\nshort\nlast")

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        long, *rest = _lines_of(read)
    finally:
        writer.join()
        os.close(read)

    assert MAX_LINE_BYTES <= len(long) < MAX_LINE_BYTES + 100_000
    assert rest == [b"short", b"last"]


def test_leaving_the_block_kills_and_reaps(store):
    """Whatever went wrong in the controller, no process and no zombie stays."""
    with start(document(store, requests_per_second=1.0)) as process:
        pid = process.pid
        wait_for(process, lambda line: line.report is not None)

    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("script", "exit_code", "complaint"),
    [
        ("import sys; sys.stderr.write('last words'); sys.exit(3)", 3, "last words"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("print('no protocol')", 0, "none of its own"),
        ("print('[' * 100_000)", 0, "RecursionError"),
    ],
)
def test_an_end_without_a_report_is_told(store, script, exit_code, complaint):
    """A crash, a kill, or babble: the end says which, and nothing hangs."""
    with start(document(store), command=[sys.executable, "-c", script]) as process:
        end, _ = wait_for(process, lambda _: False)

    assert end.exit_code == exit_code
    assert complaint in end.complaint


@pytest.mark.parametrize("missing", ["err", "out", "in", "owners"])
def test_where_threads_have_run_out_no_process_stays(store, monkeypatch, missing):
    """A process that nobody listens to would wait for ever; it is ended, and the caller is told why."""
    begun = []
    start_process, start_thread = subprocess.Popen, threading.Thread.start

    def remember(*args, **options):
        begun.append(start_process(*args, **options))
        return begun[-1]

    def refuse(thread):
        if thread.name.endswith(f"-{missing}"):
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    command = [sys.executable, "-c", "import time; time.sleep(300)"]

    with pytest.raises(OSError, match="can't start new thread"):
        start(document(store), command=command, owners=NoOwners())

    (process,) = begun
    assert process.returncode == -signal.SIGKILL


def test_a_process_that_reads_nothing_blocks_nobody(store):
    """A document larger than a pipe does not hold up the controller; the process can still be killed."""
    big = PassDocument(S3Settings(bucket="b", ca_bundle_pem="x" * 1_000_000), spec(), Cursor())
    began = time.monotonic()

    with start(big, command=[sys.executable, "-c", "import time; time.sleep(300)"]) as process:
        process.ask_to_stop()

    assert time.monotonic() - began < 60


def test_a_flood_is_not_remembered(store):
    """However much a process writes and whoever is late to listen: the end arrives, memory does not grow."""
    checkpoint = PassLine(LineType.ERROR, message="x").to_line()
    script = (
        f"import sys; [sys.stdout.write({checkpoint!r}) for _ in range(20_000)];"
        "sys.stdout.write('z' * 20_000_000 + chr(10));"
        "sys.stderr.write('e' * 20_000_000); sys.stderr.write('last')"
    )
    with start(document(store), command=[sys.executable, "-c", script]) as process:
        deadline = time.monotonic() + 120
        while alive(process.pid) and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        end, seen = wait_for(process, lambda line: isinstance(line, PassEnded))
        while not isinstance(end, PassEnded):
            end, more = wait_for(process, lambda line: isinstance(line, PassEnded))
            seen += more

    assert end.complaint.endswith("last")
    assert len(end.complaint) <= 4096
    assert len(seen) <= 257


def test_temporary_files_of_a_killed_process_go_with_it(store, tmp_path, monkeypatch):
    """A bundle of certificates, say: it must not fill the disk pass by pass."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = PassLine(LineType.ERROR, message="ready").to_line()
    script = (
        f"import tempfile, time; tempfile.mkstemp(); print({error.strip()!r}, flush=True); time.sleep(300)"
    )
    with start(document(store), command=[sys.executable, "-c", script]) as process:
        wait_for(process, lambda _: True)
        assert [path for path in tmp_path.rglob("tmp*") if path.is_file()]

    assert not list(tmp_path.glob("bubu-pass-*"))


def test_a_store_that_cannot_be_opened_is_an_error_line(tmp_path):
    """The reason comes as a line, not as a traceback."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with start(document(tmp_path / "file" / "store")) as process:
        end, seen = wait_for(process, lambda _: False)

    lines = [line for line in seen if isinstance(line, PassLine)]
    told = lines[-1].message if lines[-1].type is LineType.ERROR else lines[-1].report.message
    assert told
    assert "Traceback" not in end.complaint


def test_without_a_document_it_says_who_starts_it():
    """Run by hand, the command explains itself and fails."""
    read, write = os.pipe()
    os.write(write, b"hello\n")
    out = io.StringIO()
    try:
        assert run_child(read, out, threading.Event()) == 2
    finally:
        os.close(read)
        os.close(write)

    assert "started by the controller" in json.loads(out.getvalue())["message"]


def test_the_command_is_this_interpreter():
    """No PATH decides what runs with a tenant's credentials."""
    assert pass_command()[0] == sys.executable


# -- no longer than the controller leads ------------------------------------------------


def bounded(store, seconds, **fields):
    """Make a pass of a controller that leads for that long, as far as it knows."""
    return PassDocument(FileSettings(str(store)), spec(**fields), Cursor(), boot_seconds() + seconds)


def test_how_long_the_controller_leads_survives_the_pipe():
    """In the document and in lines; any other line says nothing about it."""
    original = PassDocument(FileSettings("/s"), spec(), Cursor(), 12345.678)

    assert PassDocument.from_line(original.to_line()) == original
    assert read_until(until_line(12345.678)) == 12345.678
    assert [read_until(line) for line in ("stop", "until", "until soon")] == [None, None, None]


def test_it_stops_when_its_controller_may_lead_no_longer(store):
    """A parent that says nothing more has been stopped: no request follows, the report says where it was."""
    for seconds in (4.0, 12.0, 36.0):
        with start(long_document(store, valid_until=boot_seconds() + seconds)) as process:
            line, _ = wait_for(process, lambda line: getattr(line, "type", None) is LineType.REPORT)
            late_seconds = boot_seconds() - process._granted_until
        if isinstance(line, PassLine):
            break
        # Where the machine stalls at that moment the process is cut off before it has reported.
        assert line.exit_code == child.EXIT_LEADERSHIP_OVER

    assert line.report.stopped_by is StoppedBy.STOPPED
    assert line.report.complete_cycle is False
    assert late_seconds < 60, "by itself it would go on for minutes"


def test_it_goes_on_while_its_controller_leads(store):
    """Each renewal that it hears of gives it more time; an older one takes none away."""
    for seconds in (6.0, 30.0):
        document = bounded(store, seconds, requests_per_second=1.8 / seconds)
        with start(document) as process:
            while process._granted_until == document.valid_until and boot_seconds() < document.valid_until:
                process.grant(document.valid_until + 120)
                process.next(0.05)
            process.grant(document.valid_until - 60)
            line, _ = wait_for(process, lambda line: getattr(line, "type", None) is LineType.REPORT)
            ended = boot_seconds()
        if isinstance(line, PassLine) and line.report.stopped_by is not StoppedBy.STOPPED:
            break  # else the machine was so slow that it may have heard of the renewal too late

    assert ended > document.valid_until
    assert line.report.stopped_by is StoppedBy.END_OF_CYCLE
    assert left(store) == 10


def test_a_request_that_hangs_does_not_keep_it_alive():
    """The store is silent in the middle of a request: the process ends soon after the leadership does."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = S3Settings(
            bucket="b",
            endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            access_key_id="a",
            secret_access_key="b",
            timeout_seconds=120.0,
        )
        document = PassDocument(settings, spec(), Cursor(), boot_seconds() + 5.0)
        with start(document) as process:
            end, _ = wait_for(process, lambda line: isinstance(line, PassEnded))
            late_seconds = boot_seconds() - document.valid_until

    assert end.exit_code == 5
    assert late_seconds < 60, "the request alone would last longer"


def test_a_machine_that_slept_does_not_put_the_end_off(monkeypatch):
    """Time asleep counts at once, not when the seconds that were left before have been waited for."""
    now = [1000.0]
    monkeypatch.setattr(child, "boot_seconds", lambda: now[0])
    exits = []

    def leave(code):
        exits.append(code)
        raise SystemExit

    monkeypatch.setattr(child.os, "_exit", leave)
    reading, writing = os.pipe()
    began = time.monotonic()
    alarm = threading.Timer(0.1, lambda: now.__setitem__(0, 1200.0))
    alarm.start()
    try:
        with pytest.raises(SystemExit):
            child._lifeline(reading, b"", threading.Event(), child._Validity(1100.0))
    finally:
        alarm.join()
        os.close(reading)
        os.close(writing)

    assert exits == [child.EXIT_LEADERSHIP_OVER]
    assert time.monotonic() - began < 60


def test_a_pass_without_an_election_is_told_nothing(store):
    """Its document holds no end, and none is sent."""
    with start(document(store)) as process:
        process.grant(1.0)
        end, _ = wait_for(process, lambda line: isinstance(line, PassEnded))

    assert end.exit_code == 0
    assert left(store) == 10
