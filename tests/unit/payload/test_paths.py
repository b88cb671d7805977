"""Where objects live: Go's path arithmetic, and no way out of the run's directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import InvalidKeyError
from bubu_storage.payload.paths import (
    check_path,
    clean_path,
    distinct_file_name,
    file_name,
    format_json_path,
    is_within,
    join_path,
    namespaced_key,
    object_path,
    store_key,
)


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("", "."),
        (".", "."),
        ("a//b/", "a/b"),
        ("./a/./b", "a/b"),
        ("a/../b", "b"),
        ("a/..", "."),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("/a/../..", "/"),
        ("//a", "/a"),
        ("/..", "/"),
        ("a/b/../../../../c", "../../c"),
    ],
)
def test_cleaning(path, clean):
    """As Go's path.Clean."""
    assert clean_path(path) == clean


@given(st.lists(st.sampled_from(["a", "b", ".", "..", "", "...", "\\"]), max_size=8).map("/".join))
def test_cleaning_settles(path):
    """Cleaning twice changes nothing; what remains of ``..`` stands in front."""
    clean = clean_path(path)

    assert clean_path(clean) == clean
    segments = clean.split("/")
    assert ".." not in segments[segments.count("..") :]


def test_joining_skips_empty_parts():
    """As Go's path.Join."""
    assert join_path("", "a", "", "b/") == "a/b"
    assert join_path("", "") == ""


@pytest.mark.parametrize("path", ["", "/a", "..", "a/../b", "..\\x", "a\\..\\b", "a/.."])
def test_paths_that_are_refused(path):
    """Empty, absolute, or with a ``..`` segment in either notation."""
    with pytest.raises(InvalidKeyError) as caught:
        check_path(path)
    assert caught.value.key == path


@pytest.mark.parametrize("path", ["a", "...", "a\\b", "..a", "a..", " ", "./a", "é/😀"])
def test_paths_that_are_fine(path):
    """Odd names are names."""
    assert check_path(path) == path


@pytest.mark.parametrize("path", [".", "./", ".bubu", ".bubu/claim", "./.bubu//x", "a\x00"[:0] + ".bubu/"])
def test_keys_that_are_not_data(path):
    """The store itself and the operator's own area are no objects."""
    with pytest.raises(InvalidKeyError):
        store_key(path)


def test_keys_are_cleaned():
    """Unclean but harmless paths mean the clean one."""
    assert store_key("./o//a.json") == "o/a.json"
    assert store_key(".bubu-2/x") == ".bubu-2/x"


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ([], "output.json"),
        (["a"], "a.json"),
        (["a", 0, "b"], "a.0.b.json"),
        ([3], "3.json"),
        ([""], "output.json"),
        (["", ""], "output.json"),
        (["", "a"], "a.json"),
        (["a", ""], "a..json"),
        (["a.b"], "a.b.json"),
        (["."], "..json"),
    ],
)
def test_file_names(keys, name):
    """Keys joined by dots, nothing escaped; a leading empty key vanishes."""
    assert file_name(keys) == name


def test_distinct_names_differ_where_plain_ones_do_not():
    """The suffix depends on the exact keys and on nothing else."""
    names = {distinct_file_name(keys) for keys in (["a.b"], ["a", "b"], ["a", "b", ""], [""], [])}

    assert len(names) == 5
    assert distinct_file_name(["a", 0]) == distinct_file_name(["a", 0]) != distinct_file_name(["a", "0"])
    assert distinct_file_name(["a"], 1) != distinct_file_name(["a"], 0)


KEY = st.lists(st.sampled_from(["a", "..", ".", "", "b\\", ".bubu", "é"]), max_size=5).map("/".join)


@given(st.lists(KEY, min_size=1, max_size=3), st.sampled_from(["ns/run-1", "run", "", "a/../b", ".bubu/x"]))
def test_an_object_never_leaves_its_run(keys, run_id):
    """Whatever the keys: inside prefix and run id, or refused."""
    try:
        path = object_path("outputs", run_id, file_name(keys))
    except InvalidKeyError:
        return

    assert is_within(path, join_path("outputs", run_id))
    assert clean_path(path) == path


@pytest.mark.parametrize("run_id", ["..", "../x", "a/../../x", "../outputs-2"])
def test_run_ids_that_leave_the_prefix(run_id):
    """Refused, whatever the file."""
    with pytest.raises(InvalidKeyError):
        object_path("outputs", run_id, "a.json")


@pytest.mark.parametrize("prefix", ["/abs", "..", "a/../..", ".bubu", ".bubu/out"])
def test_prefixes_that_leave_the_store(prefix):
    """So are prefixes out of the store or inside the reserved area."""
    with pytest.raises(InvalidKeyError):
        object_path(prefix, "run", "a.json")


def test_a_prefix_may_be_the_whole_store():
    """``.`` as prefix keeps its checks."""
    assert object_path(".", "run", "a.json") == "run/a.json"
    with pytest.raises(InvalidKeyError):
        object_path(".", "../run", "a.json")


def test_a_neighbour_with_a_longer_name_is_outside():
    """``run-1`` does not contain ``run-12``."""
    assert object_path("outputs", "ns/run-1", "../run-12/x.json") == "outputs/ns/run-1/%2E%2E/run-12/x.json"


def test_namespaced_keys():
    """Trimmed by Go's idea of white space, joined lexically, empty when a part is."""
    assert namespaced_key("\u2003ns\t", " id ") == "ns/id"
    assert namespaced_key("ns", " \n") == ""
    assert namespaced_key("/ns", "id") == "/ns/id"
    assert namespaced_key("..", "x") == "../x"


def test_distinct_names_are_one_short_segment():
    """Whatever the keys, so that they fit where the plain name did not."""
    for keys in (["a/b", "../c"], ["é" * 2000], ["x" * 300, 5]):
        name = distinct_file_name(keys)
        assert "/" not in name
        assert len(name.encode()) <= 255
        assert name.endswith(".json")


def test_json_paths():
    """Readable where possible, quoted where needed."""
    assert format_json_path([]) == "$"
    assert format_json_path(["a", 0, "b c", "é", ""]) == '$.a[0]["b c"].é[""]'
