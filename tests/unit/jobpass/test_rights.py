"""An agent's rights: nothing outside its scopes is listed or deleted, and only retention's own is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.jobpass.rights import CONTROL_PREFIX, Rights
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import InvalidKeyError, PermissionDeniedError, StorageError
from tests.unit.jobpass.pairs import agent_of

SCOPES = ("inputs/team-a/", "outputs/team-a/")
RIGHTS = Rights.of_scopes(SCOPES)
OUTSIDE = [
    "outputs/team-b/run/o",
    "outputs/team-a",
    "outputs/team-ab/run/o",
    "outputs/",
    "inputs/team-b/x",
    "x",
    "outputs/team-a/../team-b/o",
    "outputs/team-a/x/../../team-b/o",
    "outputs\\team-a\\x",
    "/outputs/team-a/x",
    "./outputs/team-a/x",
    ".bubu/probe/x",
    ".bubu/retentions/x",
    ".bubu/retention",
    "OUTPUTS/team-a/x",
    "outputs//team-a/x",
]
parts = st.lists(
    st.sampled_from(["outputs", "inputs", "team-a", "team-b", ".", "..", "", ".bubu", "retention", "x"]),
    max_size=6,
)


@pytest.mark.parametrize("key", OUTSIDE)
def test_nothing_outside_is_listed_deleted_or_written(key):
    """Refused before the store is asked."""
    for act in (
        lambda: RIGHTS.may_list(key),
        lambda: RIGHTS.may_delete([key]),
        lambda: RIGHTS.may_put(key),
    ):
        with pytest.raises((PermissionDeniedError, InvalidKeyError)):
            act()


@pytest.mark.parametrize("prefix", ["", ".", "o", "outputs", ".bubu/", ".bubu/probe/"])
def test_a_prefix_that_would_show_more_is_refused(prefix):
    """Also where the scopes are in it."""
    with pytest.raises(PermissionDeniedError):
        RIGHTS.may_list(prefix)


@given(parts)
def test_scopes_cannot_be_escaped(segments):
    """Whatever is let through begins with a scope and has no way up in it."""
    key = "/".join(segments)
    for act in (lambda: RIGHTS.may_list(key), lambda: RIGHTS.may_delete([key])):
        try:
            act()
        except StorageError:
            continue
        assert key.startswith((*SCOPES, CONTROL_PREFIX))
        assert ".." not in segments


def test_one_bad_key_spoils_the_batch():
    """An engine that asks for it is none of ours; nothing at all is deleted."""
    store = MemoryBackend()
    for key in ("outputs/team-a/r/o", "outputs/team-b/r/o"):
        store.put_object(key, b"x")
    with agent_of(store, RIGHTS) as remote, pytest.raises(PermissionDeniedError, match="team-b"):
        remote.delete_objects(["outputs/team-a/r/o", "outputs/team-b/r/o"])

    assert [entry.key for page in store.list_objects() for entry in page.objects] == [
        "outputs/team-a/r/o",
        "outputs/team-b/r/o",
    ]


@pytest.mark.parametrize("key", ["outputs/team-a/.bubu/x", "outputs/team-a/run/.bubu/claim"])
def test_what_is_reserved_inside_a_scope_is_not_deleted(key):
    """A store may be a folder of another one."""
    with pytest.raises(PermissionDeniedError):
        RIGHTS.may_delete([key])


def test_retentions_own_objects():
    """Claims and marks are listed, written and deleted; everything is readable, references lead anywhere."""
    mark = f"{CONTROL_PREFIX}marks/outputs/team-a/run-1/mark"

    RIGHTS.may_list(f"{CONTROL_PREFIX}marks/outputs/team-a/")
    RIGHTS.may_put(mark)
    RIGHTS.may_delete([mark])
    RIGHTS.may_read("anything/at/all")


@pytest.mark.parametrize(
    "scopes", [(), ("",), ("/",), ("a",), ("../a/",), ("a/../",), (".bubu/",), ("a/\x00/",)]
)
def test_scopes_that_are_none(scopes):
    """An agent with a broken scope does not start."""
    with pytest.raises(InvalidKeyError):
        Rights.of_scopes(scopes)


def test_rights_hold_over_the_channel():
    """Every request that they are about, asked for by an engine gone mad."""
    with agent_of(MemoryBackend(), RIGHTS) as remote:
        for act in (
            lambda: next(remote.list_objects("outputs/team-b/"), None),
            lambda: next(remote.list_objects(""), None),
            lambda: remote.delete_object("outputs/team-b/r/o"),
            lambda: remote.delete_objects(["outputs/team-b/r/o"]),
            lambda: remote.put_object("outputs/team-a/r/o", b"x"),
        ):
            with pytest.raises(PermissionDeniedError):
                act()
        assert next(remote.list_objects("outputs/team-a/"), None) is None
