"""The base of all decorators: a backend that passes each call to another one.

Metrics, circuit breaker, prefix, delay and faults are decorators: each takes one backend and
is one, so they stack in any order. A subclass overrides `BackendDecorator._around`, through
which every request goes (one page of a listing is one request), or a method. The methods of the
optional capabilities are overridden by `BackendDecorator._delete_objects` and `_copy_object`: a
class with the public names would claim capabilities that its wrapped backend may lack.

Invariants: a decorator has an optional capability (`BatchDeleter`, `BackendCopier`) exactly
when the wrapped backend has it, so ``isinstance`` tells the truth (a circuit breaker alone always
has ``copy_object``, as in the Go package: `bubu_storage.backend.breaker.can_copy` looks behind it);
`unwrap` gives the next layer, and `innermost` the concrete backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import IO, Any, Self, TypeVar, cast

from bubu_storage.backend.body_stream import ReadOnlyBody
from bubu_storage.backend.types import (
    BackendCopier,
    BatchDeleter,
    Body,
    GetObjectResult,
    ListPage,
    ObjectBackend,
    ObjectInfo,
)
from bubu_storage.errors import StorageError
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["BackendDecorator", "Call", "Operation", "WrappedBody", "innermost"]

_T = TypeVar("_T")


class Operation(StrEnum):
    """What a backend was asked to do."""

    PUT = "put_object"
    GET = "get_object"
    HEAD = "head_object"
    DELETE = "delete_object"
    DELETE_MANY = "delete_objects"
    COPY = "copy_object"
    LIST_PAGE = "list_page"
    SERVER_TIME = "server_time"


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        operation: what.
        key: on which object; the prefix of a listing, the destination of a copy, "" of a batch.
        keys: the keys of a batch.
        if_match: the ETags that a batch names, by key.
        source_key: of a copy.
    """

    operation: Operation
    key: str
    keys: tuple[str, ...] = ()
    if_match: Mapping[str, str] | None = field(default=None, hash=False)
    source_key: str = ""


class BackendDecorator:
    """A backend that passes each call to another one through `_around`.

    Args:
        inner: the backend that does the work.

    Attributes:
        inner: as given.
    """

    def __new__(cls, inner: ObjectBackend, *args: Any, **kwargs: Any) -> Self:  # noqa: D102 - see the class
        del args, kwargs
        batches, copies = isinstance(inner, BatchDeleter), isinstance(inner, BackendCopier)
        return super().__new__(cast("type[Self]", _variant(cls, batches, copies)))

    def __init__(self, inner: ObjectBackend) -> None:
        self.inner = inner

    def unwrap(self) -> ObjectBackend:
        """Return the wrapped backend: one layer (Go: Unwrap)."""
        return self.inner

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        """Make one request; what a decorator adds goes around ``act()``."""
        del call
        return act()

    @property
    def name(self) -> str:
        """Name of the wrapped backend."""
        return self.inner.name

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
        """Pass on `ObjectBackend.put_object`."""
        return self._around(
            Call(Operation.PUT, key),
            lambda: self.inner.put_object(
                key,
                body,
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                if_match=if_match,
                if_none_match=if_none_match,
            ),
        )

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Pass on `ObjectBackend.get_object`."""
        return self._around(
            Call(Operation.GET, key),
            lambda: self.inner.get_object(key, range_header=range_header, if_match=if_match),
        )

    def head_object(self, key: str) -> ObjectInfo:
        """Pass on `ObjectBackend.head_object`."""
        return self._around(Call(Operation.HEAD, key), lambda: self.inner.head_object(key))

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Pass on `ObjectBackend.delete_object`."""
        self._around(Call(Operation.DELETE, key), lambda: self.inner.delete_object(key, if_match=if_match))

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Pass on `ObjectBackend.list_objects`; each page is a call, also the one that finds no more."""
        return self._pages(
            prefix, self.inner.list_objects(prefix, start_after=start_after, page_size=page_size)
        )

    def _pages(self, prefix: str, pages: Iterator[ListPage]) -> Iterator[ListPage]:
        call = Call(Operation.LIST_PAGE, prefix)
        while (page := self._around(call, lambda: next(pages, None))) is not None:
            yield page

    def _delete_objects(
        self, keys: Sequence[str], if_match: Mapping[str, str] | None
    ) -> dict[str, StorageError]:
        """Make a batch deletion; only called where the wrapped backend has them."""
        inner = cast("BatchDeleter", self.inner)
        return self._around(
            Call(Operation.DELETE_MANY, "", tuple(keys), if_match),
            lambda: inner.delete_objects(keys, if_match=if_match),
        )

    def _copy_object(
        self, source_key: str, destination_key: str, content_type: str, metadata: Mapping[str, str] | None
    ) -> str:
        """Make a copy; only called where the wrapped backend has them."""
        inner = cast("BackendCopier", self.inner)
        return self._around(
            Call(Operation.COPY, destination_key, source_key=source_key),
            lambda: inner.copy_object(
                source_key, destination_key, content_type=content_type, metadata=metadata
            ),
        )

    def server_time(self) -> datetime:
        """Pass on `ObjectBackend.server_time`."""
        return self._around(Call(Operation.SERVER_TIME, ""), self.inner.server_time)

    def close(self) -> None:
        """Close the wrapped backend."""
        self.inner.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self.inner!r}>"


def innermost(backend: ObjectBackend) -> ObjectBackend:
    """Return the concrete backend below all decorators."""
    while isinstance(backend, BackendDecorator):
        backend = backend.unwrap()
    return backend


class WrappedBody(ReadOnlyBody):
    """The base of bodies that a decorator puts around a body; override `read` or `close`.

    Args:
        inner: the open object; closed with this one.
    """

    def __init__(self, inner: GetObjectResult) -> None:
        super().__init__()
        self._inner = inner

    def result(self) -> GetObjectResult:
        """Return the open object with this body in place of its own."""
        return GetObjectResult(
            self._inner.info, cast("IO[bytes]", self), content_range=self._inner.content_range
        )

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left."""
        return self._inner.read(-1 if size is None else size)

    def close(self) -> None:
        """Close the wrapped body; twice is fine."""
        if not self.closed:
            try:
                self._inner.close()
            finally:
                super().close()


class _Batches(BackendDecorator):
    """What a decorator gains from a wrapped `BatchDeleter`."""

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Pass on `BatchDeleter.delete_objects`."""
        return self._delete_objects(keys, if_match)


class _Copies(BackendDecorator):
    """What a decorator gains from a wrapped `BackendCopier`."""

    def copy_object(
        self,
        source_key: str,
        destination_key: str,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Pass on `BackendCopier.copy_object`."""
        return self._copy_object(source_key, destination_key, content_type, metadata)


@cache
def _variant(cls: type[BackendDecorator], batches: bool, copies: bool) -> type[BackendDecorator]:
    """Return ``cls`` with the methods of the capabilities; the class's own come first."""
    extra = (*([_Batches] if batches else []), *([_Copies] if copies else []))
    wanted = tuple(one for one in extra if not issubclass(cls, one))
    if not wanted:
        return cls
    facts = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    bases = wanted if cls is BackendDecorator else (cls, *wanted)  # theirs already
    return cast("type[BackendDecorator]", type(cls.__name__, bases, facts))
