"""Lists at their edges: what a last page may say, and how few requests a reading takes."""

from __future__ import annotations

import pytest

from bubu_operator.kube.resources import Resource
from bubu_operator.owners.gather import Gatherer, Traffic
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import STORY_RUNS, Api, story_run

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
