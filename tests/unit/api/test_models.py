"""What the models do besides judging: parse, fill in, convert, describe."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import bubu_operator.api.v1alpha1 as api
from bubu_operator.api.crds import openapi_schema
from bubu_operator.api.v1alpha1 import (
    ClusterStorageConfig,
    Condition,
    ConditionType,
    LabelSelector,
    Provider,
    Reason,
    RetentionCursor,
    RetentionPolicy,
    StorageConfig,
    describe_validation_error,
    duration_seconds,
    find_condition,
    format_timestamp,
)
from bubu_operator.api.v1alpha1.base import Rule, cel_string
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.rules import RunFacts
from tests.cluster.crd_table import CASES, CrdCase

S3: dict[str, Any] = {"bucket": "flows", "authentication": {"anonymous": {}}}


def config(**spec: Any) -> StorageConfig:
    """A parsed config."""
    return StorageConfig.model_validate({"metadata": {"name": "main", "namespace": "flows"}, "spec": spec})


def policy(**spec: Any) -> RetentionPolicy:
    """A parsed policy with one rule."""
    rules = [{"prefix": "outputs/", "keep": {"within": "30d"}}]
    return RetentionPolicy.model_validate(
        {"metadata": {"name": "monthly", "namespace": "flows"}, "spec": {"rules": rules, **spec}}
    )


# --- parsing -----------------------------------------------------------------------------------


def test_metadata_of_the_server_is_read_and_its_rest_ignored():
    """Objects come with managedFields and more; only what the operator needs is kept."""
    parsed = StorageConfig.model_validate(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "StorageConfig",
            "metadata": {
                "name": "main",
                "namespace": "flows",
                "uid": "u",
                "generation": 3,
                "resourceVersion": "7",
                "labels": {"a": "b"},
                "managedFields": [{}],
                "ownerReferences": [],
            },
            "spec": {"s3": S3},
        }
    )

    assert (parsed.key, parsed.metadata.generation, parsed.metadata.labels) == ("flows/main", 3, {"a": "b"})
    assert parsed.metadata.resource_version == "7"
    assert ClusterStorageConfig.model_validate({"metadata": {"name": "x"}, "spec": {"s3": S3}}).key == "x"


@pytest.mark.parametrize(
    ("field", "value"),
    [("timeoutSeconds", "30"), ("timeoutSeconds", True), ("default", 1), ("maxInlineSize", 1.0)],
)
def test_specs_are_read_strictly(field: str, value: Any):
    """No type is turned into another: what the schema refuses, the models refuse."""
    with pytest.raises(ValidationError, match=field):
        config(s3=S3, **{field: value})


def test_specs_take_the_names_of_the_api_only():
    """A Python name in YAML is an unknown field, not an alias."""
    with pytest.raises(ValidationError, match="timeout_seconds"):
        config(s3=S3, timeout_seconds=3)


def test_a_status_of_another_version_is_read():
    """Unknown fields of a status do not stop an operator that is older or newer than its writer."""
    parsed = RetentionPolicy.model_validate(
        policy().to_api() | {"status": {"lastPass": {"due": 3, "novelty": 1}, "novelty": {}}}
    )

    assert parsed.status.last_pass is not None
    assert parsed.status.last_pass.due == 3


def test_parsed_objects_cannot_be_changed():
    """They are shared between threads."""
    with pytest.raises(ValidationError, match="frozen"):
        config(s3=S3).spec.timeout_seconds = 1


def test_to_api_is_what_was_parsed_with_defaults():
    """Dumping and parsing again changes nothing."""
    parsed = config(s3={**S3, "sse": "aws:kms", "sseKmsKeyID": "alias/x"}, injection={"containers": ["a"]})

    dumped = parsed.spec.to_api()

    assert dumped["s3"]["sseKmsKeyID"] == "alias/x"
    assert dumped["injection"] == {"containers": ["a"], "conflictPolicy": "Keep", "rolloutOnChange": False}
    assert StorageConfig.model_validate(parsed.to_api()) == parsed


@pytest.mark.parametrize("case", [case for case in CASES if not case.refused], ids=str)
def test_every_accepted_object_survives_a_round_trip(case: CrdCase):
    """Whatever is accepted can be written back and means the same."""
    model = {kind.KIND: kind for kind in api.KINDS}[case.kind]

    parsed = model.model_validate(case.body)

    assert model.model_validate(parsed.to_api()) == parsed


def test_description_of_an_error_names_fields_and_no_values():
    """One line for a condition: each path with its message; what was written is not repeated."""
    with pytest.raises(ValidationError) as caught:
        policy(
            interval="planted-secret",
            rules=[{"prefix": "", "keep": {"within": "planted-secret"}}],
            plantedField=1,
        )

    text = describe_validation_error(caught.value)

    assert "planted-secret" not in text
    assert "at least 1 item" not in text
    assert "\n" not in text
    assert "spec.rules[0].prefix: must be a path of whole segments" in text
    assert "spec.interval: must be a duration" in text or "spec.interval: String should have" in text
    assert "spec.plantedField: Extra inputs are not permitted" in text


# --- helpers on models -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("s3", "expected"),
    [
        ({}, False),
        ({"endpoint": "https://m"}, True),
        ({"endpoint": "https://m", "usePathStyle": False}, False),
    ],
)
def test_path_style_follows_from_the_endpoint(s3: dict[str, Any], expected: bool):
    """Unless it is set."""
    spec = config(s3={**S3, **s3}).spec

    assert spec.provider is Provider.S3
    assert spec.s3 is not None
    assert spec.s3.path_style is expected


@pytest.mark.parametrize(
    ("file", "mount_path", "local_path"),
    [
        ({"path": "/data"}, "/data", "/data"),
        ({"path": "/data", "emptyDir": {}}, "/data", None),
        ({"path": "/data", "volumeClaimName": "c"}, "/data", None),
        ({"volumeClaimName": "c"}, "/var/run/bubu/storage", None),
        ({"emptyDir": {}}, "/var/run/bubu/storage", None),
    ],
)
def test_only_a_path_alone_is_a_directory_of_the_controller(
    file: dict[str, Any], mount_path: str, local_path: str | None
):
    """Claims and emptyDirs live in pods, whatever path they are mounted at."""
    spec = config(file=file).spec

    assert spec.provider is Provider.FILE
    assert spec.file is not None
    assert (spec.file.mount_path, spec.file.local_path) == (mount_path, local_path)


def test_seconds_of_a_policy():
    """Durations are at hand as numbers."""
    spec = policy(interval="90s", safety={"minAge": "2h"}).spec

    assert (spec.interval_seconds, spec.safety.min_age_seconds) == (90, 7200)
    assert spec.rules[0].keep.within_seconds == 30 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("2m", 120), ("24h", 86400), ("30d", 2592000), ("2w", 1209600)]
)
def test_durations(text: str, seconds: int):
    """A whole number and one unit."""
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1", "s", "-1s", "1.5h", "1h30m", " 1s", "1s\n", "\u0661s", "1S"])
def test_texts_that_are_no_duration(text: str):
    """Anything else is an error that shows the text."""
    with pytest.raises(ValueError, match="is no duration"):
        duration_seconds(text)


def test_times_are_written_as_kubernetes_does():
    """UTC, whole seconds, Z."""
    when = datetime(2026, 1, 2, 5, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))

    assert format_timestamp(when) == "2026-01-02T03:04:05Z"
    with pytest.raises(ValueError, match="time zone"):
        format_timestamp(datetime(2026, 1, 2))  # noqa: DTZ001 - the fault under test


def test_a_condition_is_found_by_its_type():
    """And one that is not there is None."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    ready = Condition(type="Ready", status="True", reason="X", message="m", last_transition_time=now)

    assert find_condition((ready,), "Ready") is ready
    assert find_condition((ready,), "Degraded") is None
    assert ready.to_api()["lastTransitionTime"] == "2026-01-02T00:00:00Z"


