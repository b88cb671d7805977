"""The benchmarks of listing and bulk deletion run through at a tiny scale, and notice wrong results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.perf import bulk_delete, deleters, listing, retention

if TYPE_CHECKING:
    from tests.s3server import VersityGateway

TINY = ["--json", "--rounds", "1", "--scale", "0.002"]


@pytest.fixture
def without_rclone(monkeypatch: pytest.MonkeyPatch, s3_server: VersityGateway) -> None:
    """The bare pipeline stands in for rclone, which takes minutes to build."""
    del s3_server  # it is asked for so that its program has been built
    for benchmark in (bulk_delete, retention):
        monkeypatch.setattr(benchmark, "ensure_rclone", lambda _: None)
        monkeypatch.setitem(benchmark.CONTESTANTS, "rclone", deleters.bare_pipeline)


@pytest.mark.usefixtures("without_rclone")
def test_bulk_deletion(capsys: pytest.CaptureFixture[str]) -> None:
    """Both latencies, each against three peers, with all goals of the full run."""
    assert 0 == bulk_delete.main(TINY)
    results = json.loads(capsys.readouterr().out)["results"]
    assert 2 * ["ours / bare pipeline", "ours / rclone", "ours / loop"] == [one["ratio"] for one in results]
    assert [0, 0, 0, 20, 20, 20] == [int(one["case"].split()[1]) for one in results]
    assert 5 == sum(one["goal"] is not None for one in results)


@pytest.mark.usefixtures("without_rclone")
def test_retention_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Deleting and listing at both latencies, and memory: each with the goal of the full run."""
    assert 0 == retention.main(TINY)
    results = json.loads(capsys.readouterr().out)["results"]
    peers = ["ours / bare pipeline", "ours / rclone", "ours / loop"]
    scans = 4 * ["ours / boto3 paginator"]
    assert [*peers, *peers, *scans, *2 * ["peak resident memory, MiB"]] == [one["ratio"] for one in results]
    assert 11 == sum(one["goal"] is not None for one in results)


@pytest.mark.usefixtures("without_rclone")
def test_contestant_that_leaves_objects_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the fastest of all."""

    def idle(server: VersityGateway, endpoint: str) -> None:
        del server, endpoint

    monkeypatch.setitem(bulk_delete.CONTESTANTS, "rclone", idle)
    with pytest.raises(SystemExit, match="objects are left after idle"):
        bulk_delete.main([*TINY, "--only", "latency 0"])


@pytest.mark.usefixtures("without_rclone")
def test_pipeline_that_fails_ends(monkeypatch: pytest.MonkeyPatch, s3_server: VersityGateway) -> None:
    """Its listing waits for nobody."""
    monkeypatch.setattr(deleters, "DEFAULT_BULK_CONCURRENCY", 1)

    class Broken:
        def get_paginator(self, _: str) -> Broken:
            return self

        def paginate(self, **_: str) -> list[dict[str, list[dict[str, str]]]]:
            return [{"Contents": [{"Key": "k"}]}] * 5

        def delete_objects(self, **_: object) -> None:
            raise OSError("no connection")

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(deleters, "open_sdk", lambda *_: Broken())
    with pytest.raises(OSError, match="no connection"):
        deleters.bare_pipeline(s3_server, "")


def test_listing_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates, memory, and that memory is flat."""
    assert 0 == listing.main([*TINY, "--only", "file,"])
    results = json.loads(capsys.readouterr().out)["results"]
    assert {"backend / scandir", "manager / scandir", "growth in MiB", "more in MiB"} == {
        one["ratio"] for one in results
    }
    assert all(one["goal"]["reached"] for one in results if one["goal"])


@pytest.mark.usefixtures("s3_server")
def test_listing_of_a_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates against the SDK's paginator, and memory."""
    assert 0 == listing.main([*TINY, "--only", "versitygw"])
    results = json.loads(capsys.readouterr().out)["results"]
    ratios = ["backend / paginator", "manager / paginator", "growth in MiB", "growth in MiB"]
    assert ratios == [one["ratio"] for one in results]


def test_listing_that_misses_objects() -> None:
    """A count that is wrong is no result."""
    with pytest.raises(SystemExit, match="1 objects were listed instead of 2"):
        listing.rate(len, ["one"], 2)
