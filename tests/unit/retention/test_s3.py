"""Passes over a real S3 server: bulk deletion, resuming and instalments as in memory."""

from __future__ import annotations

import os
import time
from contextlib import closing

import pytest

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import run_pass
from tests.unit.retention.world import DAY, spec_of


@pytest.fixture
def store(s3_server, bucket):
    """A backend on a fresh bucket."""
    with closing(S3Backend(s3_server.settings(bucket))) as backend:
        yield backend


def test_a_cycle_over_a_real_server(s3_server, bucket, store):
    """Runs of all sizes in several capped passes; the young and the loose stay."""
    kept = set()
    for run, count, age_days in [
        ("r1", 30, 40),
        ("r1-x", 3, 40),
        ("r2", 4, 2),
        ("r3", 3, 40),
        ("ünï", 2, 40),
    ]:
        for number in range(count):
            key = f"outputs/a/{run}/o{number:02}"
            store.put_object(key, b"x" * 10)
            when = time.time() - age_days * DAY
            os.utime(s3_server.root / bucket / key, (when, when))
            if age_days < 30:
                kept.add(key)
    store.put_object("outputs/a/loose", b"x")
    kept.add("outputs/a/loose")
    spec = spec_of(max_scan=25, max_delete=12)
    reports: list[PassReport] = []
    cursor = Cursor()
    while not reports or not reports[-1].complete_cycle:
        assert len(reports) < 20
        reports.append(run_pass(store, spec, cursor))
        cursor = Cursor.from_dict(reports[-1].cursor.to_dict())

    assert {entry.key for page in store.list_objects("") for entry in page.objects} == kept
    assert sum(report.deleted.objects for report in reports) == 38
    assert all(report.scanned <= 25 and report.attempted <= 12 for report in reports)
    assert abs(reports[0].clock_skew_seconds) < 5


def test_a_missing_bucket_is_a_reason(s3_server, store):
    """The report says which bucket, and nothing is raised."""
    with closing(S3Backend(s3_server.settings("no-such-bucket"))) as backend:
        report = run_pass(backend, spec_of())

    assert report.stopped_by is StoppedBy.STORE_ERROR
    assert report.errors[0].error == "BucketNotFoundError"
    assert s3_server.secret_key not in str(report.to_dict())
