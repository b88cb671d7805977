"""``explain`` can say nothing else than what the webhook does, and says why."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_operator.injection import InjectionConfig, apply_patch, inject_pod, load_config
from bubu_operator.injection.explain import CarriedState, ExcludedReason, explain_pod
from bubu_operator.injection.podspec import all_containers
from bubu_operator.kubectl.explain import answer_for
from bubu_operator.kubectl.explain_text import as_document, as_text
from bubu_operator.kubectl.facts import Facts
from bubu_operator.kubectl.main import cli
from bubu_operator.kubectl.registration import Registration
from bubu_operator.kubectl.verdict import verdict_of
from bubu_operator.webhook.configuration import NAME_LABEL, render_webhook_configuration
from tests.unit.injection.builders import config, config_object, container, pod
from tests.unit.injection.strategies import configs, pods

Json = dict[str, Any]
INJECT, CONFIG = "storage.bubustack.io/inject", "storage.bubustack.io/config"
ENGRAM = {"bubustack.io/engram": "x"}
LABELS = st.dictionaries(
    st.sampled_from([INJECT, CONFIG, "bubustack.io/engram", "team"]),
    st.sampled_from(["true", "false", "one", "two", "yes", ""]),
    max_size=3,
)


@st.composite
def clusters(draw: st.DrawFn) -> Facts:
    """A namespace and the configs around it: several, deleting, invalid, cluster-wide."""
    own: list[InjectionConfig] = []
    for name in draw(st.lists(st.sampled_from(["one", "two", "three"]), unique=True, max_size=3)):
        spec: Json = {"default": draw(st.booleans())}
        metadata = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if draw(st.integers(0, 4)) == 0 else {}
        if draw(st.integers(0, 4)) == 0:
            spec["s3"] = {"bucket": "no/bucket"}
        own.append(
            config(name, draw(st.sampled_from(["flows", "flows", "other"])), metadata=metadata, **spec)
        )
    own += draw(st.lists(configs(), max_size=1))
    shared = [
        config(name, "", **({"namespaceSelector": selector} if selector is not None else {}))
        for name, selector in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["one", "shared", "global"]),
                    st.sampled_from([None, {}, {"matchLabels": {"team": "one"}}]),
                ),
                max_size=2,
                unique_by=lambda item: item[0],
            )
        )
    ]
    return Facts("flows", draw(LABELS), tuple(own), tuple(shared))


def explained(item: Json, facts: Facts):
    """The explanation by itself, without the webhook's verdict laid over it."""
    return explain_pod(item, facts.namespace, facts.labels, facts.configs, facts.cluster_configs)


@settings(max_examples=150, deadline=None)
@given(pod=pods(), labels=LABELS, facts=clusters())
def test_the_explanation_is_the_webhooks_decision(pod: Json, labels: dict[str, str], facts: Facts):
    """Outcome, warnings, variables of each container and added volumes: all as `decide` has them."""
    pod["metadata"].setdefault("labels", {}).update(labels)
    before = copy.deepcopy(pod)

    told, verdict = explained(pod, facts), verdict_of(pod, facts)

    assert pod == before
    assert (told.outcome, told.warnings) == (str(verdict.reason), verdict.warnings)
    assert told.demand.wanted == verdict.wanted
    assert told.config == verdict.config
    patched = apply_patch(pod, json.loads(verdict.patch or "[]"))
    for user, item, container_told in zip(
        all_containers(pod), all_containers(patched), told.containers, strict=False
    ):
        names = [entry["name"] for entry in item.get("env", [])]
        assert names[: len(container_told.variables)] == [entry.name for entry in container_told.variables]
        added = len(item.get("volumeMounts", [])) - len(user.get("volumeMounts", []))
        assert added == len(container_told.mounts)
    volumes = len(patched["spec"].get("volumes", [])) - len(pod["spec"].get("volumes", []))
    assert volumes == len(told.volumes)
    assert sum(candidate.chosen for candidate in told.candidates) == bool(told.config)
    if told.demand.wanted:
        here = [item for item in facts.configs if item.namespace == "flows"]
        assert len(told.candidates) == len(here) + len(facts.cluster_configs)
        assert all(candidate.note for candidate in told.candidates)


