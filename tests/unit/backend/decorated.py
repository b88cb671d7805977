"""The acceptance suite behind each decorator: one class a store and decorator, made from a list.

A test module describes its stores as subclasses of `OnStore`, then says::

    globals().update(matrix(OnMemory, OnFile))

and has ``TestOnMemory``, ``TestOnMemoryBehindPrefix``, … ``TestOnMemoryBehindAll``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from prometheus_client import CollectorRegistry

from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.cache import CachingBackend
from bubu_storage.backend.decorator import BackendDecorator
from bubu_storage.backend.metrics import MetricsBackend
from bubu_storage.backend.prefix import PrefixBackend
from bubu_storage.errors import InvalidKeyError
from bubu_storage.observability import StorageMetrics
from bubu_storage.testing.acceptance import BackendAcceptance
from bubu_storage.testing.fakes import CountingBackend, DelayBackend, FaultBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bubu_storage.backend.types import ObjectBackend

    Wrap = Callable[[ObjectBackend], ObjectBackend]

PREFIX = "team-a/runs/"


def in_prefix(inner: ObjectBackend) -> ObjectBackend:
    """Put a store behind a prefix, with a neighbour whose objects must stay out of sight."""
    return PrefixBackend(inner, PREFIX)


def measured(inner: ObjectBackend) -> ObjectBackend:
    """Count on a registry of its own."""
    return MetricsBackend(inner, StorageMetrics(CollectorRegistry()))


def delayed(inner: ObjectBackend) -> ObjectBackend:
    """Delay by a clock that does not tick."""
    return DelayBackend(inner, 0.001, sleep=lambda _: None)


def cached(inner: ObjectBackend) -> ObjectBackend:
    """Keep what was read, for longer than a test takes."""
    return CachingBackend(inner, 64 * 1024 * 1024, 300.0)


DECORATORS: dict[str, Wrap] = {
    "Prefix": in_prefix,
    "Metrics": measured,
    "Delay": delayed,
    "Breaker": CircuitBreakerBackend,
    "Fault": FaultBackend,
    "Counting": CountingBackend,
    "Cache": cached,
}
"""Every decorator that changes nothing of what the suite sees, from the inside to the outside."""

ON_SERVERS = tuple(name for name in DECORATORS if name != "Counting")
"""Rows for stores behind HTTP, whose tests take longest; "All" has the others too."""


def wrapped(inner: ObjectBackend, names: Iterable[str]) -> ObjectBackend:
    """Put the decorators around a store, the first one innermost."""
    for name in names:
        inner = DECORATORS[name](inner)
    return inner


class OnStore(BackendAcceptance):
    """Provide the fixture ``store``; the suite sees it behind the decorators of the class."""

    decorators: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def backend(self, store: ObjectBackend) -> Iterator[ObjectBackend]:
        """Return the store behind the decorators; a prefix also has neighbours, who must see nothing."""
        if "Prefix" not in self.decorators:
            yield wrapped(store, self.decorators)
            return
        neighbours = {"team-a/runs-of-others/x": b"1", "team-a/run": b"2", "team-b/x": b"3"}
        for key, body in neighbours.items():
            store.put_object(key, body)
        yield wrapped(store, self.decorators)
        found = {one.key for page in store.list_objects() for one in page.objects}
        assert set(neighbours) == {key for key in found if not key.startswith(PREFIX)}
        for key, body in neighbours.items():
            with store.get_object(key) as kept:
                assert body == kept.read()

    def test_longest_key(self, backend: ObjectBackend) -> None:
        """Behind a prefix there is room for what the prefix leaves."""
        if "Prefix" not in self.decorators:
            super().test_longest_key(backend)
            return
        room = 1024 - len(PREFIX)
        key = "/".join(["s" * 100] * 9) + "/"
        key += "t" * (room - len(key))
        backend.put_object(key, b"x")
        assert key == backend.head_object(key).key
        for too_long in (key + "t", "é" * 512):
            with pytest.raises(InvalidKeyError, match=rf"room for {room}") as caught:
                backend.put_object(too_long, b"x")
            assert too_long == caught.value.key


class Unclosed(BackendDecorator):
    """A store that several tests share: closing it is left to the fixture that opened it."""

    def close(self) -> None:
        """Do nothing."""


def emptied(store: ObjectBackend) -> Iterator[ObjectBackend]:
    """Lend a shared store and delete what the test left in it."""
    yield Unclosed(store)
    for page in list(store.list_objects()):
        for one in page.objects:
            store.delete_object(one.key)


def on_server(request: pytest.FixtureRequest, *, own: str, shared: str) -> Iterator[ObjectBackend]:
    """Lend a store of its own to a plain class, and the shared one to those with decorators.

    Args:
        request: of the fixture ``store``.
        own: fixture of a backend on a fresh bucket.
        shared: fixture of the backend that the tests share.
    """
    if request.cls.decorators:
        yield from emptied(request.getfixturevalue(shared))
    else:
        yield request.getfixturevalue(own)


def matrix(*stores: type[OnStore], names: Iterable[str] = tuple(DECORATORS)) -> dict[str, type[OnStore]]:
    """Return test classes by name: each store plain, behind each decorator, and behind all of them."""
    made: dict[str, type[OnStore]] = {}
    rows = {"": (), **{f"Behind{name}": (name,) for name in names}, "BehindAll": tuple(DECORATORS)}
    for store in stores:
        for suffix, decorators in rows.items():
            name = f"Test{store.__name__}{suffix}"
            doc = f"{store.__doc__} Behind: {', '.join(decorators) or 'nothing'}."
            facts = {"__doc__": doc, "__module__": store.__module__, "decorators": decorators}
            made[name] = type(name, (store,), facts)
    return made
