"""The informer: complete, never emptied, back after every kind of trouble."""

from __future__ import annotations

import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.kube import informer as module
from bubu_operator.kube.informer import Change, Informer, as_is, backoff_seconds
from bubu_operator.kube.resources import SECRETS, ObjectKey

A, B = ObjectKey("n", "a"), ObjectKey("n", "b")


def obj(name: str, version: int) -> dict:
    """Make an object of a version."""
    return {"metadata": {"namespace": "n", "name": name, "resourceVersion": str(version)}}


def eventually(condition, seconds: float = 60.0) -> bool:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    waiter = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        waiter.wait(0.01)
    return True


class Script:
    """Answers lists and watches in order; the last watch stays open."""

    def __init__(self, lists, watches) -> None:
        self.lists = iter(lists)
        self.watches = iter(watches)
        self.paths: list[str] = []

    def __call__(self, handler) -> None:
        """Answer one request."""
        self.paths.append(handler.path)
        if "watch=true" in handler.path:
            step = next(self.watches, None)
            if step is None:
                handler.stream()
                handler.server.release.wait(200)
            elif isinstance(step, int):
                handler.reply({"message": "no", "code": step}, step)
            else:
                handler.stream(*step)
                handler.end_stream()
            return
        step = next(self.lists)
        if isinstance(step, int):
            handler.reply({"message": "no"}, step)
        else:
            version, items = step
            handler.reply({"metadata": {"resourceVersion": str(version)}, "items": items})


@pytest.fixture
def follow(serve, monkeypatch):
    """Start informers on scripts, with short pauses; stopped afterwards."""
    monkeypatch.setattr(module, "BACKOFF_BASE_SECONDS", 0.01)
    monkeypatch.setattr(module, "BACKOFF_MAX_SECONDS", 0.05)
    started = []

    def start(script, **options):
        _, client = serve(script)
        informer = Informer(client, SECRETS, options.pop("transform", as_is), **options)
        started.append(informer)
        return informer.start()

    yield start
    for informer in started:
        informer.stop()


def test_a_list_then_a_watch(follow):
    """The copy starts whole, follows events, and tells of each change."""
    told = []
    watch = [
        {"type": "ADDED", "object": obj("b", 6)},
        {"type": "MODIFIED", "object": obj("a", 7)},
        {"type": "DELETED", "object": obj("b", 8)},
    ]
    script = Script([(5, [obj("a", 3)])], [watch])

    informer = follow(script, on_change=lambda change, key: told.append((change, key)))

    assert informer.synced.wait(60)
    assert eventually(lambda: len(told) == 4)
    assert told == [(Change.ADDED, A), (Change.ADDED, B), (Change.MODIFIED, A), (Change.DELETED, B)]
    assert dict(informer.snapshot()) == {A: obj("a", 7)}
    assert eventually(lambda: len(script.paths) == 3)
    assert "resourceVersion=8" in script.paths[2]


def test_handlers_have_been_told_of_everything_before_readers_are_let_in(follow):
    """What a handler builds from the first list is whole once the copy says that it is."""
    told = []
    synced_when_told = []

    def on_change(change, key):
        told.append(key)
        synced_when_told.append(informers[0].synced.is_set() if informers else False)

    informers = []
    informers.append(follow(Script([(5, [obj("a", 3), obj("b", 4)])], []), on_change=on_change))

    assert informers[0].synced.wait(60)
    assert told == [A, B]
    assert not any(synced_when_told)


def test_a_watch_that_did_its_work_begins_the_back_off_anew(follow, monkeypatch):
    """Refusals wait longer and longer; after a watch that brought something the first wait is short again."""
    waits = []
    pause = Informer._pause

    def recorded(informer, failures):
        waits.append(failures)
        pause(informer, failures)

    monkeypatch.setattr(Informer, "_pause", recorded)
    watch = [{"type": "ADDED", "object": obj("b", 6)}]
    script = Script([(5, [obj("a", 3)])], [500, 500, 500, watch, 500])

    follow(script)

    assert eventually(lambda: len(script.paths) == 7)
    assert waits == [1, 2, 3, 1]


def test_a_long_list_comes_in_pages(follow):
    """Pages are asked for until there is no more; the copy is the union, and the watch goes on from it."""
    paths = []

    def script(handler):
        paths.append(handler.path)
        if "watch=true" in handler.path:
            handler.stream()
            handler.server.release.wait(200)
        elif "continue=next" in handler.path:
            handler.reply({"metadata": {"resourceVersion": "5"}, "items": [obj("b", 4)]})
        else:
            handler.reply({"metadata": {"resourceVersion": "5", "continue": "next"}, "items": [obj("a", 3)]})

    informer = follow(script)

    assert informer.synced.wait(60)
    assert set(informer.snapshot()) == {A, B}
    assert eventually(lambda: len(paths) == 3)
    assert "resourceVersion=5" in paths[2]


