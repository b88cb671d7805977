"""What owners of neighbours keep is kept by a pass, also where they cannot be listed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.controllers.neighbour_owners import MOST_BORROWED_KINDS
from bubu_operator.controllers.policy_owners import OwnersOpener, OwnersTrouble, PolicyOwners
from bubu_operator.errors import KubeForbiddenError
from bubu_operator.owners.census import Census
from bubu_operator.retention.overlap import OtherPolicy, Place, guard_plan
from bubu_operator.retention.plan import PassPlan, plan_cluster_pass, plan_pass
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.reasons import Reason as Verdict
from bubu_storage.retention.rules import RunFacts
from tests.unit.operator_owners.world import GROUP, RUNS, STORY_RUNS, Api, entry, story_run

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
SHARED = Place("ClusterStorageConfig shared", "s3:flows/", ("outputs/", "inputs/"), "")
FLOWS, FLOWS_PATH = "flows", "/apis/example.org/v1"
FLOW = {"group": "example.org", "version": "v1", "kind": "Flow", "phasePath": "status.phase"}
USUAL = frozenset({"StoryRun.v1alpha1.runs.bubustack.io", "StepRun.v1alpha1.runs.bubustack.io"})


def policy(namespace, name="tidy", rules=None, **spec):
    """Parse a policy; cluster-wide without a namespace."""
    body = {
        "metadata": {"name": name, "namespace": namespace, "uid": f"u-{namespace}-{name}"},
        "spec": {
            "rules": rules or [{"prefix": "outputs/", "keep": {"within": "1d"}}],
            "mode": "Enforce",
            **spec,
        },
    }
    if namespace:
        return RetentionPolicy.model_validate(body)
    body["spec"]["storageRef"] = {"kind": "ClusterStorageConfig", "name": "shared"}
    return ClusterRetentionPolicy.model_validate(body)


def plan(own, *neighbours, namespaces=("team-a", "team-b")):
    """Plan a policy's pass beside its neighbours."""
    where = own.metadata.namespace
    fields = {"output_prefix": "outputs", "input_prefix": "inputs", "store": "s"}
    made = (
        plan_pass(own.spec, namespace=where, **fields)
        if where
        else plan_cluster_pass(own.spec, namespaces=namespaces, **fields)
    )
    assert isinstance(made, PassPlan)
    others = [
        OtherPolicy(
            f"{type(each).KIND} {each.metadata.namespace}/{each.metadata.name}".replace(" /", " "),
            each.spec,
            SHARED,
            (each.metadata.namespace,) if each.metadata.namespace else None,
        )
        for each in neighbours
    ]
    guarded = guard_plan(made, SHARED, where, [SHARED], others)
    assert isinstance(guarded, PassPlan)
    assert guarded.fingerprint == made.fingerprint, "as with what neighbours keep"
    return guarded


def flow(name, namespace="team-a", phase="Running"):
    """Make an owner that only a neighbour knows."""
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {},
        "status": {"phase": phase},
    }


@pytest.fixture
def api():
    """An API server with the usual kinds and another one."""
    made = Api(served={FLOWS_PATH: [entry("Flow", FLOWS)]})
    made.put(STORY_RUNS, story_run("old", phase="Failed"))
    made.put(FLOWS, flow("r1"), flow("r2", phase="Done"), flow("r1", "team-b"))
    return made


def for_pass(api, own, made, opener=None):
    """Open a policy's owners for a pass."""
    opener = opener or OwnersOpener()
    owners = opener(api, own)
    assert isinstance(owners, PolicyOwners)
    return opener.for_pass(api, own, owners, made)


