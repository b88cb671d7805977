"""The controller's own identity stays its own."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from bubu_operator.controllers.bounded import MAX_CALLS_OF_GROUP, BoundedCalls, CallTimeoutError
from bubu_operator.controllers.isolation import child_environment, isolate_environment


def test_the_sdks_sources_are_shut():
    """Variables go, files and the metadata service are shut."""
    environ = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
        "AWS_PROFILE": "prod",
        "BUBU_S3_SECRET_ACCESS_KEY": "y",
        "PATH": "/bin",
    }

    removed = isolate_environment(environ)

    assert removed == [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "BUBU_S3_SECRET_ACCESS_KEY",
    ]
    assert environ == {
        "PATH": "/bin",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def test_a_child_gets_names_it_needs_and_nothing_else():
    """No token, no kubeconfig, no service account, no cloud variable reaches a pass."""
    environ = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "KUBECONFIG": "/k",
        "KUBERNETES_SERVICE_HOST": "h",
        "MY_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
    }

    assert set(child_environment(environ)) == {
        "PATH",
        "HTTPS_PROXY",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }


def test_bounded_calls_return_and_raise_as_usual():
    """Within its time a call is like any other."""
    calls = BoundedCalls()

    assert calls.call("k", 60, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        calls.call("k", 60, lambda: 1 // 0)


def test_a_call_that_hangs_costs_one_thread_and_its_time():
    """The caller goes on; a second call for the same key does not pile up; others are not affected."""
    calls, gate = BoundedCalls(), threading.Event()
    began = time.monotonic()
    try:
        with pytest.raises(CallTimeoutError, match="within"):
            calls.call("k", 0.05, lambda: gate.wait(120))
        with pytest.raises(CallTimeoutError, match="still hangs"):
            calls.call("k", 60, lambda: 1)
        assert calls.call("other", 60, lambda: 2) == 2
    finally:
        gate.set()
    assert time.monotonic() - began < 50


def test_a_call_that_no_thread_could_be_had_for_does_not_hang(monkeypatch):
    """Threads may have run out for a moment; the next call of the same key is made."""
    calls = BoundedCalls()

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            calls.call("k", 60, lambda: 1, group="team-a")

    assert calls.call("k", 60, lambda: 2, group="team-a") == 2


def test_no_group_can_have_very_many_calls_that_hang():
    """Whatever the number of its keys; another group, and calls without one, are served."""
    calls, gate = BoundedCalls(), threading.Event()
    try:
        for number in range(MAX_CALLS_OF_GROUP):
            with pytest.raises(CallTimeoutError, match="within"):
                calls.call(number, 0.01, gate.wait, group="team-a")
        with pytest.raises(CallTimeoutError, match=f"{MAX_CALLS_OF_GROUP} calls of team-a hang already"):
            calls.call("one more", 60, lambda: None, group="team-a")
        assert calls.call("other", 60, lambda: 1, group="team-b") == 1
        assert calls.call("none", 60, lambda: 2) == 2
    finally:
        gate.set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(CallTimeoutError):
            assert calls.call("one more", 60, lambda: 3, group="team-a") == 3
            return
    raise AssertionError("calls that have ended still count")