# --- selectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": ""}}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": "1"}, False),
        (
            {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
            {"a": "1"},
            False,
        ),
    ],
)
def test_selectors_select_as_kubernetes_does(
    selector: dict[str, Any], labels: dict[str, str], expected: bool
):
    """All demands must hold; NotIn also selects what lacks the label."""
    assert LabelSelector.model_validate(selector).matches(labels) is expected


def test_an_absent_selector_selects_nothing_and_an_empty_one_everything():
    """The difference between ``namespaceSelector: {}`` and none."""
    body = {"metadata": {"name": "x"}, "spec": {"s3": S3}}
    absent = ClusterStorageConfig.model_validate(body)
    empty = ClusterStorageConfig.model_validate({**body, "spec": {"s3": S3, "namespaceSelector": {}}})

    assert (absent.spec.selects({}), empty.spec.selects({})) == (False, True)


# --- rules -------------------------------------------------------------------------------------


def test_a_rule_needs_a_twin_in_python_unless_it_judges_updates():
    """One that only the API server knows would let older CRDs pass everything."""
    with pytest.raises(ValueError, match="Python twin"):
        Rule(cel="self.x > 1", message="no")
    with pytest.raises(ValueError, match="Python twin"):
        Rule(cel="self.x == oldSelf.x", message="no", holds=lambda _: True)