@settings(deadline=None)
@given(pod=pods(), labels=LABELS, facts=clusters())
def test_no_value_of_the_users_is_told(pod: Json, labels: dict[str, str], facts: Facts):
    """Names of variables are; what stands in them may be a password."""
    pod["metadata"].setdefault("labels", {}).update(labels)
    for item in all_containers(pod):
        for entry in item.get("env", []):
            if "value" in entry:
                entry["value"] = "geheim"

    answer = answer_for(pod, facts)

    assert "geheim" not in as_text(answer)
    assert "geheim" not in json.dumps(as_document(answer))


def running(item: Json, **metadata: Any) -> Json:
    """The pod as the API server has it once it is created."""
    return {**item, "metadata": {**item["metadata"], "uid": "u-1", "labels": ENGRAM, **metadata}}


def test_what_a_running_pod_carries():
    """Current, stale by content, stale by config, missing, left over: each with what to do."""
    main, other = config(), config("other")
    changed = config(timeoutSeconds=5, metadata={"generation": 2})
    injected = inject_pod(running(pod()), main).pod
    owned = running(pod(), ownerReferences=[{"kind": "ReplicaSet", "name": "trainer-1", "controller": True}])

    def state(item: Json, *found: InjectionConfig):
        return explained(item, Facts("flows", {}, found)).carried

    assert state(injected, main).state is CarriedState.CURRENT
    stale = state(injected, changed)
    assert (stale.state, stale.generation) == (CarriedState.STALE, 1)
    assert "generation 2" in stale.note
    assert "other is the one that counts now" in state(injected, other).note
    assert state(injected).state is CarriedState.LEFT_OVER
    missing = state(owned, main)
    assert missing.state is CarriedState.MISSING
    assert "Restart its owner (ReplicaSet trainer-1)" in missing.note
    assert state(running(pod())).state is CarriedState.NOTHING
    assert state(pod(), main).state is CarriedState.NOTHING
    damaged = copy.deepcopy(injected)
    damaged["metadata"]["annotations"]["storage.bubustack.io/injection"] = "{"
    assert state(damaged, main).state is CarriedState.UNREADABLE


def test_a_pod_of_an_injected_template_has_its_storage():
    """It does not ask by itself, and what it carries is judged all the same."""
    main = config()
    item = inject_pod(running(pod(), labels={}), main).pod
    changed = config(timeoutSeconds=5, metadata={"generation": 2})

    current, stale, gone = (
        answer_for(item, Facts("flows", {}, found)) for found in ((main,), (changed,), ())
    )

    assert current.explanation.carried.state is CarriedState.CURRENT
    assert "from its owner's pod template (NotAsked)" in as_text(current)
    assert stale.explanation.carried.state is CarriedState.STALE
    assert "generation 2" in stale.explanation.carried.note
    assert gone.explanation.carried.state is CarriedState.LEFT_OVER
    item["metadata"]["labels"][INJECT] = "false"
    opted = answer_for(item, Facts("flows", {}, (main,)))
    assert opted.explanation.carried.state is CarriedState.LEFT_OVER


@pytest.mark.parametrize(
    ("namespace", "annotations", "reason"),
    [
        ("kube-system", {}, ExcludedReason.SYSTEM_NAMESPACE),
        ("bubu-storage-system", {}, ExcludedReason.OPERATOR_NAMESPACE),
        ("flows", {"kubernetes.io/config.mirror": "x"}, ExcludedReason.MIRROR_POD),
    ],
)
def test_what_is_never_injected_is_told(namespace: str, annotations: dict[str, str], reason: ExcludedReason):
    """The API server does not even ask about these."""
    item = running(pod(), annotations=annotations)

    told = explain_pod(item, namespace, {}, [config(namespace=namespace)], [])

    assert (told.outcome, told.injected) == (reason, False)
    assert told.selection_text


def test_a_strict_namespace_refuses():
    """The explanation says that the pod does not start, in the words of the refusal."""
    facts = Facts("flows", {"storage.bubustack.io/strict": "true"})

    answer = answer_for(running(pod()), facts)

    assert any("the pod is refused" in note and "strict" in note for note in answer.notes)


def test_a_pod_that_would_be_too_large_is_told():
    """Limits of the request are the webhook's own verdict."""
    big = running(pod(*(container(f"c{number}") for number in range(500))))

    told = answer_for(big, Facts("flows", {}, (config(),))).explanation

    assert not told.injected
    assert told.outcome in ("RecordTooLarge", "PodTooLarge", "AnnotationsTooLarge")


