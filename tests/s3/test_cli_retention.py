"""``retention`` and ``lock`` on a real S3 server, as programs: planned, killed, broken, gone on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.retention.claim import CLAIM_KEY, look_at_claim
from tests.s3.fault_proxy import fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bubu_storage.backend.s3 import S3Backend
    from tests.s3.fault_proxy import FaultProxy
    from tests.s3server import VersityGateway

DEADLINE_SECONDS = 60
RUNS = 6
POLICY = {
    "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
    "limits": {"maxDelete": 2},
    "safety": {"maxDuePercent": 100},
}


@pytest.fixture
def proxy(s3_server: VersityGateway) -> Iterator[FaultProxy]:
    """A proxy in front of the server, which can hold requests."""
    with fault_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def start(
    s3_server: VersityGateway, bucket: str, proxy: FaultProxy, tmp_path: Path
) -> Callable[..., subprocess.Popen[str]]:
    """Start the program on the bucket, through the proxy."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    where = ("--store", f"s3://{bucket}", "--endpoint-url", proxy.endpoint, "--region", s3_server.region)

    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bubu_storage.cli", *where, "--timeout", "10s", *arguments],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run the program to its end."""

    def to_the_end(*arguments: str) -> tuple[int, str, str]:
        program = start(*arguments)
        out, errors = program.communicate(timeout=DEADLINE_SECONDS)
        return program.returncode, out, errors

    return to_the_end


@pytest.fixture
def policy(s3_backend: S3Backend, s3_server: VersityGateway, bucket: str, tmp_path: Path) -> str:
    """Old runs and a young one, and a policy about them."""
    for number in range(RUNS):
        for name in ("a", "b"):
            key = f"outputs/team-a/old-{number}/{name}"
            s3_backend.put_object(key, b"x")
            then = time.time() - 60 * 86_400
            os.utime(s3_server.path_of(bucket, key), (then, then))
    s3_backend.put_object("outputs/team-a/young/a", b"x")
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    return "policy.json"


def left(backend: S3Backend) -> list[str]:
    """Return the keys of data that are left."""
    return [entry.key for page in backend.list_objects("outputs/") for entry in page.objects]


def plan_of(run: Callable[..., tuple[int, str, str]], policy: str) -> str:
    """Plan and return the hash."""
    code, out, errors = run("retention", "plan", "-f", policy, "-n", "team-a", "-o", "json")
    assert code == 0, errors
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert summary["due"] == 2 * RUNS
    return summary["plan"]


def test_killed_broken_and_gone_on(
    run: Callable[..., tuple[int, str, str]],
    start: Callable[..., subprocess.Popen[str]],
    s3_backend: S3Backend,
    proxy: FaultProxy,
    policy: str,
) -> None:
    """SIGKILL in the middle leaves a claim and a place; the claim is broken by name, and the rest goes."""
    plan = plan_of(run, policy)
    apply = ("retention", "apply", "-f", policy, "-n", "team-a", "--plan", plan, "--yes", "--cursor", "place")
    program = start(*apply)

    def kill_in_the_third_batch() -> None:
        deletions = [one for one in proxy.requests if one[0] == "POST" and "delete" in one[1]]
        if len(deletions) == 3:
            program.kill()

    proxy.hold = kill_in_the_third_batch
    program.communicate(timeout=DEADLINE_SECONDS)
    proxy.hold = lambda: None
    assert program.returncode == -signal.SIGKILL
    assert 1 < len(left(s3_backend)) < 2 * RUNS + 1
    claim = look_at_claim(s3_backend)
    assert claim is not None
    assert claim.document is not None
    code, _, errors = run(*apply)
    assert code == 1
    assert "is claimed by bubu-storage retention apply by" in errors
    code, out, _ = run("lock", "show", "-o", "json")
    holder = json.loads(out)["claim"]["holder"]
    assert holder == claim.document.holder
    assert run("lock", "break", "--holder", holder, "--yes")[0] == 4
    assert run("lock", "break", "--holder", holder, "--yes", "--force")[0] == 0
    code, _, errors = run(*apply)

    assert code == 0, errors
    assert left(s3_backend) == ["outputs/team-a/young/a"]
    assert look_at_claim(s3_backend) is None


def test_ctrl_c_gives_the_claim_back(
    run: Callable[..., tuple[int, str, str]],
    start: Callable[..., subprocess.Popen[str]],
    s3_backend: S3Backend,
    proxy: FaultProxy,
    policy: str,
) -> None:
    """What is under way ends, the place is kept, nobody has to wait, and the rest goes at once."""
    plan = plan_of(run, policy)
    apply = ("retention", "apply", "-f", policy, "-n", "team-a", "--plan", plan, "--yes", "--cursor", "place")
    program = start(*apply)
    hit = False

    def interrupt() -> None:
        nonlocal hit
        if not hit and any(one[0] == "POST" and "delete" in one[1] for one in proxy.requests):
            hit = True
            program.send_signal(signal.SIGINT)

    proxy.hold = interrupt
    _, errors = program.communicate(timeout=DEADLINE_SECONDS)

    assert program.returncode == 130, errors
    assert "the same command goes on from 'place'" in errors
    assert 1 < len(left(s3_backend)) < 2 * RUNS + 1
    assert CLAIM_KEY not in [
        entry.key for page in s3_backend.list_objects(".bubu/") for entry in page.objects
    ]
    code, _, errors = run(*apply)
    assert code == 0, errors
    assert left(s3_backend) == ["outputs/team-a/young/a"]
