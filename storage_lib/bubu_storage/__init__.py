"""Object storage for workflow pods, byte-compatible with BubuStack's Go SDK.

::

    from bubu_storage import StorageManager

    with StorageManager.from_env() as storage:
        small = storage.dehydrate(result, run_id="team-a/run-1")
        again = storage.hydrate(small)

Names are loaded when they are first used: importing this package loads neither an SDK nor
anything else that costs time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from bubu_storage._version import __version__

if TYPE_CHECKING:
    from bubu_storage.backend.types import BackendCopier as BackendCopier
    from bubu_storage.backend.types import BatchDeleter as BatchDeleter
    from bubu_storage.backend.types import GetObjectResult as GetObjectResult
    from bubu_storage.backend.types import ListedObject as ListedObject
    from bubu_storage.backend.types import ObjectBackend as ObjectBackend
    from bubu_storage.backend.types import ObjectInfo as ObjectInfo
    from bubu_storage.blob_reader import BlobReader as BlobReader
    from bubu_storage.blob_writer import BlobWriter as BlobWriter
    from bubu_storage.errors import AddressNotAllowedError as AddressNotAllowedError
    from bubu_storage.errors import BackendUnavailableError as BackendUnavailableError
    from bubu_storage.errors import BatchDeleteNotSupportedError as BatchDeleteNotSupportedError
    from bubu_storage.errors import BucketNotFoundError as BucketNotFoundError
    from bubu_storage.errors import ClaimedError as ClaimedError
    from bubu_storage.errors import ConfigurationError as ConfigurationError
    from bubu_storage.errors import CopyError as CopyError
    from bubu_storage.errors import CopyNotSupportedError as CopyNotSupportedError
    from bubu_storage.errors import CopyPhase as CopyPhase
    from bubu_storage.errors import CorruptObjectError as CorruptObjectError
    from bubu_storage.errors import DepthError as DepthError
    from bubu_storage.errors import EncodeError as EncodeError
    from bubu_storage.errors import InvalidKeyError as InvalidKeyError
    from bubu_storage.errors import KubeRefError as KubeRefError
    from bubu_storage.errors import LimitExceededError as LimitExceededError
    from bubu_storage.errors import NotSentError as NotSentError
    from bubu_storage.errors import ObjectNotFoundError as ObjectNotFoundError
    from bubu_storage.errors import OwnersUnknownError as OwnersUnknownError
    from bubu_storage.errors import PayloadError as PayloadError
    from bubu_storage.errors import PermissionDeniedError as PermissionDeniedError
    from bubu_storage.errors import PreconditionFailedError as PreconditionFailedError
    from bubu_storage.errors import RangeNotSatisfiableError as RangeNotSatisfiableError
    from bubu_storage.errors import RefCycleError as RefCycleError
    from bubu_storage.errors import RefNotAllowedError as RefNotAllowedError
    from bubu_storage.errors import SelectorError as SelectorError
    from bubu_storage.errors import StorageDisabledError as StorageDisabledError
    from bubu_storage.errors import StorageError as StorageError
    from bubu_storage.errors import StorageTimeoutError as StorageTimeoutError
    from bubu_storage.errors import ThrottledError as ThrottledError
    from bubu_storage.errors import TransientError as TransientError
    from bubu_storage.errors import UnauthenticatedError as UnauthenticatedError
    from bubu_storage.errors import UnavailableError as UnavailableError
    from bubu_storage.errors import UnsupportedOperationError as UnsupportedOperationError
    from bubu_storage.errors import is_copy_phase as is_copy_phase
    from bubu_storage.errors import is_not_found as is_not_found
    from bubu_storage.manager import StorageManager as StorageManager
    from bubu_storage.observability import StorageMetrics as StorageMetrics
    from bubu_storage.payload.context import max_recursion_depth as max_recursion_depth
    from bubu_storage.payload.context import step_run_id as step_run_id
    from bubu_storage.payload.context import storage_schema as storage_schema
    from bubu_storage.payload.kube import KubeRefResolver as KubeRefResolver
    from bubu_storage.payload.paths import namespaced_key as namespaced_key
    from bubu_storage.payload.refs import storage_ref as storage_ref
    from bubu_storage.settings import FileSettings as FileSettings
    from bubu_storage.settings import ManagerSettings as ManagerSettings
    from bubu_storage.settings import RetentionPolicy as RetentionPolicy
    from bubu_storage.settings import S3Settings as S3Settings
    from bubu_storage.shared import reset_shared_managers as reset_shared_managers
    from bubu_storage.shared import shared_manager as shared_manager
    from bubu_storage.stored_object import StoredObject as StoredObject
    from bubu_storage.wire import DEFAULT_CACHE_TTL_SECONDS as DEFAULT_CACHE_TTL_SECONDS
    from bubu_storage.wire import DEFAULT_MAX_INLINE_SIZE as DEFAULT_MAX_INLINE_SIZE
    from bubu_storage.wire import DEFAULT_MAX_RECURSION_DEPTH as DEFAULT_MAX_RECURSION_DEPTH
    from bubu_storage.wire import DEFAULT_MAX_WORKERS as DEFAULT_MAX_WORKERS
    from bubu_storage.wire import (
        DEFAULT_RETENTION_GC_INTERVAL_SECONDS as DEFAULT_RETENTION_GC_INTERVAL_SECONDS,
    )
    from bubu_storage.wire import DEFAULT_RETENTION_MAX_DELETE as DEFAULT_RETENTION_MAX_DELETE
    from bubu_storage.wire import DEFAULT_RETENTION_MAX_SCAN as DEFAULT_RETENTION_MAX_SCAN
    from bubu_storage.wire import DEFAULT_STORAGE_TIMEOUT_SECONDS as DEFAULT_STORAGE_TIMEOUT_SECONDS
    from bubu_storage.wire import STORAGE_CONTENT_TYPE_KEY as STORAGE_CONTENT_TYPE_KEY
    from bubu_storage.wire import STORAGE_PATH_KEY as STORAGE_PATH_KEY
    from bubu_storage.wire import STORAGE_REF_KEY as STORAGE_REF_KEY
    from bubu_storage.wire import STORAGE_SCHEMA_KEY as STORAGE_SCHEMA_KEY
    from bubu_storage.wire import STORAGE_SCHEMA_VERSION_KEY as STORAGE_SCHEMA_VERSION_KEY

_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "bubu_storage.backend.types": (
        "BackendCopier",
        "BatchDeleter",
        "GetObjectResult",
        "ListedObject",
        "ObjectBackend",
        "ObjectInfo",
    ),
    "bubu_storage.blob_reader": ("BlobReader",),
    "bubu_storage.blob_writer": ("BlobWriter",),
    "bubu_storage.errors": (
        "AddressNotAllowedError",
        "BackendUnavailableError",
        "BatchDeleteNotSupportedError",
        "BucketNotFoundError",
        "ClaimedError",
        "ConfigurationError",
        "CopyError",
        "CopyNotSupportedError",
        "CopyPhase",
        "CorruptObjectError",
        "DepthError",
        "EncodeError",
        "InvalidKeyError",
        "KubeRefError",
        "LimitExceededError",
        "NotSentError",
        "ObjectNotFoundError",
        "OwnersUnknownError",
        "PayloadError",
        "PermissionDeniedError",
        "PreconditionFailedError",
        "RangeNotSatisfiableError",
        "RefCycleError",
        "RefNotAllowedError",
        "SelectorError",
        "StorageDisabledError",
        "StorageError",
        "StorageTimeoutError",
        "ThrottledError",
        "TransientError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnsupportedOperationError",
        "is_copy_phase",
        "is_not_found",
    ),
    "bubu_storage.manager": ("StorageManager",),
    "bubu_storage.observability": ("StorageMetrics",),
    "bubu_storage.payload.context": (
        "max_recursion_depth",
        "step_run_id",
        "storage_schema",
    ),
    "bubu_storage.payload.kube": ("KubeRefResolver",),
    "bubu_storage.payload.paths": ("namespaced_key",),
    "bubu_storage.payload.refs": ("storage_ref",),
    "bubu_storage.settings": (
        "FileSettings",
        "ManagerSettings",
        "RetentionPolicy",
        "S3Settings",
    ),
    "bubu_storage.shared": (
        "reset_shared_managers",
        "shared_manager",
    ),
    "bubu_storage.stored_object": ("StoredObject",),
    "bubu_storage.wire": (
        "DEFAULT_CACHE_TTL_SECONDS",
        "DEFAULT_MAX_INLINE_SIZE",
        "DEFAULT_MAX_RECURSION_DEPTH",
        "DEFAULT_MAX_WORKERS",
        "DEFAULT_RETENTION_GC_INTERVAL_SECONDS",
        "DEFAULT_RETENTION_MAX_DELETE",
        "DEFAULT_RETENTION_MAX_SCAN",
        "DEFAULT_STORAGE_TIMEOUT_SECONDS",
        "STORAGE_CONTENT_TYPE_KEY",
        "STORAGE_PATH_KEY",
        "STORAGE_REF_KEY",
        "STORAGE_SCHEMA_KEY",
        "STORAGE_SCHEMA_VERSION_KEY",
    ),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DEFAULT_CACHE_TTL_SECONDS",
    "DEFAULT_MAX_INLINE_SIZE",
    "DEFAULT_MAX_RECURSION_DEPTH",
    "DEFAULT_MAX_WORKERS",
    "DEFAULT_RETENTION_GC_INTERVAL_SECONDS",
    "DEFAULT_RETENTION_MAX_DELETE",
    "DEFAULT_RETENTION_MAX_SCAN",
    "DEFAULT_STORAGE_TIMEOUT_SECONDS",
    "STORAGE_CONTENT_TYPE_KEY",
    "STORAGE_PATH_KEY",
    "STORAGE_REF_KEY",
    "STORAGE_SCHEMA_KEY",
    "STORAGE_SCHEMA_VERSION_KEY",
    "AddressNotAllowedError",
    "BackendCopier",
    "BackendUnavailableError",
    "BatchDeleteNotSupportedError",
    "BatchDeleter",
    "BlobReader",
    "BlobWriter",
    "BucketNotFoundError",
    "ClaimedError",
    "ConfigurationError",
    "CopyError",
    "CopyNotSupportedError",
    "CopyPhase",
    "CorruptObjectError",
    "DepthError",
    "EncodeError",
    "FileSettings",
    "GetObjectResult",
    "InvalidKeyError",
    "KubeRefError",
    "KubeRefResolver",
    "LimitExceededError",
    "ListedObject",
    "ManagerSettings",
    "NotSentError",
    "ObjectBackend",
    "ObjectInfo",
    "ObjectNotFoundError",
    "OwnersUnknownError",
    "PayloadError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "RangeNotSatisfiableError",
    "RefCycleError",
    "RefNotAllowedError",
    "RetentionPolicy",
    "S3Settings",
    "SelectorError",
    "StorageDisabledError",
    "StorageError",
    "StorageManager",
    "StorageMetrics",
    "StorageTimeoutError",
    "StoredObject",
    "ThrottledError",
    "TransientError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedOperationError",
    "__version__",
    "is_copy_phase",
    "is_not_found",
    "max_recursion_depth",
    "namespaced_key",
    "reset_shared_managers",
    "shared_manager",
    "step_run_id",
    "storage_ref",
    "storage_schema",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bubu_storage' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