def deployment(labels: dict[str, str], template: dict[str, str]) -> Json:
    """A Deployment with labels of its own and of its pods."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "trainer", "labels": labels},
        "spec": {"template": {"metadata": {"labels": template}, "spec": pod()["spec"]}},
    }


def test_a_workload_that_asks_by_its_own_label():
    """Its template is written by the controller, with the config that its own label names."""
    facts = Facts("flows", {}, (config("one"), config("two")))

    answer = answer_for(deployment({INJECT: "true", CONFIG: "two"}, {}), facts)

    assert answer.explanation.config == "StorageConfig flows/two"
    assert any("the controller writes its pod template" in note for note in answer.notes)


ASKING = {INJECT: "true"}
STRICT = {**ASKING, "storage.bubustack.io/strict": "true"}


@pytest.mark.parametrize(
    ("namespace", "template", "default", "notes"),
    [
        (ASKING, {}, True, ["they get StorageConfig flows/one; put the label"]),
        ({}, ENGRAM, True, ["they get StorageConfig flows/one; put the label"]),
        (ASKING, {}, False, ["they keep what the pod template holds, with a warning"]),
        (
            STRICT,
            {},
            False,
            ["they are refused (namespace flows has several", "the pod is refused: no storage"],
        ),
        (ASKING, {CONFIG: "two"}, False, []),
        ({**ASKING, CONFIG: "two"}, {}, False, []),
        ({}, {}, False, []),
    ],
)
def test_a_workloads_config_label_where_the_webhook_sees_the_pods(
    namespace: dict[str, str], template: dict[str, str], default: bool, notes: list[str]
):
    """The pods have not their workload's label: what the webhook makes of them is told beside."""
    facts = Facts("flows", namespace, (config("one", default=default), config("two")))

    answer = answer_for(deployment({INJECT: "true", CONFIG: "two"}, template), facts)

    assert answer.explanation.config == "StorageConfig flows/two"
    told = answer.notes[1:]
    assert len(told) == len(notes)
    assert all(expected in note for expected, note in zip(notes, told, strict=True))
    if told:
        seen = {"metadata": {"name": "p", "labels": template}, "spec": pod()["spec"]}
        verdict = verdict_of(seen, facts)
        assert (verdict.config or verdict.warnings[0].removeprefix("no storage was injected: ")) in told[0]


def test_pods_that_do_not_ask_by_themselves_are_not_refused():
    """A strict namespace refuses pods that ask; this workload asks, and its template is left alone."""
    strict = Facts("flows", {"storage.bubustack.io/strict": "true"})

    answer = answer_for(deployment({INJECT: "true"}, {}), strict)

    assert answer.explanation.outcome == "NoConfig"
    assert not any("refused" in note for note in answer.notes)


@pytest.mark.parametrize("namespace", ["kube-system", "bubu-storage-system", "storage-operator"])
def test_nothing_is_said_of_the_labels_of_what_is_excluded(namespace: str):
    """Neither the controller nor the webhook looks there, not even to refuse."""
    facts = Facts(namespace, STRICT)
    place = namespace if namespace != "kube-system" else "bubu-storage-system"

    for item in (deployment({INJECT: "true", CONFIG: "two"}, ENGRAM), running(pod())):
        kind = item.get("kind", "Pod")
        answer = answer_for({**item, "kind": kind}, facts, operator_namespace=place)
        assert answer.explanation.outcome in ("SystemNamespace", "OperatorNamespace")
        assert answer.notes == ()


def registered(**excluded: Any) -> Registration:
    """The webhook's, with one more demand on namespaces."""
    made = render_webhook_configuration()
    for entry in made["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"].append(excluded)
    return Registration("bubu-storage-webhook", made)


BY_NAME = registered(key=NAME_LABEL, operator="NotIn", values=["flows"])
BY_LABEL = registered(key="team", operator="Exists")
NO_WEBHOOK = Registration("bubu-storage-webhook", None)


