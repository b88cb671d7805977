"""The one place that knows every provider: settings in, backend out.

The S3 backend, and with it boto3, is imported only when a bucket is asked for: a pod with
a file store, and every ``import bubu_storage``, goes without.
"""

from __future__ import annotations

from typing import assert_never

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["open_backend"]


def open_backend(settings: FileSettings | S3Settings) -> ObjectBackend:
    """Build the backend that the settings describe; the caller closes it.

    A file store's base directory is created where it is missing; a bucket is not
    contacted before the first operation.

    Raises:
        ConfigurationError: the settings contradict themselves.
        PermissionDeniedError: the base directory cannot be created.
    """
    match settings:
        case FileSettings():
            return FileBackend(settings.path)
        case S3Settings():
            from bubu_storage.backend.s3 import S3Backend  # noqa: PLC0415 - loads boto3, only where needed

            return S3Backend(settings)
        case _:
            assert_never(settings)
