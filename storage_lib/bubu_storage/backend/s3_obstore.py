"""The fast S3 engine: obstore for the requests that matter, the reference engine for the rest.

An `ObstoreBackend` is an `S3Backend` in which whole and single-range reads, writes of bytes that
are in memory, and look-ups go through obstore, at a fifth of the CPU time.
Everything that obstore cannot say exactly as the reference does goes to the reference:
conditions, copies, deletions, listings, streams, unusual keys, ranges and metadata.

The two cannot be told apart but by speed:

* obstore only ever reports success. Whatever else it says, the same request is made again by
  the reference, which judges it, tries again and raises; obstore's own texts, which may quote
  what was sent, go nowhere. All these requests are idempotent and their bodies in memory.
* After such a failure the fast path rests, for longer each time in a row, unless the reference
  finds the request itself to be at fault: a store that is down, throttles or wants something
  that obstore lacks does not pay for two engines.
* A time limit that struck is an attempt: with ``max_attempts`` 1 there is no second one.
* The reference verifies the SHA-256 of what it reads; obstore never tells it, so the MD5 in the
  ETag of a plain object is verified instead. Where it differs the reference reads again, and its
  word counts; ETags that turn out to be something else are no longer looked at.

On the main thread obstore is called from a thread beside it, so that Ctrl-C is heard; uploads in
parts go to the reference there, which takes them back when they are interrupted.

obstore's threads do not survive ``os.fork``: a child that was forked from a process with such a
backend uses the reference for everything.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final, TypeVar, cast

import obstore
from obstore.store import S3Store
from urllib3.exceptions import ConnectTimeoutError, ReadTimeoutError

from bubu_storage.backend.bodies import as_view
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_client import check_settings
from bubu_storage.backend.s3_errors import map_sdk_error
from bubu_storage.backend.s3_obstore_body import ObstoreBody
from bubu_storage.backend.s3_obstore_config import options_for, sdk_reason, why_not
from bubu_storage.backend.s3_obstore_forms import attributes_of, info_of, md5_of, range_options
from bubu_storage.backend.s3_obstore_gate import Forks, Gate, LostError, Slots, interruptible
from bubu_storage.backend.s3_upload import plan_part_size
from bubu_storage.backend.types import Body, GetObjectResult, ObjectInfo, check_key
from bubu_storage.errors import (
    ConfigurationError,
    StorageError,
    StorageTimeoutError,
    TransientError,
    UnavailableError,
)
from bubu_storage.settings import S3Settings
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["ObstoreBackend", "UnsuitedError"]

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

_AT_ONCE_BYTES: Final = 4 * 1024 * 1024
"""Up to this length a body is read whole when it is opened."""

_HANDED_OVER_BYTES: Final = 16 * 1024 * 1024
"""Above this length the reference reads: per byte it costs half of obstore's CPU time, which is worth
a second request."""

_PIECE_BYTES: Final = 256 * 1024
"""Least length of the pieces of a larger one; obstore joins shorter ones, at the price of a copy."""

_CREDENTIALS_SECONDS: Final = 600
"""How long credentials of the SDK's chain are used without asking for them again; the chain renews
them at least as long before they expire."""

_PLAIN_MD5: Final = re.compile(r'"[0-9a-f]{32}"')


class UnsuitedError(ConfigurationError):
    """The settings are good, and obstore cannot do what they ask."""


class ObstoreBackend(S3Backend):
    """An `S3Backend` whose frequent requests are made by obstore; thread-safe.

    Args:
        settings: the bucket and how to reach it. Nothing is contacted here.
        monotonic: clock, in seconds.

    Attributes:
        repeated: requests that obstore did not bring to success and the reference made again.

    Raises:
        ConfigurationError: the settings contradict themselves.
        UnsuitedError: obstore cannot do what they ask.
    """

    def __init__(self, settings: S3Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        check_settings(settings)
        reason = why_not(settings, os.environ)
        if reason:
            raise _unsuited(settings, reason)
        super().__init__(settings)
        try:
            self._store = self._open_store(settings)
        except BaseException:
            super().close()
            raise
        self._wanted = settings
        self._etags_are_md5 = settings.sse != "aws:kms"
        self._puts, self._gets = Gate(monotonic), Gate(monotonic)
        self._heads = Gate(monotonic)
        self._slots = Slots(settings.max_connections)
        self.repeated = 0
        Forks.used = True

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
        """Store a whole object; see `S3Backend.put_object`."""

        def by_reference() -> str:
            return S3Backend.put_object(
                self,
                key,
                body,
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        data = as_view(body)
        if (
            data is None
            or if_match
            or if_none_match
            or not self._may_use(self._puts, key)
            or not data.c_contiguous
            or (len(data) > self._wanted.part_size_bytes and _is_main_thread())
            or (size_bytes is not None and size_bytes != len(data))
        ):
            return by_reference()
        attributes = attributes_of(content_type, metadata)
        if attributes is None:
            return by_reference()
        check_key(key)

        def fast() -> str:
            size = len(data)
            in_parts = size > self._wanted.part_size_bytes
            answer = obstore.put(
                self._store,
                key,
                body if isinstance(body, bytes) else data,
                attributes=attributes,
                use_multipart=in_parts,
                chunk_size=plan_part_size(self._wanted.part_size_bytes, size),
                max_concurrency=self._wanted.concurrency,
            )
            return answer["e_tag"] or ""

        return self._either(self._puts, "written", key, fast, by_reference)

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `S3Backend.get_object`.

        A body of up to 4 MiB has been read when this returns.
        """

        def by_reference() -> GetObjectResult:
            return S3Backend.get_object(self, key, range_header=range_header, if_match=if_match)

        options = range_options(range_header)
        if options is None or if_match or not self._may_use(self._gets, key):
            return by_reference()
        check_key(key)
        return self._either(
            self._gets, "read", key, lambda: self._open(key, range_header, options), by_reference
        )

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object; see `S3Backend.head_object`."""
        if not self._may_use(self._heads, key):
            return super().head_object(key)
        check_key(key)

        def fast() -> ObjectInfo:
            answer = obstore.get(self._store, key, options={"head": True})
            return info_of(key, answer, answer.meta["size"])

        return self._either(self._heads, "looked up", key, fast, lambda: S3Backend.head_object(self, key))

    def close(self) -> None:
        """Close the connections; twice is fine."""
        vars(self).pop("_store", None)  # from now on there is only the reference, closed as well
        super().close()

    # ---- one request, two engines

    def _may_use(self, gate: Gate, key: str) -> bool:
        # obstore would take the slash at an end off, and so mean another object; other paths that
        # it does not like, it refuses.
        return gate.is_open() and not Forks.orphaned and key[-1:] != "/" and key[:1] != "/"

    def _either(
        self, gate: Gate, verb: str, key: str, fast: Callable[[], _T], by_reference: Callable[[], _T]
    ) -> _T:
        try:
            self._take_slot()
            try:
                # Who waited may have waited for a store that hangs: that is for the reference to find out.
                result = interruptible(fast) if gate.is_open() else None
            finally:
                self._slots.give_back()
        except StorageError:
            raise
        except LostError as error:
            lost = error
        except Exception as error:  # noqa: BLE001 - obstore's errors have no common class
            lost = LostError(error)
        else:
            if result is None:
                return by_reference()
            gate.succeeded()
            return result
        # Outside of the handler, so that obstore's error is not in the context of another one.
        self.repeated += 1
        _log.debug("obstore ended with %s; an object that is %s goes to boto3", lost, verb)
        if lost.timed_out and (lost.in_body or self._is_last_attempt(verb)):
            gate.failed()
            raise self._late(verb, key, lost)
        try:
            result = by_reference()
        except TransientError:
            gate.failed()
            raise
        if not lost.is_about_path:
            gate.failed()
        return result

    def _take_slot(self) -> None:
        """Wait for a connection to be free, as long as for an answer."""
        if not self._slots.take(self._wanted.response_timeout_seconds or self._wanted.timeout_seconds):
            raise LostError.without_connection()

    def _is_last_attempt(self, verb: str) -> bool:
        # obstore counts the time of sending into the one that an answer may take; the SDK does not.
        in_doubt = verb == "written" and self._wanted.response_timeout_seconds is not None
        return self._wanted.max_attempts == 1 and not in_doubt

    def _late(self, verb: str, key: str, lost: LostError) -> StorageError:
        if lost.in_body:
            return StorageTimeoutError(
                f"object {key!r} of {self.name} was not read to its end within "
                f"{self._wanted.timeout_seconds:g} s; raise the timeout or read it in ranges",
                key=key,
            )
        pool = cast("Any", None)
        error = ConnectTimeoutError() if lost.connecting else ReadTimeoutError(pool, "", "")
        return map_sdk_error(error, f"object {key!r} of {self.name} cannot be {verb}", key=key)

    # ---- reading

    def _open(self, key: str, range_header: str, options: dict[str, Any]) -> GetObjectResult:
        answer = obstore.get(self._store, key, options=cast("Any", options) if options else None)
        start, end = answer.range
        if end - start > _HANDED_OVER_BYTES:
            del answer
            return S3Backend.get_object(self, key, range_header=range_header)
        info = info_of(key, answer, end - start)
        content_range = f"bytes {start}-{end - 1}/{answer.meta['size']}" if options else ""
        expected = ""
        if self._etags_are_md5 and not options and _PLAIN_MD5.fullmatch(info.etag):
            expected = info.etag.strip('"')
        if info.size_bytes > _AT_ONCE_BYTES:
            stream = self._stream(answer, info, start, end, expected)
            return GetObjectResult(info, cast("IO[bytes]", stream), content_range=content_range)
        try:
            data = answer.bytes().to_bytes()
        except Exception as error:  # noqa: BLE001 - as above
            raise LostError(error, in_body=True) from None
        if expected and md5_of(data) != expected:
            return self._read_again(key, data)
        return GetObjectResult(info, io.BytesIO(data), content_range=content_range)

    def _read_again(self, key: str, data: bytes) -> GetObjectResult:
        """Let the reference decide about bytes that do not match their ETag."""
        with S3Backend.get_object(self, key) as found:
            second = found.read()
        if second == data:
            self._etags_are_md5 = False
        return GetObjectResult(found.info, io.BytesIO(second))

    def _stream(
        self, answer: obstore.GetResult, info: ObjectInfo, start: int, end: int, expected: str
    ) -> ObstoreBody:
        key = info.key

        def resume(offset: int) -> GetObjectResult:
            return self._rest(info, start + offset, end)

        def doubt(md5: str) -> None:
            second = hashlib.md5(usedforsecurity=False)
            with S3Backend.get_object(self, key) as found:
                for piece in found:
                    second.update(piece)
            if second.hexdigest() != md5 and found.info.etag == info.etag:
                raise UnavailableError(
                    f"object {key!r} of {self.name} cannot be read to its end: the bytes do not match the "
                    "checksum that the store has for them (ChecksumMismatch)",
                    key=key,
                    code="ChecksumMismatch",
                )
            if second.hexdigest() == md5:
                self._etags_are_md5 = False

        return ObstoreBody(
            iter(answer.stream(min_chunk_size=_PIECE_BYTES)),
            size_bytes=info.size_bytes,
            key=key,
            store=self.name,
            md5=expected,
            resume=resume,
            doubt=doubt,
        )

    def _rest(self, info: ObjectInfo, offset: int, end: int) -> GetObjectResult:
        """Open what is left of an object, if it still is the same one."""
        self.repeated += 1
        range_header = f"bytes={offset}-{end - 1}"
        found = S3Backend.get_object(self, info.key, range_header=range_header, if_match=info.etag)
        if not info.etag or found.info.etag != info.etag or found.info.size_bytes != end - offset:
            found.close()
            raise UnavailableError(
                f"object {info.key!r} of {self.name} ends {end - offset} bytes early and has been replaced "
                "since; read it again",
                key=info.key,
                code="IncompleteBody",
            )
        return found

    # ---- opening

    def _open_store(self, settings: S3Settings) -> S3Store:
        meta: Any = self._session.client.meta
        reason = sdk_reason(meta.config)
        if reason:
            raise _unsuited(settings, reason)
        options = options_for(settings, base_url=meta.endpoint_url, region=meta.region_name)
        try:
            return S3Store(
                config=cast("Any", options.config),
                client_options=cast("Any", options.client),
                retry_config={"max_retries": 0},
                credential_provider=None if settings.anonymous else self._credentials,
            )
        except Exception as error:  # noqa: BLE001 - see below
            kind = type(error).__name__
        # Not chained: the text may quote settings.
        raise _unsuited(settings, f"it refuses the settings ({kind})")

    def _credentials(self) -> Any:
        """Answer obstore, on a thread of its own, with what the SDK signs with."""
        client: Any = self._session.client
        frozen: Any = client._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001 - no other way
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_CREDENTIALS_SECONDS),
        }


def _is_main_thread() -> bool:
    """Tell whether Ctrl-C may strike here: obstore would not take back an upload in parts then."""
    return threading.get_ident() == threading.main_thread().ident


def _unsuited(settings: S3Settings, reason: str) -> UnsuitedError:
    return UnsuitedError(
        f"S3 store s3://{settings.bucket} cannot use the engine obstore: {reason}; set engine auto or boto3"
    )