@pytest.mark.parametrize(
    ("registration", "outcome"),
    [(BY_NAME, "NotSelected"), (BY_LABEL, "NotSelected"), (NO_WEBHOOK, "NoWebhook")],
)
def test_a_pod_that_nobody_is_asked_about_gets_nothing(registration: Registration, outcome: str):
    """Not even a refusal where the namespace is strict; what it carries it would not get again."""
    facts = Facts("flows", STRICT, (config(),), registration=registration)
    plain, injected = running(pod()), inject_pod(running(pod()), config()).pod

    bare, carries, opted = (
        answer_for({**item, "kind": "Pod"}, facts)
        for item in (plain, injected, running(pod(), labels={INJECT: "false"}))
    )

    assert (bare.explanation.outcome, bare.explanation.injected, bare.notes) == (outcome, False, ())
    text = as_text(bare)
    assert f"it gets no storage ({outcome})" in text
    assert "MutatingWebhookConfiguration bubu-storage-webhook" in text
    assert "it runs without its storage" not in text
    assert carries.explanation.carried.state is CarriedState.LEFT_OVER
    assert "the webhook is not asked about it" in carries.explanation.carried.note
    assert opted.explanation.outcome == "PodOptedOut"


def test_a_pod_that_the_webhook_is_asked_about_is_told_as_before():
    """Whether the registration was seen makes no difference then."""
    seen = Registration("bubu-storage-webhook", render_webhook_configuration())

    known, unknown = (
        answer_for({**running(pod()), "kind": "Pod"}, Facts("flows", {}, (config(),), registration=found))
        for found in (seen, None)
    )

    assert known == unknown
    assert known.explanation.outcome == "Injected"


@pytest.mark.parametrize("registration", [BY_LABEL, NO_WEBHOOK])
def test_the_controller_writes_templates_without_the_webhook(registration: Registration):
    """Its pods, which ask by themselves, keep what stands there, and nobody refuses them: that is said."""
    configs = (config("one"), config("two"))
    facts = Facts("flows", STRICT, configs, registration=registration)

    answer = answer_for(deployment({INJECT: "true", CONFIG: "two"}, ENGRAM), facts)

    assert answer.explanation.config == "StorageConfig flows/two"
    assert answer.explanation.injected
    (note,) = answer.notes[1:]
    assert note.startswith("its pods keep what the pod template holds: ")
    asks_nothing = answer_for(
        deployment({INJECT: "true"}, {}), Facts("flows", {}, configs, registration=registration)
    )
    assert len(asks_nothing.notes) == 1


@pytest.mark.parametrize("template", [{}, ENGRAM])
def test_a_namespace_left_out_by_name_is_left_alone_by_the_controller(template: dict[str, str]):
    """The chart tells both the same names."""
    facts = Facts("flows", {}, (config(),), registration=BY_NAME)

    answer = answer_for(deployment({INJECT: "true"}, template), facts)

    assert answer.explanation.outcome == "NotSelected"
    assert not answer.explanation.injected
    (note,) = answer.notes
    assert "the controller does not write its pod template either" in note
    without = answer_for(deployment({}, ENGRAM), facts)
    assert (without.explanation.outcome, without.notes) == ("NotSelected", ())


def test_a_config_label_that_the_webhook_does_not_see():
    """On the metadata of a Deployment whose pods ask by themselves it counts for nothing."""
    facts = Facts("flows", {}, (config("one"), config("two")))

    answer = answer_for(deployment({CONFIG: "two"}, ENGRAM), facts)

    assert answer.explanation.outcome == "Ambiguous"
    assert any("where the webhook does not see it" in note for note in answer.notes)


def test_a_workload_without_a_template_is_refused(tmp_path):
    """One line, code 2."""
    path = tmp_path / "x.yaml"
    path.write_text("kind: Deployment\nmetadata: {name: x}\n")

    done = run("-f", path, "--config", path)

    assert (2, "") == (done.exit_code, done.stdout)
    assert "deployment/x has no pod template" in done.stderr


# -- files -------------------------------------------------------------------------------


def run(*words: Any, stdin: str | bytes = ""):
    """Run ``explain`` in this process."""
    return CliRunner().invoke(cli, ["explain", *map(str, words)], input=stdin)


@pytest.fixture
def files(tmp_path):
    """A pod, and a config with its namespace, in files."""
    path, given = tmp_path / "pod.yaml", tmp_path / "config.yaml"
    item = pod()
    item["metadata"] |= {"namespace": "flows", "labels": ENGRAM}
    path.write_text(yaml.safe_dump(item))
    namespace = {"kind": "Namespace", "metadata": {"name": "flows"}}
    given.write_text(yaml.safe_dump_all([config_object(), namespace]))
    return path, given


