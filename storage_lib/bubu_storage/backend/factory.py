"""The one place that knows every provider: settings in, backend out.

The S3 engines, and with them boto3 and obstore, are imported only when a bucket is asked for: a
pod with a file store, and every ``import bubu_storage``, goes without.
"""

from __future__ import annotations

from typing import assert_never

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.settings import S3_ENGINES, FileSettings, S3Settings

__all__ = ["open_backend"]


def open_backend(settings: FileSettings | S3Settings) -> ObjectBackend:
    """Build the backend that the settings describe; the caller closes it.

    A file store's base directory is created where it is missing; a bucket is not
    contacted before the first operation.

    A bucket with engine ``auto`` is served by obstore where that is installed (the extra
    ``fast``) and can do what the settings ask, and by boto3 otherwise.

    Raises:
        ConfigurationError: the settings contradict themselves, or ask for an engine that is not
            installed or cannot serve them.
        PermissionDeniedError: the base directory cannot be created.
    """
    match settings:
        case FileSettings():
            return FileBackend(settings.path)
        case S3Settings():
            return _open_s3(settings)
        case _:
            assert_never(settings)


def _open_s3(settings: S3Settings) -> ObjectBackend:
    if settings.engine not in S3_ENGINES:
        raise ConfigurationError(
            f"engine of S3 store s3://{settings.bucket} is {settings.engine!r}; "
            f"it must be one of {', '.join(S3_ENGINES)}"
        )
    if settings.engine != "boto3":
        try:
            from bubu_storage.backend.s3_obstore import (  # noqa: PLC0415 - loads both SDKs, only where needed
                ObstoreBackend,
                UnsuitedError,
            )
        except ModuleNotFoundError as error:
            if settings.engine == "obstore":
                raise ConfigurationError(
                    f"S3 store s3://{settings.bucket} asks for the engine obstore, which is not installed; "
                    "pip install 'bubu-storage[fast]', or set engine auto or boto3"
                ) from error
        else:
            try:
                return ObstoreBackend(settings)
            except UnsuitedError:
                if settings.engine == "obstore":
                    raise
    from bubu_storage.backend.s3 import S3Backend  # noqa: PLC0415 - loads boto3, only where needed

    return S3Backend(settings)
