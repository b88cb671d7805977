"""The command as a process of its own: pipes, signals, exit codes, and what it loads."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bubu_storage.cli.root import COMMANDS
from tests.unit.backend.scripted_server import Answer, scripted_server

PLANTED = "planted-secret-of-the-environment"
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "conformance"
SCRIPT = [sys.executable, "-m", "bubu_storage.cli"]


@pytest.fixture
def environment(tmp_path):
    """A small environment with planted credentials."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "planted-id-of-the-environment",
        "AWS_SECRET_ACCESS_KEY": PLANTED,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def start(environment, tmp_path):
    """Start the command line; whatever still runs after the test is killed."""
    started = []

    def begin(*arguments, **more):
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": tmp_path,
            "env": environment,
            **more,
        }
        started.append(subprocess.Popen([*SCRIPT, *(str(one) for one in arguments)], **options))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process, stdin=None):
    """Return exit code, standard output and standard error; nothing planted is in them."""
    out, err = process.communicate(stdin, timeout=120)
    assert PLANTED.encode() not in (out or b"") + err
    assert b"Traceback" not in err
    return process.returncode, out, err.decode()


def wait_for(condition, what, seconds=60):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        threading.Event().wait(0.01)


def test_help_loads_no_sdk(environment):
    """The help, and every file-store command, goes without an SDK, and all commands can be listed."""
    code = (
        "import sys\n"
        "from bubu_storage.cli import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'boto3', 'botocore', 'obstore', 'concurrent.futures', 'ssl', 'bubu_storage.manager'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )

    assert "[]" == done.stdout.splitlines()[-1]
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_the_installed_script(environment):
    """The entry point is the same command."""
    script = Path(sys.executable).with_name("bubu-storage")

    done = subprocess.run([script, "--version"], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("bubu-storage ")


def test_a_reader_that_leaves(start, store):
    """``ls | head -1`` ends at once and says nothing."""
    for number in range(800):
        store.put_object(f"many/{number:05}-{'x' * 200}", b"")
    read_end, write_end = os.pipe()
    process = start("--store", store.url, "ls", "-r", "many", stdout=write_end)
    os.close(write_end)

    assert os.read(read_end, 10)
    os.close(read_end)

    assert (141, "") == (process.wait(60), process.stderr.read().decode())


def test_a_full_output(start, store):
    """A disk that is full under standard output is one line and a failure."""
    with Path("/dev/full").open("wb") as full:
        code, _, err = ended(start("--store", store.url, "cat", "a.txt", stdout=full))

    assert (1, 1) == (code, err.count("\n"))
    assert "No space left on device" in err


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(environment, store, redirection):
    """Data that nobody can get is a failure, not a bug."""
    command = f"exec '{sys.executable}' -m bubu_storage.cli --store '{store.url}' ls {redirection}"

    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )

    assert 1 == done.returncode
    assert "Traceback" not in done.stderr
    assert ("2>" in redirection) is (done.stderr == "")


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "ls --help", "completion bash", "conformance FILE"]
)
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_nobody_gets(environment, arguments, redirection):
    """Whatever a command writes, an output that takes nothing is one line and a failure."""
    text = arguments.replace("FILE", str(GOLDEN / "applyenv-vectors.json"))
    command = f"exec '{sys.executable}' -m bubu_storage.cli {text} {redirection}"

    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )

    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert "standard output cannot be written" in done.stderr


@pytest.mark.parametrize(
    "arguments", ["cp - store:a.txt", "hydrate", "dehydrate --run-id team/run", "resolve -"]
)
def test_a_closed_input(environment, store, arguments):
    """An input that was never given is no empty file: nothing is replaced by it."""
    command = f"exec '{sys.executable}' -m bubu_storage.cli --store '{store.url}' {arguments} <&-"

    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )

    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert "standard input cannot be read" in done.stderr
    with store.get_object("a.txt") as kept:
        assert b"hello" == kept.read()


def test_a_device_that_is_full(start, store):
    """A failure of the system says what was not copied."""
    code, _, err = ended(start("--store", store.url, "cp", "store:a.txt", "/dev/full"))

    assert (1, 1) == (code, err.count("\n"))
    assert "'a.txt'" in err
    assert "No space left on device" in err


def test_a_check_of_a_silent_store_asks_once(start):
    """Whether a store answers is known after one try, not after three of each request."""
    asked = []

    def hang(request):
        asked.append(request.method)
        return Answer(silent=True)

    with scripted_server(hang) as server:
        options = ("--store", "s3://bucket", "--endpoint-url", server.endpoint, "--timeout", "300ms")
        code, out, _ = ended(start(*options, "-o", "json", "check"))

        wait_for(lambda: asked, "the server to see what the client has given up")

    assert (1, False) == (code, json.loads(out)["reachable"])
    assert ["HEAD"] == asked


