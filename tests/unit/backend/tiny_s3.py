"""A store of one bucket for `scripted_server`: enough of S3 to see what a client leaves behind."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.sax.saxutils import escape

from tests.unit.backend.scripted_server import Answer, error

if TYPE_CHECKING:
    from tests.unit.backend.scripted_server import Request

BUCKET = "bucket"
_XML = {"Content-Type": "application/xml"}


def etag_of(data: bytes) -> str:
    """Return an ETag, with quotes."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def sha256_of(data: bytes) -> str:
    """Return a checksum as S3 writes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class TinyS3:
    """Answers requests by what it holds; thread-safe.

    Attributes:
        objects: by key.
        uploads: the parts of uploads that were neither completed nor aborted, by id and number.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._lock = threading.RLock()
        self._ids = 0

    def put(self, key: str, data: bytes, etag: str = "") -> str:
        """Store an object."""
        with self._lock:
            self.objects[key] = data
            self.etags[key] = etag or etag_of(data)
            return self.etags[key]

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        key = request.path.removeprefix(f"/{BUCKET}").removeprefix("/")
        with self._lock:
            if not key:
                return self._bucket(request)
            if "uploadId" in request.query or "uploads" in request.query:
                return self._upload(request, key)
            return self._object(request, key)

    def _bucket(self, request: Request) -> Answer:
        if request.method == "POST":
            for name in re.findall(rb"<Key>(.*?)</Key>", request.body):
                self.objects.pop(name.decode(), None)
            return Answer(body=b"<DeleteResult></DeleteResult>", headers=_XML)
        if request.method == "HEAD":
            return Answer()
        found = sorted(key for key in self.objects if key.startswith(request.query.get("prefix", "")))
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size>"
            f"<ETag>{escape(self.etags[key])}</ETag>"
            "<LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
            for key in found
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        return Answer(body=text.encode(), headers=_XML)

    def _object(self, request: Request, key: str) -> Answer:
        if request.method == "PUT":
            return self._put(request, key)
        if request.method == "DELETE":
            if key in self.objects and request.headers.get("if-match") not in {None, self.etags[key]}:
                return error(412, "PreconditionFailed")
            self.objects.pop(key, None)
            return Answer(204)
        data = self.objects.get(key)
        if data is None:
            return Answer(404) if request.method == "HEAD" else error(404, "NoSuchKey")
        headers = {"ETag": self.etags[key], "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
        if request.method == "HEAD":
            return Answer(headers=headers, announced=len(data))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if found:
            start, end = int(found[1]), int(found[2])
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return Answer(206, data[start : end + 1], headers)
        headers["x-amz-checksum-sha256"] = sha256_of(data)
        return Answer(body=data, headers=headers)

    def _put(self, request: Request, key: str) -> Answer:
        if request.headers.get("if-none-match") == "*" and key in self.objects:
            return error(412, "PreconditionFailed")
        wanted = request.headers.get("if-match")
        if wanted and self.etags.get(key) != wanted:
            return error(412, "PreconditionFailed")
        source = request.headers.get("x-amz-copy-source")
        if source is None:
            return Answer(headers={"ETag": self.put(key, request.body)})
        etag = self.put(key, self.objects[unquote(source).removeprefix("/").removeprefix(f"{BUCKET}/")])
        text = f"<CopyObjectResult><ETag>{escape(etag)}</ETag></CopyObjectResult>"
        return Answer(body=text.encode(), headers=_XML)

    def _upload(self, request: Request, key: str) -> Answer:
        if "uploads" in request.query:
            self._ids += 1
            self.uploads[f"u{self._ids}"] = {}
            text = f"<UploadId>u{self._ids}</UploadId>"
            text = f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>"
            return Answer(body=text.encode(), headers=_XML)
        parts = self.uploads.get(request.query["uploadId"])
        if parts is None:
            return error(404, "NoSuchUpload")
        if request.method == "PUT":
            parts[int(request.query["partNumber"])] = request.body
            headers = {"ETag": etag_of(request.body), "x-amz-checksum-sha256": sha256_of(request.body)}
            return Answer(headers=headers)
        del self.uploads[request.query["uploadId"]]
        if request.method == "DELETE":
            return Answer(204)
        whole = [parts[number] for number in sorted(parts)]
        digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in whole)
        etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(whole)}"'
        self.put(key, b"".join(whole), etag)
        text = f"<ETag>{escape(etag)}</ETag>"
        text = f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>"
        return Answer(body=text.encode(), headers=_XML)
