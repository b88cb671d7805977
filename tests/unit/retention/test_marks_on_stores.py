"""Orphans, marks and references on a real directory and on a real S3 server, in real time."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.retention import PassReport, Reason, ReferenceCache, RetentionRule, Tally, run_pass
from bubu_storage.retention.mark_keys import mark_key
from bubu_storage.retention.owners import OwnerFacts, OwnerView, boot_seconds
from bubu_storage.settings import FileSettings
from tests.unit.retention.world import DAY, spec_of

GRACE = 2 * DAY
SPEC = spec_of(rules=(RetentionRule("outputs/a/", None, 5, GRACE),))


class Listed:
    """Somebody who knows the owners, now."""

    def __init__(self, owners: dict[str, OwnerFacts], *references: str) -> None:
        self.owners = owners
        self.references = frozenset(references)

    def observe(self, _not_before: float) -> OwnerView:
        """Look."""
        return OwnerView(1, boot_seconds(), self.owners, self.references)


def life_of_an_orphan(store: ObjectBackend, root: Path, concurrency: int) -> None:
    """Mark, wait for the grace, delete; what is live or referenced stays."""

    def grow_old(key: str, days: float) -> None:
        when = time.time() - days * DAY
        os.utime(root / key, (when, when))

    def keys() -> set[str]:
        return {entry.key for page in store.list_objects("") for entry in page.objects}

    def enforce() -> PassReport:
        return run_pass(store, SPEC, owners=owners, reference_cache=cache, concurrency=concurrency)

    document = {"contentType": "json", "data": {"x": {"$bubuStorageRef": "outputs/a/needed/output.json"}}}
    for run in ("gone", "gone-too", "live", "needed", "last"):
        store.put_object(f"outputs/a/{run}/output.json", json.dumps(document).encode())
        grow_old(f"outputs/a/{run}/output.json", 40)
    cache = ReferenceCache()
    owners = Listed(
        {"a/live": OwnerFacts(live=True), "a/last": OwnerFacts(live=False, rank=5)},
        "outputs/a/live/output.json",
    )
    everything = keys()
    size = len(json.dumps(document))

    first = enforce()
    assert first.by_reason == {
        Reason.KEPT_LIVE: Tally(1, size),
        Reason.KEPT_LAST_RUNS: Tally(1, size),
        Reason.KEPT_REFERENCED: Tally(1, size),
        Reason.KEPT_ORPHAN_GRACE: Tally(2, 2 * size),
    }
    assert first.error_count == 0
    marks = {mark_key("outputs/a/gone/"), mark_key("outputs/a/gone-too/")}
    assert keys() == everything | marks
    assert len(cache) == 2

    grow_old(mark_key("outputs/a/gone/"), 1)
    assert enforce().deleted == Tally()
    grow_old(mark_key("outputs/a/gone/"), 3)
    last = enforce()

    assert last.deleted == Tally(1, size)
    assert last.error_count == 0
    assert everything | marks == keys() | {"outputs/a/gone/output.json", mark_key("outputs/a/gone/")}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_orphans_in_a_directory(tmp_path, concurrency):
    """A file store dates marks by its own clock and writes each only once."""
    with closing(open_backend(FileSettings(path=str(tmp_path)))) as store:
        life_of_an_orphan(store, tmp_path, concurrency)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_orphans_on_an_s3_server(s3_server, bucket, concurrency):
    """As in a directory: listings, conditional writes and batches of a real server."""
    with closing(S3Backend(s3_server.settings(bucket))) as store:
        life_of_an_orphan(store, s3_server.root / bucket, concurrency)
