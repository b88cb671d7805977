"""The agent as a process: it knows its controller by the fingerprint, serves, and says how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.cli import cli
from bubu_operator.controllers.pass_agent_job import AgentCall, agent_job
from bubu_operator.injection.config import load_config
from bubu_operator.jobpass import agent
from bubu_operator.jobpass.agent import parse_controller
from bubu_operator.jobpass.agent_channel import AgentChannel
from bubu_operator.jobpass.listener import Expected, Listener, PodIdentity
from bubu_operator.jobpass.remote_backend import RemoteBackend
from bubu_operator.jobpass.seam import PassOrder
from bubu_operator.jobpass.tls import ServerIdentity
from bubu_operator.kube.resources import ObjectKey
from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import PermissionDeniedError, UnavailableError

IDENTITY = ServerIdentity.make()
OTHER = ServerIdentity.make()
TOKEN = "eyJPLANTED.token.VALUE0123456789"
POD = PodIdentity("team-a", "runner", "pod-1", "uid-1")


class World:
    """A listener that expects pass p-1, and a folder for the agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.arrived = threading.Event()
        self.counts = []
        self.listener = Listener(
            ("127.0.0.1", 0),
            IDENTITY,
            review=lambda token: POD if token == TOKEN else None,
            may_send=lambda: True,
            count=self.counts.append,
        )
        self.expected = Expected("file store", lambda pod: pod == POD, self.arrived.set)
        self.listener.expect("p-1", self.expected)
        self.listener.start()
        (folder / "token").write_text(TOKEN + "\n")

    def start(self, *arguments: str, env: dict[str, str] | None = None, port: int = 0, pin: str = ""):
        """Start an agent."""
        command = [
            sys.executable, "-W", "error", "-m", "bubu_operator", "retention-agent",
            "--controller", f"https://127.0.0.1:{port or self.listener.port}",
            "--pin", pin or IDENTITY.pin, "--pass", "p-1", "--scope", "outputs/team-a/",
            "--token-file", str(self.folder / "token"), "--result", str(self.folder / "result"), *arguments,
        ]  # fmt: skip
        given = (
            {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(self.store)} if env is None else env
        )
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **given}
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def remote(self) -> RemoteBackend:
        """Wait for the agent; return the engine's side."""
        assert self.arrived.wait(60)
        channel = self.expected.channel
        assert channel is not None
        ours = socket.socket(fileno=os.dup(channel.settings.descriptor))
        remote = RemoteBackend(AgentChannel(ours, "file store"))
        channel.handed_over()
        return remote

    def result(self, process) -> dict:
        """Wait for the agent's end; return its result."""
        _, text = process.communicate(timeout=120)
        found = json.loads((self.folder / "result").read_text())
        assert TOKEN not in text.decode() + json.dumps(found)
        assert "Traceback" not in text.decode()
        assert json.loads(text.decode().splitlines()[-1]) == found
        return found


@pytest.fixture
def world(tmp_path):
    """A world."""
    made = World(tmp_path)
    yield made
    made.listener.close()


def test_a_whole_conversation(world):
    """Within its rights it does what it is asked; it ends with the channel, and says that all is well."""
    store = FileBackend(world.store)
    for key in ("outputs/team-a/r/o", "outputs/team-a/r/p", "outputs/team-b/r/o"):
        store.put_object(key, b"x")
    process = world.start()
    remote = world.remote()

    pages = [entry.key for page in remote.list_objects("outputs/team-a/") for entry in page.objects]
    assert pages == ["outputs/team-a/r/o", "outputs/team-a/r/p"]
    assert remote.delete_objects(pages) == {}
    with pytest.raises(PermissionDeniedError):
        remote.delete_objects(["outputs/team-b/r/o"])
    remote.close()

    assert world.result(process)["reason"] == "ProbeSucceeded"
    assert process.returncode == 0
    assert [entry.key for page in store.list_objects() for entry in page.objects] == ["outputs/team-b/r/o"]


