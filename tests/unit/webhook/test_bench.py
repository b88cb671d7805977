"""The benchmark of the webhook runs through at a tiny scale; its times are judged by people only."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.certs import write_serving_files
from tests.perf.lean_client import Connection
from tests.perf.webhook_servers import noop_server, reviews

ROOT = Path(__file__).resolve().parents[3]


def test_all_goals_are_measured_beside_a_no_op():
    """Both processes start, every answer is right, a pass ends well, and five goals are reported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.webhook", "--json", "--rounds", "1", "--scale", "0.02"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["full"] is False
    goals = [one["goal"]["text"] for one in report["results"] if one["goal"] is not None]
    assert goals == ["< 1", "< 10", ">= 2000", "< 25", "< 80"]
    assert all(
        {"no-op", "webhook"} <= {name.split()[0] for name in one["figures"]} for one in report["results"]
    )


def test_a_wrong_answer_is_no_measurement(tmp_path, monkeypatch):
    """The client looks for the patch in each answer: a server that injects nothing would be the fastest."""
    monkeypatch.chdir(ROOT)
    files = write_serving_files(tmp_path, ["localhost"], ["127.0.0.1"])
    context = ssl.create_default_context(cafile=str(files.ca))
    with noop_server(files, set(os.sched_getaffinity(0))) as server:
        connection = Connection(server.port, context, [b"{}"], b"no such mark")
        connection.send()
        with pytest.raises(ValueError, match="without b'no such mark'"):
            connection.receive()
        connection.close()


def test_no_two_pods_are_alike():
    """A server that remembered what it answered to the same bytes would measure its memory."""
    requests = [json.loads(body)["request"] for body in reviews(10)]
    names = {request["object"]["metadata"]["generateName"] for request in requests}
    first = [
        {entry["value"] for item in request["object"]["spec"]["containers"] for entry in item["env"]}
        for request in requests
    ]
    assert len(names) == len({request["uid"] for request in requests}) == 10
    assert not set.intersection(*first)
    assert len({len(body) for body in reviews(10)}) == 1