def test_a_message_with_braces_is_shown_as_it_is():
    """Braces in a message are no placeholders."""
    with pytest.raises(ValidationError, match=re.escape("(as in anonymous: {})")):
        config(s3={"bucket": "flows", "authentication": {}})


@pytest.mark.parametrize(("text", "literal"), [("a", "'a'"), (r"\.", r"'\\.'"), ("it's", r"'it\'s'")])
def test_cel_strings_are_quoted(text: str, literal: str):
    """Backslashes and quotes reach CEL as they are."""
    assert cel_string(text) == literal


def _all_messages() -> list[str]:
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update(rule["message"] for rule in node.get("x-kubernetes-validations", []))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    for kind in api.KINDS:
        walk(openapi_schema(kind))
    return sorted(message for message in found if "changed or removed after creation" not in message)


def _complaints(case: CrdCase) -> set[str]:
    try:
        {kind.KIND: kind for kind in api.KINDS}[case.kind].model_validate(case.body)
    except ValidationError as error:
        return {detail["msg"] for detail in error.errors() if detail["type"] != "too_short"}
    return set()


COMPLAINTS = [_complaints(case) for case in CASES]


@pytest.mark.parametrize("message", _all_messages())
def test_every_rule_matters(message: str):
    """For each rule the table has an object that is refused by this rule alone."""
    assert {message} in COMPLAINTS


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [*ConditionType, *Reason], ids=str)
def test_words_are_camel_case_and_have_a_meaning(word: ConditionType | Reason):
    """The API server demands the form, people the meaning."""
    assert re.fullmatch("[A-Z][A-Za-z]*", word)
    assert word.meaning.endswith(".")
    assert type(word)(str(word)) is word


# --- the cursor --------------------------------------------------------------------------------


CURSORS = st.builds(
    Cursor,
    after=st.sampled_from(["", "outputs/t/a/b.json"]),
    run=st.none()
    | st.builds(
        RunProgress,
        facts=st.builds(
            RunFacts,
            prefix=st.just("outputs/t/run/"),
            objects=st.integers(0, 10**12),
            size_bytes=st.integers(0, 10**15),
            newest=st.none() | st.datetimes(timezones=st.just(UTC)),
            undated=st.integers(0, 9),
            reserved=st.integers(0, 9),
            complete=st.just(False),
        ),
        phase=st.just(Phase.SCANNING),
        position=st.sampled_from(["", "outputs/t/run/x"]),
    ),
)


@given(cursor=CURSORS)
def test_a_cursor_survives_the_status(cursor: Cursor):
    """Through the model, and through a merge patch that cannot store a null, nothing is lost."""
    stored = cursor.to_dict()
    if "run" in stored:
        stored["run"] = {key: value for key, value in stored["run"].items() if value is not None}

    back = RetentionCursor.model_validate(stored).to_api()

    assert Cursor.from_dict(back) == cursor


@given(cursor=CURSORS)
def test_the_schema_knows_every_field_of_a_cursor(cursor: Cursor):
    """A field that the schema lacks would be pruned, and the pass would start again and again."""
    status = openapi_schema(RetentionPolicy)["properties"]["status"]["properties"]
    for field in ("cursor", "dryRunCursor"):
        schema = status[field]["properties"]

        assert cursor.to_dict().keys() <= schema.keys()
        assert cursor.to_dict().get("run", {}).keys() <= schema["run"]["properties"].keys()


def test_public_names_of_the_version():
    """``__all__`` lists what the package gives, sorted, and nothing else."""
    public = {name for name in vars(api) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(api, name)).__name__ == "module"}

    assert set(api.__all__) == public - modules - {"annotations"}
