"""Which store a command works on: ``--store`` and its companions, or a pod's environment.

Invariants: nothing is contacted here; a directory is created only for commands that write; a
message never repeats a URL that holds a password.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import click

from bubu_storage.cli.failures import PROGRAM, Failure, Misconfigured
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.settings import BackendSettings, FileSettings, ManagerSettings, S3Settings

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.manager import StorageManager

__all__ = ["Stores"]

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_DEFAULT_TIMEOUT_SECONDS: Final = 60.0
"""People wait less patiently than workflows, whose default is five minutes."""

_FILE_WAIT_SECONDS: Final = 10.0
"""For a directory: no call of it should take so long."""

_KEYS: Final = (
    "BUBU_S3_ACCESS_KEY_ID",
    "BUBU_S3_SECRET_ACCESS_KEY",
    "BUBU_S3_SESSION_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
_NO_STORE: Final = (
    "no store: give --store s3://BUCKET or --store file:///DIR, or set BUBU_STORAGE_PROVIDER (s3 or file) "
    "and its companions as in a workflow pod"
)
_DISABLED: Final = (
    "no store: BUBU_STORAGE_PROVIDER is 'none'; give --store s3://BUCKET or --store file:///DIR, or set it "
    "to s3 or file"
)


class Stores:
    """Opens what a command needs and closes it at the end; use as a context manager.

    Args:
        options: the global options.

    Attributes:
        longest_wait_seconds: for one answer of the store that was opened.

    Raises:
        click.UsageError: the options are wrong; nothing was contacted.
    """

    def __init__(self, options: GlobalOptions) -> None:
        self._options = options
        self._stack = ExitStack()
        self._store = _parse_store(options.store) if options.store else None
        self.longest_wait_seconds = _FILE_WAIT_SECONDS
        self._check_endpoint()

    def __enter__(self) -> Self:
        if self._options.profile:
            self._stack.enter_context(_profile(self._options.profile))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def backend(
        self, *, create: bool = False, attempts: int | None = None, timeout_seconds: float | None = None
    ) -> ObjectBackend:
        """Open the chosen store.

        Args:
            create: make a file store's directory where it is missing.
            attempts: tries for one request of an S3 store, instead of the configured number.
            timeout_seconds: longest wait for one answer, where nobody has chosen one.

        Raises:
            Misconfigured: no store is chosen.
            click.UsageError: options of S3 with a directory.
            ConfigurationError: the environment is wrong.
            Failure: the directory does not exist.
        """
        settings = self._chosen()
        if isinstance(settings, S3Settings):
            if attempts is not None:
                settings = replace(settings, max_attempts=attempts)
            if timeout_seconds is not None and not self._timeout_is_chosen():
                settings = _with_timeout(settings, timeout_seconds)
        return self._open(settings, create=create)

    def bucket(self, name: str) -> ObjectBackend:
        """Open a bucket of the chosen endpoint, with the same credentials.

        Raises:
            click.UsageError: this is no name of a bucket.
            ConfigurationError: the environment is wrong.
        """
        return self._open(self._s3(_check_bucket(name)), create=False)

    def manager(self, *, create: bool = False, max_inline_size_bytes: int | None = None) -> StorageManager:
        """Open the chosen store behind a manager.

        Args:
            create: make a file store's directory where it is missing.
            max_inline_size_bytes: instead of what the environment says.

        Raises:
            as `backend`.
        """
        from bubu_storage.manager import StorageManager  # noqa: PLC0415 - only for documents

        backend = self.backend(create=create)
        settings = ManagerSettings.from_env(self._environment())
        # The option is for one answer; a document may need many.
        longest = max(settings.timeout_seconds, self._options.timeout_seconds or 0.0)
        settings = replace(settings, timeout_seconds=longest)
        if max_inline_size_bytes is not None:
            settings = replace(settings, max_inline_size_bytes=max_inline_size_bytes)
        return self._stack.enter_context(StorageManager(settings, backend))

    # ---- internals

    def _open(self, settings: BackendSettings, *, create: bool) -> ObjectBackend:
        from bubu_storage.backend.factory import open_backend  # noqa: PLC0415 - may load an SDK

        if isinstance(settings, FileSettings) and not create:
            path = os.path.abspath(settings.path)  # noqa: PTH100 - as the backend does, links untouched
            if not Path(path).exists():
                raise Failure(
                    f"file://{path}: the directory does not exist; correct the path, or make it with mkdir"
                )
        backend = open_backend(settings)
        if isinstance(settings, S3Settings):
            self.longest_wait_seconds = settings.response_timeout_seconds or settings.timeout_seconds
        self._stack.callback(backend.close)
        return backend

    def _chosen(self) -> BackendSettings:
        if isinstance(self._store, FileSettings):
            self._refuse_s3_options(f"--store {self._options.store}")
            return self._store
        if self._store is not None:
            return self._s3(self._store)
        env = self._environment()
        if not env.get("BUBU_STORAGE_PROVIDER"):
            raise Misconfigured(_NO_STORE)
        settings = ManagerSettings.from_env(env).backend
        if settings is None:
            raise Misconfigured(_DISABLED)
        if isinstance(settings, FileSettings):
            self._refuse_s3_options("BUBU_STORAGE_PROVIDER=file")
            return settings
        return self._tuned(settings)

    def _s3(self, bucket: str) -> S3Settings:
        env = {
            **self._environment(),
            "BUBU_STORAGE_PROVIDER": "s3",
            "BUBU_STORAGE_S3_BUCKET": bucket,
        }
        settings = ManagerSettings.from_env(env).backend
        assert isinstance(settings, S3Settings)  # noqa: S101 - the provider was just set
        return self._tuned(settings)

    def _tuned(self, settings: S3Settings) -> S3Settings:
        options = self._options
        if options.timeout_seconds is not None:
            settings = _with_timeout(settings, options.timeout_seconds)
        elif not self._timeout_is_chosen():
            settings = _with_timeout(settings, _DEFAULT_TIMEOUT_SECONDS)
        # Profiles are the business of AWS's SDK; other engines know only some of their forms.
        return replace(settings, engine="boto3") if options.profile else settings

    def _timeout_is_chosen(self) -> bool:
        return self._options.timeout_seconds is not None or bool(os.environ.get("BUBU_S3_TIMEOUT"))

    def _environment(self) -> dict[str, str]:
        """Return the variables with what the options put in their place."""
        options = self._options
        env = dict(os.environ)
        if options.profile:
            for name in _KEYS:
                env.pop(name, None)
            env["AWS_PROFILE"] = options.profile
        if options.endpoint_url:
            env["BUBU_STORAGE_S3_ENDPOINT"] = options.endpoint_url
            env.pop("BUBU_S3_TLS", None)
        if options.region:
            env["BUBU_STORAGE_S3_REGION"] = options.region
        return env

    def _refuse_s3_options(self, place: str) -> None:
        given = [
            name
            for name, value in (
                ("--endpoint-url", self._options.endpoint_url),
                ("--region", self._options.region),
                ("--profile", self._options.profile),
            )
            if value
        ]
        if given:
            raise click.UsageError(
                f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for S3 stores, and the "
                f"store is a directory ({place})"
            )

    def _check_endpoint(self) -> None:
        url = self._options.endpoint_url
        if not url:
            return
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        if "@" in url:
            raise click.UsageError(
                "--endpoint-url holds a user name or password; credentials come from AWS_* or BUBU_S3_* "
                "variables, or from --profile"
            )
        if parts.scheme not in {"http", "https"} or not host:
            raise click.UsageError(
                f"--endpoint-url {url!r} is no address; write it as https://minio.example:9000"
            )


def _with_timeout(settings: S3Settings, seconds: float) -> S3Settings:
    return replace(
        settings,
        timeout_seconds=seconds,
        connect_timeout_seconds=min(seconds, settings.connect_timeout_seconds),
        max_backoff_seconds=min(seconds, settings.max_backoff_seconds),
    )


def _parse_store(url: str) -> str | FileSettings:
    """Return the bucket's name, or the settings of a directory."""
    if "@" in url:
        raise click.UsageError("--store takes no credentials; write s3://BUCKET or file:///DIR")
    if url.startswith("s3://"):
        bucket, _, path = url.removeprefix("s3://").partition("/")
        if path:
            raise click.UsageError(
                f"--store {url!r} names more than a bucket; write --store s3://{bucket} and give {path!r} to "
                "the command"
            )
        return _check_bucket(bucket)
    if url.startswith("file://"):
        path = url.removeprefix("file://")
        if not path.startswith("/"):
            raise click.UsageError(
                f"--store {url!r} is not absolute; write three slashes, as file:///var/data"
            )
        if "\x00" in path:
            raise click.UsageError("--store holds a NUL character")
        return FileSettings(path)
    example = f"file://{os.path.abspath(url)}" if url.startswith(("/", ".")) else "s3://BUCKET or file:///DIR"  # noqa: PTH100 - lexical
    raise click.UsageError(f"--store {url!r} is no store; write {example}")


def _check_bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name):
        raise click.UsageError(
            f"{name!r} is no name of a bucket; write s3://BUCKET, as {PROGRAM} --store s3://flows"
        )
    return name


@contextlib.contextmanager
def _profile(name: str) -> Generator[None]:
    """Let the SDK see the profile and no keys, which would go before it."""
    wanted: dict[str, str | None] = {**dict.fromkeys(_KEYS), "AWS_PROFILE": name}
    before = {key: os.environ.get(key) for key in wanted}
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
