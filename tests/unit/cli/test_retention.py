"""``retention``: shows what a policy would delete, and deletes exactly that."""

from __future__ import annotations

import json
import os
import signal

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.cli import retention, retention_cycle
from bubu_storage.retention.claim import CLAIM_KEY, ClaimSettings, StoreClaim
from bubu_storage.retention.registration import register
from bubu_storage.retention.runner import DEFAULT_CONCURRENCY
from tests.unit.cli.retention_world import fill, lines_of, put, with_spec, write


@pytest.fixture
def runs(store, tmp_path):
    """The store, with runs of a namespace."""
    fill(store, tmp_path)
    return store


@pytest.fixture
def policy(tmp_path):
    """A file that keeps thirty days."""
    return write(tmp_path, with_spec())


@pytest.fixture
def plan(on, runs, policy):
    """Plan, and return the hash."""

    def make(*arguments, file=policy):
        result = on("retention", "plan", "-f", file, "-o", "json", *arguments)
        assert result.exit_code == 0, result.stderr
        return lines_of(result)[-1]["plan"]

    return make


@pytest.fixture
def person(monkeypatch):
    """Somebody sits at the terminal."""
    monkeypatch.setattr(retention, "_someone_is_there", lambda: True)


pytestmark = pytest.mark.usefixtures("runs")

OLD = [f"outputs/team-a/{run}/{name}.json" for run in ("old-1", "old-2") for name in ("a", "b")]