def verdict(found, run):
    """Judge a run of long ago as the pass would."""
    owners, joined = found
    judge = Judge(joined.plan.spec, NOW, owners=owners.source)
    judge.refresh()
    return judge.decide(RunFacts(run, objects=1, newest=LONG_AGO, complete=True)).reason


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("mode", ["DryRun", "Enforce"])
def test_what_a_neighbours_owner_keeps_alive_is_kept(api, suspend, mode):
    """Whether or not the neighbour ever deletes anything itself; ended ones protect nothing more."""
    own = policy("team-a")
    neighbour = policy(
        "team-a", "other", owners=[FLOW | {"endedPhases": ["Done"]}], suspend=suspend, mode=mode
    )

    found = for_pass(api, own, plan(own, neighbour))

    assert verdict(found, "outputs/team-a/r1/") is Verdict.KEPT_LIVE
    assert verdict(found, "outputs/team-a/r2/") is Verdict.DUE
    assert verdict(found, "outputs/team-a/old/") is Verdict.DUE
    alone = for_pass(api, own, plan(own))
    assert verdict(alone, "outputs/team-a/r1/") is Verdict.DUE, "else this proves nothing"


def test_both_kinds_of_policies_protect_each_other(api):
    """A cluster-wide one those of namespaces, and the other way round."""
    wide, narrow = policy("", owners=[FLOW]), policy("team-a")
    assert verdict(for_pass(api, narrow, plan(narrow, wide)), "outputs/team-a/r1/") is Verdict.KEPT_LIVE

    wide, narrow = policy(""), policy("team-a", owners=[FLOW])
    found = for_pass(api, wide, plan(wide, narrow))
    assert verdict(found, "outputs/team-a/r1/") is Verdict.KEPT_LIVE
    assert verdict(found, "outputs/team-b/r1/") is Verdict.DUE, "a tenant has no say elsewhere"
    assert {request.path for request in api.requests if request.query and request.path.endswith(FLOWS)} == {
        f"{FLOWS_PATH}/namespaces/team-a/{FLOWS}"
    }, "and makes nobody list more than its own"


def test_many_tenants_with_one_kind_are_listed_at_once(api):
    """Not one list for each of them."""
    names = [f"team-{number}" for number in range(20)]
    wide = policy("")
    found = for_pass(
        api, wide, plan(wide, *(policy(name, owners=[FLOW]) for name in names), namespaces=[*names, "team-b"])
    )
    api.put(FLOWS, flow("x", "team-7"))
    api.requests.clear()

    assert verdict(found, "outputs/team-7/x/") is Verdict.KEPT_LIVE
    assert verdict(found, "outputs/team-b/r1/") is Verdict.DUE
    lists = {request.path for request in api.requests if request.path.endswith(FLOWS)}
    assert lists == {f"{FLOWS_PATH}/{FLOWS}"}


def test_a_run_has_ended_where_all_agree(api):
    """A neighbour that reads StoryRuns otherwise keeps what it takes for live, in its namespace."""
    api.put(STORY_RUNS, story_run("old", phase="Failed", metadata={"namespace": "team-b"}))
    story = {"group": "runs.bubustack.io", "version": "v1alpha1", "kind": "StoryRun"}
    wide = policy("")
    careful = policy("team-a", owners=[story | {"endedPhases": ["Succeeded"]}])

    found = for_pass(api, wide, plan(wide, careful))

    assert verdict(found, "outputs/team-a/old/") is Verdict.KEPT_LIVE
    assert verdict(found, "outputs/team-b/old/") is Verdict.DUE

    hasty = policy("team-a", owners=[story | {"endedPhases": ["Failed", "Running"]}])
    usual = policy("team-a", "usual")
    api.put(STORY_RUNS, story_run("now"))
    found = for_pass(api, hasty, plan(hasty, usual))
    assert verdict(found, "outputs/team-a/now/") is Verdict.KEPT_LIVE, "by the usual phases of the other"


def test_what_a_neighbour_names_is_no_part_of_what_is_remembered(api):
    """That it stops naming a kind is no vanished kind and no drop of live owners."""
    own, opener = policy("team-a"), OwnersOpener()
    api.put(FLOWS, *(flow(f"f{number}") for number in range(50)))
    api.put(STORY_RUNS, story_run("now"))
    owners, _ = for_pass(api, own, plan(own, policy("team-a", "other", owners=[FLOW])), opener)
    owners.source.observe(0.0)

    assert owners.source.census == Census(1, 2, USUAL)
    assert set(owners.kinds) == USUAL, "nor of the fingerprint"

    remembered = {"live": 1, "existing": 2, "kinds": sorted(USUAL)}
    later = own.model_copy(update={"status": own.status.model_validate({"owners": remembered})})
    for each in (opener, OwnersOpener()):
        owners, _ = for_pass(api, later, plan(later), each)
        owners.source.observe(0.0)
        assert owners.anomaly is None