def test_a_snapshot_never_changes_under_its_reader(follow):
    """A reader keeps what it was given, however the copy moves on."""
    gate = threading.Event()
    told = []
    informer = follow(lambda handler: _raw(handler, gate), on_change=lambda *args: told.append(args))
    assert informer.synced.wait(60)
    before = informer.snapshot()
    assert informer.snapshot() is before

    gate.set()

    assert eventually(lambda: len(told) == 2)
    assert set(before) == {A}
    assert set(informer.snapshot()) == {A, B}
    with pytest.raises(TypeError):
        before[B] = {}


def _raw(handler, gate) -> None:
    if "watch=true" not in handler.path:
        handler.reply({"metadata": {"resourceVersion": "5"}, "items": [obj("a", 3)]})
        return
    gate.wait(60)
    handler.stream({"type": "ADDED", "object": obj("b", 6)})
    handler.server.release.wait(200)


@pytest.mark.parametrize("gone", [410, [{"type": "ERROR", "object": {"code": 410, "message": "old"}}]])
def test_a_forgotten_version_leads_to_a_new_list(follow, gone):
    """After 410, in either form, the difference of the two lists is told."""
    told = []
    script = Script([(5, [obj("a", 3)]), (9, [obj("b", 8)])], [gone])

    informer = follow(script, on_change=lambda change, key: told.append((change, key)))

    assert eventually(lambda: len(told) == 3)
    assert set(told) == {(Change.ADDED, A), (Change.ADDED, B), (Change.DELETED, A)}
    assert set(informer.snapshot()) == {B}


def test_the_copy_outlives_a_server_in_trouble(follow):
    """Errors make the copy stale, never empty, and it goes on from where it was."""
    script = Script([503, (5, [obj("a", 3)])], [500, 403, [{"type": "ADDED", "object": obj("b", 6)}]])

    informer = follow(script)

    assert eventually(lambda: set(informer.snapshot()) == {A, B})
    watches = [path for path in script.paths if "watch=true" in path]
    assert all("resourceVersion=5" in path for path in watches[:3])


def test_an_object_that_cannot_be_read_is_left_out(follow, caplog):
    """One odd object must not blind the rest."""

    def transform(item):
        if item["metadata"]["name"] == "b":
            raise ValueError("odd")
        return item["metadata"]["name"]

    informer = follow(Script([(5, [obj("a", 3), obj("b", 4)])], []), transform=transform)

    assert informer.synced.wait(60)
    assert dict(informer.snapshot()) == {A: "a"}
    assert "Secret n/b is left out: odd" in caplog.text


def test_age_grows_from_the_last_contact(follow):
    """Before the first list the age is infinite; afterwards it starts from zero."""
    informer = Informer(None, SECRETS, as_is)
    assert informer.age_seconds == float("inf")

    followed = follow(Script([(5, [])], []))

    assert followed.synced.wait(60)
    assert followed.age_seconds < 60


def test_a_silent_watch_is_given_up_and_opened_anew(follow):
    """A connection that somebody in between has forgotten brings nothing, not even bookmarks."""
    script = Script([(5, [])], [])
    informer = follow(script, inactivity_seconds=0.2)
    assert informer.synced.wait(60)

    assert eventually(lambda: sum("watch=true" in path for path in script.paths) >= 2)


def test_stopping_ends_the_thread_and_the_connection(follow):
    """`stop` returns promptly although the watch is open."""
    informer = follow(Script([(5, [])], []))
    assert informer.synced.wait(60)
    began = time.monotonic()

    informer.stop(timeout_seconds=60)

    assert time.monotonic() - began < 60, "the server keeps the watch open for longer"
    assert not any(
        thread.name == "informer-secrets" and thread.is_alive() for thread in threading.enumerate()
    )


def test_a_stream_that_ends_at_once_makes_no_hot_loop(follow, monkeypatch):
    """A proxy that cuts every watch is met with growing pauses."""
    monkeypatch.setattr(module, "BACKOFF_BASE_SECONDS", 0.1)
    monkeypatch.setattr(module, "BACKOFF_MAX_SECONDS", 5.0)
    script = Script([(5, [])], [[] for _ in range(1000)])
    began = time.monotonic()
    follow(script)

    assert eventually(lambda: len(script.paths) >= 6)

    # A list and five watches; the four pauses between those take at least half of 0.1, 0.2, 0.4 and 0.8 s.
    assert time.monotonic() - began >= 0.75


@given(st.integers(1, 200), st.integers())
def test_backoff_is_bounded_and_jittered(failures, seed):
    """Every pause lies between half of the step and the step, and no step is over the maximum."""
    pause = backoff_seconds(failures, random.Random(seed), base=0.5, maximum=30.0)

    step = min(30.0, 0.5 * 2 ** min(failures - 1, 32))
    assert step / 2 <= pause <= step
