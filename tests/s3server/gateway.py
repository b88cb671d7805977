"""versitygw: built once by Go, started on a loopback port over a folder of the caller's.

Objects are files under ``root/<bucket>/<key>``, so a test can age one by setting its mtime. The
server keeps its metadata (ETags, content types) in extended attributes, or in a sidecar folder
where the file system has none.
"""

from __future__ import annotations

import atexit
import http.client
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.build import Program, given_or_built
from tests.cluster.errors import StartError
from tests.cluster.processes import free_port, spawn, tail

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from bubu_storage.settings import S3Settings
    from tests.cluster.processes import ManagedProcess

__all__ = ["S3Request", "VersityGateway", "ensure_versitygw"]

VERSION = "v1.8.0"
BINARY_VARIABLE = "BUBU_VERSITYGW"
_REGION = "us-east-1"
_START_SECONDS = 20.0
_START_ATTEMPTS = 3
# S3's format: owner bucket [time] address requester id operation key uri status …
_ACCESS_LINE = re.compile(r"\S+ (\S+) \[[^]]*\] \S+ \S+ \S+ (?:s3_)?(\S+) (\S+) .*?\s(\d{3})\s")
_PROGRAM = Program(
    name="versitygw",
    title=f"the S3 server versitygw {VERSION}",
    version=VERSION,
    go_arguments=("install", "-v", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"),
)


def ensure_versitygw(report: Callable[[str], None] | None = None) -> Path:
    """Return the server's executable: ``$BUBU_VERSITYGW``, or the one in the cache, built first if needed.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or ``$BUBU_VERSITYGW`` is no program.
        BuildError: Go failed.
    """
    return given_or_built(_PROGRAM, BINARY_VARIABLE, report)


@dataclass(frozen=True, slots=True)
class S3Request:
    """One line of the access log.

    Attributes:
        operation: S3's own name, such as ``PutObject`` or ``DeleteObjects``.
        bucket: the bucket's name, empty if there is none.
        key: the object's key as the log spells it (percent-encoded), empty if there is none.
        status: the HTTP status.
    """

    operation: str
    bucket: str
    key: str
    status: int

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Read a line; None if it is not about a request."""
        match = _ACCESS_LINE.match(line)
        if match is None:
            return None
        bucket, operation, key, status = ("" if word == "-" else word for word in match.groups())
        return cls(operation, bucket, key, int(status))


class VersityGateway(AbstractContextManager["VersityGateway"]):
    """A running S3 server.

    Attributes:
        endpoint: its URL.
        region: the region that requests must be signed for.
        access_key: the root user's access key, random.
        secret_key: the root user's secret key, random.
        root: the folder that holds a folder per bucket.
        access_log: the server's own access log, one line a request, in the format of S3.
        log: what the server printed.
    """

    def __init__(self, root: Path | None = None, *, detached: bool = False, host: str = "127.0.0.1") -> None:
        """Describe a server; ``start`` runs it.

        Args:
            root: an existing folder for the data, kept afterwards; a temporary one if absent.
            detached: leave the server running when the starter ends.
            host: the address to listen on, such as one that only pods of a test reach.
        """
        self._host = host
        self._work = Path(tempfile.mkdtemp(prefix="bubu-s3-"))
        self._detached = detached
        self._process: ManagedProcess | None = None
        self.root = root or self._work / "data"
        self.root.mkdir(exist_ok=True)
        self.access_key = f"test{secrets.token_hex(8)}"
        self.secret_key = secrets.token_urlsafe(30)
        self.region = _REGION
        self.endpoint = ""
        self.access_log = self._work / "access.log"
        self.log = self._work / "versitygw.log"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            PrerequisiteError: it must be built and Go is missing.
            StartError: it ended early or did not answer in time.
        """
        executable = ensure_versitygw()
        try:
            self.endpoint = f"http://{self._host}:{self._run(executable)}"
        except BaseException:
            self.stop()
            raise
        if not self._detached:
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End the server and remove its temporary folder; a second call does nothing."""
        if self._process is not None:
            self._process.stop(grace_seconds=2.0)
            self._process = None
        shutil.rmtree(self._work, ignore_errors=True)

    def client(self, **options: Any) -> Any:
        """Return a boto3 client of the root user; the caller closes it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
            **options,
        )

    def settings(self, bucket: str, *, endpoint: str = "") -> S3Settings:
        """Return the library's settings for a bucket of the root user.

        Args:
            bucket: its name.
            endpoint: where requests go instead, such as a proxy before this server.
        """
        from bubu_storage.settings import S3Settings as Settings

        return Settings(
            bucket=bucket,
            endpoint=endpoint or self.endpoint,
            region=self.region,
            use_path_style=True,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
        )

    def create_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return name

    def requests(self, bucket: str | None = None) -> list[S3Request]:
        """Return what was asked of the server so far, in order; the newest may take a moment to appear.

        Args:
            bucket: only requests for this one.
        """
        lines = self.access_log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [S3Request.parse(line) for line in lines]
        return [item for item in found if item is not None and bucket in {None, item.bucket}]

    def path_of(self, bucket: str, key: str) -> Path:
        """Return the file that holds an object."""
        return self.root / bucket / key

    def _run(self, executable: Path) -> int:
        """Return the port on which the server answers."""
        for _ in range(_START_ATTEMPTS):
            port = free_port()
            self._process = self._spawn(executable, port)
            if self._answers(port):
                return port
            self._process.stop(grace_seconds=0)
            # Somebody may have taken the port in between; anything else fails again the same way.
        raise StartError(f"versitygw did not start; its output ends:\n{tail(self.log)}")

    def _spawn(self, executable: Path, port: int) -> ManagedProcess:
        metadata: list[str | Path] = []
        if not _has_extended_attributes(self.root):
            sidecar = self._work / "sidecar"
            sidecar.mkdir(exist_ok=True)
            metadata = ["--sidecar", sidecar]
        # Credentials go by environment: a command line is public on its machine.
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("VGW_", "ROOT_", "AWS_"))
        }
        env |= {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        return spawn(
            "versitygw",
            [
                *(executable, "--port", f"{self._host}:{port}", "--region", self.region),
                *("--quiet", "--keep-alive", "--access-log", self.access_log, "--health", "/health"),
                *("posix", *metadata, self.root),
            ],
            log=self.log,
            env=env,
            cwd=self._work,
            die_with_parent=not self._detached,
        )

    def _answers(self, port: int) -> bool:
        """Wait for a healthy answer; False if the process ended or time is over."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or not self._process.is_running():
                return False
            connection = http.client.HTTPConnection(self._host, port, timeout=2)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return True
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _has_extended_attributes(folder: Path) -> bool:
    """Tell whether files of a folder can hold user attributes; some temporary file systems cannot."""
    handle, name = tempfile.mkstemp(prefix=".xattr-", dir=folder)
    try:
        os.setxattr(handle, "user.bubu-probe", b"1")
    except OSError:
        return False
    finally:
        os.close(handle)
        Path(name).unlink()
    return True
