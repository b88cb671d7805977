"""``rm``: deletes what it is told to and nothing else, and asks first."""

from __future__ import annotations

import json

import pytest

from bubu_storage.cli import rm
from bubu_storage.errors import PermissionDeniedError


@pytest.fixture
def person(monkeypatch):
    """Somebody sits at the terminal."""
    monkeypatch.setattr(rm, "_someone_is_there", lambda: True)


def test_without_a_person_and_without_yes_nothing_is_deleted(on, keys):
    """A script has to say ``--yes``; the hint says so."""
    before = keys()

    result = on("rm", "a.txt")

    assert (4, "") == (result.exit_code, result.stdout)
    assert "add --yes" in result.stderr
    assert before == keys()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("x\n", 4), ("n\n", 4), ("\n", 4)])
@pytest.mark.usefixtures("person")
def test_the_question(on, keys, answer, code):
    """It says how much of what, and only a yes is a yes."""
    result = on("rm", "-r", "data", stdin=answer)

    assert code == result.exit_code
    assert "Delete 3 objects (264 B) from file://" in result.stderr
    assert ("data/1.bin" in keys()) is (code == 4)


@pytest.mark.usefixtures("person")
def test_no_answer_at_all_deletes_nothing(on, keys):
    """The end of the input is no yes."""
    result = on("rm", "a.txt", stdin="")

    assert 4 == result.exit_code
    assert "a.txt" in keys()


def test_keys(on, keys):
    """Each named object goes, a missing one counts as gone, neighbours stay."""
    result = on("rm", "-y", "a.txt", "nope", "data/1.bin", "a.txt")

    assert (0, "bubu-storage: deleted 3 objects\n") == (result.exit_code, result.stderr)
    assert [".bubu/claim", "data-old/x", "data/deep/2.bin", "data/deep/er/3.bin", "zoo"] == keys()


def test_a_folder_is_whole_segments(on, keys):
    """``-r data`` takes what ``ls -r data`` shows: never ``data-old``."""
    result = on("rm", "-r", "data", "-y", "-o", "json")

    assert {"deleted": 3, "failed": 0, "failures": []} == json.loads(result.stdout)
    assert [".bubu/claim", "a.txt", "data-old/x", "zoo"] == keys()


def test_doubles_count_once(on):
    """Folders that overlap are no reason to count an object twice."""
    result = on("rm", "-r", "-y", "data/deep", "data", "data/deep/er/", "-o", "json")

    assert 3 == json.loads(result.stdout)["deleted"]


def test_without_r_a_folder_stays(on, keys):
    """A folder is no object: it is refused or missing, and all in it stays."""
    on("rm", "-y", "data")

    assert "data/1.bin" in keys()


@pytest.mark.parametrize("target", ["", "/", "//", ".", "./", "././", "\\", "/."])
def test_the_whole_store_is_refused(on, keys, target):
    """However it is spelled, and with ``--yes`` too."""
    before = keys()

    result = on("rm", "-r", "-y", target)

    assert 4 == result.exit_code
    assert "the whole store" in result.stderr
    assert before == keys()


@pytest.mark.parametrize("target", [".bubu", ".bubu/", ".bubu/claim", "data/.bubu/x"])
@pytest.mark.parametrize("flag", ["-r", "-y"])
def test_our_own_area_is_refused(on, keys, target, flag):
    """Claims and marks are what keeps retention safe."""
    before = keys()

    result = on("rm", flag, "-y", target)

    assert 4 == result.exit_code
    assert ".bubu/" in result.stderr
    assert before == keys()


def test_our_own_area_inside_a_folder_survives(on, store, keys):
    """A store that is a folder of another keeps its claims too."""
    store.put_object("data/.bubu/claim", b"ours")

    on("rm", "-r", "-y", "data")

    assert "data/.bubu/claim" in keys()


def test_dry_run(on, keys):
    """The list is the plan, on standard output; nothing goes."""
    before = keys()

    result = on("rm", "-r", "-n", "data")

    assert ["data/1.bin", "data/deep/2.bin", "data/deep/er/3.bin"] == result.stdout.splitlines()
    assert "would delete 3 objects, 264 B" in result.stderr
    assert before == keys()


@pytest.fixture
def stubborn(monkeypatch):
    """Some objects cannot be deleted."""
    from bubu_storage.backend.file import FileBackend

    really = FileBackend.delete_objects

    def delete_objects(self, keys, *, if_match=None):
        good = [key for key in keys if "deep" not in key]
        bad = {
            key: PermissionDeniedError(f"object {key!r} cannot be deleted: access denied", key=key)
            for key in keys
            if "deep" in key
        }
        return {**really(self, good, if_match=if_match), **bad}

    def delete_object(self, key, *, if_match=""):
        for error in delete_objects(self, [key]).values():
            raise error

    monkeypatch.setattr(FileBackend, "delete_objects", delete_objects)
    monkeypatch.setattr(FileBackend, "delete_object", delete_object)


@pytest.mark.usefixtures("stubborn")
def test_partial_failure(on, keys):
    """What failed is named, the rest is gone, and the code says partial."""
    result = on("rm", "-r", "-y", "data", "-o", "json")

    assert 3 == result.exit_code
    assert "object 'data/deep/2.bin' cannot be deleted: access denied" in result.stderr
    assert "deleted 1 object; 2 failures, named above" in result.stderr
    assert ["data/deep/2.bin", "data/deep/er/3.bin"] == [
        one["key"] for one in json.loads(result.stdout)["failures"]
    ]
    assert "data/1.bin" not in keys()


@pytest.mark.usefixtures("stubborn")
def test_total_failure(on):
    """Where nothing could be deleted, it is no partial success."""
    assert 1 == on("rm", "-r", "-y", "data/deep").exit_code
