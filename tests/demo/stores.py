"""The two stores that the demo can run on, and what differs between them.

Both let the demo put objects in bulk, make some of them old, and list what is there without
going through the code that is on show.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tests.s3server import VersityGateway

__all__ = ["DemoStore", "FileDemoStore", "S3DemoStore"]

BUCKET = "flows"
SECRET_NAME = "flows-s3"


class DemoStore(Protocol):
    """What the demo needs of a store."""

    title: str
    needs_secret: bool
    root: Path

    def manifests(self, namespace: str) -> list[dict[str, Any]]:
        """Return the Secret (if any) and the StorageConfig to apply."""
        ...

    def write(self, objects: Iterable[tuple[str, bytes, float]]) -> None:
        """Store objects given as (key, body, modification time in Unix seconds)."""
        ...

    def stop(self) -> None:
        """End what was started for the store."""
        ...


def listing(root: Path, prefix: str) -> set[str]:
    """Return the keys below ``prefix``, read straight from the disk."""
    base = root / prefix
    return {
        f"{Path(folder).relative_to(root)}/{name}"
        for folder, _, names in os.walk(base)
        for name in names
        if not name.startswith(".")
    }


class FileDemoStore:
    """A directory: the operator reaches it because the demo allows this one root."""

    title = "a file store"
    needs_secret = False

    def __init__(self, workdir: Path) -> None:
        self.root = workdir / "store"
        self.root.mkdir(parents=True)

    def manifests(self, namespace: str) -> list[dict[str, Any]]:
        """Return one StorageConfig; a file store needs no Secret."""
        return [
            {
                "apiVersion": "storage.bubustack.io/v1alpha1",
                "kind": "StorageConfig",
                "metadata": {"name": "main", "namespace": namespace},
                "spec": {"file": {"path": str(self.root)}},
            }
        ]

    def write(self, objects: Iterable[tuple[str, bytes, float]]) -> None:
        """Write the files and set their times."""
        for key, body, modified in objects:
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            os.utime(path, (modified, modified))

    def stop(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.root, ignore_errors=True)


class S3DemoStore:
    """A real S3 server over a directory, whose files' times are the objects' times."""

    title = "S3 (versitygw, a real server)"
    needs_secret = True

    def __init__(self, _workdir: Path) -> None:
        self._gateway = VersityGateway().start()
        self._gateway.create_bucket(BUCKET)
        self.root = self._gateway.root / BUCKET

    def manifests(self, namespace: str) -> list[dict[str, Any]]:
        """Return the Secret, the right to read it, and the StorageConfig."""
        return [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET_NAME, "namespace": namespace},
                "stringData": {
                    "AWS_ACCESS_KEY_ID": self._gateway.access_key,
                    "AWS_SECRET_ACCESS_KEY": self._gateway.secret_key,
                },
            },
            {
                "apiVersion": "storage.bubustack.io/v1alpha1",
                "kind": "StorageConfig",
                "metadata": {"name": "main", "namespace": namespace},
                "spec": {
                    "s3": {
                        "bucket": BUCKET,
                        "region": "us-east-1",
                        "endpoint": self._gateway.endpoint,
                        "authentication": {"secretRef": {"name": SECRET_NAME}},
                    }
                },
            },
        ]

    def write(self, objects: Iterable[tuple[str, bytes, float]]) -> None:
        """Put the objects through the S3 API, then set their files' times on the server's disk."""
        from bubu_storage.backend.factory import open_backend
        from bubu_storage.settings import S3Settings

        batch = list(objects)
        backend = open_backend(
            S3Settings(
                bucket=BUCKET,
                region="us-east-1",
                endpoint=self._gateway.endpoint,
                use_path_style=True,
                access_key_id=self._gateway.access_key,
                secret_access_key=self._gateway.secret_key,
            )
        )
        try:
            with ThreadPoolExecutor(max_workers=8) as pool:
                for _ in pool.map(lambda entry: backend.put_object(entry[0], entry[1]), batch):
                    pass
        finally:
            backend.close()
        for key, _, modified in batch:
            os.utime(self.root / key, (modified, modified))

    def stop(self) -> None:
        """Stop the server."""
        self._gateway.stop()