def test_files_alone_need_no_cluster(files):
    """Text, JSON and YAML say the same."""
    path, given = files

    text, as_json, as_yaml = (
        run("-f", path, "--config", given, "-o", output) for output in ("text", "json", "yaml")
    )

    assert [0, 0, 0] == [text.exit_code, as_json.exit_code, as_yaml.exit_code]
    assert json.loads(as_json.stdout) == yaml.safe_load(as_yaml.stdout)
    assert json.loads(as_json.stdout)["outcome"] == "Injected"
    assert "it gets storage (Injected)" in text.stdout
    assert "key AWS_ACCESS_KEY_ID of Secret minio" in text.stdout


def test_several_documents_and_lists_are_all_told(files):
    """From standard input too."""
    path, given = files
    one = yaml.safe_load(path.read_text())
    both = {"kind": "List", "items": [one, {**one, "metadata": {"name": "bare"}}]}

    done = run("-f", "-", "--config", given, "-n", "flows", "-o", "json", stdin=json.dumps(both))

    assert ["Injected", "NotAsked"] == [item["outcome"] for item in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1, column"),
        ("", "holds no object"),
        ("- 1\n", "no kind"),
        ("kind: 3\n", "no kind"),
        ("kind: ConfigMap\n", "holds no pod and no workload"),
        ("kind: Pod\n", "there is no spec"),
        ("kind: Pod\nspec: {containers: {}}\n", "spec.containers is not a list"),
        ("kind: Pod\nspec: {containers: [{name: a, env: [{name: A, value: 3}]}]}\n", "no text"),
        ("kind: Pod\nmetadata: {namespace: [a]}\nspec: {}\n", "metadata.namespace is no text"),
        ("kind: Pod\nspec: {? [1, 2] : 3}\n", ""),
        ("x: " + "[" * 5000, "nested too deeply"),
        ("a: \x00", "is no YAML"),
        ("a: !!python/object:os.system {}", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
    ],
)
def test_malformed_files_are_one_line(files, text: str | bytes, said: str):
    """Code 2, nothing on standard output, no traceback."""
    done = run("-f", "-", "--config", files[1], stdin=text)

    assert (2, "") == (done.exit_code, done.stdout)
    assert said in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())


def test_the_operator_may_run_in_another_namespace(files):
    """Nothing is injected where it runs, and in the usual place something is."""
    path, given = files

    there, here = (
        run("-f", path, "--config", given, "--operator-namespace", name, "-o", "json")
        for name in ("flows", "elsewhere")
    )

    assert "OperatorNamespace" == json.loads(there.stdout)["outcome"]
    assert "Injected" == json.loads(here.stdout)["outcome"]


def test_a_time_in_a_file_stays_a_text(files):
    """As the API would send it; a config that is being deleted is no candidate."""
    _, given = files
    item = config_object(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    given.write_text(yaml.safe_dump(item).replace("'2026-01-01T00:00:00Z'", "2026-01-01T00:00:00Z"))

    done = run("-f", files[0], "--config", given, "-o", "json")

    assert "being deleted" in json.loads(done.stdout)["selection"]["candidates"][0]["note"]


def test_control_characters_of_a_file_do_not_reach_the_terminal(files):
    """Names come from anybody."""
    item = yaml.safe_load(files[0].read_text())
    item["metadata"]["name"] = "x\x1b[31m"
    item["spec"]["containers"][0]["name"] = "c\x1b[0m"

    done = run("-f", "-", "--config", files[1], stdin=json.dumps(item))

    assert done.exit_code == 0
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "words", [("pod/a", "-f", "x"), ("a/b/c",), ("pod/",), ("pod/a", "--config", "x"), ("a", "b", "c")]
)
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...]):
    """Code 2."""
    assert 2 == run(*words).exit_code


def test_objects_from_files_without_a_namespace_take_the_given_one(files):
    """And one that has another is refused rather than judged in the wrong place."""
    done = run("-f", files[0], "--config", files[1], "-n", "elsewhere")

    assert 2 == done.exit_code
    assert "is of namespace flows, and -n says elsewhere" in done.stderr


def test_loaded_configs_of_other_kinds_are_left_alone(files):
    """A file may hold Secrets and what not beside the config."""
    _, given = files
    given.write_text(
        given.read_text() + "---\n" + yaml.safe_dump({"kind": "Secret", "stringData": {"a": "geheim"}})
    )

    done = run("-f", files[0], "--config", given)

    assert done.exit_code == 0
    assert "geheim" not in done.stdout
    assert load_config(config_object()).problem == ""
