"""The agent's half of the conversation: one request in, one answer out, on a store of its own.

Invariants: nothing is done that `Rights` refuse; a request that was held up on its way longer than
its sender allows is not begun (the sender has counted it as failed by then, and may not lead any
more); every request has an answer, whatever the store does; answers hold no secret that the redactor
knows; no object and no listing is held beyond one frame.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from bubu_operator.jobpass.frames import MAX_BODY_BYTES, Frame, FrameError
from bubu_operator.jobpass.rights import Rights
from bubu_operator.jobpass.wire import (
    field_of,
    info_to_wire,
    list_to_wire,
    text_map,
    time_to_wire,
    write_error,
)
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.resources import JsonObject
from bubu_operator.kube.scrub import Redactor
from bubu_storage.backend.types import BatchDeleter, ListPage, ObjectBackend
from bubu_storage.errors import (
    BatchDeleteNotSupportedError,
    StorageError,
    StorageTimeoutError,
    UnsupportedOperationError,
)

__all__ = ["Executor"]

MAX_OPEN_LISTINGS: Final = 16
"""Listings that go on where their last page ended; of more the oldest begins anew."""

_Answer = tuple[JsonObject, bytes]


class Executor:
    """Executes requests; thread-safe.

    Args:
        backend: the store; not closed here.
        rights: what may be done.
        redactor: knows the agent's secrets.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        rights: Rights,
        redactor: Redactor,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._backend = backend
        self._rights = rights
        self._redactor = redactor
        self._clock = clock
        self._listings = _Listings()
        self._actions: dict[str, Callable[[JsonObject, bytes], _Answer]] = {
            "hello": self._hello,
            "time": self._time,
            "list": self._list,
            "head": self._head,
            "get": self._get,
            "put": self._put,
            "delete": self._delete,
            "delete_many": self._delete_many,
        }

    def execute(self, request: Frame) -> Frame:
        """Do what a request asks and return the answer, an error included.

        Raises:
            FrameError: this is no request; it cannot even be answered.
        """
        header = request.header
        number = field_of(header, "id", int)
        try:
            answer, body = self._act(header, request.body)
        except FrameError:
            raise
        except StorageError as error:
            return self._frame(number, {"error": self._told(error)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side is waiting for an answer
            # Texts of errors that are not ours may hold anything.
            return self._frame(number, {"error": write_error(error, type(error).__name__)})
        return self._frame(number, {"ok": answer}, body)

    def close(self) -> None:
        """Drop what is open."""
        self._listings.close()

    def _act(self, header: JsonObject, body: bytes) -> _Answer:
        name = field_of(header, "op", str)
        action = self._actions.get(name)
        if action is None:
            raise UnsupportedOperationError("the agent knows no such request; is it of another version?")
        if name != "hello" and (late := self._clock() - field_of(header, "until", float)) > 0:
            raise StorageTimeoutError(
                f"the request reached the agent {late:.1f} s too late; nothing was done"
            )
        return action(header, body)

    def _frame(self, number: int, content: JsonObject, body: bytes = b"") -> Frame:
        return Frame({"id": number, "clock": self._clock(), **content}, body)

    def _told(self, error: StorageError) -> JsonObject:
        return write_error(error, self._redactor.scrub(str(error)))

    # -- requests ------------------------------------------------------------------------

    def _hello(self, _header: JsonObject, _body: bytes) -> _Answer:
        return {"batches": isinstance(self._backend, BatchDeleter)}, b""

    def _time(self, _header: JsonObject, _body: bytes) -> _Answer:
        return {"time": time_to_wire(self._backend.server_time())}, b""

    def _list(self, header: JsonObject, _body: bytes) -> _Answer:
        prefix, after = field_of(header, "prefix", str), field_of(header, "after", str, "")
        size = field_of(header, "size", int)
        self._rights.may_list(prefix)
        listing = field_of(header, "listing", int)
        place = (listing, prefix, after, size)
        pages = self._listings.take(place)
        if pages is None:
            pages = self._backend.list_objects(prefix, start_after=after, page_size=size)
        page = next(pages, None)
        if page is None:
            return {"page": []}, b""
        self._listings.keep((listing, prefix, page.objects[-1].key, size), pages)
        return {"page": list_to_wire(page.objects)}, b""

    def _head(self, header: JsonObject, _body: bytes) -> _Answer:
        key = field_of(header, "key", str)
        self._rights.may_read(key)
        return {"info": info_to_wire(self._backend.head_object(key))}, b""

    def _get(self, header: JsonObject, _body: bytes) -> _Answer:
        key = field_of(header, "key", str)
        most = min(MAX_BODY_BYTES, max(1, field_of(header, "most", int)))
        self._rights.may_read(key)
        found = self._backend.get_object(
            key,
            range_header=field_of(header, "range", str, ""),
            if_match=field_of(header, "if_match", str, ""),
        )
        with found:
            data = bytearray()
            while len(data) < most and (piece := found.read(most - len(data))):
                data += piece
            return {"info": info_to_wire(found.info), "range": found.content_range}, bytes(data)

    def _put(self, header: JsonObject, body: bytes) -> _Answer:
        key = field_of(header, "key", str)
        self._rights.may_put(key)
        etag = self._backend.put_object(
            key,
            body,
            size_bytes=len(body),
            content_type=field_of(header, "type", str, ""),
            metadata=text_map(header, "metadata"),
            if_match=field_of(header, "if_match", str, ""),
            if_none_match=field_of(header, "if_none_match", str, ""),
        )
        return {"etag": etag}, b""

    def _delete(self, header: JsonObject, _body: bytes) -> _Answer:
        key = field_of(header, "key", str)
        self._rights.may_delete([key])
        self._backend.delete_object(key, if_match=field_of(header, "if_match", str, ""))
        return {}, b""

    def _delete_many(self, header: JsonObject, _body: bytes) -> _Answer:
        keys: list[Any] = field_of(header, "keys", list)
        if not all(isinstance(key, str) for key in keys):
            raise FrameError("a key that is no text")
        self._rights.may_delete(cast("list[str]", keys))
        if not isinstance(self._backend, BatchDeleter):
            raise BatchDeleteNotSupportedError(f"{self._backend.name} deletes one object at a time")
        failed = self._backend.delete_objects(keys, if_match=text_map(header, "if_match") or None)
        return {"failed": {key: self._told(error) for key, error in failed.items()}}, b""


_Place = tuple[int, str, str, int]


class _Listings:
    """Listings that somebody may go on with: so that a folder is not walked anew for each page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Place, Iterator[ListPage]] = OrderedDict()

    def take(self, place: _Place) -> Iterator[ListPage] | None:
        with self._lock:
            return self._kept.pop(place, None)

    def keep(self, place: _Place, pages: Iterator[ListPage]) -> None:
        with self._lock:
            before = self._kept.pop(place, None)
            self._kept[place] = pages
            dropped = [before] if before is not None else []
            while len(self._kept) > MAX_OPEN_LISTINGS:
                dropped.append(self._kept.popitem(last=False)[1])
        _close_all(dropped)

    def close(self) -> None:
        with self._lock:
            dropped = list(self._kept.values())
            self._kept.clear()
        _close_all(dropped)


def _close_all(listings: list[Iterator[ListPage]]) -> None:
    for pages in listings:
        close = getattr(pages, "close", None)
        if close is not None:
            with contextlib.suppress(StorageError, OSError):
                close()
