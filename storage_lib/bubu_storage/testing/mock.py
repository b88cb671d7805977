"""A manager for tests: real behaviour on a store in memory, a record of calls, failures on demand.

::

    def test_my_step_says_what_failed():
        with MockStorageManager() as storage:
            storage.fail("hydrate", key="outputs/team/run/rows.json", error=UnavailableError("down"))
            assert my_step(storage, document) == "try again"
            assert [call.operation for call in storage.calls] == ["hydrate"]

It is a `StorageManager`, so it takes and returns whatever that does; documents really are
dehydrated and hydrated. Nothing outside the process is ever contacted, whatever the settings or
the environment name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bubu_storage.backend.decorator import BackendDecorator, Call
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError, UnavailableError
from bubu_storage.lifetime import BackendHandle
from bubu_storage.manager import StorageManager
from bubu_storage.payload.kube import KubeRefResolver
from bubu_storage.payload.paths import clean_path
from bubu_storage.settings import ManagerSettings

if TYPE_CHECKING:
    from bubu_storage.observability import StorageMetrics

__all__ = ["ManagerCall", "MockStorageManager", "PlannedFailure"]

_T = TypeVar("_T")

OPERATIONS: Final = (
    "dehydrate",
    "dehydrate_inputs",
    "hydrate",
    "hydrate_storage_refs_only",
    "read_blob",
    "write_blob",
    "get",
    "put",
    "open_blob",
    "delete",
    "list_objects",
)
"""Methods of a manager that are recorded and can fail."""


@dataclass(frozen=True, slots=True)
class ManagerCall:
    """One call of a manager.

    Attributes:
        operation: name of the method.
        target: path, prefix or run id as given; "" for a hydration.
        data: the document or the bytes; the mode of `open_blob`.
    """

    operation: str
    target: str
    data: Any = None


@dataclass(slots=True)
class PlannedFailure:
    """What is to fail; made by `MockStorageManager.fail`.

    Attributes:
        operation: name of the method; "" for each.
        key: path of the object that it concerns; "" for the call as a whole.
        error: makes the exception to raise.
        times: how often it is still to fail; None for always.
        struck: how often it has failed so far.
    """

    operation: str
    key: str
    error: Callable[[], BaseException]
    times: int | None
    struck: int = field(default=0, init=False)

    def strikes(self, operation: str, key: str) -> bool:
        """Tell whether this is what is to fail, and count it."""
        if self.operation not in {"", operation} or self.key != key or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        self.struck += 1
        return True


class MockStorageManager(StorageManager):
    """A `StorageManager` in memory that records its calls and fails as told (Go: MockManager).

    Args:
        settings: limits and prefixes; defaults when None. Their ``backend`` is not opened.
        backend: another store than an empty one in memory.
        kube_resolver, max_workers, metrics: as for `StorageManager`.

    Attributes:
        calls: all calls in order, also those that failed.
    """

    def __init__(
        self,
        settings: ManagerSettings | None = None,
        backend: ObjectBackend | None = None,
        *,
        kube_resolver: KubeRefResolver | None = None,
        max_workers: int | None = None,
        metrics: StorageMetrics | None = None,
    ) -> None:
        self.calls: list[ManagerCall] = []
        self._failures: list[PlannedFailure] = []
        self._failures_lock = threading.Lock()
        super().__init__(
            settings or ManagerSettings(),
            MemoryBackend() if backend is None else backend,
            kube_resolver=kube_resolver,
            max_workers=max_workers,
            metrics=metrics,
        )
        self._holder.current.local = backend is None

    def fail(
        self,
        operation: str = "",
        *,
        key: str = "",
        error: BaseException | type[BaseException] | Callable[[], BaseException] | None = None,
        times: int | None = 1,
    ) -> PlannedFailure:
        """Let coming calls fail.

        Args:
            operation: name of the method, as ``hydrate``; "" for each.
            key: path of an object: the call fails when it comes to read, write, delete or list
                it, so what it did before stays done. "" fails the call at its beginning.
            error: the exception, its class, or what makes it; by default an `UnavailableError`.
            times: how often; None for always.

        Returns:
            The plan, whose ``struck`` tells how often it came true.

        Raises:
            ConfigurationError: there is no such operation, or ``times`` is negative.
        """
        if operation and operation not in OPERATIONS:
            raise ConfigurationError(f"operation is {operation!r}; it must be one of {', '.join(OPERATIONS)}")
        if times is not None and times < 0:
            raise ConfigurationError(f"times is {times}; it must be 0 or more, or None for always")
        planned = PlannedFailure(operation, clean_path(key) if key else "", _maker(error), times)
        with self._failures_lock:
            self._failures.append(planned)
        return planned

    def recover(self) -> None:
        """Let nothing fail any more."""
        with self._failures_lock:
            self._failures.clear()

    def calls_of(self, operation: str) -> list[ManagerCall]:
        """Return the calls of one method, in order."""
        return [call for call in self.calls if call.operation == operation]

    @property
    def objects(self) -> Mapping[str, bytes]:
        """Everything in the store, by key; looking is not recorded."""
        found: dict[str, bytes] = {}
        for page in self.backend.list_objects():
            for item in page.objects:
                with self.backend.get_object(item.key) as body:
                    found[item.key] = body.read()
        return found

    def _begin(self, operation: str, target: str, data: object = None) -> None:
        self.calls.append(ManagerCall(operation, target, data))
        self._maybe_fail(operation, "")

    def _backend_for(self, handle: BackendHandle, operation: str) -> ObjectBackend:
        backend = super()._backend_for(handle, operation)
        return _FailingBackend(backend, lambda key: self._maybe_fail(operation, key))

    def _maybe_fail(self, operation: str, key: str) -> None:
        with self._failures_lock:
            hit = next((one for one in self._failures if one.strikes(operation, key)), None)
        if hit is not None:
            raise hit.error()


class _FailingBackend(BackendDecorator):
    """Asks before each request whether it is to fail."""

    def __init__(self, inner: ObjectBackend, check: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._check = check

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        for key in call.keys or (call.key,):
            if key:
                self._check(key.rstrip("/"))
        return act()


def _maker(
    error: BaseException | type[BaseException] | Callable[[], BaseException] | None,
) -> Callable[[], BaseException]:
    text = "simulated failure of the store"
    if error is None:
        return lambda: UnavailableError(text)
    if isinstance(error, type):
        return lambda: error(text)
    if isinstance(error, BaseException):
        return lambda: error
    return error
