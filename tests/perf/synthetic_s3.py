"""An S3 server that makes its listing up and forgets deletions: a store of any size that takes no room.

It is a process of its own and knows just what a retention pass asks for: pages of a listing, deletions in
batches, the date. Objects lie a hundred a run, ``<prefix>run-00000000/step-000.json``, are 40 days old, and
a deleted one is still listed: a pass never looks at the same place twice. For measuring memory and
requests, not speed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import parse_qs, urlsplit

__all__ = ["MEMBERS", "SyntheticS3"]

MEMBERS: Final = 100
"""Objects of one run."""

_STOP_SECONDS: Final = 5.0
_XMLNS: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_ROOT: Final = Path(__file__).resolve().parents[2]


class SyntheticS3(AbstractContextManager["SyntheticS3"]):
    """A running server.

    Args:
        objects: how many there are below any prefix.

    Attributes:
        endpoint: URL.
    """

    def __init__(self, objects: int) -> None:
        # It ends when its standard input does, so it outlives nobody.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.perf.synthetic_s3", str(objects)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        if self._process.stdout is None:
            raise AssertionError("its output is a pipe")
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(_STOP_SECONDS)


def _page(objects: int, query: dict[str, list[str]], modified: str) -> str:
    prefix = query.get("prefix", [""])[0]
    after = query.get("continuation-token", query.get("start-after", [""]))[0]
    most = int(query.get("max-keys", ["1000"])[0])
    first = 0
    if after:
        run, _, step = after.removeprefix(prefix).partition("/")
        first = int(run.removeprefix("run-")) * MEMBERS + int(step[5:8]) + 1
    last = min(objects, first + most)
    keys = [f"{prefix}run-{at // MEMBERS:08d}/step-{at % MEMBERS:03d}.json" for at in range(first, last)]
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified>"
        "<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>16</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{keys[-1]}</NextContinuationToken>" if last < objects else ""
    return (
        f"<ListBucketResult {_XMLNS}><Name>bench</Name><Prefix>{prefix}</Prefix>"
        f"<KeyCount>{len(keys)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}"
        "</ListBucketResult>"
    )


def _serve(objects: int) -> None:
    modified = (datetime.now(UTC) - timedelta(days=40)).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """List."""
            self._answer(_page(objects, parse_qs(urlsplit(self.path).query), modified))

        def do_HEAD(self) -> None:
            """Tell the date."""
            self._answer("")

        def do_POST(self) -> None:
            """Delete."""
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._answer(f"<DeleteResult {_XMLNS}></DeleteResult>")

        def _answer(self, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
