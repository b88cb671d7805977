"""A pass's process deletes nothing once its parent's leadership is over, wherever it was at that moment."""

from __future__ import annotations

import io
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from bubu_operator.retention.child import _Child
from bubu_operator.retention.document import PassDocument
from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import NotSentError
from bubu_storage.retention import Cursor, PassSpec, RetentionRule
from bubu_storage.retention.owners import boot_seconds
from bubu_storage.settings import FileSettings

KEY = "outputs/a/run/o"


def child_of(folder: Path, valid_until: float | None) -> _Child:
    """A pass's process, without the process; its lifeline is not needed here."""
    spec = PassSpec(scopes=("outputs/a/",), rules=(RetentionRule("outputs/a/", 3600),), dry_run=False)
    document = PassDocument(FileSettings(path=str(folder)), spec, Cursor(), valid_until)
    return _Child(os.open(os.devnull, os.O_RDONLY), io.StringIO(), threading.Event(), document)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_deletion_that_wakes_up_too_late_is_not_sent(tmp_path: Path, *, is_wrapped: bool):
    """Past every gate, and only then stopped: the store itself asks again, whatever is around it."""
    with closing(FileBackend(str(tmp_path))) as store:
        store.put_object(KEY, b"x")
        backend = CircuitBreakerBackend(store) if is_wrapped else store
        child = child_of(tmp_path, boot_seconds() + 60)
        with child._guarded(backend):
            child._validity._valid_until = boot_seconds() - 0.001
            with pytest.raises(NotSentError, match="may not lead any more"):
                backend.delete_object(KEY)
            assert {KEY} == set(backend.delete_objects([KEY]))
        assert store.head_object(KEY).size_bytes == 1


@pytest.mark.parametrize("valid_until", [None, 60.0])
def test_while_the_parent_leads_nothing_is_in_the_way(tmp_path: Path, valid_until: float | None):
    """Also without an election, where the leadership has no end."""
    with closing(FileBackend(str(tmp_path))) as store:
        store.put_object(KEY, b"x")
        child = child_of(tmp_path, None if valid_until is None else boot_seconds() + valid_until)
        with child._guarded(store):
            store.delete_object(KEY)
        assert [] == list(store.list_objects())
