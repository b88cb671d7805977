"""A store behind a descriptor: an `ObjectBackend` whose requests an agent executes elsewhere.

Many requests may be under way at once; answers come in any order. The engine sees a store like
any other, and nothing of Jobs, tokens or TLS.

Invariants: keys, conditions and sizes are checked here before anything is sent; what the agent says is
read as something from outside; what deletes or writes is tried once, and looks at the leadership right
before it leaves.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import cast

from bubu_operator.jobpass.agent_channel import AgentChannel, object_of, ok_of
from bubu_operator.jobpass.frames import MAX_BODY_BYTES, Frame, FrameError
from bubu_operator.jobpass.remote_stream import RemoteStream
from bubu_operator.jobpass.wire import (
    field_of,
    info_from_wire,
    list_from_wire,
    read_error,
    time_from_wire,
)
from bubu_operator.kube.resources import JsonObject
from bubu_storage.backend.bodies import check_size, chunks
from bubu_storage.backend.checks import (
    check_batch,
    check_conditions,
    check_key,
    check_page_size,
    check_prefix,
)
from bubu_storage.backend.last_look import LastLook
from bubu_storage.backend.types import Body, GetObjectResult, ListPage, ObjectInfo
from bubu_storage.errors import (
    InvalidKeyError,
    LimitExceededError,
    StorageError,
)
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["RemoteBackend"]


class RemoteBackend:
    """The store of an agent; thread-safe.

    Args:
        channel: to the agent; closed with this object.
        chunk_bytes: most that is read of an object at a time.
    """

    def __init__(self, channel: AgentChannel, *, chunk_bytes: int = MAX_BODY_BYTES) -> None:
        self._channel = channel
        self._chunk_bytes = chunk_bytes
        self._listings = itertools.count(1)
        self._last_look = LastLook()

    @property
    def name(self) -> str:
        """As the controller calls the store."""
        return self._channel.name

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
        """Store a small object; see `ObjectBackend.put_object`.

        Raises:
            LimitExceededError: the body is larger than a frame may be.
            StorageError: any other of the tree.
        """
        check_key(key)
        check_conditions(if_match, if_none_match)
        data = bytearray()
        for piece in chunks(body):
            data += piece
            if len(data) > MAX_BODY_BYTES or (size_bytes is not None and len(data) > size_bytes):
                break
        check_size(stored=len(data), expected=size_bytes, key=key)
        if len(data) > MAX_BODY_BYTES:
            raise LimitExceededError(
                f"{key!r} has more than {MAX_BODY_BYTES} bytes, the most that goes through an agent", key=key
            )
        fields: JsonObject = {
            "key": key,
            "type": content_type,
            "metadata": dict(metadata or {}),
            "if_match": if_match,
            "if_none_match": if_none_match,
        }
        return self._read_field(self._channel.call("put", fields, bytes(data)), "etag")

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        check_conditions(if_match)
        info, content_range, data = self._get(key, range_header, if_match)
        stream = RemoteStream(self._get, info, content_range, data)
        return GetObjectResult(info, io.BufferedReader(stream), content_range=content_range)

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object; see `ObjectBackend.head_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        answer = self._channel.ask("head", {"key": key})
        return self._channel.parse(lambda: info_from_wire(ok_of(answer).get("info")))

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; see `ObjectBackend.delete_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        check_conditions(if_match)
        self._channel.call("delete", {"key": key, "if_match": if_match}, look=self._last_look.ask)

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects; see `BatchDeleter.delete_objects`.

        Raises:
            StorageError: any of the tree.
        """
        failed: dict[str, StorageError] = {}
        good: list[str] = []
        for key in check_batch(keys):
            try:
                good.append(check_key(key))
            except InvalidKeyError as error:
                failed[key] = error
        if not good:
            return failed
        conditions = {key: etag for key, etag in (if_match or {}).items() if etag}
        for etag in conditions.values():
            check_conditions(etag)
        answer = self._channel.call(
            "delete_many", {"keys": good, "if_match": conditions}, look=self._last_look.ask
        )
        return failed | self._channel.parse(lambda: _failures(answer, set(good)))

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Ask right before each deletion leaves for the agent; see `GuardsDeletions.guard_deletions`."""
        return self._last_look.guard(check)

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return self._pages(prefix, start_after, page_size)

    def _pages(self, prefix: str, start_after: str, page_size: int) -> Iterator[ListPage]:
        listing, after = next(self._listings), start_after
        while True:
            fields: JsonObject = {"prefix": prefix, "after": after, "size": page_size, "listing": listing}
            answer = self._channel.ask("list", fields)
            found = self._channel.parse(
                lambda answer=answer: list_from_wire(ok_of(answer).get("page"), page_size)
            )
            if not found:
                return
            yield ListPage(found)
            after = found[-1].key

    def server_time(self) -> datetime:
        """Return the store's own clock; see `ObjectBackend.server_time`.

        Raises:
            StorageError: any of the tree.
        """
        answer = self._channel.ask("time", {})
        return self._channel.parse(lambda: time_from_wire(ok_of(answer).get("time")))

    def close(self) -> None:
        """End the channel: calls under way fail; twice is fine."""
        self._channel.close()

    def _get(self, key: str, range_header: str, if_match: str) -> tuple[ObjectInfo, str, bytes]:
        fields: JsonObject = {
            "key": key,
            "range": range_header,
            "if_match": if_match,
            "most": self._chunk_bytes,
        }
        answer = self._channel.ask("get", fields)
        info = self._channel.parse(lambda: info_from_wire(ok_of(answer).get("info")))
        return info, self._read_field(answer, "range"), answer.body

    def _read_field(self, answer: Frame, name: str) -> str:
        return cast("str", self._channel.parse(lambda: field_of(ok_of(answer), name, str)))


def _failures(answer: Frame, asked: set[str]) -> dict[str, StorageError]:
    wire = object_of(ok_of(answer).get("failed"))
    if not wire.keys() <= asked:
        raise FrameError("failures of keys that nobody asked about")
    return {key: read_error(object_of(error)) for key, error in wire.items()}
