"""``check``: the store's abilities in words, and what to do about those that are missing."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.probe import Capability
from bubu_storage.cli.check import MEANINGS
from bubu_storage.errors import PermissionDeniedError, StorageTimeoutError, UnavailableError


def test_a_good_store(on, keys):
    """All that works is listed with its meaning, and nothing is left behind."""
    before = keys()

    result = on("check")
    document = json.loads(on("check", "-o", "json").stdout)

    assert (0, "") == (result.exit_code, result.stderr)
    assert "usable     yes" in result.stdout
    assert "yes  objects can be read" in result.stdout
    assert (True, True, None) == (document["usable"], document["reachable"], document["error"])
    assert all(document["capabilities"][name] for name in ("Read", "Write", "List", "Delete"))
    assert before == keys()


def test_read_only(on, store, keys, monkeypatch):
    """Nothing is written, and what was not tried is not called missing."""

    def refuse(*_, **__):
        raise AssertionError("written")

    monkeypatch.setattr(FileBackend, "put_object", refuse)
    monkeypatch.setattr(FileBackend, "delete_object", refuse)

    result = on("check", "--read-only")
    document = json.loads(on("check", "--read-only", "-o", "json").stdout)

    assert 0 == result.exit_code
    assert "yes, for reading" in result.stdout
    assert "What to do" not in result.stdout
    assert (True, None) == (document["capabilities"]["Read"], document["capabilities"]["Write"])


def test_not_allowed_to_write(on, monkeypatch):
    """The failure, that reading works, and what to allow."""

    def refuse(self, key, *_, **__):
        raise PermissionDeniedError(f"object {key!r} cannot be written: access denied", key=key)

    monkeypatch.setattr(FileBackend, "put_object", refuse)

    result = on("check")

    assert 1 == result.exit_code
    assert "usable     no" in result.stdout
    assert "reachable  yes" in result.stdout
    assert "--read-only" in result.stdout
    assert "s3:PutObject" in result.stdout
    assert "access denied" in result.stderr


@pytest.mark.parametrize("kind", [UnavailableError, StorageTimeoutError])
def test_a_store_that_is_down(on, monkeypatch, kind):
    """Is unreachable, and exits with 1."""

    def fail(*_, **__):
        raise kind("the store does not answer")

    monkeypatch.setattr(FileBackend, "put_object", fail)

    document = json.loads(on("check", "-o", "json").stdout)

    assert 1 == on("check").exit_code
    assert (False, False) == (document["usable"], document["reachable"])
    assert document["advice"]


def test_a_wrong_clock(on, monkeypatch):
    """Is told with its consequence."""
    really = FileBackend.server_time
    monkeypatch.setattr(FileBackend, "server_time", lambda self: really(self) - timedelta(minutes=20))

    result = on("check")

    assert 0 == result.exit_code
    assert "1200 s behind this machine's" in result.stdout
    assert "requests fail once it is over 15 minutes" in result.stdout


def test_every_capability_has_a_meaning():
    """A capability without words would puzzle; one without a way out, too."""
    assert {str(one) for one in Capability} <= MEANINGS.keys()
    assert all(meaning and way_out for meaning, way_out in MEANINGS.values())


@pytest.mark.parametrize(
    ("answer", "said"),
    [(True, "old ones are kept"), (False, "old ones are not kept"), (None, "does not say")],
)
def test_whether_old_versions_are_kept(on, monkeypatch, answer, said):
    """Said in any case; where they are, what that means for retention and what to do, but no failure."""
    monkeypatch.setattr(FileBackend, "is_versioned", lambda _: answer, raising=False)

    for arguments in ((), ("--read-only",)):
        result = on("check", *arguments)
        document = json.loads(on("check", *arguments, "-o", "json").stdout)

        assert result.exit_code == 0
        assert said in result.stdout
        assert document["versioned"] is answer
        assert (answer is True) == any("expires noncurrent versions" in one for one in document["advice"])
