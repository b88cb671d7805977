"""What a pass may be told: bad input is refused with a reason before anything is contacted."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.retention.spec import PassSpec, RetentionRule, RuleIndex, check_path_prefix, run_prefix_of
from tests.unit.retention.world import DAY, spec_of


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("", "is empty and would cover the whole store"),
        ("/", "begins with '/'"),
        ("/outputs/a/", "begins with '/'"),
        ("outputs/a", "does not end with '/'"),
        ("outputs/../a/", "has the segment '..'"),
        ("../", "has the segment '..'"),
        ("outputs/./a/", "has the segment '.'"),
        ("outputs//a/", "has the segment ''"),
        ("outputs\\..\\a/", "a NUL or a backslash"),
        ("outputs/a\x00/", "a NUL or a backslash"),
        (".bubu/", "reserved area"),
        (".bubu/probe/", "reserved area"),
        ("outputs/.bubu/", "reserved area"),
    ],
)
def test_a_prefix_must_be_a_path_of_whole_segments(prefix, words):
    """Anything that is not a relative, /-terminated path of whole segments is refused with the reason."""
    with pytest.raises(InvalidKeyError) as caught:
        check_path_prefix(prefix)
    assert words in str(caught.value)


def test_a_good_prefix_is_given_back():
    """The check stands where the prefix is used."""
    assert check_path_prefix("outputs/team-a/") == "outputs/team-a/"


def test_rules_and_scopes_share_the_check():
    """The check is applied to both, and says which of them is wrong."""
    with pytest.raises(InvalidKeyError, match="rule's prefix is empty"):
        RetentionRule("", DAY)
    with pytest.raises(InvalidKeyError, match="scope 'x' does not end"):
        spec_of(scopes=("x",))


@pytest.mark.parametrize("keep", [0, -1, -0.5, math.nan, math.inf, True, "30d", None])
def test_a_rule_that_keeps_nothing_is_refused(keep):
    """keep.within must be a finite number above zero."""
    with pytest.raises(ConfigurationError, match=r"keep\.within must be more than 0"):
        RetentionRule("outputs/a/", keep)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scopes": ()}, "at least one scope"),
        ({"rules": ()}, "at least one rule"),
        ({"scopes": ("outputs/a/", "outputs/a/b/")}, "overlap"),
        ({"scopes": ("outputs/a/", "outputs/a/")}, "overlap"),
        ({"rules": (RetentionRule("outputs/b/", DAY),)}, "outside what this policy may see: outputs/a/"),
        ({"rules": (RetentionRule("outputs/", DAY),)}, "outside what this policy may see"),
        ({"rules": (RetentionRule("outputs/a/run-1/tmp/", DAY),)}, "use 'outputs/a/run-1/' or 'outputs/a/'"),
        ({"min_age_seconds": 299.9}, "minAge must be at least 300"),
        ({"min_age_seconds": math.nan}, "minAge must be at least 300"),
        ({"max_scan": 0}, "maxScan must be a whole number of at least 1"),
        ({"max_scan": 1.5}, "maxScan must be a whole number"),
        ({"max_scan": True}, "maxScan must be a whole number"),
        ({"max_delete": 0}, "maxDelete must be a whole number of at least 1"),
        ({"max_delete": -3}, "maxDelete must be a whole number"),
        ({"budget_seconds": 0}, "budgetSeconds must be more than 0"),
        ({"budget_seconds": math.inf}, "budgetSeconds must be more than 0"),
        ({"requests_per_second": -1}, "requestsPerSecond must be 0"),
        ({"requests_per_second": math.nan}, "requestsPerSecond must be 0"),
    ],
)
def test_a_pass_that_makes_no_sense_is_refused(changes, words):
    """Each field is checked; the message names field, value and the way out."""
    with pytest.raises(ConfigurationError) as caught:
        spec_of(**changes)
    assert words in str(caught.value)


def test_defaults_are_safe():
    """Told only scopes and rules, a pass is dry and has the documented limits."""
    spec = PassSpec(("outputs/a/",), (RetentionRule("outputs/a/", DAY),))

    assert spec.dry_run is True
    assert (spec.min_age_seconds, spec.max_scan, spec.max_delete) == (86_400, 2000, 200)
    assert (spec.budget_seconds, spec.requests_per_second) == (60, 0)


def test_the_floor_itself_is_allowed():
    """Exactly five minutes is the least minimum age; a pass may have less than a second."""
    assert spec_of(min_age_seconds=300).min_age_seconds == 300
    assert spec_of(budget_seconds=0.5).budget_seconds == 0.5


def test_scopes_are_put_in_byte_order():
    """The cursor runs through scopes in the order of their keys."""
    rule = RetentionRule("inputs/a/", DAY)

    assert spec_of(scopes=("outputs/a/", "inputs/a/"), rules=(rule,)).scopes == ("inputs/a/", "outputs/a/")


def test_a_rule_may_name_a_scope_or_one_run():
    """Both cover whole run directories."""
    spec = spec_of(rules=(RetentionRule("outputs/a/", DAY), RetentionRule("outputs/a/run-1/", DAY)))

    assert len(spec.rules) == 2


def test_a_rule_covers_whole_runs_below_its_prefix():
    """It speaks about a run directory wholly or not at all."""
    rule = RetentionRule("outputs/a/", DAY)

    assert rule.covers("outputs/a/run-1/") is True
    assert rule.covers("outputs/ab/run-1/") is False


def test_what_was_a_list_cannot_change_afterwards():
    """A checked pass stays as it was checked."""
    rules = [RetentionRule("outputs/a/", DAY)]
    spec = spec_of(rules=rules, scopes=["outputs/a/"])
    rules.clear()

    assert spec.rules == (RetentionRule("outputs/a/", DAY),)
    assert spec.scopes == ("outputs/a/",)


@pytest.mark.parametrize(
    ("key", "run"),
    [
        ("outputs/a/run-1/x", "outputs/a/run-1/"),
        ("outputs/a/run-1/x/y", "outputs/a/run-1/"),
        ("outputs/a/run-1/", "outputs/a/run-1/"),
        ("outputs/a/run-1", ""),
        ("outputs/a/", ""),
        ("outputs/a//x", ""),
        ("outputs/b/run-1/x", ""),
    ],
)
def test_the_run_is_the_first_segment_below_the_scope(key, run):
    """What is directly in the scope, or below an empty segment, is in no run."""
    assert run_prefix_of(key, "outputs/a/") == run


def test_a_spec_survives_json():
    """Another process gets exactly the same pass."""
    spec = spec_of(max_scan=7, requests_per_second=2.5)

    assert PassSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"scopes": ["a/"]},
        {"scopes": 3, "rules": []},
        {"scopes": ["a/"], "rules": [{"prefix": "a/"}]},
        {"scopes": ["a/"], "rules": [{"prefix": "a/", "keep_within_seconds": 1}], "lastRuns": 5},
    ],
)
def test_a_foreign_mapping_is_no_spec(data):
    """Missing, unknown and mistyped fields are refused, not ignored."""
    with pytest.raises(ConfigurationError, match="no retention pass"):
        PassSpec.from_dict(data)


class TestRulesByNumber:
    """Rules that keep the last runs of a story, and what they do with orphans."""

    def test_a_rule_keeps_by_age_by_number_or_by_both(self):
        """Either is enough; the smallest of each is allowed."""
        assert RetentionRule("outputs/a/", None, keep_last_runs=1).keep_within_seconds is None
        assert RetentionRule("outputs/a/", 0.001, 1, 0.001).orphan_grace_seconds == 0.001

    @pytest.mark.parametrize("last_runs", [0, -1, 1.0, True, "5", math.nan])
    def test_a_number_that_keeps_nothing_is_refused(self, last_runs):
        """keep.lastRuns must be a whole number of at least 1."""
        with pytest.raises(ConfigurationError, match=r"keep\.lastRuns must be a whole number of at least 1"):
            RetentionRule("outputs/a/", DAY, keep_last_runs=last_runs)

    @pytest.mark.parametrize("grace", [0, -1.0, math.inf, math.nan, True, "24h"])
    def test_orphans_get_a_grace_or_stay(self, grace):
        """A grace of nothing would delete by a single look at the owners."""
        with pytest.raises(ConfigurationError, match=r"orphans\.grace must be more than 0 seconds"):
            RetentionRule("outputs/a/", None, 5, orphan_grace_seconds=grace)

    def test_a_rule_that_keeps_nothing_names_both_ways_out(self):
        """Neither by age nor by number: refused, and the message says what to write."""
        with pytest.raises(ConfigurationError, match=r"keep\.within .* or keep\.lastRuns at least 1"):
            RetentionRule("outputs/a/", None, orphan_grace_seconds=DAY)

    def test_they_survive_json(self):
        """Another process gets exactly the same rules and bound."""
        rules = (RetentionRule("outputs/a/", None, 5, DAY), RetentionRule("outputs/a/", DAY))
        spec = spec_of(rules=rules, max_due_objects=0)

        assert PassSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    def test_a_document_of_an_older_writer_means_what_it_meant(self):
        """Fields that it does not know have the values that change nothing."""
        spec = PassSpec.from_dict(
            {"scopes": ["a/"], "rules": [{"prefix": "a/", "keep_within_seconds": DAY}], "dry_run": False}
        )

        assert spec.rules == (RetentionRule("a/", DAY, None, None),)
        assert spec.max_due_objects is None


@pytest.mark.parametrize("most", [-1, 1.5, True, "3"])
def test_the_bound_on_due_objects_is_a_count(most):
    """None is no bound and 0 lets nothing go; anything that is no count is refused."""
    assert spec_of(max_due_objects=0).max_due_objects == 0
    assert spec_of().max_due_objects is None
    with pytest.raises(ConfigurationError, match="maxDueObjects must be a whole number of at least 0"):
        spec_of(max_due_objects=most)


_PATHS = st.lists(st.sampled_from(["outputs", "inputs", "a", "ab", "b", "ä"]), min_size=1, max_size=4).map(
    lambda segments: "/".join(segments) + "/"
)


@given(st.lists(_PATHS, max_size=12), _PATHS)
def test_an_index_finds_the_rules_that_cover_a_run_in_their_order(prefixes, run):
    """All of them and no other one, also where several have one prefix."""
    rules = [RetentionRule(prefix, 60.0 + number) for number, prefix in enumerate(prefixes)]

    assert RuleIndex(rules).covering(run) == tuple(rule for rule in rules if rule.covers(run))
