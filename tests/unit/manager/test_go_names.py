"""The table of Go names: each of them once, and every Python name in it is real."""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "go-names.md"

STORAGE_NAMES = """
    DefaultMaxInlineSize DefaultMaxRecursionDepth DefaultStorageTimeout
    StorageRefKey StoragePathKey StorageContentTypeKey StorageSchemaKey StorageSchemaVersionKey
    DefaultRetentionGCInterval DefaultRetentionMaxScan DefaultRetentionMaxDelete
    ErrUnsupportedOperation
    IsNotFound NamespacedKey ResetSharedManagerCacheForTests
    WithMaxRecursionDepth WithStepRunID WithStorageSchema
    FileStore NewFileStore FileStore.Delete FileStore.List FileStore.Read FileStore.Write
    MockManager
    RetentionPolicy RetentionPolicyFromEnv
    S3Store NewS3Store S3Store.Delete S3Store.List S3Store.Read S3Store.Write
    StorageManager NewManager SharedManager
    StorageManager.Dehydrate StorageManager.DehydrateInputs StorageManager.DehydrateInputsWithMaxInlineSize
    StorageManager.Delete StorageManager.GetStore StorageManager.Hydrate
    StorageManager.HydrateStorageRefsOnly StorageManager.List StorageManager.ReadBlob
    StorageManager.WriteBlob
    Store Store.Write Store.Read StoreDeleter StoreDeleter.Delete StoreLister StoreLister.List
    StoredObject StoredObject.ContentType StoredObject.Data
"""
"""What the index of Go's package storage lists."""

OVERVIEW_NAMES = """
    Manager Manager.Put Manager.Get Manager.Delete Manager.Close
    ManagerConfig ManagerConfig.Store ManagerConfig.CacheSize ManagerConfig.CacheTTL
    S3Config S3Config.Bucket S3Config.Region S3Config.Endpoint FileConfig FileConfig.Path
    ApplyEnv
    storage_operations_total storage_operation_duration_seconds storage_bytes_transferred
"""
"""What its overview mentions besides."""

BACKEND_NAMES = """
    ErrCopyNotSupported ErrBackendUnavailable IsCopyPhase IsNotFound
    BackendCopier BackendCopier.CopyObject
    CircuitBreakerBackend NewCircuitBreakerBackend
    CircuitBreakerBackend.CopyObject CircuitBreakerBackend.DeleteObject CircuitBreakerBackend.GetObject
    CircuitBreakerBackend.HeadObject CircuitBreakerBackend.PutObject CircuitBreakerBackend.Unwrap
    CopyError CopyError.Error CopyError.Unwrap CopyPhase
    GetObjectResult HeadObjectResult ListedObject ObjectBackend
    S3Backend NewS3Backend S3Backend.CopyObject S3Backend.DeleteObject S3Backend.GetObject
    S3Backend.HeadObject S3Backend.ListObjects S3Backend.PutObject
"""
"""What the index of Go's package backend lists, and the sentinel that its text names."""

GO_NAMES = (
    *STORAGE_NAMES.split(),
    *OVERVIEW_NAMES.split(),
    *(f"backend.{name}" for name in BACKEND_NAMES.split()),
)

ROWS = [
    tuple(match.groups())
    for match in re.finditer(r"^\| `([^`|]+)` \| `([^`|]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
]


def resolve(dotted):
    """Return what a dotted name means, a module's attribute or an attribute of that."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"no module of {dotted}")


def test_each_go_name_is_listed_once():
    """None is missing, none is twice, none is made up."""
    assert Counter(GO_NAMES) == Counter(go for go, _ in ROWS)
    assert set(Counter(GO_NAMES).values()) == {1}


def test_every_row_is_understood():
    """No row is passed over because it is written in another way."""
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    heads = [line for line in rows if line.startswith(("| Go |", "| --- |"))]
    assert len(rows) - len(heads) == len(ROWS)


@pytest.mark.parametrize("python", sorted({python for _, python in ROWS}))
def test_every_python_name_exists(python):
    """And can be reached as it is written."""
    assert python.startswith("bubu_storage.")
    resolve(python)


REMARKS = sorted(set(re.findall(r"`(bubu_storage(?:\.\w+)+)`", PAGE.read_text("utf-8"))))


@pytest.mark.parametrize("python", REMARKS)
def test_names_in_remarks_exist(python):
    """They are read as well."""
    resolve(python)
