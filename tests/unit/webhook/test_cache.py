"""The cache's index, its thrift, and what it says of its own state."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from bubu_operator.errors import (
    KubeApiError,
    KubeForbiddenError,
    KubeGoneError,
    KubeThrottledError,
    KubeTimeoutError,
    KubeUnauthorizedError,
    KubeUnreachableError,
)
from bubu_operator.kube.resources import ObjectKey
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.cache import (
    REMEMBERED_DELETIONS,
    ConfigCache,
    ConfigIndex,
    Deletions,
    error_word,
    parse_once,
)
from tests.cluster.processes import wait_until
from tests.unit.injection.builders import config, config_object


def test_the_index_follows_changes():
    """Added, replaced, removed; by namespace; removing what is not there is fine."""
    index = ConfigIndex()
    first, second = config("a"), config("b")
    index.put(ObjectKey("flows", "a"), first)
    index.put(ObjectKey("flows", "b"), second)
    index.put(ObjectKey("other", "a"), config("a", "other"))
    assert index.of("flows") == (first, second)
    changed = config("a", default=True)
    index.put(ObjectKey("flows", "a"), changed)
    assert index.of("flows") == (second, changed)
    index.put(ObjectKey("flows", "b"), None)
    index.put(ObjectKey("flows", "gone"), None)
    assert index.of("flows") == (changed,)
    index.put(ObjectKey("flows", "a"), None)
    assert index.of("flows") == ()
    assert len(index.of("other")) == 1


def test_an_unchanged_spec_is_not_parsed_again():
    """Status updates come with each probe; generation, uid and deletion tell what matters."""
    known = config("a")
    transform = parse_once(lambda key: known if key == ObjectKey("flows", "a") else None)

    assert transform(config_object("a")) is known
    assert transform({**config_object("a"), "status": {"x": 1}}) is known
    for metadata in ({"generation": 2}, {"uid": "another"}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}):
        fresh = transform(config_object("a", metadata=metadata))
        assert fresh is not known
        assert fresh.deleting == ("deletionTimestamp" in metadata)
    assert transform(config_object("b")) is not known


def test_deletions_are_remembered_for_a_while():
    """By name, the latest first, those in reach of a namespace; forgotten when the object is there again."""
    now = [0.0]
    deletions = Deletions(monotonic=lambda: now[0])
    deletions.note("StorageConfig", ObjectKey("flows", "a"), gone=True)
    now[0] = 10.0
    deletions.note("ClusterStorageConfig", ObjectKey("", "s"), gone=True)
    deletions.note("StorageConfig", ObjectKey("other", "b"), gone=True)
    now[0] = 12.0

    assert deletions.in_reach_of("flows") == (
        "ClusterStorageConfig s was deleted 2 s ago",
        "StorageConfig flows/a was deleted 12 s ago",
    )
    deletions.note("StorageConfig", ObjectKey("flows", "a"), gone=False)
    assert deletions.in_reach_of("flows") == ("ClusterStorageConfig s was deleted 2 s ago",)
    now[0] = 700.0
    assert deletions.in_reach_of("flows") == ()


def test_deletions_do_not_fill_the_memory():
    """The oldest give way."""
    deletions = Deletions(monotonic=lambda: 0.0)
    for number in range(REMEMBERED_DELETIONS + 1):
        deletions.note("StorageConfig", ObjectKey("flows", f"c{number}"), gone=True)

    said = deletions.in_reach_of("flows")
    assert len(said) == REMEMBERED_DELETIONS
    assert not any("flows/c0 " in line for line in said)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (KubeForbiddenError("x", status=403), "forbidden"),
        (KubeUnauthorizedError("x", status=401), "unauthorized"),
        (KubeGoneError("x", status=410), "gone"),
        (KubeThrottledError("x"), "throttled"),
        (KubeTimeoutError("x"), "timeout"),
        (KubeUnreachableError("x"), "unreachable"),
        (KubeApiError("x"), "other"),
    ],
)
def test_errors_have_one_word_for_labels(error: KubeApiError, word: str):
    """The special ones before the general ones that they derive from."""
    assert error_word(error) == word


class DeadApi:
    """An API server that answers nothing; the first list fails at once."""

    def list_page(self, *_: Any, **__: Any) -> Any:
        """Refuse."""
        raise KubeForbiddenError("no right", status=403)


def test_a_cache_that_cannot_list_says_why():
    """In readiness and metrics, with a word and no address; it never counts as listed."""
    metrics = WebhookMetrics()
    cache = ConfigCache(DeadApi(), metrics)  # type: ignore[arg-type]
    assert cache.waiting_for() == ("storageconfigs", "clusterstorageconfigs", "namespaces")
    cache.start()
    try:
        wanted = ("storageconfigs (forbidden)", "clusterstorageconfigs (forbidden)", "namespaces (forbidden)")
        wait_until(lambda: cache.waiting_for() == wanted, 10, "the failures")
        # Counted a moment after it is told.
        counted = 'bubu_webhook_cache_errors_total{error="forbidden",resource="storageconfigs"}'
        wait_until(lambda: counted in generate_latest(metrics.registry).decode(), 10, "the count")
    finally:
        cache.stop()

    assert cache.failing() == ()
    text = generate_latest(metrics.registry).decode()
    assert 'bubu_webhook_cache_age_seconds{resource="namespaces"} +Inf' in text
    assert 'bubu_webhook_cache_failing{resource="namespaces"} 1.0' in text


def test_a_live_object_that_is_known_is_not_parsed_again():
    """Live reads of a namespace with many configs cost little."""
    cache = ConfigCache(DeadApi())  # type: ignore[arg-type]

    assert cache.parse(config_object("a")).name == "a"
    assert cache.parse(config_object("s", "")).kind == "ClusterStorageConfig"


def test_for_one_namespace_nothing_is_asked_for_beyond_it():
    """Its configs by its path, its labels by its name, and no cluster-wide configs."""
    asked: set[tuple[str, str | None, str]] = set()

    class Api(DeadApi):
        def list_page(self, resource: Any, namespace: str | None = None, **more: Any) -> Any:
            asked.add((resource.plural, namespace, more["field_selector"]))
            raise KubeForbiddenError("no right", status=403)

    cache = ConfigCache(Api(), only_namespace="flows")  # type: ignore[arg-type]
    cache.start()
    try:
        wait_until(lambda: len(asked) == 2, 10, "the first lists")
    finally:
        cache.stop()

    assert asked == {("storageconfigs", "flows", ""), ("namespaces", None, "metadata.name=flows")}
    assert cache.waiting_for() == ("storageconfigs (forbidden)", "namespaces (forbidden)")
    assert cache.parse(config_object("shared", "")).name == "shared"
