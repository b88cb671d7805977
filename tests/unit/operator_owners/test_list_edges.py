"""Lists at their edges: what a last page may say, and how few requests a reading takes."""

from __future__ import annotations

import pytest

from bubu_operator.errors import KubeThrottledError, KubeUnreachableError
from bubu_operator.kube.resources import Resource
from bubu_operator.owners.gather import Gatherer, Traffic
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import STORY_RUNS, Api, fail, story_run

RESOURCE = Resource("runs.bubustack.io", "v1alpha1", STORY_RUNS, "StoryRun")


def gatherer(api, **options):
    """Make a gatherer that waits without waiting."""
    usual = {"deadline": 100.0, "traffic": Traffic(), "monotonic": lambda: 0.0, "sleep": lambda _: None}
    return Gatherer(api, **(usual | options))


def names(api, **options):
    """List story runs; return their names."""
    return gatherer(api, **options).read_list(RESOURCE, None, lambda obj: obj["metadata"]["name"])


@pytest.mark.parametrize("page_size", [2, 100])
def test_a_last_page_after_which_objects_are_said_to_remain_is_no_list(page_size):
    """It gives no token for them: the rest was cut off by somebody in between."""
    api = Api(page_size=page_size)
    api.put(STORY_RUNS, *(story_run(f"r{number}") for number in range(4)))

    def alter(answer):
        if "continue" not in answer["metadata"]:
            answer["metadata"]["remainingItemCount"] = 5

    api.alter = alter

    with pytest.raises(OwnersUnknownError, match="never complete"):
        names(api)


def test_a_server_that_does_not_count_on_each_page_is_believed():
    """What was announced before the page without a count is not asked for any more."""
    api = Api(page_size=2)
    api.put(STORY_RUNS, *(story_run(f"r{number}") for number in range(6)))

    def alter(answer):
        if answer["metadata"].get("remainingItemCount") == 2:
            del answer["metadata"]["remainingItemCount"]

    api.alter = alter

    assert names(api) == [f"r{number}" for number in range(6)]


def test_nothing_was_asked_at_first():
    """Traffic is counted from nothing."""
    traffic = Traffic()

    assert (traffic.requests, traffic.received_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (KubeThrottledError("slow down", retry_after_seconds=0.5), 0.5),
        (KubeThrottledError("slow down", retry_after_seconds=60.0), 1.0),
        (KubeThrottledError("slow down"), 1.0),
        (KubeUnreachableError("boom", status=503), 0.25),
    ],
)
def test_before_the_second_attempt_it_waits_a_little(error, seconds):
    """As long as the server asks for, and never longer than a second: passes wait for it."""
    waits = []
    api = Api(before=fail(error, times=1))
    api.put(STORY_RUNS, story_run("r1"))

    assert names(api, sleep=waits.append) == ["r1"]
    assert waits == [seconds]


@pytest.mark.parametrize(
    ("left", "seconds"), [(100.0, [15.0]), (15.5, [15.0]), (1.0, [1.0]), (0.0, []), (-1.0, [])]
)
def test_no_answer_is_waited_for_after_the_deadline(left, seconds):
    """A request gets what is left of the time, and fifteen seconds at most; with none left there is none."""
    asked = []

    class Timed(Api):
        def send(self, *args, timeout_seconds, **options):
            asked.append(timeout_seconds)
            return super().send(*args, timeout_seconds=timeout_seconds, **options)

    reader = gatherer(Timed(), deadline=50.0 + left, monotonic=lambda: 50.0)
    if seconds:
        assert reader.read_list(RESOURCE, None, str) == []
    else:
        with pytest.raises(OwnersUnknownError, match="takes too long"):
            reader.read_list(RESOURCE, None, str)

    assert asked == seconds


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "the answer is no JSON"),
        (b'{"items": [', "the answer is no JSON"),
        (b"[" * 100_000, "the answer is no JSON"),
        (b"[]", "the answer is no object"),
        (b"null", "the answer is no object"),
        (b'{"metadata": {"resourceVersion": "1"}}', "the answer is no list of objects"),
        (b'{"metadata": {"resourceVersion": "1"}, "items": {}}', "the answer is no list of objects"),
        (b'{"metadata": {"resourceVersion": "1"}, "items": ""}', "the answer is no list of objects"),
    ],
)
def test_an_answer_of_another_sort_is_an_error_and_no_list(body, says):
    """Whoever gave it, with whatever status."""
    api = Api()
    api.read = lambda *_: body

    with pytest.raises(OwnersUnknownError, match=rf"cannot list storyruns.*{says}"):
        names(api)
