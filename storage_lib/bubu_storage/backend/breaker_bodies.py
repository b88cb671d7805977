"""Bodies under a circuit breaker: whose fault is it when one breaks?

A body that is read from the store reports to the circuit how it ended; a body on its way to
the store is the caller's, and its errors are told from the store's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from bubu_storage.backend.bodies import chunks
from bubu_storage.backend.circuit import CircuitBreaker, Permit
from bubu_storage.backend.types import Body, GetObjectResult

__all__ = ["GuardedBody", "WatchedSource"]


class WatchedSource(Iterator[memoryview]):
    """Passes a put's body on and remembers what it raised, to tell it from the store's errors.

    Args:
        body: read once, from its current position.
    """

    def __init__(self, body: Body) -> None:
        self._pieces = chunks(body)
        self._raised: BaseException | None = None

    def __next__(self) -> memoryview:
        try:
            return next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self._raised = error
            raise

    def has_caused(self, error: BaseException) -> bool:
        """Tell whether an error is, or comes from, what the body raised."""
        current: BaseException | None = error
        seen: set[int] = set()
        while current is not None and self._raised is not None and id(current) not in seen:
            if current is self._raised:
                return True
            seen.add(id(current))
            current = current.__cause__
        return False


class GuardedBody(io.RawIOBase):
    """The body of a ``get``; reports its end to the circuit, once.

    Args:
        result: what the wrapped backend opened.
        permit: of the request.
        circuit: where to report.
        settle: reports an error and returns what is to be raised.
    """

    def __init__(
        self,
        result: GetObjectResult,
        permit: Permit,
        circuit: CircuitBreaker,
        settle: Callable[[Permit, BaseException], BaseException],
    ) -> None:
        super().__init__()
        self._result = result
        self._left = result.info.size_bytes
        self._permit: Permit | None = permit
        self._circuit = circuit
        self._settle = settle

    def readable(self) -> bool:
        """Tell that this is a source of bytes."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left.

        Raises:
            StorageError: the store breaks off; it counts.
        """
        permit = self._permit
        try:
            data = self._result.read(-1 if size is None else size)
        except BaseException as error:
            self._permit = None
            raised = error if permit is None else self._settle(permit, error)
            if raised is error:
                raise
            raise raised from error
        if permit is not None and size != 0:
            self._left -= len(data)
            if not data or self._left <= 0:
                self._report_success()
            elif permit.is_probe:
                self._permit = self._circuit.succeed(permit)
        return data

    def close(self) -> None:
        """Close the body; what was not read by then is nobody's fault."""
        if not self.closed:
            super().close()
            try:
                self._result.close()
            finally:
                self._report_success()

    def _report_success(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            self._circuit.succeed(permit)
