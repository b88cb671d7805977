"""Taking the registration away: what is asked of the API server, and how each way to fail is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client.configuration import Configuration

from bubu_operator.errors import OperatorError
from bubu_operator.kube.client import KubeClient
from bubu_operator.webhook.unregister import UnregisterOptions, run_unregister, unregister
from tests.unit.kube.api_server import Handler, ScriptedServer

PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/bubu-storage-webhook"
NAME = "bubu-storage-webhook"


class Api:
    """A scripted API server, and a clock that moves only while somebody waits."""

    def __init__(self, script: Callable[[Handler], None]) -> None:
        self.server = ScriptedServer(script)
        self.client = KubeClient(Configuration(host=self.server.url, api_key={"BearerToken": "Bearer t"}))
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def unregister(self, seconds: float = 30.0) -> None:
        """Run it."""
        unregister(self.client, NAME, timeout_seconds=seconds, monotonic=lambda: self.now, sleep=self.sleep)

    @property
    def asked(self) -> list[str]:
        """Verbs, in order; each is about the one object."""
        assert {path for _, path, _, _ in self.server.seen} == {PATH}
        return [verb for verb, _, _, _ in self.server.seen]


@pytest.fixture
def api() -> Iterator[Callable[[Callable[[Handler], None]], Api]]:
    """Make servers; closed afterwards."""
    made: list[Api] = []

    def make(script: Callable[[Handler], None]) -> Api:
        made.append(Api(script))
        return made[-1]

    yield make
    for one in made:
        one.client.close()
        one.server.close()


def ours(**metadata: Any) -> dict[str, Any]:
    """The registration as the API server shows it."""
    labels = {"app.kubernetes.io/name": "bubu-storage-operator"}
    return {"metadata": {"name": NAME, "uid": "u-1", "labels": labels, **metadata}}


def refuse(handler: Handler, status: int, reason: str) -> None:
    """Answer with an error, as the API server words it."""
    handler.reply({"kind": "Status", "reason": reason, "message": f"it is {reason}"}, status)


class Stored:
    """One object, until it is deleted."""

    def __init__(self, obj: dict[str, Any] | None) -> None:
        self.obj = obj

    def __call__(self, handler: Handler) -> None:
        """Answer a get or a delete."""
        if self.obj is None:
            refuse(handler, 404, "NotFound")
        elif handler.command == "DELETE":
            self.obj = None
            handler.reply({"kind": "Status", "status": "Success"})
        else:
            handler.reply(self.obj)


def test_what_is_ours_is_deleted_by_its_uid_and_seen_to_be_gone(api):
    """A delete without the uid could hit one that somebody made in between."""
    running = api(Stored(ours()))

    running.unregister()

    assert running.asked == ["GET", "DELETE", "GET"]
    assert json.loads(running.server.seen[1][3])["preconditions"] == {"uid": "u-1"}


def test_what_is_not_there_is_as_good(api):
    """A second uninstall, or one that was interrupted, goes through."""
    running = api(Stored(None))

    running.unregister()

    assert running.asked == ["GET"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [(None, "no label"), ({"app.kubernetes.io/name": "somebody"}, "'somebody'")],
)
def test_what_is_not_ours_is_let_alone(api, labels, said):
    """A name alone is no proof: other products have webhooks, too."""
    running = api(Stored(ours(labels=labels)))

    with pytest.raises(OperatorError, match=f"{said}.*somebody else's"):
        running.unregister()

    assert running.asked == ["GET"]


def test_one_that_was_made_anew_meanwhile_is_judged_anew(api):
    """The API server refuses the uid; the new one is ours, and goes, too."""
    uids = iter(["u-1", "u-2", "u-2"])
    state = Stored(ours())

    def script(handler: Handler) -> None:
        if handler.command == "DELETE" and json.loads(handler.body)["preconditions"]["uid"] == "u-1":
            refuse(handler, 409, "Conflict")
            return
        if handler.command == "GET" and state.obj is not None:
            state.obj = ours(uid=next(uids))
        state(handler)

    running = api(script)

    running.unregister()

    assert running.asked == ["GET", "DELETE", "GET", "DELETE", "GET"]


def test_a_missing_right_is_told_with_the_rights_that_are_needed(api):
    """After a few seconds, for those of a hook may have been made a moment ago."""
    running = api(lambda handler: refuse(handler, 403, "Forbidden"))

    with pytest.raises(OperatorError, match=r"verbs get and delete .* resourceName bubu-storage-webhook"):
        running.unregister()

    assert 5.0 <= running.now < 6.0
    assert set(running.asked) == {"GET"}


def test_rights_that_come_a_moment_later_are_enough(api):
    """API servers hear of them by a watch."""
    state = Stored(ours())
    refusals = iter([True, True])

    def script(handler: Handler) -> None:
        if next(refusals, False):
            refuse(handler, 403, "Forbidden")
        else:
            state(handler)

    running = api(script)

    running.unregister()

    assert running.asked[-1] == "GET"
    assert state.obj is None


@pytest.mark.parametrize(("status", "reason"), [(503, "ServiceUnavailable"), (429, "TooManyRequests")])
def test_an_api_server_that_is_away_is_waited_for_and_then_named(api, status, reason):
    """Not for longer than the time that was given; the last cause and the way out are told."""
    running = api(lambda handler: refuse(handler, status, reason))

    with pytest.raises(OperatorError, match=f"after 7 s: .*{reason}.*kubectl delete"):
        running.unregister(7.0)

    assert running.now <= 7.0
    assert len(running.asked) > 3


def test_finalizers_are_waited_for_and_named(api):
    """An object that is being deleted is still asked about; it is not deleted a second time."""
    running = api(Stored(ours(deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["example.org/wait"])))

    with pytest.raises(OperatorError, match=r"after 3 s: .*example\.org/wait"):
        running.unregister(3.0)

    assert set(running.asked) == {"GET"}


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """The command configures logging; later tests must not notice."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("logging_as_before")
def test_failures_are_one_line_and_exit_code_one(tmp_path, capsys):
    """No traceback: whoever reads a hook's log wants the cause."""
    missing = tmp_path / "absent"

    assert run_unregister(UnregisterOptions(kubeconfig=missing)) == 1

    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["level"] == "error"
    assert str(missing) in told["message"]
