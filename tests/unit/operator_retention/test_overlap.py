"""Configs that share a store: no policy deletes what others have there, or what others keep."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.controllers.neighbours import place_of
from bubu_operator.retention.overlap import OtherPolicy, Place, guard_plan
from bubu_operator.retention.plan import PassPlan, PlanProblem, plan_cluster_pass, plan_pass
from bubu_storage.retention.reasons import Reason as Verdict
from bubu_storage.retention.rules import RunFacts, decide_run
from bubu_storage.retention.spec import RetentionRule, run_prefix_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
DAY = 86400


def place(namespace, output="outputs", input_="inputs", base="s3:flows/"):
    """Make the place of a config."""
    return Place(f"config of {namespace or 'all'}", base, (f"{output}/", f"{input_}/"), namespace)


def policy(namespace, prefix, within="1d", **spec):
    """Parse a policy with one rule."""
    return RetentionPolicy.model_validate(
        {
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {"rules": [{"prefix": prefix, "keep": {"within": within}}], "mode": "Enforce", **spec},
        }
    )


def plan(own, prefix=None, within="1d", namespace=None):
    """Plan a pass of the policy of the config's namespace."""
    namespace = namespace or own.namespace
    made = plan_pass(
        policy(namespace, prefix or own.roots[0], within).spec,
        namespace=namespace,
        output_prefix=own.roots[0],
        input_prefix=own.roots[1],
        store="s",
    )
    assert isinstance(made, PassPlan)
    return made


def due(guarded, run, newest=LONG_AGO):
    """Tell whether a run directory may be deleted."""
    facts = RunFacts(run, objects=1, newest=newest, complete=True)
    return decide_run(facts, guarded.spec, NOW).reason is Verdict.DUE


@pytest.mark.parametrize(
    ("own", "other"),
    [
        # A prefix that reaches into another tenant's part: a run of theirs is named like our namespace.
        (place("run-1", "outputs/team-b"), place("team-b")),
        (place("x", "outputs/team-b/run-1"), place("team-b")),
        (place("x", "a/outputs/team-b"), place("team-b", base="s3:flows/", output="a/outputs")),
        # The same, where the store itself is named by a path.
        (place("run-1", "s/outputs/team-b", base="file:/r/"), place("team-b", base="file:/r/s/")),
        (place("run-1", "team-b", base="file:/r/s/outputs/"), place("team-b", base="file:/r/s/")),
        # A cluster-wide config: whichever namespace it is, it is somebody's.
        (place("run-1", "outputs/team-b"), place("")),
        (place("outputs", "x", "y"), place("", "x/outputs")),
        # The operator's own area.
        (place("x", "probe", base="file:/r/s/.bubu/"), place("team-b", base="file:/r/s/")),
    ],
)
def test_a_part_inside_another_part_is_refused(own, other):
    """Nothing there is deleted, whatever its age; the message says what to change."""
    refused = guard_plan(plan(own), own, own.namespace, [own, other], [])

    assert isinstance(refused, PlanProblem)
    assert refused.reason is Reason.PREFIX_OVERLAPS
    assert other.owner in refused.message
    assert "outputPrefix" in refused.message


@pytest.mark.parametrize(
    ("own", "other", "run"),
    [
        (place("team-b"), place("team-c", "outputs/team-b"), "outputs/team-b/team-c/"),
        (place("team-b"), place("team-c", "outputs/team-b/run-1"), "outputs/team-b/run-1/"),
        (place("outputs", "x", "y"), place("team-c", "x/outputs", "z"), "x/outputs/team-c/"),
        (place("team-b"), place("", "outputs/team-b/all"), "outputs/team-b/all/"),
        (place("team-b"), place("team-b", "outputs/team-b", "in"), "outputs/team-b/team-b/"),
        (
            place("team-b", base="file:/r/"),
            place("team-c", base="file:/r/outputs/team-b/nested/"),
            "outputs/team-b/nested/",
        ),
    ],
)
def test_what_others_have_inside_our_part_is_kept(own, other, run):
    """Only the run directory that is theirs is kept for ever; all others follow the rules."""
    guarded = guard_plan(plan(own), own, own.namespace, [own, other], [])

    assert isinstance(guarded, PassPlan)
    assert not due(guarded, run)
    assert due(guarded, f"{own.roots[0]}{own.namespace}/another/")