class TestPlan:
    """What would be deleted and kept."""

    def test_each_run_has_its_reason(self, on, policy):
        """Run by run in the order of keys, then the sums and the hash."""
        result = on("retention", "plan", "-f", policy)

        rows = [line.split() for line in result.stdout.splitlines()]
        assert result.exit_code == 0
        assert [(row[0], row[-1]) for row in rows[:5]] == [
            ("Due", "outputs/team-a/old-1/"),
            ("Due", "outputs/team-a/old-2/"),
            ("KeptWithin", "outputs/team-a/young-1/"),
            ("KeptWithin", "outputs/team-a/young-2/"),
            ("KeptMinAge", "outputs/team-a/young-3/"),
        ]
        assert "due: 4 of 11 objects (36.4 %)" in result.stdout
        assert rows[-1][0] == "plan:"

    def test_json_is_one_document_a_line(self, on, policy):
        """Exact numbers, and all reasons with their sums."""
        *found, summary = lines_of(on("retention", "plan", "-f", policy, "-o", "json"))

        assert len(found) == 5
        assert found[0]["run"] == "outputs/team-a/old-1/"
        assert found[0]["size_bytes"] == 20
        assert 29 * 86_400 < found[0]["overdue_seconds"] < 31 * 86_400
        assert summary["due"] == 4
        assert summary["decided"] == 11
        assert summary["by_reason"]["KeptNotInRun"] == {"objects": 1, "size_bytes": 10}

    def test_only_what_is_due(self, on, policy):
        """The list may leave out what stays; the sums do not."""
        *found, summary = lines_of(on("retention", "plan", "-f", policy, "--due", "-o", "json"))

        assert {one["reason"] for one in found} == {"Due"}
        assert summary["by_reason"]["KeptWithin"]["objects"] == 4

    @pytest.mark.parametrize("answer", [True, False, None])
    def test_a_store_that_keeps_old_versions_is_named(self, on, policy, monkeypatch, answer):
        """There the plan frees nothing by itself; the sum says so, and the last line is still the hash."""
        monkeypatch.setattr(FileBackend, "is_versioned", lambda _: answer, raising=False)
        *_, note, last = on("retention", "plan", "-f", policy).stdout.splitlines()
        summary = lines_of(on("retention", "plan", "-f", policy, "-o", "json"))[-1]

        assert note.startswith("note: the store keeps old versions") == (answer is True)
        assert last.startswith("plan: ")
        assert summary["versioned"] is answer

    def test_nothing_is_written(self, on, keys, policy):
        """No claim, no mark, no probe."""
        before = keys()
        on("retention", "plan", "-f", policy)

        assert before == keys()

    def test_the_hash_is_of_the_rules_and_what_is_due(self, plan, runs, tmp_path):
        """The same twice; another one when a run becomes due, or a rule changes."""
        first = plan()
        assert plan() == first
        longer = write(
            tmp_path, with_spec(rules=[{"prefix": "outputs/", "keep": {"within": "31d"}}]), "b.json"
        )
        assert plan(file=longer) != first
        limited = write(tmp_path, with_spec(limits={"maxScan": 3}), "c.json")
        assert plan(file=limited) == first
        put(runs, tmp_path, "outputs/team-a/young-1/a.json", 40)
        put(runs, tmp_path, "outputs/team-a/young-1/b.json", 40)

        assert plan() != first

    def test_owners_protect_and_rank(self, on, tmp_path):
        """Live runs, what they refer to, and the newest of a story stay; orphans are only let go if said."""
        policy = write(tmp_path, with_spec(rules=[{"prefix": "outputs/", "keep": {"lastRuns": 1}}]))
        owners = write(
            tmp_path,
            {
                "owners": [
                    {"run": "team-a/old-1", "live": True, "rank": 9},
                    {"run": "team-a/old-2", "live": False, "rank": 2},
                    {"run": "team-a/young-1", "live": False, "rank": 1},
                ],
                "references": [],
            },
            "owners.json",
        )
        *found, _ = lines_of(on("retention", "plan", "-f", policy, "--live-refs", owners, "-o", "json"))

        assert [one["reason"] for one in found] == [
            "KeptLive",
            "Due",
            "KeptLastRuns",
            "KeptOrphan",
            "KeptMinAge",
        ]

    def test_without_owners_counting_rules_keep_all(self, on, tmp_path):
        """Nobody knows which runs are the last ones."""
        policy = write(tmp_path, with_spec(rules=[{"prefix": "outputs/", "keep": {"lastRuns": 1}}]))
        *found, summary = lines_of(on("retention", "plan", "-f", policy, "-o", "json"))

        assert {one["reason"] for one in found} == {"KeptNoOwnerList", "KeptMinAge"}
        assert summary["due"] == 0

    def test_a_reference_protects_its_run(self, on, runs, policy, tmp_path):
        """A key that a live owner refers to keeps the whole run."""
        runs.put_object("outputs/team-a/old-2/c.json", b'{"raw": 1}')
        put(runs, tmp_path, "outputs/team-a/old-2/a.json", 45)
        os.utime(tmp_path / "store/outputs/team-a/old-2/c.json", (1e9, 1e9))
        owners = write(tmp_path, {"owners": [], "references": ["outputs/team-a/old-2/c.json"]}, "o.json")
        *found, _ = lines_of(on("retention", "plan", "-f", policy, "--live-refs", owners, "-o", "json"))

        assert [one["reason"] for one in found[:2]] == ["Due", "KeptReferenced"]

    @pytest.mark.parametrize(
        "document",
        [
            {
                "scopes": ["outputs/team-a/"],
                "rules": [{"prefix": "outputs/team-a/", "keep": {"within": "30d"}}],
            },
            with_spec() | {"status": {"any": 1}, "metadata": {"namespace": "team-a", "uid": "x"}},
            {"apiVersion": "v1", "kind": "List", "items": [with_spec()]},
            with_spec(mode="Enforce", interval="5m", storageRef={"name": "x"}, owners=[{"kind": "X"}]),
        ],
    )
    def test_forms_of_a_policy(self, on, tmp_path, document):
        """Whole prefixes, what ``kubectl get`` prints, and what is for the operator alone."""
        result = on("retention", "plan", "-f", write(tmp_path, document), "-o", "json")

        assert result.exit_code == 0, result.stderr
        assert lines_of(result)[-1]["due"] == 4

    def test_a_spec_alone_needs_a_namespace(self, on, tmp_path):
        """Or several; the message says so."""
        path = write(tmp_path, with_spec()["spec"])
        refused = on("retention", "plan", "-f", path)
        both = on("retention", "plan", "-f", path, "-n", "team-a", "-n", "team-b", "-o", "json")

        assert refused.exit_code == 2
        assert "--namespace" in refused.stderr
        assert lines_of(both)[-1]["due"] == 5

    def test_a_policy_never_leaves_its_namespace(self, on, policy):
        """An option cannot send it elsewhere."""
        result = on("retention", "plan", "-f", policy, "-n", "team-b")

        assert result.exit_code == 2
        assert "team-a" in result.stderr

    def test_several_files_keep_together(self, on, policy, tmp_path):
        """What any of them keeps is kept."""
        other = write(
            tmp_path, with_spec(rules=[{"prefix": "outputs/", "keep": {"within": "50d"}}]), "o.json"
        )
        found = lines_of(on("retention", "plan", "-f", policy, "-f", other, "-o", "json"))

        assert [one["reason"] for one in found[:2]] == ["Due", "KeptWithin"]

    def test_yaml_of_several_documents(self, on):
        """As people write them, from standard input too."""
        text = (
            "rules:\n- prefix: outputs/\n  keep: {within: 30d}\n---\n"
            "rules: [{prefix: outputs/, keep: {within: 50d}}]\n"
        )
        result = on("retention", "plan", "-f", "-", "-n", "team-a", "-o", "json", stdin=text)

        assert result.exit_code == 0, result.stderr
        assert lines_of(result)[-1]["due"] == 2

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            (with_spec(rule=[]), "unknown field 'rule'"),
            (
                with_spec(rules=[{"prefix": "outputs/", "keep": {"with": "1d"}}]),
                "rules[0].keep: unknown field",
            ),
            (with_spec(rules=[]), "no scope|at least one"),
            (with_spec(rules=None), "spec.rules is missing"),
            (with_spec(rules=[{"prefix": "outputs/", "keep": {}}]), "keeps nothing"),
            (with_spec(rules=[{"prefix": "outputs/", "keep": {"within": "30"}}]), "keep.within must be"),
            (with_spec(rules=[{"prefix": "outputs/", "keep": {"within": 30}}]), "must be a text"),
            (with_spec(rules=[{"prefix": "other/", "keep": {"within": "30d"}}]), "begins with neither"),
            (with_spec(rules=[{"prefix": "outputs", "keep": {"within": "30d"}}]), "begins with neither"),
            (with_spec(safety={"minAge": "1m"}), "minAge must be at least"),
            (with_spec(safety={"maxDuePercent": 101}), "maxDuePercent must be"),
            (with_spec(limits={"maxScan": 0}), "maxScan must be"),
            (with_spec(limits={"maxScan": True}), "maxScan must be"),
            (with_spec(orphans={"action": "delete"}), "Report or Delete"),
            (with_spec(orphans={"grace": "1m"}), "at least 5m"),
            (with_spec(suspend="no"), "true or false"),
            (with_spec(mode="enforce"), "mode must be DryRun or Enforce"),
            (with_spec(owners={}), "owners must be a list"),
            (with_spec() | {"kind": "StorageConfig"}, "StorageConfig of"),
            (with_spec() | {"extra": 1}, "unknown field 'extra'"),
            ([1], "must be a mapping"),
            ('{"rules": [], "rules": []}', "given twice"),
            ("rules: []\nrules: []\n", "given twice"),
            ("a: [", "neither JSON nor YAML, line"),
            ("", "no policy"),
        ],
    )
    def test_what_is_wrong_is_named(self, on, tmp_path, document, words):
        """Exit code 2, the file, the path and what to write; nothing is overlooked."""
        result = on("retention", "plan", "-f", write(tmp_path, document))

        assert result.exit_code == 2
        assert result.stdout == ""
        assert any(word in result.stderr for word in words.split("|")), result.stderr

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            ({}, "owners is missing"),
            ({"owners": [{"run": "x", "live": True}]}, "NAMESPACE/ID"),
            ({"owners": [{"run": "a/b"}]}, "live is missing"),
            ({"owners": [{"run": "a/b", "live": "yes"}]}, "true or false"),
            ({"owners": [{"run": "a/b", "live": True, "rank": 0}]}, "rank must be"),
            ({"owners": [{"run": "a/b", "live": True}] * 2}, "given twice"),
            ({"owners": [], "references": [1]}, "must be a key"),
            ({"owners": [], "orphans": []}, "unknown field"),
            ("--- {owners: []}\n--- {owners: []}\n", "2 documents"),
        ],
    )
    def test_a_wrong_file_of_owners_is_refused(self, on, policy, tmp_path, document, words):
        """A list that may be incomplete is no list."""
        owners = write(tmp_path, document, "owners.yaml")
        result = on("retention", "plan", "-f", policy, "--live-refs", owners)

        assert result.exit_code == 2
        assert words in result.stderr

    def test_a_missing_file_is_named(self, on, tmp_path):
        """One line, no traceback."""
        result = on("retention", "plan", "-f", tmp_path / "nope")

        assert result.exit_code == 2
        assert "nope' cannot be read: No such file" in result.stderr

    def test_a_usage_error_names_both_commands(self, on):
        """The help to look at is that of the inner one."""
        result = on("retention", "plan")

        assert result.exit_code == 2
        assert "see bubu-storage retention plan --help" in result.stderr


