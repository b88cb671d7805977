"""What an engram does with the storage it was given; run as a process of its own.

``produce`` offloads a large JSON document and a binary, ``consume`` resolves them again.
Both know nothing but their environment and import nothing but `bubu_storage`: exactly the
position of a workflow step in a pod. The answer is one JSON line on stdout.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from bubu_storage import StorageManager

RUN_ID = "demo/invoices-2291"
BLOB_PATH = f"outputs/{RUN_ID}/scan.bin"
BLOB_BYTES = 7 * 1024 * 1024
"""Over 5 MiB on purpose: that is where uploads in parts begin."""


def build_document() -> dict[str, Any]:
    """Build a document of about 3 MB: a few small fields, many large ones, odd characters."""
    return {
        "workflow": "invoices",
        "total": 9_007_199_254_740_993,
        "ratio": 1e-7,
        "note": "<b>naïve & 日本</b> \u2028 🙂",
        "pages": [
            {"number": number, "text": f"page {number} … " + "lorem ipsum dolor " * 230}
            for number in range(720)
        ],
    }


def build_blob() -> bytes:
    """Build the binary: reproducible, not compressible to nothing."""
    seed = hashlib.sha256(b"scan").digest()
    return b"".join(
        hashlib.sha256(seed + index.to_bytes(4, "big")).digest() for index in range(BLOB_BYTES // 32)
    )


def sha256(data: bytes) -> str:
    """Return the digest as hex text."""
    return hashlib.sha256(data).hexdigest()


def canonical(document: Any) -> bytes:
    """Return one byte form of a document, to compare two of them."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")


def produce() -> dict[str, Any]:
    """Offload the document and the binary; return what would travel in the custom resource."""
    document = build_document()
    blob = build_blob()
    with StorageManager.from_env() as storage:
        travelling = storage.dehydrate(document, run_id=RUN_ID)
        storage.write_blob(BLOB_PATH, blob, content_type="application/octet-stream")
    return {
        "document_bytes": len(canonical(document)),
        "document_sha256": sha256(canonical(document)),
        "travelling": travelling,
        "travelling_bytes": len(canonical(travelling)),
        "blob_bytes": len(blob),
        "blob_sha256": sha256(blob),
    }


def consume() -> dict[str, Any]:
    """Resolve what `produce` sent (JSON on stdin) and say what came out."""
    travelling = json.load(sys.stdin)
    with StorageManager.from_env() as storage:
        document = storage.hydrate(travelling)
        blob = storage.read_blob(BLOB_PATH)
    return {
        "document_bytes": len(canonical(document)),
        "document_sha256": sha256(canonical(document)),
        "equal": document == build_document(),
        "blob_bytes": len(blob),
        "blob_sha256": sha256(blob),
    }


if __name__ == "__main__":
    answer = {"produce": produce, "consume": consume}[sys.argv[1]]()
    sys.stdout.write(json.dumps(answer) + "\n")