@pytest.mark.parametrize(
    "other",
    [
        place("team-c"),
        place("team-c", "outputs/team-b", base="s3:other/"),
        place("team-b"),
        place(""),
        place("team-c", "outputs/team-bb"),
    ],
)
def test_neighbours_that_are_apart_change_nothing(other):
    """Sharing a bucket, even with the very same prefixes, is the ordinary case."""
    own = place("team-b")
    made = plan(own)

    assert guard_plan(made, own, "team-b", [own, other], []) == made


def test_a_part_below_a_root_that_is_another_namespaces_there_is_apart():
    """A deeper prefix lies inside a config's root, and in nobody's namespace of it that there is."""
    own, other = place("team-b", "outputs/team-a"), place("team-c")
    made = plan(own)

    assert guard_plan(made, own, "team-b", [own, other], []) == made


def test_another_stores_own_objects_in_our_part_need_no_rule():
    """A store in a folder of ours has its claim and marks there: the engine keeps them as reserved."""
    own = place("team-b", base="file:/")
    inner = place("team-c", "x", base="file:/outputs/team-b/")

    guarded = guard_plan(plan(own), own, "team-b", [own, inner], [])

    assert isinstance(guarded, PassPlan)
    assert not due(guarded, "outputs/team-b/x/")
    facts = RunFacts("outputs/team-b/.bubu/", objects=1, newest=LONG_AGO, reserved=1, complete=True)
    assert decide_run(facts, guarded.spec, NOW).reason is Verdict.KEPT_RESERVED


