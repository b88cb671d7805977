"""What a node needs before it starts: packages, images, addresses. None of it needs root."""

from __future__ import annotations

import ipaddress
import json
import os
import tarfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.errors import PrerequisiteError
from tests.cluster.processes import start_ticks
from tests.node import packages, runs
from tests.node.base_image import registry_answers
from tests.node.images import write_image
from tests.node.network import Plan
from tests.node.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything but two packages."""
    proofs = {"coreutils": "ls", "absent-one": "no-such-program-1", "absent-two": "/no/such/file"}
    monkeypatch.setattr(packages, "_PROOFS", proofs)


@pytest.mark.usefixtures("lacking")
def test_only_what_is_absent_is_missing():
    """A program or a file of a package proves that it is there."""
    assert packages.missing_packages() == ["absent-one", "absent-two"]


@pytest.mark.usefixtures("lacking")
def test_who_is_not_root_is_told_the_command(monkeypatch: pytest.MonkeyPatch):
    """Nothing is tried that cannot work."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(PrerequisiteError, match=r"run apt-get install .* absent-one absent-two\."):
        packages.ensure_packages(print)
    assert "root" in packages.why_no_node()


@pytest.mark.usefixtures("lacking")
def test_missing_packages_are_installed_with_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The list is renewed first, since a fresh image has none."""
    calls = fake_apt(tmp_path, monkeypatch, code=0)
    lines: list[str] = []

    # It ends well and brings nothing, which must not go unnoticed.
    with pytest.raises(PrerequisiteError, match="absent-one, absent-two cannot be found"):
        packages.ensure_packages(lines.append)

    said = calls.read_text(encoding="utf-8").splitlines()
    assert said == ["update", "install --yes --no-install-recommends absent-one absent-two"]
    assert lines[0] == "installing absent-one, absent-two"
    assert "  apt at work" in lines


@pytest.mark.usefixtures("lacking")
def test_apts_failure_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The end of its output is the reason."""
    fake_apt(tmp_path, monkeypatch, code=100)

    with pytest.raises(PrerequisiteError, match=r"(?s)apt-get update ended with 100:.*apt at work"):
        packages.ensure_packages(lambda _line: None)


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, code: int) -> Path:
    """Put an apt-get first on the path that writes down what it is asked; return where."""
    calls = tmp_path / "calls"
    program = tmp_path / "apt-get"
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\necho apt at work\nexit {code}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return calls


def test_a_root_that_may_make_no_namespaces_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in a container without privileges: a reason to skip, not an error in the middle of a start."""
    monkeypatch.setattr(packages, "_PROOFS", {})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\necho unshare failed: not permitted >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert packages.why_no_node() == (
        "a node needs the right to make namespaces (unshare failed: not permitted)"
    )


@pytest.fixture
def answering() -> Iterator[tuple[str, dict[str, str]]]:
    """An HTTP server that refuses everybody, and the headers with which it does."""
    headers: dict[str, str] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v2/", headers
        server.shutdown()
        thread.join()


def test_a_registry_that_asks_for_a_login_answers(answering: tuple[str, dict[str, str]]):
    """That is how a registry greets everybody."""
    url, headers = answering
    headers["Docker-Distribution-Api-Version"] = "registry/2.0"

    assert registry_answers(url)


def test_anything_else_is_no_registry(answering: tuple[str, dict[str, str]]):
    """A gateway that refuses, or nobody at all."""
    url, _headers = answering

    assert not registry_answers(url)
    assert not registry_answers("http://127.0.0.1:1/v2/")


def test_an_image_is_one_layer_with_one_file(tmp_path: Path):
    """What ``ctr images import`` needs, and nothing else."""
    program = tmp_path / "program"
    program.write_bytes(b"code")

    with tarfile.open(write_image("example.test/program:1", program, tmp_path / "image.tar")) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or pytest.fail("no manifest"))
        config = json.load(archive.extractfile("config.json") or pytest.fail("no configuration"))
        with tarfile.open(fileobj=archive.extractfile("layer.tar")) as layer:
            files = {entry.name: entry.mode for entry in layer}

    assert manifest == [
        {"Config": "config.json", "RepoTags": ["example.test/program:1"], "Layers": ["layer.tar"]}
    ]
    assert config["config"]["Entrypoint"] == ["/program"]
    assert files == {"program": 0o755}


def test_the_addresses_of_two_clusters_never_meet():
    """Nor do those of pods, nodes and Services of one."""
    first, second = Plan(201), Plan(202)
    parts = [ipaddress.IPv4Network(text) for text in (first.pods, first.services, "10.201.0.0/24")]

    assert not any(a.overlaps(b) for a in parts for b in parts if a is not b)
    assert all(part.subnet_of(ipaddress.IPv4Network(first.network)) for part in parts)
    assert not ipaddress.IPv4Network(first.network).overlaps(ipaddress.IPv4Network(second.network))
    assert ipaddress.IPv4Network(first.node_pods(9)).subnet_of(parts[0])


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of runs of the test's own, on a machine without routes."""
    monkeypatch.setattr(runs, "REGISTRY", tmp_path / "registry")
    monkeypatch.setattr(runs, "taken_networks", list)
    monkeypatch.setattr(runs, "_BLOCKS", range(250, 253))
    return tmp_path / "registry"


@pytest.mark.usefixtures("registry")
def test_living_runs_keep_their_blocks(tmp_path: Path):
    """The next run takes another."""
    blocks = [Run.claim(tmp_path / str(number)).block for number in range(2)]

    assert blocks == [250, 251]


@pytest.mark.usefixtures("registry")
def test_a_network_that_the_machine_uses_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cluster must not hide a machine's own routes."""
    monkeypatch.setattr(runs, "taken_networks", lambda: [ipaddress.IPv4Network("10.250.7.0/24")])

    assert Run.claim(tmp_path / "run").block == 251


@pytest.mark.usefixtures("registry")
def test_the_next_run_removes_what_a_dead_one_left(tmp_path: Path):
    """Its folder, its record, and its block is free again."""
    folder = tmp_path / "run"
    (folder / "state").mkdir(parents=True)
    mine = start_ticks(os.getpid())
    assert mine is not None
    # This process's pid, of an earlier life of it.
    runs.REGISTRY.mkdir()
    Run(250, str(folder), (os.getpid(), mine - 1)).save()

    claimed = Run.claim(tmp_path / "next")

    assert claimed.block == 250
    assert not folder.exists()


def test_a_record_that_nobody_can_read_is_no_obstacle(registry: Path):
    """Half a file, or another version's."""
    registry.mkdir()
    (registry / "250.json").write_text("{", encoding="utf-8")
    (registry / "251.json").write_text(json.dumps({"unknown": 1}), encoding="utf-8")

    assert runs.read_runs() == []
