"""From look to look, a controller remembers which owners of a policy's runs were live."""

from __future__ import annotations

import pytest

from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.controllers.policy_owners import OwnersOpener, PolicyOwners
from bubu_operator.owners.served import OwnersAnomalyError
from tests.unit.operator_owners.world import STORY_RUNS, Api, story_run


def policy(uid="u1", **owners):
    """Make a policy; with what its status remembers of owners."""
    return RetentionPolicy.model_validate(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "RetentionPolicy",
            "metadata": {"name": "tidy", "namespace": "team-a", "uid": uid},
            "spec": {"rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}]},
            "status": {"owners": owners} if owners else {},
        }
    )


def remembered_by(owners):
    """Return the status that a pass would leave."""
    census = owners.source.census
    return {"live": census.live, "existing": census.existing, "kinds": sorted(census.kinds)}


@pytest.fixture
def api():
    """An API server with nine live runs, and nine that ended long ago."""
    made = Api()
    made.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    made.put(STORY_RUNS, *(story_run(f"old{number}", phase="Failed") for number in range(9)))
    return made


def a_pass(opener, api, uid="u1", **status):
    """Look at a policy and run a pass; return its owners."""
    owners = opener(api, policy(uid, **status))
    assert isinstance(owners, PolicyOwners)
    owners.source.observe(0.0)
    return owners


def test_runs_that_ended_between_two_passes_are_no_drop(api):
    """Although as many that ended before are removed; looks without a pass in between change nothing."""
    opener = OwnersOpener()
    status = remembered_by(a_pass(opener, api))
    for number in range(9):
        api.put(STORY_RUNS, story_run(f"x{number}", phase="Succeeded"))
        api.drop(STORY_RUNS, f"team-a/old{number}")
    for _ in range(3):
        opener(api, policy(**status))

    assert a_pass(opener, api, **status).source.census.live == 0
    with pytest.raises(OwnersAnomalyError):
        a_pass(OwnersOpener(), api, **status)


def test_what_is_remembered_is_bounded_and_of_one_policy(api):
    """Another policy, or another one of the same name, begins with the counts of its status."""
    opener = OwnersOpener(most_policies=1)
    status = remembered_by(a_pass(opener, api))
    a_pass(opener, api, uid="u2")
    for number in range(9):
        api.put(STORY_RUNS, story_run(f"x{number}", phase="Succeeded"))
        api.drop(STORY_RUNS, f"team-a/old{number}")

    assert a_pass(opener, api, uid="u2", **status).source.census.live == 0
    with pytest.raises(OwnersAnomalyError):
        a_pass(opener, api, **status)
