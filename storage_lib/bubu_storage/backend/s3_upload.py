"""Uploading in parts: any length, bounded memory, nothing left behind.

At most ``concurrency`` parts are in flight and one is being prepared, so memory is bounded by
``(concurrency + 1) * part_size`` whatever the body's length. Each part carries its own
SHA-256; the completing request carries none for the whole object (S3 expects a checksum of
checksums there, and stores that validate refuse anything else).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bubu_storage.backend.bodies import as_view, check_size, chunks
from bubu_storage.backend.s3_conditions import is_refusal, was_sent_again
from bubu_storage.backend.types import Body
from bubu_storage.daemon_threads import DaemonExecutor
from bubu_storage.errors import LimitExceededError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = ["MAX_PARTS", "PartPlan", "parts_of", "plan_part_size", "sha256_base64", "upload_parts"]

MAX_PARTS: Final = 10_000
"""S3's limit for one upload."""

_INTERRUPTED_SECONDS: Final = 5.0
"""How long an interrupt waits for parts in flight, and for the abort: a store that hangs may take minutes."""


def sha256_base64(data: bytes) -> str:
    """Return the checksum as S3 writes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")


def plan_part_size(part_size_bytes: int, size_bytes: int | None) -> int:
    """Return the part size with which a body of known length fits into 10,000 parts."""
    if size_bytes is None:
        return part_size_bytes
    return max(part_size_bytes, -(-size_bytes // MAX_PARTS))


def parts_of(body: Body, part_size_bytes: int, *, size_bytes: int | None, key: str) -> Iterator[bytes]:
    """Cut a body into parts of equal size, the last one shorter; at least one, maybe empty.

    Raises:
        StorageError: the length turns out not to be the announced one; code
            ``IncompleteBody``. Raised before the last part is handed out.
        LimitExceededError: more parts than S3 accepts.
    """
    view = as_view(body)
    if view is not None:
        check_size(stored=len(view), expected=size_bytes, key=key)
        for start in range(0, max(len(view), 1), part_size_bytes):
            yield bytes(view[start : start + part_size_bytes])
        return
    total = count = 0
    part = _Part()
    for piece in chunks(body):
        total += len(piece)
        if size_bytes is not None and total > size_bytes:
            check_size(stored=total, expected=size_bytes, key=key)
        start = 0
        # A part goes out when there is more, so that the last one is known to be the last.
        while (room := part_size_bytes - part.size_bytes) < len(piece) - start:
            part.add(piece[start : start + room])
            start += room
            count += 1
            if count >= MAX_PARTS:
                raise LimitExceededError(
                    f"object {key!r} needs over {MAX_PARTS} parts of {part_size_bytes} bytes; "
                    "announce its size or raise the part size",
                    key=key,
                )
            yield part.take(part_size_bytes)
        part.add(piece[start:])
    check_size(stored=total, expected=size_bytes, key=key)
    yield part.take()


class _Part:
    """Puts parts together, one after the other, and gives each away without a copy."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    @property
    def size_bytes(self) -> int:
        """How much there is of the part so far."""
        return self._buffer.tell()

    def add(self, piece: memoryview) -> None:
        """Take some more."""
        self._buffer.write(piece)

    def take(self, next_size_bytes: int = 0) -> bytes:
        """Return the part and begin the next one.

        Args:
            next_size_bytes: room to make for the next one. What grows piece by piece leaves holes
                behind that no other part fits into, and no memory is given back.
        """
        full, self._buffer = self._buffer, io.BytesIO()
        if next_size_bytes:
            self._buffer.seek(next_size_bytes - 1)
            self._buffer.write(b"\0")
            self._buffer.seek(0)
        full.truncate()
        return full.getvalue()


@dataclass(frozen=True, slots=True)
class PartPlan:
    """What an upload needs to know.

    Attributes:
        client: the SDK's client.
        bucket, key: where to.
        create: arguments of CreateMultipartUpload besides (content type, SSE, metadata).
        concurrency: parts in flight.
        checksums: send a SHA-256 with each part.
        complete: conditions of the completing request.
    """

    client: S3Client
    bucket: str
    key: str
    create: dict[str, Any]
    concurrency: int
    checksums: bool
    complete: dict[str, Any] = field(default_factory=dict[str, Any])


