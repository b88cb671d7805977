"""The cache's index and its thrift."""

from __future__ import annotations

from bubu_operator.kube.resources import ObjectKey
from bubu_operator.webhook.cache import ConfigIndex, parse_once
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