def test_a_controller_that_has_no_place_at_first_is_called_again(world):
    """It closes whoever is too many; an agent that gave up at that would cost a pass."""
    door = socket.create_server(("127.0.0.1", 0))
    process = world.start(port=door.getsockname()[1])
    door.settimeout(60)
    door.accept()[0].close()
    caller, _ = door.accept()
    controller = socket.create_connection(("127.0.0.1", world.listener.port))

    def carry(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    threads = [
        threading.Thread(target=carry, args=ends) for ends in ((caller, controller), (controller, caller))
    ]
    for thread in threads:
        thread.start()
    world.remote().close()

    assert world.result(process)["reason"] == "ProbeSucceeded"
    for thread in threads:
        thread.join(10)
    for end in (door, caller, controller):
        end.close()


def test_an_agent_that_is_killed(world):
    """The engine's calls fail at once."""
    process = world.start()
    remote = world.remote()
    assert remote.server_time().year > 2000

    process.kill()
    process.communicate()

    with pytest.raises(UnavailableError):
        remote.server_time()
    remote.close()


def test_another_process_at_the_controllers_address(world):
    """The token is not shown to it."""
    process = world.start(pin=OTHER.pin)

    assert "another fingerprint" in world.result(process)["message"]
    assert process.returncode == 1
    assert "Admitted" not in world.counts
    assert "Unauthenticated" not in world.counts


def test_a_wrong_token(world):
    """The controller turns it away; once is enough."""
    (world.folder / "token").write_text("expired")
    process = world.start()

    assert "turned this agent away" in world.result(process)["message"]
    assert process.returncode == 1
    assert world.counts == ["Unauthenticated"]


def test_an_agent_that_nobody_asks(world):
    """It ends by itself."""
    process = world.start("--idle-seconds", "0.3")
    remote = world.remote()

    assert "nothing was asked" in world.result(process)["message"]
    assert process.returncode == 1
    remote.close()


def test_its_deadline(world):
    """It ends whatever is under way."""
    process = world.start("--deadline-seconds", "3")
    remote = world.remote()

    assert world.result(process)["reason"] == "Timeout"
    assert process.returncode == 1
    remote.close()


@pytest.mark.parametrize(
    ("env", "arguments", "reason", "message"),
    [
        ({}, (), "StoreError", "BUBU_STORAGE_PROVIDER"),
        (
            {
                "BUBU_STORAGE_PROVIDER": "s3",
                "BUBU_STORAGE_S3_BUCKET": "b",
                "BUBU_STORAGE_S3_ENDPOINT": "http://169.254.169.254",
            },
            ("--require-identity",),
            "EndpointNotAllowed",
            "",
        ),
        (
            {
                "BUBU_STORAGE_PROVIDER": "s3",
                "BUBU_STORAGE_S3_BUCKET": "b",
                "BUBU_STORAGE_S3_ENDPOINT": "http://127.0.0.1:9",
            },
            ("--require-identity",),
            "EndpointNotAllowed",
            "",
        ),
    ],
)
def test_a_store_that_cannot_be_opened(world, env, arguments, reason, message):
    """Told with the words of a probe, before anybody is called."""
    secrets = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED000000000", "AWS_SECRET_ACCESS_KEY": TOKEN}
    process = world.start(*arguments, env=env | secrets)

    found = world.result(process)
    assert found["reason"] == reason
    assert message in found["message"]
    assert process.returncode == 1
    assert world.counts == []


@pytest.mark.parametrize(
    "arguments",
    [("--scope", "../x/"), ("--scope", "x"), ("--pin", "sha256:1"), ("--controller", "http://a:1")],
)
def test_arguments_that_make_no_sense(world, arguments):
    """Nobody is called with them."""
    process = world.start(*arguments)

    world.result(process)
    assert process.returncode == 2
    assert world.counts == []


@pytest.mark.parametrize("address", ["", "https://", "https://h", "http://h:1", "https://h:1/x", "h:1"])
def test_addresses_that_are_none(address):
    """https, a host and a port."""
    with pytest.raises(ValueError, match="https://HOST:PORT"):
        parse_controller(address)


@pytest.mark.parametrize(("address", "host"), [("https://h:1", "h"), ("https://[::1]:1/", "::1")])
def test_addresses(address, host):
    """Names and both kinds of numbers."""
    assert parse_controller(address) == (host, 1)


ODD = (
    "--result=/etc/passwd/",
    "-x/",
    "outputs/$(HOME)/",
    "outputs/$$(HOME)/",
    "outputs/a b;rm -rf *|`id`/",
    "outputs/\"quotes'/\n/",
    "outputs/größe/",
)


def expanded(argument):
    """Do with an argument what a kubelet does: references, and what escapes them."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)",
        lambda found: "$" if found[1] is None else "EXPANDED",
        argument,
    )


def test_odd_scopes_arrive_as_they_are(monkeypatch):
    """None becomes an option, a reference to a variable, or two words."""
    seen = []
    monkeypatch.setattr(agent, "run_agent", lambda options: seen.append(options) or 0)
    metadata = {"name": "main", "namespace": "team-a", "uid": "u", "generation": 1}
    authentication = {"serviceAccount": {"name": "runner"}}
    spec = {"s3": {"bucket": "flows", "authentication": authentication}}
    config = StorageConfig.model_validate({"metadata": metadata, "spec": spec})
    plan = load_config({**config.to_api(), "kind": "StorageConfig"}).plan
    call = AgentCall("https://10.0.0.1:8444", IDENTITY.pin, "img:1")
    order = PassOrder(ObjectKey("team-a", "tidy"), "p", ODD, 60.0)

    job = agent_job(order, config, plan, call=call, pass_id="p-1")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = [*container["command"][1:], *map(expanded, container["args"])]
    result = CliRunner().invoke(cli, words)

    assert result.exit_code == 0, result.output
    (options,) = seen
    assert options.scopes == ODD
    assert str(options.result) == "/dev/termination-log"
    assert options.pass_id == "p-1"
