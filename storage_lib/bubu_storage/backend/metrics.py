"""Counting what goes to a store and comes back, for Prometheus.

`MetricsBackend` is a decorator. Put it outside a circuit breaker and requests that the breaker
held back are counted too (``circuit_open``); put it inside a cache and only real requests are.

Bytes are counted as they pass: of a body that is read, each piece, also of a part or of one that
is left half-read; of a stream that is written, each piece that the store took; of bytes in memory
all of them, once they are stored. A copy inside the store moves none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import IO, TypeVar, cast

from bubu_storage.backend.decorator import BackendDecorator, Call, Operation, WrappedBody
from bubu_storage.backend.types import Body, GetObjectResult, ObjectBackend
from bubu_storage.observability import READ_BODY, Direction, Status, StorageMetrics, status_of
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["MetricsBackend"]

_T = TypeVar("_T")


class MetricsBackend(BackendDecorator):
    """Counts requests, their durations and their bytes, and is otherwise the wrapped backend.

    Args:
        inner: the backend that does the work.
        metrics: where to count.
    """

    def __init__(self, inner: ObjectBackend, metrics: StorageMetrics) -> None:
        super().__init__(inner)
        self._metrics = metrics

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        operation = call.operation
        started = perf_counter()
        try:
            answer = act()
        except BaseException as error:
            self._metrics.observe_operation(operation, status_of(error), perf_counter() - started)
            raise
        seconds = perf_counter() - started
        left_some = operation is Operation.DELETE_MANY and bool(answer)
        self._metrics.observe_operation(operation, Status.PARTIAL if left_some else Status.OK, seconds)
        if isinstance(answer, GetObjectResult):
            return cast("_T", _CountedBody(answer, self._metrics).result())
        return answer

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Pass on `ObjectBackend.put_object` and count the body."""
        in_memory = isinstance(body, (bytes, bytearray, memoryview))
        etag = super().put_object(
            key,
            body if in_memory else self._counted(body),
            size_bytes=size_bytes,
            content_type=content_type,
            metadata=metadata,
            if_match=if_match,
            if_none_match=if_none_match,
        )
        if in_memory:
            self._metrics.add_bytes(Direction.WRITE, memoryview(body).nbytes)
        return etag

    def _counted(self, body: IO[bytes] | Iterable[bytes]) -> Body:
        if hasattr(body, "read"):
            return cast("IO[bytes]", _CountedSource(cast("IO[bytes]", body), self._metrics))
        if isinstance(body, str) or not hasattr(body, "__iter__"):
            return body  # the backend says what is wrong with it
        return self._counted_pieces(body)

    def _counted_pieces(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece  # first, since the backend says what is wrong with one that is not bytes
            self._metrics.add_bytes(Direction.WRITE, memoryview(piece).nbytes)


class _CountedSource:
    """A file to be stored, of which only `read` is used."""

    def __init__(self, file: IO[bytes], metrics: StorageMetrics) -> None:
        self._file = file
        self._metrics = metrics

    def read(self, size: int = -1, /) -> bytes:
        """Read on and count."""
        data = self._file.read(size)
        if data:
            self._metrics.add_bytes(Direction.WRITE, len(data))
        return data


class _CountedBody(WrappedBody):
    """A body from the store that counts what is read of it, and whether it breaks off."""

    def __init__(self, inner: GetObjectResult, metrics: StorageMetrics) -> None:
        super().__init__(inner)
        self._metrics = metrics

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = super().read(size)
        except Exception as error:
            self._metrics.count_operation(READ_BODY, status_of(error))
            raise
        self._metrics.add_bytes(Direction.READ, len(data))
        return data
