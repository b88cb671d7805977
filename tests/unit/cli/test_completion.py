"""Completing keys: a person has pressed Tab and waits."""

from __future__ import annotations

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.cli.scope import complete_keys
from bubu_storage.cli.stores import Stores
from bubu_storage.errors import StorageTimeoutError
from bubu_storage.testing.fakes import CountingBackend
from tests.cluster.processes import wait_until
from tests.unit.backend.scripted_server import Answer, scripted_server


def test_only_what_fits_is_listed(monkeypatch):
    """In a folder of thousands, the store is asked for the few that begin so."""
    store = MemoryBackend()
    for number in range(5_000):
        store.put_object(f"many/{number:04}", b"")
    store.put_object("many/4999x/deep", b"")
    counting = CountingBackend(store)
    monkeypatch.setattr(Stores, "backend", lambda *_, **__: counting)

    found = complete_keys(GlobalOptions(store="s3://bucket"), "many/4999")

    assert ["many/4999", "many/4999x/"] == found
    assert counting.total <= 4


@pytest.mark.parametrize(
    ("typed", "expected"), [("da", ["data-old/", "data/"]), ("data/d", ["data/deep/"]), ("x", []), (".b", [])]
)
def test_what_is_found(store, typed, expected):
    """Folders and keys whole, in the order of a listing."""
    assert expected == complete_keys(GlobalOptions(store=store.url), typed)


def test_a_silent_store_is_asked_once():
    """No second try, and no longer than was given."""
    asked = []

    def hang(request):
        asked.append(request)
        return Answer(silent=True)

    with scripted_server(hang) as server:
        options = GlobalOptions(store="s3://bucket", endpoint_url=server.endpoint, timeout_seconds=0.3)
        with pytest.raises(StorageTimeoutError):
            complete_keys(options, "x")
        wait_until(lambda: bool(asked), 15, "the server to see what the client has given up")

    assert 1 == len(asked)
