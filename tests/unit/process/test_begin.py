"""What a process of ours does first: names, and exceptions that nobody catches."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys

import pytest

from bubu_operator.process import FALLBACK_USER, name_user

LOUD = """
import logging, threading, warnings
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.logging import setup_logging
from bubu_operator.process import begin_process

begin_process()
redactor = Redactor()
redactor.add(["planted-secret"])
setup_logging("debug", FORMAT, redactor)
for name in ("kopf.activities", "uvicorn.error", "kubernetes.client.rest", "urllib3.pool", "bubu_storage"):
    logging.getLogger(name).error("from %s\\nwith a second line", name)
extras = {"k8s_ref": {"name": "a"}, "age": float("nan")}
logging.getLogger("kopf.objects").warning("with extras", extra=extras)
logging.getLogger("odd").info("%d", "no number")
warnings.warn("an odd use", UserWarning)

def fail():
    hidden = "local-secret"
    raise ValueError("planted-secret")

thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()

class Odd:
    def __del__(self):
        fail()

Odd()
fail()
"""


def run(form: str) -> subprocess.CompletedProcess[str]:
    """A process in which everybody logs and much goes wrong."""
    code = f"FORMAT = {form!r}\n{LOUD}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_whoever_logs_and_whatever_goes_wrong_each_line_is_one_json_object():
    """Libraries, warnings, lines that cannot be formatted, exceptions of threads and of the process."""
    done = run("json")

    assert done.stdout == ""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in done.stderr.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
    loggers = {line["logger"] for line in lines}
    assert {"kopf.activities", "uvicorn.error", "kubernetes.client.rest", "urllib3.pool"} <= loggers
    assert {"bubu_storage", "py.warnings"} <= loggers
    uncaught = [line for line in lines if line["level"] == "critical"]
    assert [line["logger"] for line in uncaught] == ["bubu_operator.process"] * 3
    assert "the thread worker" in uncaught[0]["message"]
    assert all("ValueError: [redacted]" in line["exception"] for line in uncaught)
    assert [line["of"] for line in lines if "could not be written" in line["message"]] == ["odd"]
    assert "planted" not in done.stderr
    assert done.returncode == 1


def test_the_form_for_people_shows_tracebacks_and_no_local_variables():
    """Whatever renders tracebacks on this machine: locals hold settings and keys."""
    done = run("console")

    assert "Traceback (most recent call last)" in done.stderr
    assert "ValueError: [redacted]" in done.stderr
    assert "planted" not in done.stderr
    assert "local-secret" not in done.stderr.replace('hidden = "local-secret"', "")
    assert "from kopf.activities" in done.stderr


def test_a_user_without_an_entry_in_passwd_gets_a_name(monkeypatch: pytest.MonkeyPatch):
    """Both variables, so that nobody asks passwd; a name that is there stays."""

    def nobody(_uid: int) -> object:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    named = {"PATH": "/bin"}
    name_user(named)
    assert named == {"PATH": "/bin", "USER": FALLBACK_USER, "LOGNAME": FALLBACK_USER}
    given = {"LOGNAME": "me"}
    name_user(given)
    assert given == {"LOGNAME": "me"}


def test_a_user_with_a_name_keeps_it(monkeypatch: pytest.MonkeyPatch):
    """Where passwd knows the uid, nothing is set."""
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: object())
    named: dict[str, str] = {}
    name_user(named)
    assert named == {}
