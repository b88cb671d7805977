"""The runner finds differences, survives broken cases and says what is wrong with a file."""

from __future__ import annotations

import copy
import json

import pytest

from bubu_storage.conformance import VectorFileError, Verdict, load_cases, run_case, run_file
from bubu_storage.conformance.cases import Kind, content_bytes, difference


def changed(case, **expect):
    """A case with another expectation."""
    case = copy.deepcopy(case)
    case["expect"].update(expect)
    return case


@pytest.mark.parametrize(
    ("case_id", "expect", "shown"),
    [
        ("s-simple-131", {"result_json": "false"}, "result: expected false, got true"),
        ("s-size-009", {"result_size": 1}, "result: expected 1 bytes"),
        (
            "s-simple-131",
            {"error": {"class": "depth", "is_not_found": False}},
            "error: expected one of class depth",
        ),
        ("s-simple-131", {"files": {"x": "y"}}, "file x: not written"),
        ("s-size-005", {"files": {}}, "not expected"),
        (
            "s-size-005",
            {"files": {"outputs/ns/run-1/output.json": "other"}},
            "file outputs/ns/run-1/output.json",
        ),
        (
            "s-size-005",
            {"files": {"outputs/ns/run-1/output.json": {"sha256": "0", "size": 1}}},
            "other bytes (1056 of them, 1 expected)",
        ),
        ("s-refs-159", {"error": {"class": "path", "is_not_found": True}}, "error: expected class path"),
        ("s-refs-159", {"error": {"class": "odd", "is_not_found": True}}, "'odd' is unknown"),
        (
            "s-refs-159",
            {"error": {"class": "not_found", "is_not_found": False}},
            "is_not_found: expected False",
        ),
        ("s-depth-038", {"dehydrated": []}, "dehydrated value"),
        ("s-depth-038", {"round_trip_equal": False}, "round trip equal: expected False, got True"),
        ("s-store_ops-296", {"result": ["p/b"]}, "listing"),
        ("s-helpers-322", {"result": "other"}, 'result: expected "other", got "ns/id"'),
    ],
)
def test_a_difference_is_found(storage_cases, case_id, expect, shown):
    """Each kind of expectation is really compared."""
    report = run_case(Kind.STORAGE, changed(storage_cases[case_id], **expect))

    assert report.verdict is Verdict.FAILED
    assert any(shown in line for line in report.differences), report.differences


def test_an_unexpected_error_is_a_difference(storage_cases):
    """A case that expects a result and gets an error fails with the error's words."""
    case = changed(storage_cases["s-refs-159"], result_json="1")
    del case["expect"]["error"]

    report = run_case(Kind.STORAGE, case)

    assert report.verdict is Verdict.FAILED
    assert "ObjectNotFoundError" in report.differences[0]


def test_one_of_several_variants_is_enough(storage_cases):
    """Where the recording was unstable, any recorded outcome passes."""
    case = copy.deepcopy(storage_cases["s-simple-131"])
    case["expect"] = {"unstable": True, "variants": [{"result_json": "1"}, {"result_json": "true"}]}
    assert run_case(Kind.STORAGE, case).verdict is Verdict.PASSED

    case["expect"]["variants"].pop()
    assert run_case(Kind.STORAGE, case).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "change",
    [{"op": "fly"}, {"preload": {"a": 5}}, {"options": {"schema": []}}, {"input": {"@repeat": ["a", "b"]}}],
)
def test_a_broken_case_fails_alone(storage_cases, change):
    """An exception inside a case is that case's failure, not the run's."""
    report = run_case(Kind.STORAGE, {**storage_cases["s-simple-131"], **change})

    assert report.verdict is Verdict.FAILED


def test_apply_env_differences_are_found(vector_directory):
    """Pod, verdict and error class of ApplyEnv cases are really compared."""
    cases = {
        case["id"]: case for case in json.loads((vector_directory / "applyenv-vectors.json").read_bytes())
    }
    plain, faulty = cases["s-applyenv-01"], cases["s-applyenv-25"]

    for case in (
        changed(plain, changed=False),
        changed(plain, pod={}),
        changed(plain, error={"class": "invalid_timeout"}),
        changed(faulty, error={"class": "invalid_timeout"}),
        changed(faulty, error=None),
    ):
        assert run_case(Kind.APPLY_ENV, case).verdict is Verdict.FAILED


def test_a_stance_is_a_deviation_with_an_explanation(storage_cases):
    """A marked case never counts as failed, and its line says what we do instead."""
    report = run_case(Kind.STORAGE, storage_cases["s-depth-048"])

    assert report.verdict is Verdict.DEVIATES
    assert len(report.differences) == 1
    assert report.differences[0].startswith("fix:1: nesting of data")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "a JSON list"),
        (b"[]", "at least one case"),
        (b"[1]", "not an object"),
        (b'[{"id": 1}]', "needs a text 'id'"),
        (b'[{"id": "a", "expect": {}}]', "neither an 'op' nor a 'pod'"),
        (b'[{"id":"a","expect":{},"op":"list"},{"id":"b","expect":{},"pod":{}}]', "files of their own"),
    ],
)
def test_a_file_that_is_no_vector_file(tmp_path, content, reason):
    """The message names the file and says what is wrong with it."""
    path = tmp_path / "vectors.json"
    path.write_bytes(content)

    with pytest.raises(VectorFileError, match=reason) as caught:
        run_file(path)

    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    """So does the message for a file that is not there."""
    with pytest.raises(VectorFileError, match="No such file"):
        load_cases(tmp_path / "none.json")


def test_contents_are_texts_or_base64():
    """Files of a case are written as text or as base64."""
    assert content_bytes("é") == "é".encode()
    assert content_bytes({"b64": "AP8="}) == b"\x00\xff"
    with pytest.raises(ValueError, match="b64"):
        content_bytes({"b64": "?"})


def test_long_differences_show_the_place():
    """Of two long texts the part around the first difference is shown, not megabytes."""
    line = difference("result", "a" * 1000 + "b" + "c" * 1000, "a" * 1000 + "d" + "c" * 1000)

    assert "from character 1000" in line
    assert "ab" in line
    assert "ad" in line
    assert len(line) < 600