class TestApply:
    """Deleting what was planned."""

    def test_exactly_the_plan_goes(self, on, keys, plan, policy):
        """The due runs and nothing else; the claim is given back."""
        before = keys()
        result = on("retention", "apply", "-f", policy, "--plan", plan(), "--yes")

        assert result.exit_code == 0, result.stderr
        assert [key for key in before if key not in OLD] == keys()
        assert "deleted 4 objects (40 B); all that was planned" in result.stderr

    def test_another_plan_is_refused(self, *, on, keys, plan, policy, runs, tmp_path):
        """When something else is due than was looked at, nothing is deleted."""
        agreed = plan()
        put(runs, tmp_path, "outputs/team-a/old-3/a.json", 50)
        before = keys()
        result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes")

        assert result.exit_code == 4
        assert "has changed" in result.stderr
        assert plan() in result.stderr
        assert before == keys()

    def test_more_than_the_share_needs_an_approval(self, on, keys, plan, tmp_path):
        """A bound of the policy counts here too."""
        policy = write(tmp_path, with_spec(safety={"maxDuePercent": 30}), "strict.json")
        agreed = plan(file=policy)
        refused = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes")
        assert refused.exit_code == 4
        assert "--approve" in refused.stderr
        assert set(OLD) <= set(keys())
        result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes", "--approve")

        assert result.exit_code == 0
        assert not set(OLD) & set(keys())

    def test_without_a_person_and_without_yes_nothing_is_deleted(self, on, keys, plan, policy):
        """A script has to say ``--yes``."""
        result = on("retention", "apply", "-f", policy, "--plan", plan())

        assert result.exit_code == 4
        assert "--yes" in result.stderr
        assert set(OLD) <= set(keys())

    @pytest.mark.usefixtures("person")
    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 4), ("", 4)])
    def test_the_question(self, *, on, keys, plan, policy, answer, code):
        """It says how much of what, and only a yes is a yes; the claim is given back either way."""
        result = on("retention", "apply", "-f", policy, "--plan", plan(), stdin=answer)

        assert result.exit_code == code
        assert "Delete 4 objects (40 B) from file://" in result.stderr
        assert (OLD[0] in keys()) is (code == 4)
        assert CLAIM_KEY not in keys()

    def test_a_claimed_store_is_left_alone(self, on, keys, plan, policy, runs):
        """The message says who has it; exit code 1, since another try may do."""
        agreed = plan()
        with StoreClaim(runs, ClaimSettings("the operator")):
            result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes")

        assert result.exit_code == 1
        assert "is claimed by the operator" in result.stderr
        assert set(OLD) <= set(keys())

    def test_a_suspended_policy_deletes_nothing(self, on, keys, plan, tmp_path):
        """Whoever suspended it meant it."""
        policy = write(tmp_path, with_spec(suspend=True), "s.json")
        result = on("retention", "apply", "-f", policy, "--plan", plan(file=policy), "--yes")

        assert result.exit_code == 4
        assert "suspended" in result.stderr
        assert set(OLD) <= set(keys())

    @pytest.mark.parametrize("mode", [{"mode": "DryRun"}, {"mode": None}])
    def test_a_rehearsal_deletes_only_if_told_so(self, *, on, keys, plan, tmp_path, mode):
        """A manifest without a mode is a DryRun on the API server, and so it is here."""
        policy = write(tmp_path, with_spec(**mode), "d.json")
        arguments = ("retention", "apply", "-f", policy, "--plan", plan(file=policy), "--yes")
        refused = on(*arguments)

        assert refused.exit_code == 4
        assert "policy clean only rehearses" in refused.stderr
        assert "--enforce" in refused.stderr
        assert set(OLD) <= set(keys())
        assert on(*arguments, "--enforce").exit_code == 0
        assert not set(OLD) & set(keys())

    def test_one_rehearsing_policy_of_several_is_enough(self, on, keys, plan, policy, tmp_path):
        """It is named; rules without Kubernetes have no mode unless they say one."""
        alone = write(tmp_path, with_spec()["spec"] | {"mode": "DryRun"}, "alone.json")
        arguments = ("-f", alone, "-n", "team-a")
        result = on("retention", "apply", *arguments, "-f", policy, "--plan", plan(*arguments), "--yes")

        assert result.exit_code == 4
        assert "alone.json only rehearses" in result.stderr
        assert set(OLD) <= set(keys())

    @pytest.mark.parametrize(
        "changes",
        [
            {"owners": [{"group": "batch", "version": "v1", "kind": "Job"}]},
            {"rules": [{"prefix": "outputs/", "keep": {"within": "30d", "lastRuns": 1}}]},
            {"orphans": {"action": "Delete"}},
        ],
    )
    def test_who_goes_by_owners_needs_a_list_of_them(self, *, on, keys, plan, tmp_path, changes):
        """The plan says so beforehand; with a list it goes on."""
        policy = write(tmp_path, with_spec(**changes), "o.json")
        planned = on("retention", "plan", "-f", policy)
        refused = on("retention", "apply", "-f", policy, "--plan", plan(file=policy), "--yes")

        assert planned.exit_code == 0
        assert "goes by owners" in planned.stderr
        assert on("--quiet", "retention", "plan", "-f", policy).stderr == ""
        assert refused.exit_code == 4
        assert "--live-refs" in refused.stderr
        assert set(OLD) <= set(keys())
        listed = ("--live-refs", write(tmp_path, {"owners": []}, "owners.json"))
        result = on(
            "retention", "apply", "-f", policy, "--plan", plan(*listed, file=policy), "--yes", *listed
        )

        assert result.exit_code == 0, result.stderr

    def test_passes_are_as_fast_as_the_operators(self, on, plan, policy, monkeypatch):
        """Rehearsal and deletion alike send requests side by side."""
        seen = []
        run_pass = retention_cycle.run_pass

        def watched(*args, **facts):
            seen.append((args[1].dry_run, facts["concurrency"]))
            return run_pass(*args, **facts)

        agreed = plan()
        monkeypatch.setattr(retention_cycle, "run_pass", watched)
        result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes")

        assert result.exit_code == 0, result.stderr
        assert {(True, DEFAULT_CONCURRENCY), (False, DEFAULT_CONCURRENCY)} == set(seen)

    def test_nothing_is_registered(self, on, keys, plan, policy):
        """Whoever sweeps by hand is no cluster; others' registrations are only read."""
        before = keys()
        on("retention", "apply", "-f", policy, "--plan", plan(), "--yes")

        assert set(keys()) < set(before)

    def test_nothing_due_is_no_failure(self, on, plan, tmp_path):
        """Nothing is asked and nothing deleted."""
        policy = write(
            tmp_path, with_spec(rules=[{"prefix": "outputs/", "keep": {"within": "99d"}}]), "n.json"
        )
        result = on("retention", "apply", "-f", policy, "--plan", plan(file=policy), "--yes")

        assert (0, "bubu-storage: nothing is due\n") == (result.exit_code, result.stderr)

    def test_it_goes_on_from_a_kept_place(self, on, keys, plan, policy, tmp_path):
        """A limit ends it in good order; the same command takes the rest and removes the file."""
        agreed, place = plan(), tmp_path / "place.json"
        arguments = (
            "-f",
            policy,
            "--plan",
            agreed,
            "--yes",
            "--cursor",
            place,
            "--max-delete",
            "2",
            "-o",
            "json",
        )
        first = on("retention", "apply", *arguments)
        assert first.exit_code == 0, first.stderr
        assert lines_of(first)[-1]["complete"] is False
        assert json.loads(place.read_text())["plan"] == agreed
        assert len(set(OLD) & set(keys())) == 2
        second = on("retention", "apply", *arguments)

        assert second.exit_code == 0, second.stderr
        assert not set(OLD) & set(keys())
        assert not place.exists()

    def test_a_place_of_another_plan_is_refused(self, on, keys, plan, policy, tmp_path):
        """It would delete what nobody has looked at."""
        agreed, place = plan(), tmp_path / "place.json"
        arguments = ("-f", policy, "--yes", "--cursor", place, "--max-delete", "2")
        on("retention", "apply", "--plan", agreed, *arguments)
        left = keys()
        result = on("retention", "apply", "--plan", "0" * 16, *arguments)

        assert result.exit_code == 4
        assert left == keys()

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 2}', "x" * 100])
    def test_a_file_that_is_no_place_is_left_alone(self, *, on, keys, plan, policy, tmp_path, content):
        """A wrong name on the command line overwrites nothing."""
        agreed, place = plan(), write(tmp_path, content, "precious.txt")
        result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes", "--cursor", place)

        assert result.exit_code == 2
        assert place.read_text() == content
        assert set(OLD) <= set(keys())

    def test_a_place_that_cannot_be_kept_is_noticed_in_time(self, on, *, keys, plan, policy, tmp_path):
        """Before the first deletion, not after it."""
        agreed = plan()
        folder = tmp_path / "place"
        (folder / "child").mkdir(parents=True)
        missing = write(tmp_path, "a file", "file") / "below"
        for place, code in ((folder, 2), (missing, 2), (tmp_path / ("x" * 300), 2)):
            result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes", "--cursor", place)

            assert result.exit_code == code, result.stderr
            assert "cursor file" in result.stderr
            assert set(OLD) <= set(keys())

    def test_never_more_than_the_plan_had(self, *, on, keys, plan, policy, runs, tmp_path):
        """What became due after the place was kept has not been agreed to."""
        agreed, place = plan(), tmp_path / "place.json"
        arguments = ("-f", policy, "--plan", agreed, "--yes", "--cursor", place)
        on("retention", "apply", *arguments, "--max-delete", "2")
        for number in range(5):
            put(runs, tmp_path, f"outputs/team-a/old-9/{number}.json", 70)
        result = on("retention", "apply", *arguments)

        assert result.exit_code == 3
        assert "ApprovalRequired" in result.stderr
        assert len([key for key in keys() if "/old-9/" in key]) == 5

    def test_ctrl_c_ends_it_in_good_order(self, *, on, keys, plan, policy, tmp_path, monkeypatch):
        """Exit code 130, the place is kept, and the claim given back."""
        agreed, place = plan(), tmp_path / "place.json"
        run_pass = retention_cycle.run_pass

        def interrupted(*args, **facts):
            if not args[1].dry_run:
                os.kill(os.getpid(), signal.SIGINT)
            return run_pass(*args, **facts)

        monkeypatch.setattr(retention_cycle, "run_pass", interrupted)
        arguments = ("-f", policy, "--plan", agreed, "--yes", "--cursor", place)
        result = on("retention", "apply", *arguments)
        assert result.exit_code == 130
        assert CLAIM_KEY not in keys()
        assert place.exists()
        monkeypatch.undo()
        again = on("retention", "apply", *arguments)

        assert again.exit_code == 0, again.stderr
        assert not set(OLD) & set(keys())

    def test_orphans_go_after_their_grace(self, on, keys, plan, runs, tmp_path):
        """The first call marks them; they are due when the mark is older than the grace."""
        policy = write(
            tmp_path,
            with_spec(
                rules=[{"prefix": "outputs/", "keep": {"lastRuns": 1}}],
                orphans={"action": "Delete", "grace": "24h"},
                safety={"maxDuePercent": 100},
            ),
            "orphans.json",
        )
        owners = write(tmp_path, {"owners": []}, "owners.json")
        arguments = ("--live-refs", owners)
        first = on(
            "retention", "apply", "-f", policy, "--plan", plan(*arguments, file=policy), "-y", *arguments
        )
        assert first.exit_code == 0, first.stderr
        marks = [key for key in keys() if key.startswith(".bubu/retention/marks/")]
        assert marks
        assert set(OLD) <= set(keys())
        for key in marks:
            put(runs, tmp_path, key, 2)
        for key in OLD:
            put(runs, tmp_path, key, 60)
        second = on(
            "retention", "apply", "-f", policy, "--plan", plan(*arguments, file=policy), "-y", *arguments
        )

        assert second.exit_code == 0, second.stderr
        assert not set(OLD) & set(keys())

    def test_other_clusters_protect_orphans(self, on, runs, tmp_path):
        """A registration of an operator that is not named by ``--cluster`` keeps them."""
        policy = write(
            tmp_path,
            with_spec(rules=[{"prefix": "outputs/", "keep": {"lastRuns": 1}}], orphans={"action": "Delete"}),
        )
        owners = write(tmp_path, {"owners": []}, "owners.json")
        register(runs, "uid-1")
        arguments = ("retention", "plan", "-f", policy, "--live-refs", owners, "-o", "json")

        assert lines_of(on(*arguments))[0]["reason"] == "KeptSharedStore"
        assert lines_of(on(*arguments, "--cluster", "uid-1"))[0]["reason"] == "KeptOrphanGrace"

    def test_what_cannot_be_deleted_is_named(self, on, plan, policy, monkeypatch):
        """Exit code 3 where some went, 1 where none did."""
        agreed = plan()
        delete = FileBackend.delete_objects

        def refuse(self, names, **facts):
            from bubu_storage.errors import PermissionDeniedError

            failed = {key: PermissionDeniedError(f"{key!r} is locked") for key in names if "old-1" in key}
            return failed | delete(self, [key for key in names if key not in failed], **facts)

        monkeypatch.setattr(FileBackend, "delete_objects", refuse)
        result = on("retention", "apply", "-f", policy, "--plan", agreed, "--yes")

        assert result.exit_code == 3
        assert "'outputs/team-a/old-1/a.json' is locked" in result.stderr
        assert "deleted 2 objects (20 B); 2 objects could not be deleted" in result.stderr
