"""Decorators tell the truth about what they can, and pass everything on."""

from __future__ import annotations

import inspect
import io
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.breaker import can_copy
from bubu_storage.backend.decorator import BackendDecorator, Call, Operation, WrappedBody, innermost
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import BackendCopier, BatchDeleter, ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.testing.fakes import CountingBackend, DelayBackend, Fault, FaultBackend, Timing
from tests.unit.backend.decorated import DECORATORS, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("put_object", "get_object", "head_object", "delete_object", "list_objects", "server_time", "close")


class Limited:
    """A backend with the optional capabilities that are asked for."""

    def __init__(self, *extra: str) -> None:
        inner = MemoryBackend()
        self.name = inner.name
        for name in (*METHODS, *extra):
            setattr(self, name, getattr(inner, name))


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("name", [*DECORATORS, "All", "Base"])
def test_capabilities_are_those_of_the_wrapped_backend(name: str, batches: bool, copies: bool) -> None:
    """A decorator neither loses a capability nor claims one."""
    extra = [*(["delete_objects"] if batches else []), *(["copy_object"] if copies else [])]
    inner = Limited(*extra)
    store: Any = (
        BackendDecorator(inner) if name == "Base" else wrapped(inner, DECORATORS if name == "All" else [name])
    )
    assert (batches, copies) == (isinstance(store, BatchDeleter), can_copy(store))
    if name not in {"Breaker", "All"}:  # a breaker has the method always, as in the Go package
        assert copies == isinstance(store, BackendCopier)
    assert innermost(store) is inner
    assert isinstance(store, BackendDecorator)


@pytest.mark.parametrize("name", DECORATORS)
@pytest.mark.parametrize("method", [*METHODS, "delete_objects", "copy_object"])
def test_signatures_are_those_of_the_contract(name: str, method: str) -> None:
    """Whoever reads a decorator's help sees the contract's arguments and defaults."""
    store = DECORATORS[name](MemoryBackend())
    contracts = {"delete_objects": BatchDeleter, "copy_object": BackendCopier}
    contract = getattr(contracts.get(method, ObjectBackend), method)
    expected = list(inspect.signature(contract).parameters.values())[1:]
    assert expected == list(inspect.signature(getattr(store, method)).parameters.values())


@pytest.mark.parametrize("name", DECORATORS)
def test_closing_goes_through(name: str) -> None:
    """The wrapped backend is closed with its decorator."""
    closed: list[str] = []

    class Closing(MemoryBackend):
        def close(self) -> None:
            closed.append("yes")

    DECORATORS[name](Closing()).close()
    assert ["yes"] == closed


def test_repr_shows_the_layers() -> None:
    """For people who debug a stack."""
    assert "<DelayBackend around <FaultBackend around <" in repr(
        DelayBackend(FaultBackend(MemoryBackend()), 0)
    )


def test_what_a_call_tells() -> None:
    """Operation, keys, conditions and the source of a copy."""
    store = CountingBackend(MemoryBackend())
    etag = store.put_object("a", b"x")
    store.copy_object("a", "b")
    store.delete_objects(["a"], if_match={"a": etag})
    list(store.list_objects("p"))
    assert [
        Call(Operation.PUT, "a"),
        Call(Operation.COPY, "b", source_key="a"),
        Call(Operation.DELETE_MANY, "", ("a",), {"a": etag}),
        Call(Operation.LIST_PAGE, "p"),
    ] == store.calls
    assert len(set(store.calls)) == len(store.calls)


def test_half_of_a_batch_keeps_its_conditions() -> None:
    """A fault does not make the store forget what the caller asked for."""
    inner = MemoryBackend()
    etags = [inner.put_object(key, key.encode()) for key in "abcd"]
    store = FaultBackend(inner, Fault(timing=Timing.HALFWAY))
    with pytest.raises(ConnectionError):
        store.delete_objects(list("abcd"), if_match={"a": etags[0], "b": '"other"'})
    assert ["b", "c", "d"] == [one.key for page in inner.list_objects() for one in page.objects]


def test_faults_see_the_source_of_a_copy() -> None:
    """A plan can name either end."""
    store = FaultBackend(MemoryBackend(), Fault(key_contains="src/", operations=frozenset({Operation.COPY})))
    store.put_object("src/a", b"")
    with pytest.raises(ConnectionError):
        store.copy_object("src/a", "dst/a")


# ---- delay


def test_every_request_waits_once() -> None:
    """Each page too, also the one that finds no more; bodies and closing do not."""
    waits: list[float] = []
    counting = CountingBackend(MemoryBackend())
    store = DelayBackend(counting, 0.02, sleep=waits.append)
    store.put_object("a", b"x" * 10)
    store.put_object("b", b"")
    with store.get_object("a") as found:
        assert [b"x" * 10] == list(found)
    store.head_object("a")
    list(store.list_objects(page_size=1))
    store.copy_object("a", "c")
    store.delete_object("a")
    store.delete_objects(["b"])
    store.server_time()
    store.close()
    assert [0.02] * counting.total == waits
    assert 11 == counting.total


def test_the_wait_comes_first() -> None:
    """A request that is delayed has not reached the store yet."""
    inner = MemoryBackend()
    found: list[bool] = []
    store = DelayBackend(inner, 1, sleep=lambda _: found.append(any(inner.list_objects())))
    store.put_object("a", b"")
    assert [False] == found


@pytest.mark.parametrize("latency", [-0.1, float("nan")])
def test_no_negative_wait(latency: float) -> None:
    """Refused where it is written, not where it would strike."""
    with pytest.raises(ConfigurationError, match="latency_seconds"):
        DelayBackend(MemoryBackend(), latency)


# ---- wrapped bodies


def test_a_wrapped_body_is_a_binary_file() -> None:
    """It reads in every way that a file does, and closes what it wraps, once."""
    inner = MemoryBackend()
    inner.put_object("a", b"0123456789")
    closed: list[str] = []

    class Body(WrappedBody):
        def close(self) -> None:
            if not self.closed:
                super().close()
                closed.append("yes")

    ways: list[Callable[[Any], bytes]] = [
        lambda body: body.read(),
        lambda body: body.read(None),
        lambda body: body.readall(),
        lambda body: b"".join(iter(lambda: body.read(3), b"")),
        lambda body: io.BufferedReader(body).read(),
    ]
    for way in ways:
        with Body(inner.get_object("a")) as body:
            assert body.readable()
            assert b"0123456789" == way(body)
    buffer = bytearray(4)
    with Body(inner.get_object("a")).result() as found:
        assert 4 == found._stream.readinto(buffer)
        found.close()
    assert b"0123" == bytes(buffer)
    assert ["yes"] * 6 == closed