def test_where_only_a_neighbour_knows_owners_nothing_becomes_an_orphan(api):
    """Its owners protect; they are no list of all owners, by which runs without one could go."""
    api.served.pop(RUNS)
    own = policy(
        "team-a",
        rules=[{"prefix": "outputs/", "keep": {"lastRuns": 1}}],
        orphans={"action": "Delete", "grace": "1h"},
    )
    neighbour = policy("team-a", "other", owners=[FLOW])

    owners, joined = for_pass(api, own, plan(own, neighbour))

    assert owners.kinds == ()
    assert verdict((owners, joined), "outputs/team-a/r1/") is Verdict.KEPT_LIVE
    assert verdict((owners, joined), "outputs/team-a/nobodys/") is Verdict.KEPT_ORPHAN
    assert {rule.orphan_grace_seconds for rule in joined.plan.spec.rules} == {None}


@pytest.mark.parametrize("broken", ["not served", "forbidden"])
def test_a_tenant_whose_owners_cannot_be_listed_stops_its_own_namespace_only(api, broken):
    """It is kept whole, the pass goes on elsewhere, and who it is about is said."""
    if broken == "not served":
        api.served.pop(FLOWS_PATH)
    else:

        def forbid(request):
            if request.path.endswith(FLOWS):
                raise KubeForbiddenError("flows is forbidden", status=403)

        api.before = forbid
    wide = policy("")

    found = for_pass(api, wide, plan(wide, policy("team-a", owners=[FLOW]), policy("team-b")))

    assert verdict(found, "outputs/team-a/gone/") is Verdict.KEPT_WITHIN
    assert verdict(found, "outputs/team-b/gone/") is Verdict.DUE
    missing = found[1].missing
    assert "nothing is deleted in namespace team-a" in missing
    assert "RetentionPolicy team-a/tidy" in missing
    assert "example.org" in missing


@pytest.mark.parametrize("neighbour", [policy("team-a", "other", owners=[FLOW]), policy("", owners=[FLOW])])
def test_owners_that_cannot_be_listed_stop_a_policy_that_they_concern_wholly(api, neighbour):
    """With the name of who named them."""
    api.served.pop(FLOWS_PATH)
    own = policy("team-a")

    trouble = for_pass(api, own, plan(own, neighbour))

    assert isinstance(trouble, OwnersTrouble)
    assert trouble.problem.reason is Reason.OWNERS_UNKNOWN
    assert neighbour.metadata.name in trouble.problem.message
    assert type(neighbour).KIND in trouble.problem.message
    assert trouble.anomaly is None


def test_a_neighbour_that_reaches_nothing_of_ours_is_not_asked_about(api):
    """Its kinds may be served or not."""
    own = policy("team-a")
    other = policy("team-a", "other", rules=[{"prefix": "inputs/", "keep": {"within": "1d"}}], owners=[FLOW])
    api.served.pop(FLOWS_PATH)

    _, joined = for_pass(api, own, plan(own, other))

    assert not joined.joined
    assert joined.missing == ""


def test_kinds_without_end_stop_the_namespaces_that_name_them(api):
    """What one pass lists is bounded, and a policy with a say everywhere comes before tenants."""
    kinds = [FLOW | {"kind": f"Flow{number}"} for number in range(16)]
    api.served[FLOWS_PATH] = [entry("Flow", FLOWS)]
    wide = policy("")
    tenants = [
        policy(f"team-{number}", owners=[kind | {"kind": f"{kind['kind']}x{number}"} for kind in kinds])
        for number in range(5)
    ]
    api.served[FLOWS_PATH] += [
        entry(owner.kind, owner.kind.lower()) for tenant in tenants for owner in tenant.spec.owners
    ]
    other = policy("", "all", owners=[FLOW])
    namespaces = [f"team-{number}" for number in range(5)]

    found = for_pass(api, wide, plan(wide, *tenants, other, namespaces=namespaces))

    borrowed = found[1].joined.borrowed
    assert len(borrowed) <= MOST_BORROWED_KINDS
    assert "Flow" in {kind.kind for kind in borrowed}
    assert f"at most {MOST_BORROWED_KINDS} kinds" in found[1].missing
    assert verdict(found, "outputs/team-4/gone/") is Verdict.KEPT_WITHIN
    assert verdict(found, "outputs/team-0/gone/") is Verdict.DUE