NAMES = st.sampled_from(["a", "b", "outputs", "x"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def shared_stores(draw):
    """Two configs of different namespaces on one store, anyhow nested, and a key of the second's."""
    first, second = draw(st.lists(NAMES, min_size=2, max_size=2, unique=True))
    bases = st.sampled_from(["file:/", "file:/a/", "file:/a/outputs/", "file:/outputs/"])
    own = Place("own", draw(bases), (f"{draw(PATHS)}/", "in/"), first)
    cluster_wide = draw(st.booleans())
    other = Place("other", draw(bases), (f"{draw(PATHS)}/", "in/"), "" if cluster_wide else second)
    key = f"{other.base}{other.roots[0]}{second}/{draw(NAMES)}/{draw(NAMES)}"
    return own, other, key


@given(shared_stores())
def test_no_prefix_can_make_a_policy_delete_another_namespaces_object(case):
    """However prefixes and paths are chosen: refused, out of reach, or kept."""
    own, other, key = case
    guarded = guard_plan(plan(own), own, own.namespace, [own, other], [])
    if isinstance(guarded, PlanProblem):
        return
    if not key.startswith(own.base):
        return
    here = key[len(own.base) :]
    scope = guarded.spec.scope_of(here)
    if scope is not None and (run := run_prefix_of(here, scope)):
        assert not due(guarded, run)


def other_policy(prefix, within, own=None, **spec):
    """Make another policy of team-b."""
    return OtherPolicy("other", policy("team-b", prefix, within, **spec).spec, own or place("team-b"))


@pytest.mark.parametrize("extra", [{}, {"suspend": True}, {"mode": "DryRun"}])
def test_what_another_policy_keeps_is_kept(extra):
    """Keep wins across the policies of a store, suspended and rehearsing ones included."""
    own = place("team-b")
    ten_days_old = datetime(2025, 12, 23, tzinfo=UTC)
    others = [other_policy("outputs/", "30d", **extra)]

    guarded = guard_plan(plan(own), own, "team-b", [own], others)

    assert due(plan(own), "outputs/team-b/run-1/", ten_days_old)
    assert not due(guarded, "outputs/team-b/run-1/", ten_days_old)
    assert due(guarded, "outputs/team-b/run-1/", LONG_AGO)


def test_what_another_policy_keeps_of_inputs_is_kept():
    """The other of a config's two prefixes counts as the first one does."""
    own = place("team-b")
    mine = plan(own, "inputs/")
    ten_days_old = datetime(2025, 12, 23, tzinfo=UTC)

    guarded = guard_plan(mine, own, "team-b", [own], [other_policy("inputs/", "30d")])

    assert due(mine, "inputs/team-b/run-1/", ten_days_old)
    assert not due(guarded, "inputs/team-b/run-1/", ten_days_old)
    assert due(guarded, "inputs/team-b/run-1/", LONG_AGO)


def test_another_policys_minimum_age_is_kept_too():
    """`safety.minAge` says that nothing younger is deleted: by nobody."""
    own = place("team-b")
    others = [other_policy("outputs/", "1d", safety={"minAge": "30d"})]
    guarded = guard_plan(plan(own), own, "team-b", [own], others)

    assert not due(guarded, "outputs/team-b/run-1/", datetime(2025, 12, 23, tzinfo=UTC))


def test_another_policys_rules_never_allow_a_deletion():
    """A narrow policy stays narrow beside a wide one; a wide one keeps what the narrow one keeps."""
    own = place("team-b")
    narrow = guard_plan(plan(own, "outputs/run-1/"), own, "team-b", [own], [other_policy("outputs/", "2d")])
    wide = guard_plan(plan(own), own, "team-b", [own], [other_policy("outputs/run-1/", "3650d")])

    assert due(narrow, "outputs/team-b/run-1/")
    assert not due(narrow, "outputs/team-b/run-2/")
    assert not due(wide, "outputs/team-b/run-1/", datetime(2020, 1, 1, tzinfo=UTC))
    assert due(wide, "outputs/team-b/run-2/")


@pytest.mark.parametrize(
    "other",
    [
        other_policy("outputs/", "30d", place("team-b", base="s3:archive/")),
        other_policy("inputs/", "30d"),
        other_policy("elsewhere/", "30d"),
    ],
)
def test_policies_about_other_objects_change_nothing(other):
    """Another bucket, the other prefix, or a rule that matches nothing."""
    own = place("team-b")
    made = plan(own)

    assert guard_plan(made, own, "team-b", [own], [other]) == made


def test_a_protection_outside_the_policys_rules_changes_nothing():
    """What no rule of the policy's own covers needs no rule to be kept."""
    own = place("team-b")
    made = plan(own, "outputs/run-1/")

    assert guard_plan(made, own, "team-b", [place("team-c", "outputs/team-b")], []) == made


# --- counting keeps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orphans", "grace"),
    [({}, None), ({"action": "Report"}, None), ({"action": "Delete", "grace": "2d"}, 2 * DAY)],
)
def test_what_another_policy_counts_is_kept(orphans, grace):
    """Its number, its orphans unless it lets them go, and its minimum age come along."""
    own = place("team-b")
    spec = policy(
        "team-b", "outputs/", rules=[{"prefix": "outputs/", "keep": {"lastRuns": 3}}], orphans=orphans
    )

    guarded = guard_plan(plan(own), own, "team-b", [own], [OtherPolicy("other", spec.spec, own)])

    assert guarded.spec.rules[1:] == (
        RetentionRule("outputs/team-b/", float(DAY), keep_last_runs=3, orphan_grace_seconds=grace),
    )


# --- cluster-wide policies -------------------------------------------------------------------------


SHARED = Place("ClusterStorageConfig shared", "s3:flows/", ("outputs/", "inputs/"), "")


def cluster_plan(*namespaces, prefix="outputs/"):
    """Plan a pass of a cluster-wide policy."""
    made = plan_cluster_pass(
        policy("", prefix).spec,
        namespaces=namespaces,
        output_prefix="outputs",
        input_prefix="inputs",
        store="s",
    )
    assert isinstance(made, PassPlan)
    return made


TEN_DAYS_OLD = datetime(2025, 12, 23, tzinfo=UTC)


def test_a_cluster_policy_keeps_what_the_policies_of_namespaces_keep():
    """Each in its own namespace only."""
    keeps = OtherPolicy("p", policy("b", "outputs/", "30d", suspend=True).spec, place("b"), ("b",))

    guarded = guard_plan(cluster_plan("a", "b"), SHARED, "", [SHARED, place("b")], [keeps])

    assert due(guarded, "outputs/a/run-1/", TEN_DAYS_OLD)
    assert not due(guarded, "outputs/b/run-1/", TEN_DAYS_OLD)
    assert due(guarded, "outputs/b/run-1/")


def test_the_policy_of_a_namespace_keeps_what_a_cluster_policy_keeps():
    """Where that one holds; where its config is not offered it keeps nothing."""
    own = place("b")
    spec = policy("", "outputs/", "30d", mode="DryRun").spec
    others = {names: [OtherPolicy("c", spec, SHARED, names)] for names in (("a", "b"), ("a",))}

    kept = guard_plan(plan(own), own, "b", [own, SHARED], others["a", "b"])
    free = guard_plan(plan(own), own, "b", [own, SHARED], others["a",])

    assert not due(kept, "outputs/b/run-1/", TEN_DAYS_OLD)
    assert due(free, "outputs/b/run-1/", TEN_DAYS_OLD)


def test_two_cluster_policies_of_one_store_keep_for_each_other():
    """Without names of namespaces: wherever the guarded one reaches."""
    spec = policy("", "outputs/", "30d").spec

    guarded = guard_plan(
        cluster_plan("a", "b"), SHARED, "", [SHARED], [OtherPolicy("c", spec, replace(SHARED, owner="x"))]
    )

    assert not due(guarded, "outputs/a/run-1/", TEN_DAYS_OLD)
    assert not due(guarded, "outputs/b/run-1/", TEN_DAYS_OLD)


def test_a_cluster_policy_keeps_what_a_namespace_has_inside_another_ones_part():
    """A tenant's odd prefix costs that one run directory, and stops nobody."""
    odd = place("c", "outputs/b")

    guarded = guard_plan(cluster_plan("a", "b"), SHARED, "", [SHARED, odd], [])

    assert not due(guarded, "outputs/b/c/")
    assert due(guarded, "outputs/b/d/")
    assert due(guarded, "outputs/a/c/")


WORDS = st.sampled_from(["a", "b", "outputs", "x"])


@given(
    st.sampled_from(["file:/", "file:/a/", "file:/outputs/"]),
    st.sampled_from(["file:/", "file:/a/", "file:/outputs/"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.lists(WORDS, min_size=1, max_size=3),
    WORDS,
)
def test_every_run_that_another_policy_covers_is_kept(base, other_base, mine, theirs, namespace):
    """Compared with the plain question for each run: does the other rule cover an object of it?"""
    own = Place("own", base, ("/".join(mine) + "/", "in/"), "b")
    other = Place("other", other_base, (theirs[0] + "/", "in/"), namespace)
    made = plan(own, namespace="b")
    spec = policy(namespace, "/".join(theirs) + "/", "3650d").spec
    guarded = guard_plan(made, own, "b", [], [OtherPolicy("o", spec, other, (namespace,))])
    covered = f"{other_base}{theirs[0]}/{namespace}/" + "".join(f"{part}/" for part in theirs[1:])
    recent = datetime(2020, 1, 1, tzinfo=UTC)

    for run in ("a", "b", "outputs", "x", "other"):
        whole = f"{own.base}{own.roots[0]}b/{run}/"
        meets = whole.startswith(covered) or covered.startswith(whole)
        assert due(guarded, whole[len(own.base) :], recent) is not meets


def test_thousands_of_neighbours_are_judged_in_little_time():
    """Each namespace with its own config and policy: no step looks at all pairs."""
    names = [f"n{number:04}" for number in range(1000)]
    keeps = policy("", "outputs/", "30d").spec
    places = [SHARED, *(place(name) for name in names)]
    others = [OtherPolicy(name, keeps, place(name), (name,)) for name in names]
    made = cluster_plan(*names)
    began = time.process_time()

    guarded = guard_plan(made, SHARED, "", places, others)

    assert time.process_time() - began < 5
    assert len(guarded.spec.rules) == 2000


def test_protections_leave_the_fingerprint_alone():
    """Who comes and goes beside us must not send the cursor back to the start."""
    own = place("team-b")
    made = plan(own)
    guarded = guard_plan(
        made, own, "team-b", [place("c", "outputs/team-b")], [other_policy("outputs/", "30d")]
    )

    assert guarded.fingerprint == made.fingerprint
    assert guarded.spec != made.spec


@pytest.mark.parametrize(
    ("spec", "base"),
    [
        ({"s3": {"bucket": "flows", "endpoint": "https://a:1"}}, "s3:flows/"),
        ({"s3": {"bucket": "flows", "endpoint": "https://b:2"}}, "s3:flows/"),
        ({"file": {"path": "/srv/link/x"}}, "file:/data/x/"),
        ({"file": {"volumeClaimName": "c", "path": "/mnt"}}, "pvc:team-b/c/"),
    ],
)
def test_the_place_of_a_config(spec, base):
    """Addresses of a server do not matter, links in a path are resolved, prefixes have their defaults."""
    found = place_of(
        spec,
        owner="o",
        namespace="team-b",
        realpath=lambda path: path.replace("/srv/link", "/data"),
    )

    assert found == Place("o", base, ("outputs/", "inputs/"), "team-b")


@pytest.mark.parametrize("spec", [{}, {"file": {"emptyDir": {}}}, {"file": {"path": "/x", "emptyDir": {}}}])
def test_a_store_of_each_pods_own_has_no_place(spec):
    """Nothing is shared, so nothing can overlap."""
    assert place_of(spec, owner="o", namespace="team-b") is None
