"""Tests for the last look before a deletion leaves the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.last_look import GuardsDeletions, LastLook
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_last_look import is_deletion
from bubu_storage.errors import NotSentError, ObjectNotFoundError
from bubu_storage.settings import S3Settings

if TYPE_CHECKING:
    from pathlib import Path


class _NoError(Exception):
    """Raised by a check."""


def refuse() -> None:
    """Say no."""
    raise _NoError


def test_backends_that_delete_elsewhere_have_it(tmp_path: Path) -> None:
    """Directories and buckets look; the protocol tells."""
    assert isinstance(FileBackend(tmp_path), GuardsDeletions)
    assert issubclass(S3Backend, GuardsDeletions)


def test_a_file_is_not_removed_when_the_look_says_no(tmp_path: Path) -> None:
    """One or many; reading, writing and listing go on, and after the guard so does deleting."""
    store = FileBackend(tmp_path)
    for key in ("a/1", "a/2", "b"):
        store.put_object(key, b"x")
    with store.guard_deletions(refuse):
        with pytest.raises(NotSentError) as caught:
            store.delete_object("b")
        assert isinstance(caught.value.said, _NoError)
        failed = store.delete_objects(["a/1", "a/2"])
        assert {key: type(error) for key, error in failed.items()} == dict.fromkeys(
            ("a/1", "a/2"), NotSentError
        )
        store.put_object("c", b"x")
        assert store.head_object("c").size_bytes == 1
    assert [entry.key for page in store.list_objects() for entry in page.objects] == ["a/1", "a/2", "b", "c"]
    store.delete_objects(["a/1", "a/2", "b"])

    with pytest.raises(ObjectNotFoundError):
        store.head_object("b")


def test_a_batch_of_files_ends_in_its_middle(tmp_path: Path) -> None:
    """Each entry is looked at: what is left when the answer changes is left."""
    store = FileBackend(tmp_path)
    keys = [f"a/{number}" for number in range(5)]
    for key in keys:
        store.put_object(key, b"x")
    asked = 0

    def twice() -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise _NoError

    with store.guard_deletions(twice):
        failed = store.delete_objects(keys)

    assert [entry.key for page in store.list_objects() for entry in page.objects] == keys[2:]
    assert list(failed) == keys[2:]
    assert all(isinstance(error, NotSentError) for error in failed.values())


def test_each_guard_is_one_of_its_own() -> None:
    """The same check installed twice goes away one by one, in any order."""
    look = LastLook()
    asked: list[int] = []

    def check() -> None:
        asked.append(1)

    first, second = look.guard(check), look.guard(check)
    with first:
        with second:
            look.ask()
        assert asked == [1, 1]
        look.ask()
        assert asked == [1, 1, 1]
    look.ask()

    assert asked == [1, 1, 1]
    assert not look.is_wanted


@pytest.mark.parametrize(
    ("method", "url", "deletes"),
    [
        ("DELETE", "/bucket/key", True),
        ("POST", "/bucket?delete", True),
        ("POST", "/bucket?delete=", True),
        ("POST", "/?x=1&delete", True),
        ("POST", "/bucket/key?uploads", False),
        ("POST", "/bucket/delete", False),
        ("PUT", "/bucket/key?delete", False),
        ("GET", "/bucket/key", False),
    ],
)
def test_what_is_a_deletion(method: str, url: str, deletes: bool) -> None:
    """One object by a DELETE, many by a POST; nothing else is asked about."""
    assert is_deletion(method, url) is deletes


def test_a_bucket_without_a_guard_is_left_alone() -> None:
    """Nothing is asked until somebody wants it."""
    settings = S3Settings("b", endpoint="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    store = S3Backend(settings)
    with store.guard_deletions(refuse):
        pass
    store.close()