def test_a_neighbours_kind_that_vanishes_in_a_pass_ends_it(api):
    """Nothing is deleted by what was known of it before."""
    own = policy("team-a")
    owners, _ = for_pass(api, own, plan(own, policy("team-a", "other", owners=[FLOW])))
    owners.source.observe(0.0)
    api.served.pop(FLOWS_PATH)

    with pytest.raises(Exception, match=r"does not serve example\.org/v1 Flow"):
        owners.source.observe(float("1e12"))


# --- discovery ---------------------------------------------------------------------------------------


def discoveries(api):
    """Count the questions about what is served."""
    return sum(not request.query and request.path.count("/") <= 3 for request in api.requests)


def test_looks_that_lead_to_no_pass_ask_once(api):
    """A thousand policies ask for the same kinds; a pass asks anew before it reads anything."""
    opener = OwnersOpener()
    opener(api, policy("team-a"))
    asked = discoveries(api)
    for number in range(1000):
        assert isinstance(opener(api, policy(f"team-{number}")), PolicyOwners)
    assert discoveries(api) == asked

    own = policy("team-a")
    for_pass(api, own, plan(own), opener)
    assert discoveries(api) > asked


def test_a_pass_that_waits_for_its_store_checks_lists_once(api):
    """It is looked at every few seconds until it begins; what cannot be listed is tried each time."""
    opener, own = OwnersOpener(), policy("team-a")
    made = plan(own, policy("team-a", "other", owners=[FLOW]))
    for_pass(api, own, made, opener)
    checks = [request for request in api.requests if request.query.get("limit") == "1"]
    assert len(checks) == 1

    api.requests.clear()
    for _ in range(5):
        for_pass(api, own, made, opener)
    assert not [request for request in api.requests if request.query.get("limit") == "1"]


def test_a_kind_that_vanished_since_is_noticed_by_the_pass(api):
    """Although the look before it still took it for served."""
    own, opener = policy("team-a", owners=[FLOW]), OwnersOpener()
    owners = opener(api, own)
    api.served.pop(FLOWS_PATH)

    assert isinstance(opener(api, own), PolicyOwners), "by what is remembered"
    assert isinstance(opener.for_pass(api, own, owners, plan(own)), OwnersTrouble)
    with pytest.raises(Exception, match="does not serve"):
        owners.source.observe(0.0)
    assert isinstance(opener(api, own), OwnersTrouble), "and the next look knows it"


def test_owners_that_come_to_be_served_are_found_before_a_pass(api):
    """Nobody owned runs when the policy was looked at."""
    entries = api.served.pop(RUNS)
    api.served.pop(GROUP, None)
    own, opener = policy("team-a"), OwnersOpener()
    assert opener(api, own).source is None
    api.served[RUNS] = entries

    owners, _ = opener.for_pass(api, own, opener(api, own), plan(own))

    assert set(owners.kinds) == USUAL


def test_a_list_that_is_read_by_what_is_remembered_asks_first(api):
    """Whoever observes without asking anew still lists the kinds that came to be served."""
    entries = api.served.pop(RUNS)
    own, opener = policy("team-a", owners=[FLOW]), OwnersOpener()
    opener(api, own)
    api.served[RUNS] = entries
    source = opener(api, own).source
    assert source.kinds == {"Flow.v1.example.org"}

    source.observe(0.0)

    assert source.kinds == {"Flow.v1.example.org", *USUAL}