def upload_parts(plan: PartPlan, parts: Iterator[bytes], is_done: Callable[[str], bool]) -> str:
    """Upload the parts and return the ETag of the object.

    Whatever fails, the upload is aborted, after the parts in flight have ended (one that
    arrives later would stay in the bucket, invisible and paid for). On Ctrl-C and on SystemExit
    only a few seconds are spent on waiting for them, and on the abort: the store may hang.

    Args:
        plan: where to and how.
        parts: consumed as fast as they go out.
        is_done: tells whether the object now has this ETag; asked when the completing
            request failed, since its answer may merely have been lost.

    Raises:
        botocore errors: as the SDK raises them; anything that ``parts`` raises.
    """
    extra: dict[str, Any] = {"ChecksumAlgorithm": "SHA256"} if plan.checksums else {}
    target: dict[str, Any] = {"Bucket": plan.bucket, "Key": plan.key}
    upload_id = plan.client.create_multipart_upload(**target, **plan.create, **extra)["UploadId"]
    target["UploadId"] = upload_id
    try:
        done = _send_all(plan, parts, target)
        manifest: Any = {"Parts": [done[number] for number in sorted(done)]}
        try:
            answer = plan.client.complete_multipart_upload(
                **target, MultipartUpload=manifest, **plan.complete
            )
        except Exception as error:
            if plan.complete and is_refusal(error) and not was_sent_again(error):
                raise  # the same object may be there already, of another's making
            expected = _etag_of_parts([done[number]["ETag"] for number in sorted(done)])
            if expected and is_done(expected):
                return expected
            raise
        return answer.get("ETag", "")
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(RuntimeError):  # no thread to be had
            aborting = threading.Thread(target=_abort, args=(plan, target), name="bubu-abort", daemon=True)
            aborting.start()
            aborting.join(_INTERRUPTED_SECONDS)
        raise
    except BaseException:
        _abort(plan, target)
        raise


def _abort(plan: PartPlan, target: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        plan.client.abort_multipart_upload(**target)


def _send_all(plan: PartPlan, parts: Iterator[bytes], target: dict[str, Any]) -> dict[int, dict[str, Any]]:
    done: dict[int, dict[str, Any]] = {}
    pending: set[Future[dict[str, Any]]] = set()

    def collect(finished: set[Future[dict[str, Any]]]) -> None:
        for future in finished:
            part = future.result()
            done[part["PartNumber"]] = part

    pool = DaemonExecutor(plan.concurrency, name="bubu-upload")
    patience_seconds: float | None = None
    try:
        number = 0
        for data in parts:
            number += 1  # noqa: SIM113 - `enumerate` would keep the part before
            pending.add(pool.submit(_send_part, plan, target, number, data))
            del data
            if len(pending) >= plan.concurrency:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                collect(finished)
        finished, pending = wait(pending)
        collect(finished)
    except (KeyboardInterrupt, SystemExit):
        patience_seconds = _INTERRUPTED_SECONDS
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        pool.join(patience_seconds)
    return done


def _send_part(plan: PartPlan, target: dict[str, Any], number: int, data: bytes) -> dict[str, Any]:
    extra: dict[str, Any] = {"ChecksumSHA256": sha256_base64(data)} if plan.checksums else {}
    answer = plan.client.upload_part(**target, PartNumber=number, Body=data, **extra)
    part: dict[str, Any] = {"PartNumber": number, "ETag": answer["ETag"]}
    if answer.get("ChecksumSHA256"):
        part["ChecksumSHA256"] = answer["ChecksumSHA256"]
    return part


def _etag_of_parts(etags: list[str]) -> str:
    """Return the ETag that S3 gives an object made of these parts; "" where it cannot be told."""
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return ""
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"'
