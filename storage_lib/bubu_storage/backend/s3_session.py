"""The SDK's client of one bucket: its clock, its lifetime, and what its errors mean.

What is shared by everything that talks to a bucket. A missing bucket is told from a missing
object even where the answer has no text (to a HEAD), by asking the bucket itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from bubu_storage.backend.last_look import LastLook
from bubu_storage.backend.s3_client import CaBundle, RetryRule, build_client, check_settings, known_secrets
from bubu_storage.backend.s3_clock import StoreClock
from bubu_storage.backend.s3_conditions import retry_conflicts
from bubu_storage.backend.s3_errors import NO_CODES, UNREADABLE, map_sdk_error
from bubu_storage.backend.s3_last_look import watch_connections
from bubu_storage.backend.s3_parsing import register_quick_parsing
from bubu_storage.errors import (
    BucketNotFoundError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    UnauthenticatedError,
)
from bubu_storage.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = ["SDK_ERRORS", "S3Session"]

SDK_ERRORS: Final = (ClientError, BotoCoreError, HTTPError, OSError, *UNREADABLE)
"""What the SDK raises, one way or another; also where it stumbles over an answer."""


class S3Session:
    """One client of one bucket; thread-safe. Nothing is contacted by making it.

    Args:
        settings: the bucket and how to reach it.

    Attributes:
        settings: as given.
        bucket: its name.
        name: the bucket as ``s3://bucket``.
        client: the SDK's.
        secrets: texts that must not appear in a message.
        last_look: asked before each deletion is sent; None where the SDK cannot be watched.

    Raises:
        ConfigurationError: the settings contradict themselves.
    """

    def __init__(self, settings: S3Settings) -> None:
        check_settings(settings)
        self.settings = settings
        self.bucket = settings.bucket
        self.name = f"s3://{settings.bucket}"
        self.secrets = known_secrets(settings)
        self._ca_bundle = CaBundle(settings.ca_bundle_pem) if settings.ca_bundle_pem else None
        self._clock = StoreClock()
        rule = RetryRule(settings.max_attempts, settings.max_backoff_seconds)
        try:
            self.client: S3Client = build_client(settings, rule, self._ca_bundle)
        except BaseException:
            if self._ca_bundle is not None:
                self._ca_bundle.close()
            raise
        self.last_look: LastLook | None = watch_connections(self.client)
        self.client.meta.events.register("after-call.s3", self._clock.note)
        self.client.meta.events.register("needs-retry.s3.HeadBucket", _redirect_no_further)
        register_quick_parsing(self.client)
        retry_conflicts(self.client, settings.max_attempts, settings.max_backoff_seconds)

    def close(self) -> None:
        """Close the connections; twice is fine."""
        self.client.close()
        if self._ca_bundle is not None:
            self._ca_bundle.close()

    def server_time(self) -> datetime:
        """Return the store's clock, from the ``Date`` of a recent answer; exact to a second.

        Raises:
            StorageError: the store does not answer, or without a date.
        """
        now = self._clock.now()
        if now is None:
            try:
                with self.mapped("contacted", None):
                    self.client.head_bucket(Bucket=self.bucket)
            except StorageError:
                # A refusal has a date too; whether the bucket may be used is not the question.
                now = self._clock.now()
                if now is None:
                    raise
            else:
                now = self._clock.now()
        if now is None:
            raise StorageError(f"{self.name} sends no Date header, so its clock cannot be told")
        return now

    @contextlib.contextmanager
    def mapped(self, verb: str, key: str | None) -> Generator[None]:
        """Turn the SDK's errors into the library's.

        Args:
            verb: what could not be done, as "read".
            key: the object concerned; None for the bucket.
        """
        try:
            yield
        except StorageError:
            raise
        except SDK_ERRORS as error:
            raise self.error(error, verb, key) from error

    def error(self, error: BaseException, verb: str, key: str | None) -> StorageError:
        """Return the library's error for one of the SDK's; see `mapped`."""
        what = f"object {key!r} of {self.name}" if key is not None else self.name
        return self.judged(error, f"{what} cannot be {verb}", key)

    def judged(self, error: BaseException, action: str, key: str | None) -> StorageError:
        """Return the library's error for one of the SDK's, asking the bucket where it says too little.

        Args:
            error: what the SDK raised.
            action: what could not be done, as "object 'a' of s3://b cannot be read".
            key: the object concerned; None for the bucket.
        """
        mapped = map_sdk_error(error, action, key=key, secrets=self.secrets)
        if isinstance(mapped, (ObjectNotFoundError, PermissionDeniedError)) and mapped.code in NO_CODES:
            return self._real_cause(action, key) or mapped
        return mapped

    def _real_cause(self, action: str, key: str | None) -> StorageError | None:
        """Ask the bucket itself when an answer without a text (to a HEAD) does not say what is wrong.

        By a listing, since the answer to another HEAD would have no text either.

        Returns:
            The error, if it is the bucket or the credentials and not the object.
        """
        try:
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=key or "", MaxKeys=1)
        except SDK_ERRORS as error:
            found = map_sdk_error(error, action, key=key, secrets=self.secrets)
            if isinstance(found, ObjectNotFoundError):
                return BucketNotFoundError(
                    f"{action}: the bucket does not exist; check its name and the endpoint, or create it",
                    key=key,
                    status=404,
                    code="NoSuchBucket",
                )
            if isinstance(found, (BucketNotFoundError, UnauthenticatedError)):
                return found
        return None


def _redirect_no_further(request_dict: dict[str, Any], **_: Any) -> None:
    """Keep the SDK from asking where a redirected question about a redirect has gone, and so on for ever."""
    request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True