def test_bytes_in_a_pipe(start, store):
    """Standard input and output carry any bytes, whatever the locale."""
    data = os.urandom(3_000_000)

    assert 0 == ended(start("--store", store.url, "cp", "-", "store:k", stdin=subprocess.PIPE), data)[0]
    assert (0, data, "") == ended(start("--store", store.url, "cat", "k"))


def test_keys_in_any_locale(start, store, environment):
    """Keys are written as UTF-8 also where the locale could not."""
    store.put_object("größe/☃", b"")
    environment.update(LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii")

    code, out, _ = ended(start("--store", store.url, "ls", "-r"))

    assert (0, True) == (code, "größe/☃\n".encode() in out)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_storing(start, store, tmp_path, number, expected):
    """What is half stored is taken back: neither an object nor a temporary file stays."""
    process = start("--store", store.url, "cp", "-", "store:half/way", stdin=subprocess.PIPE)
    process.stdin.write(b"x" * 9_000_000)
    process.stdin.flush()
    wait_for(lambda: list(tmp_path.glob("store/half/*")) or list(tmp_path.glob("store/half/.*")), "the write")

    process.send_signal(number)
    process.wait(60)

    assert expected == process.returncode
    assert b"Traceback" not in process.stderr.read()
    assert [] == list((tmp_path / "store" / "half").rglob("*"))
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("many", [False, True])
def test_a_signal_while_fetching(start, environment, tmp_path, *, number, expected, many):
    """Also when the store hangs in the middle of a body: it ends within seconds and leaves no file."""
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"
        b"<Contents><Key>p/a</Key><Size>5000</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        b"<Contents><Key>p/b</Key><Size>5000</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        b"</ListBucketResult>"
    )

    def answer(request):
        if "list-type" in request.query:
            return Answer(200, listing)
        return Answer(200, b"x" * 5000, hang_after_bytes=2000)

    with scripted_server(answer) as server:
        more = ("-r", "store:p") if many else ("store:p/a",)
        process = start("--store", "s3://b", "--endpoint-url", server.endpoint, "cp", *more, "out/")
        wait_for(lambda: list(tmp_path.glob("out/.bubu-tmp-*")), "a temporary file")
        began = time.monotonic()
        process.send_signal(number)
        code, _, _ = ended(process)

    assert expected == code
    assert time.monotonic() - began < 25
    assert [] == list((tmp_path / "out").iterdir())


def test_a_silent_store_is_bounded_by_the_timeout(start):
    """A store that never answers ends as a failure, as soon as was asked for."""
    with scripted_server(lambda _: Answer(silent=True)) as server:
        began = time.monotonic()
        code, _, err = ended(
            start("--store", "s3://b", "--endpoint-url", server.endpoint, "--timeout", "1", "stat", "k")
        )

    assert (1, 1) == (code, err.count("\n"))
    assert "--timeout" in err
    assert time.monotonic() - began < 50


def test_a_person_at_a_terminal(start, store):
    """At a terminal rm asks, and a no deletes nothing; progress is cleaned away."""
    ours, theirs = pty.openpty()
    process = start("--store", store.url, "rm", "a.txt", stdin=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, b"n\n")

    assert 4 == process.wait(60)
    assert b"Delete 'a.txt' from file://" in seen
    assert 5 == store.head_object("a.txt").size_bytes
    os.close(ours)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(start, shell):
    """Each shell gets a script that calls the command."""
    code, out, err = ended(start("completion", shell))

    assert (0, "") == (code, err)
    assert b"_BUBU_STORAGE_COMPLETE" in out


def complete(start, environment, words, store):
    """Ask as bash does, with the cursor at the end."""
    environment.update(
        _BUBU_STORAGE_COMPLETE="bash_complete",
        COMP_WORDS=f"bubu-storage --store {store} {words}",
        COMP_CWORD=str(2 + len(words.split(" "))),
    )
    script = Path(sys.executable).with_name("bubu-storage")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "" == done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hy", ["hydrate"]),
        ("ls --lim", ["--limit"]),
        ("stat da", ["data-old/", "data/"]),
        ("cat data/d", ["data/deep/"]),
        ("rm -r data/deep/e", ["data/deep/er/"]),
        ("stat nope", []),
    ],
)
def test_completion(start, environment, store, words, expected):
    """Commands, options and keys, one level at a time."""
    assert expected == complete(start, environment, words, store.url)


def test_completion_without_a_store(start, environment):
    """Nothing to offer is no reason to disturb the person's line."""
    assert [] == complete(start, environment, "stat x", "file:///nowhere/at/all")
