"""The probe cleans up whatever happens; the faults and counters for tests do as they are told."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.probe import PROBE_PREFIX, Capability, probe_backend
from bubu_storage.backend.types import BatchDeleter, ListPage, refuse_conditions
from bubu_storage.errors import (
    CopyNotSupportedError,
    CorruptObjectError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.testing.acceptance import keys_of
from bubu_storage.testing.fakes import (
    CountingBackend,
    Fault,
    FaultBackend,
    Operation,
    SimulatedCrash,
    Timing,
    crash_points,
)

if TYPE_CHECKING:
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend


class WithoutBatches:
    """A backend that cannot delete in batches."""

    def __init__(self) -> None:
        inner = MemoryBackend()
        for name in (
            "put_object",
            "get_object",
            "head_object",
            "delete_object",
            "list_objects",
            "server_time",
        ):
            setattr(self, name, getattr(inner, name))
        self.name = inner.name

    def close(self) -> None:
        """Do nothing."""


# ---- probe


def test_probe_reports_what_it_saw() -> None:
    """Each capability, the mean latency of an operation, and how far the clocks are apart."""
    ours = datetime(2026, 1, 1, tzinfo=UTC)
    ticks = iter([100.0, 107.5])
    store = MemoryBackend(clock=lambda: ours + timedelta(seconds=90))
    report = probe_backend(store, monotonic=lambda: next(ticks), now=lambda: ours)
    assert tuple(Capability) == report.capabilities
    assert (0.5, 90.0) == (report.latency_seconds, report.clock_skew_seconds)
    assert [] == keys_of(store.list_objects())


def missing(store: ObjectBackend) -> set[Capability]:
    """Return what a probe does not claim, after a look at what it cost and left behind."""
    counting = CountingBackend(store)
    report = probe_backend(counting)
    assert counting.total <= 17
    assert 0 == counting.open_bodies
    assert [] == keys_of(MemoryBackend.list_objects(innermost(store)))
    return set(Capability) - set(report.capabilities)


def test_probe_of_a_store_without_batches() -> None:
    """What is not there is not claimed, nor is what the backend merely emulates."""
    bulk = {Capability.BULK_DELETE, Capability.CONDITIONAL_BULK_DELETE}
    assert {*bulk, Capability.COPY} == set(Capability) - set(probe_backend(WithoutBatches()).capabilities)
    emulating = MemoryBackend()
    emulating.bulk_delete_is_emulated = True
    assert bulk == missing(emulating)


class _IgnoresPut(MemoryBackend):
    """Silently ignores the conditions of a put."""

    def put_object(
        self, key: str, body: Any, *, if_match: str = "", if_none_match: str = "", **more: Any
    ) -> str:
        del if_match, if_none_match
        return super().put_object(key, body, **more)


class _IgnoresIfMatch(MemoryBackend):
    """Knows put-if-absent and ignores the ETag of a put."""

    def put_object(self, key: str, body: Any, *, if_match: str = "", **more: Any) -> str:
        del if_match
        return super().put_object(key, body, **more)


class _IgnoresDelete(MemoryBackend):
    """Silently ignores the condition of a single deletion; a batch has them, as unlikely as that is."""

    inside = False

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        super().delete_object(key, if_match=if_match if self.inside else "")

    def delete_objects(self, keys: Any, **more: Any) -> Any:
        self.inside = True
        try:
            return super().delete_objects(keys, **more)
        finally:
            self.inside = False


class _IgnoresBatch(MemoryBackend):
    """Silently ignores the ETags of a batch, as versitygw and moto do."""

    def delete_objects(self, keys: Any, *, if_match: Any = None) -> Any:
        del if_match
        return super().delete_objects(keys)


class _SaysAndDeletes(MemoryBackend):
    """Says that the ETag of a key is wrong, and deletes it all the same."""

    def delete_objects(self, keys: Any, *, if_match: Any = None) -> Any:
        failed = super().delete_objects(keys, if_match=if_match)
        super().delete_objects(keys)
        return failed


class _RefusesConditions(MemoryBackend):
    """Answers 501 to every condition."""

    def put_object(
        self, key: str, body: Any, *, if_match: str = "", if_none_match: str = "", **more: Any
    ) -> str:
        refuse_conditions(if_match, if_none_match)
        return super().put_object(key, body, **more)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        refuse_conditions(if_match)
        super().delete_object(key)

    def delete_objects(self, keys: Any, *, if_match: Any = None) -> Any:
        refuse_conditions(*(if_match or {}).values())
        return super().delete_objects(keys)


class _RefusesKeys(_RefusesConditions):
    """Answers 501 for each key of a batch that has a condition."""

    def delete_objects(self, keys: Any, *, if_match: Any = None) -> Any:
        failed = {key: UnsupportedOperationError("501", key=key) for key in keys if (if_match or {}).get(key)}
        return failed | super().delete_objects([key for key in keys if key not in failed])


class _NeverMatches(MemoryBackend):
    """Lets no condition hold."""

    def put_object(self, key: str, body: Any, **more: Any) -> str:
        if more.get("if_match") or more.get("if_none_match"):
            raise PreconditionFailedError("412", key=key)
        return super().put_object(key, body, **more)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        if if_match:
            raise PreconditionFailedError("412", key=key)
        super().delete_object(key)


class _WithoutEtags(MemoryBackend):
    """Gives no ETags, so that no condition could be asked for."""

    def put_object(self, key: str, body: Any, **more: Any) -> str:
        super().put_object(key, body, **more)
        return ""

    def list_objects(self, *args: Any, **more: Any) -> Any:
        for page in super().list_objects(*args, **more):
            yield ListPage(tuple(replace(one, etag="") for one in page.objects))


class _WithoutCopies(MemoryBackend):
    """Has the method and no such request behind it."""

    def copy_object(self, source_key: str, destination_key: str, **_: Any) -> str:
        raise CopyNotSupportedError("501", key=destination_key or source_key)


class _CopiesNothing(MemoryBackend):
    """Says that it has copied."""

    def copy_object(self, source_key: str, destination_key: str, **_: Any) -> str:
        return super().put_object(destination_key, source_key.encode())


CONDITIONS = {
    Capability.CONDITIONAL_PUT,
    Capability.CONDITIONAL_DELETE,
    Capability.CONDITIONAL_BULK_DELETE,
}


@pytest.mark.parametrize(
    ("store", "lacks"),
    [
        (MemoryBackend, set()),
        (_IgnoresPut, {Capability.CONDITIONAL_PUT}),
        (_IgnoresIfMatch, {Capability.CONDITIONAL_PUT}),
        (_IgnoresDelete, {Capability.CONDITIONAL_DELETE}),
        (_IgnoresBatch, {Capability.CONDITIONAL_BULK_DELETE}),
        (_SaysAndDeletes, {Capability.CONDITIONAL_BULK_DELETE}),
        (_RefusesConditions, CONDITIONS),
        (_RefusesKeys, CONDITIONS),
        (_NeverMatches, CONDITIONS),
        (_WithoutEtags, CONDITIONS),
        (_WithoutCopies, {Capability.COPY}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_probe_claims_what_it_saw(store: type[MemoryBackend], lacks: set[Capability]) -> None:
    """What a store ignores, refuses or does otherwise than asked is not claimed, and is no failure."""
    assert lacks == missing(store())
    assert lacks == missing(FaultBackend(store()))


def test_probe_notices_a_copy_of_something_else() -> None:
    """That is a store that cannot be trusted, not one without copies."""
    store = _CopiesNothing()
    with pytest.raises(CorruptObjectError):
        probe_backend(store)
    assert [] == keys_of(store.list_objects())


@pytest.mark.parametrize(
    "operation", [Operation.PUT, Operation.GET, Operation.LIST_PAGE, Operation.DELETE_MANY]
)
def test_probe_fails_with_what_must_work(operation: Operation) -> None:
    """An error of these, whatever it is, comes out as it is."""
    failure = PermissionDeniedError("simulated")
    store = MemoryBackend()
    fault = Fault(operations=frozenset({operation}), times=0, error=lambda: failure)
    with pytest.raises(PermissionDeniedError) as caught:
        probe_backend(FaultBackend(store, fault))
    assert failure is caught.value
    assert [] == keys_of(store.list_objects())


def test_probe_bears_that_copies_are_forbidden() -> None:
    """What a store need not have may be forbidden as well."""
    fault = Fault(operations=frozenset({Operation.COPY}), times=0, error=lambda: PermissionDeniedError("x"))
    assert {Capability.COPY} == missing(FaultBackend(MemoryBackend(), fault))


def test_probe_without_writing() -> None:
    """Nothing is changed; reading is claimed only where something was read."""
    counting = CountingBackend(MemoryBackend())
    assert (Capability.LIST,) == probe_backend(counting, write=False).capabilities
    counting.inner.put_object("a", b"")
    counting.calls.clear()
    assert (Capability.READ, Capability.LIST) == probe_backend(counting, write=False).capabilities
    assert {Operation.HEAD, Operation.LIST_PAGE, Operation.GET, Operation.SERVER_TIME} == set(counting.counts)
    assert 1 == counting.counts[Operation.HEAD]
    assert 0 == counting.open_bodies


class _Looks(MemoryBackend):
    """Answers HEAD with an error, and may refuse what else is tried."""

    def __init__(self, look: StorageError, rest: StorageError | None = None) -> None:
        super().__init__()
        self.look, self.rest = look, rest
        self.asked: list[str] = []

    def head_object(self, key: str) -> Any:
        assert key.startswith(PROBE_PREFIX)
        self.asked.append("head")
        raise self.look

    def put_object(self, key: str, body: Any, **more: Any) -> str:
        self.asked.append("put")
        if self.rest is not None:
            raise self.rest
        return super().put_object(key, body, **more)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        self.asked.append("delete")
        super().delete_object(key, if_match=if_match)

    def list_objects(self, *args: Any, **more: Any) -> Any:
        self.asked.append("list")
        if self.rest is not None:
            raise self.rest
        return super().list_objects(*args, **more)


@pytest.mark.parametrize("write", [True, False])
def test_probe_fails_where_only_a_look_is_refused(write: bool) -> None:
    """As by a store of another region: later requests work, since the SDK has learned the right one."""
    store = _Looks(StorageError("400"))
    with pytest.raises(StorageError) as caught:
        probe_backend(store, write=write)
    assert store.look is caught.value
    assert ["head", *(["put", "delete", "delete"] if write else ["list"])] == store.asked
    assert [] == keys_of(MemoryBackend.list_objects(store))


@pytest.mark.parametrize("write", [True, False])
def test_probe_tells_the_error_that_has_a_text(write: bool) -> None:
    """Where all is refused, an answer to HEAD is the one that says least."""
    store = _Looks(StorageError("400"), UnauthenticatedError("the session token has expired"))
    with pytest.raises(UnauthenticatedError) as caught:
        probe_backend(store, write=write)
    assert store.rest is caught.value


@pytest.mark.parametrize("write", [True, False])
def test_probe_bears_that_a_look_at_nothing_is_forbidden(write: bool) -> None:
    """Who may not list is told so instead of "not found"."""
    store = _Looks(PermissionDeniedError("403"))
    assert Capability.LIST in probe_backend(store, write=write).capabilities
    assert "head" == store.asked[0]


@pytest.mark.parametrize("write", [True, False])
def test_probe_of_a_store_that_does_not_answer_waits_once(write: bool) -> None:
    """After an error that may pass nothing else is tried, and there is nothing to clean up."""
    store = _Looks(StorageTimeoutError("no answer"))
    with pytest.raises(StorageTimeoutError):
        probe_backend(store, write=write)
    assert ["head"] == store.asked


def test_probe_of_a_directory_leaves_no_trace(tmp_path: Path) -> None:
    """Not even the directory for our own objects."""
    probe_backend(FileBackend(tmp_path))
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("timing", list(Timing))
def test_probe_cleans_up_after_any_failure(timing: Timing) -> None:
    """A failure that may pass comes out as it is, of any request; nothing stays, though answers get lost."""
    counting = CountingBackend(MemoryBackend())
    probe_backend(counting)
    passed = 0
    for nth in range(1, counting.total + 1):
        failure = UnavailableError("simulated")
        store = MemoryBackend()
        fault = Fault(nth=nth, timing=timing, error=lambda failure=failure: failure)
        raised: BaseException | None = None
        try:
            probe_backend(FaultBackend(store, fault))
        except UnavailableError as error:
            raised = error
        assert raised in {None, failure}
        passed += raised is None
        assert [] == keys_of(store.list_objects()), counting.calls[nth - 1]
    # Three requests are to be refused and one finds nothing: these have no answer to lose.
    assert (4 if timing is Timing.AFTER else 0) == passed


def test_probe_notices_a_store_that_lies() -> None:
    """One that returns other bytes, or does not list what it took, is not ready."""

    class Liar(MemoryBackend):
        def get_object(self, key: str, *, range_header: str = "") -> object:
            self.put_object(key, b"something else")
            return super().get_object(key, range_header=range_header)

    class Hider(MemoryBackend):
        def list_objects(self, *_: object, **__: object) -> object:
            return super().list_objects("elsewhere/")

    for store, error in ((Liar(), CorruptObjectError), (Hider(), StorageError)):
        with pytest.raises(error):
            probe_backend(store)
        assert [] == keys_of(MemoryBackend.list_objects(store, PROBE_PREFIX))


# ---- faults


def test_nothing_planned_nothing_fails() -> None:
    """Without a fault the wrapper is the backend; it has batches exactly when the backend has."""
    assert isinstance(FaultBackend(MemoryBackend()), BatchDeleter)
    assert isinstance(CountingBackend(MemoryBackend()), BatchDeleter)
    assert not isinstance(FaultBackend(WithoutBatches()), BatchDeleter)
    assert not isinstance(CountingBackend(WithoutBatches()), BatchDeleter)
    assert isinstance(FaultBackend(CountingBackend(MemoryBackend())), BatchDeleter)


def timed_out() -> StorageTimeoutError:
    """Return a fresh error."""
    return StorageTimeoutError("simulated")


def test_nth_call_of_its_kind() -> None:
    """Only matching calls are counted, and so many fail."""
    store = FaultBackend(
        MemoryBackend(),
        Fault(nth=2, times=2, operations=frozenset({Operation.PUT}), key_contains="run-1/", error=timed_out),
    )
    outcomes: list[bool] = []
    for key in ("run-1/a", "run-2/a", "run-1/b", "run-2/b", "run-1/c", "run-1/d"):
        try:
            store.put_object(key, b"")
            outcomes.append(True)
        except StorageTimeoutError:
            outcomes.append(False)
    store.head_object("run-1/a")
    assert [True, True, False, True, False, True] == outcomes
    assert 2 == store.struck


def test_faults_for_ever() -> None:
    """``times=0`` never ends."""
    store = FaultBackend(MemoryBackend(), Fault(times=0))
    for _ in range(5):
        with pytest.raises(UnavailableError):
            store.server_time()


def test_lost_answers() -> None:
    """The whole effect, and still an error."""
    inner = MemoryBackend()
    store = FaultBackend(inner, Fault(timing=Timing.AFTER, times=0))
    with pytest.raises(UnavailableError):
        store.put_object("a", b"x")
    assert ["a"] == keys_of(inner.list_objects())
    with pytest.raises(UnavailableError):
        store.get_object("a")
    with pytest.raises(UnavailableError):
        store.delete_object("a")
    assert [] == keys_of(inner.list_objects())


def test_half_of_a_batch() -> None:
    """Some are gone, and the caller is told of none."""
    inner = MemoryBackend()
    for key in "abcd":
        inner.put_object(key, b"")
    store = FaultBackend(inner, Fault(timing=Timing.HALFWAY))
    assert isinstance(store, BatchDeleter)
    with pytest.raises(UnavailableError):
        store.delete_objects(["a", "b", "c", "d"])
    assert ["c", "d"] == keys_of(inner.list_objects())


@pytest.mark.parametrize("size", [-1, 3, 100])
def test_half_of_a_body(size: int) -> None:
    """The first half comes, then the error."""
    inner = MemoryBackend()
    inner.put_object("a", bytes(10))
    store = FaultBackend(inner, Fault(timing=Timing.HALFWAY))
    read: list[bytes] = []
    with store.get_object("a") as found, pytest.raises(UnavailableError):
        read.extend(iter(partial(found.read, size), b""))
    assert read == ([] if size == -1 else [bytes(3), bytes(2)] if size == 3 else [bytes(5)])


def test_each_page_is_a_call() -> None:
    """A listing can fail between its pages, also on the one that finds no more."""
    inner = MemoryBackend()
    for key in "abc":
        inner.put_object(key, b"")
    for nth, expected in ((1, []), (2, ["a"]), (4, ["a", "b", "c"])):
        store = FaultBackend(inner, Fault(nth=nth, operations=frozenset({Operation.LIST_PAGE})))
        seen: list[str] = []
        pages = store.list_objects(page_size=1)
        with pytest.raises(UnavailableError):
            deque((seen.append(page.objects[0].key) for page in pages), maxlen=0)
        assert expected == seen


def test_a_dead_process_does_nothing_more() -> None:
    """After a crash no handler, however well meant, reaches the store."""
    inner = MemoryBackend()
    store = FaultBackend(inner, Fault.crash(1, Timing.AFTER))

    def careful() -> None:
        try:
            store.put_object("a", b"")
        finally:
            store.delete_object("a")

    with pytest.raises(SimulatedCrash):
        careful()
    assert ["a"] == keys_of(inner.list_objects())
    assert not issubclass(SimulatedCrash, Exception)


def test_crash_points_cover_every_call() -> None:
    """Each call, before, halfway and after; the scenario never survives one."""

    def scenario(store: FaultBackend | CountingBackend) -> None:
        for key in "abc":
            store.put_object(key, b"x")
        for page in store.list_objects(page_size=2):
            store.delete_objects([one.key for one in page.objects])

    counting = CountingBackend(MemoryBackend())
    scenario(counting)
    assert 3 + 3 + 2 == counting.total
    assert ["a", "b", "c"] == counting.deleted_keys()
    left: list[int] = []
    for fault in crash_points(counting.total):
        inner = MemoryBackend()
        with pytest.raises(SimulatedCrash):
            scenario(FaultBackend(inner, fault))
        left.append(len(keys_of(inner.list_objects())))
    assert 24 == len(left)
    assert {0, 1, 2, 3} == set(left)


def test_counting_notices_bodies_left_open() -> None:
    """A leak of connections shows in tests before it shows in production."""
    store = CountingBackend(MemoryBackend())
    store.put_object("a", b"x")
    first, second = store.get_object("a"), store.get_object("a")
    assert b"x" == first.read()
    first.close()
    first.close()
    assert 1 == store.open_bodies
    second.close()
    assert 0 == store.open_bodies


class _Versions(MemoryBackend):
    """Answers, or raises, when it is asked whether it keeps old versions."""

    def __init__(self, answer: bool | StorageError) -> None:
        super().__init__()
        self.answer = answer
        self.asked = 0

    def is_versioned(self) -> bool:
        """Answer as told."""
        self.asked += 1
        if isinstance(self.answer, StorageError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "versioned"),
    [
        (True, True),
        (False, False),
        (PermissionDeniedError("403"), None),
        (UnsupportedOperationError("501"), None),
        (UnavailableError("503"), None),
    ],
)
@pytest.mark.parametrize("write", [True, False])
def test_old_versions_are_a_fact_and_never_a_failure(
    answer: bool | StorageError, versioned: bool | None, write: bool
) -> None:
    """Asked once, behind decorators too; who may not ask is told that it is not known."""
    store = _Versions(answer)
    report = probe_backend(CountingBackend(store), write=write)

    assert (versioned, 1) == (report.versioned, store.asked)
    assert (*report.capabilities, *(["Versioned"] if versioned else [])) == report.words


def test_a_store_that_cannot_be_asked_about_versions() -> None:
    """Is not taken for one without."""
    assert probe_backend(MemoryBackend()).versioned is None
