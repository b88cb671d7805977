"""What stands in frames: errors arrive as what they were, and nonsense as a refusal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bubu_storage.errors as tree
from bubu_operator.jobpass.frames import FrameError
from bubu_operator.jobpass.wire import (
    field_of,
    info_from_wire,
    info_to_wire,
    list_from_wire,
    list_to_wire,
    read_error,
    text_map,
    time_from_wire,
    time_to_wire,
    write_error,
)
from bubu_storage.backend.types import ListedObject, ObjectInfo
from bubu_storage.errors import CopyError, CopyPhase, StorageError, ThrottledError

CLASSES = sorted(
    name
    for name in tree.__all__
    if isinstance(getattr(tree, name), type)
    and issubclass(getattr(tree, name), StorageError)
    and name != "CopyError"
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
times = st.datetimes(timezones=st.just(UTC))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_of_the_tree_arrives_as_its_class(name):
    """With its message, key, status and code."""
    error = getattr(tree, name)("no such thing", key="a/b", status=404, code="NoSuchKey")

    found = read_error(write_error(error, str(error)))

    assert type(found) is type(error)
    assert (found.message, found.key, found.status, found.code) == ("no such thing", "a/b", 404, "NoSuchKey")


@pytest.mark.parametrize(
    ("seconds", "arrives"), [(None, None), (2.5, 2.5), (1e9, 3600.0), (-1.0, 0.0), (float("inf"), None)]
)
def test_the_pause_that_a_store_asks_for_arrives(seconds, arrives):
    """Within limits: an agent must not put a pass to sleep for ever."""
    error = ThrottledError("slow down", retry_after_seconds=seconds)

    found = read_error(write_error(error, str(error)))

    assert isinstance(found, ThrottledError)
    assert found.retry_after_seconds == arrives


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), OSError(5, "secret"), CopyError(CopyPhase.READ, ValueError("x"))]
)
def test_other_errors_are_plain_errors_of_the_store(error):
    """Their classes are not those of a store."""
    found = read_error(write_error(error, "told"))

    assert type(found) is StorageError
    assert found.message == "told"


def test_a_class_that_is_none_of_the_tree_is_not_looked_up():
    """An agent cannot have anything else made than an error of the tree."""
    assert type(read_error({"type": "SystemExit", "message": "m"})) is StorageError
    assert type(read_error({"type": "annotations", "message": "m"})) is StorageError


def test_an_error_of_any_length_is_a_short_one():
    """Samples of errors are kept, reported and written into status."""
    wire = {"type": "StorageError", "message": "m\n" * 5000, "key": "k" * 10**6, "code": "c\n" * 10**6}

    found = read_error(wire)

    assert (len(found.message), len(found.key), len(found.code)) == (2000, 4096, 100)
    assert "\n" not in found.message + found.code


@pytest.mark.parametrize(
    "facts",
    [{"size": -1}, {"size": 10**400}, {"etag": "e" * 5000}, {"type": "t" * 5000}, {"key": "k" * 5000}],
)
def test_facts_that_no_object_has(facts):
    """Sizes and texts have limits."""
    good = info_to_wire(ObjectInfo("k", 7, "text/plain", '"e"', datetime(2026, 1, 2, tzinfo=UTC), {}))

    with pytest.raises(FrameError):
        info_from_wire(good | facts)


@given(json_values)
def test_nonsense_is_refused(value):
    """Whatever it is, it is read as what it must be, or not at all."""
    for read in (
        lambda: info_from_wire(value),
        lambda: list_from_wire(value, 10),
        lambda: time_from_wire(value),
        lambda: read_error({"type": value, "message": "m"}),
        lambda: text_map({"m": value}, "m"),
        lambda: field_of({"f": value}, "f", int),
    ):
        try:
            read()
        except FrameError:
            continue


@given(st.lists(st.tuples(texts.filter(bool), st.integers(0, 2**60), texts, times), max_size=5))
def test_pages_arrive_as_they_were(entries):
    """To the microsecond."""
    page = [ListedObject(*entry) for entry in entries]

    assert list_from_wire(list_to_wire(page), 5) == tuple(page)


@pytest.mark.parametrize(
    "page",
    [
        [["k", 1, "e", 0]] * 3,
        [["k", -1, "e", 0]],
        [["k", True, "e", 0]],
        [["", 1, "e", 0]],
        [["\ud800", 1, "e", 0]],
        [["k", 1, "e"]],
        [["k", 1, "e", 10**30]],
        [["k", 1, "e", 0.5]],
        [["k", 2**63, "e", 0]],
        [["k" * 5000, 1, "e", 0]],
        [["k", 1, "e" * 5000, 0]],
    ],
)
def test_entries_that_are_none(page):
    """More than asked for, sizes and times that are none, keys that no store has."""
    with pytest.raises(FrameError):
        list_from_wire(page, 2)


@given(times, st.dictionaries(texts, texts, max_size=3))
def test_facts_arrive_as_they_were(when, metadata):
    """All of them."""
    info = ObjectInfo("k", 7, "text/plain", '"e"', when, metadata)

    assert info_from_wire(info_to_wire(info)) == info


@given(times)
def test_times_arrive_as_they_were(when):
    """To the microsecond."""
    assert time_from_wire(time_to_wire(when)) == when
