"""Names and numbers that are fixed on the wire, shared with BubuStack's Go SDK.

Changing any of these breaks documents and objects that already exist. The Go name of
each constant stands beside it.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONTENT_TYPE_JSON",
    "CONTENT_TYPE_TEXT",
    "DEFAULT_BLOB_CONTENT_TYPE",
    "DEFAULT_CACHE_TTL_SECONDS",
    "DEFAULT_FILE_PATH",
    "DEFAULT_INPUT_PREFIX",
    "DEFAULT_MAX_BULK_SIZE",
    "DEFAULT_MAX_HYDRATED_SIZE",
    "DEFAULT_MAX_INLINE_SIZE",
    "DEFAULT_MAX_RECURSION_DEPTH",
    "DEFAULT_MAX_WORKERS",
    "DEFAULT_OUTPUT_PREFIX",
    "DEFAULT_RETENTION_GC_INTERVAL_SECONDS",
    "DEFAULT_RETENTION_MAX_DELETE",
    "DEFAULT_RETENTION_MAX_SCAN",
    "DEFAULT_STORAGE_TIMEOUT_SECONDS",
    "KIND_JSON",
    "KIND_RAW",
    "KUBE_CONFIG_MAP_REF_KEY",
    "KUBE_SECRET_REF_KEY",
    "RESERVED_PREFIX",
    "STORAGE_CONTENT_TYPE_KEY",
    "STORAGE_PATH_KEY",
    "STORAGE_REF_KEY",
    "STORAGE_REF_KEYS",
    "STORAGE_SCHEMA_KEY",
    "STORAGE_SCHEMA_VERSION_KEY",
    "VOLUME_NAME",
]

STORAGE_REF_KEY: Final = "$bubuStorageRef"  # StorageRefKey
STORAGE_PATH_KEY: Final = "$bubuStoragePath"  # StoragePathKey
STORAGE_CONTENT_TYPE_KEY: Final = "$bubuStorageContentType"  # StorageContentTypeKey
STORAGE_SCHEMA_KEY: Final = "$bubuStorageSchema"  # StorageSchemaKey
STORAGE_SCHEMA_VERSION_KEY: Final = "$bubuStorageSchemaVersion"  # StorageSchemaVersionKey
STORAGE_REF_KEYS: Final = frozenset(
    {
        STORAGE_REF_KEY,
        STORAGE_PATH_KEY,
        STORAGE_CONTENT_TYPE_KEY,
        STORAGE_SCHEMA_KEY,
        STORAGE_SCHEMA_VERSION_KEY,
    }
)
"""The only keys that a storage reference may have."""

KUBE_CONFIG_MAP_REF_KEY: Final = "$bubuConfigMapRef"
KUBE_SECRET_REF_KEY: Final = "$bubuSecretRef"  # noqa: S105 - the name of a reference, no secret

KIND_JSON: Final = "json"
KIND_RAW: Final = "raw"
CONTENT_TYPE_JSON: Final = "application/json"
CONTENT_TYPE_TEXT: Final = "text/plain"
DEFAULT_BLOB_CONTENT_TYPE: Final = "application/octet-stream"

DEFAULT_MAX_INLINE_SIZE: Final = 1024  # DefaultMaxInlineSize, bytes
DEFAULT_MAX_BULK_SIZE: Final = 262_144  # bytes of a partly dehydrated map or list that is still kept inline
DEFAULT_MAX_HYDRATED_SIZE: Final = 1 << 30  # bytes of one hydrated document; the Go SDK has no limit
DEFAULT_MAX_RECURSION_DEPTH: Final = 10  # DefaultMaxRecursionDepth
DEFAULT_STORAGE_TIMEOUT_SECONDS: Final = 300.0  # DefaultStorageTimeout
DEFAULT_RETENTION_GC_INTERVAL_SECONDS: Final = 120.0  # DefaultRetentionGCInterval
DEFAULT_RETENTION_MAX_SCAN: Final = 2000  # DefaultRetentionMaxScan
DEFAULT_RETENTION_MAX_DELETE: Final = 200  # DefaultRetentionMaxDelete
DEFAULT_MAX_WORKERS: Final = 32  # objects of one manager in flight; the Go SDK takes one at a time
DEFAULT_CACHE_TTL_SECONDS: Final = 300.0
DEFAULT_OUTPUT_PREFIX: Final = "outputs"
DEFAULT_INPUT_PREFIX: Final = "inputs"

DEFAULT_FILE_PATH: Final = "/var/run/bubu/storage"  # mount path that ApplyEnv gives a file store
VOLUME_NAME: Final = "bubu-storage"  # volume that ApplyEnv adds

RESERVED_PREFIX: Final = ".bubu/"
"""Our own objects (probe, claims, marks). Never listed as data, never a retention candidate."""
