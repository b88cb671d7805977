"""What an engram does in its pod: only `bubu_storage` and the environment that it was given.

This file's text is the argument of ``python -c`` in pods, so that nothing of the tests has to be in
an image. ``produce RUN`` offloads a document with large fields and a binary of more than 5 MiB and
prints what travels on; ``consume TRAVELLING`` resolves it. The last line of output is JSON.
"""

import hashlib
import json
import os
import sys
from typing import Any

import bubu_storage
from bubu_storage import StorageManager

BLOB_BYTES = 7 * 1024 * 1024


def document() -> dict[str, Any]:
    """Three megabytes in a few large fields, and small ones of every kind."""
    return {
        "total": 9_007_199_254_740_993,
        "ratio": 1e-7,
        "note": "<b>naïve & 日本</b> \u2028 🙂",
        "report": "lorem ipsum dolor " * 100_000,
        "rows": [{"number": number, "text": "x" * 400} for number in range(3_000)],
    }


def blob() -> bytes:
    """Bytes that do not compress to nothing."""
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(BLOB_BYTES // 32))


def digest(value: dict[str, Any]) -> str:
    """Digest of a document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def main(verb: str, argument: str) -> None:
    """Do one of the two and say how it went."""
    namespace = os.environ["BUBU_POD_NAMESPACE"]
    with StorageManager.from_env() as storage:
        if verb == "produce":
            run = f"{namespace}/{argument}"
            path = f"outputs/{run}/scan.bin"
            travelling = storage.dehydrate(document(), run_id=run)
            storage.write_blob(path, blob(), content_type="application/octet-stream")
            travelling = {"document": travelling, "blob": path}
        else:
            travelling = json.loads(argument)
            assert storage.hydrate(travelling["document"]) == document()
            assert storage.read_blob(travelling["blob"]) == blob()
    answer = {
        "done": verb,
        "document": digest(document()),
        "library": bubu_storage.__file__,
        "provider": os.environ["BUBU_STORAGE_PROVIDER"],
        "travelling": travelling,
        "uid": os.getuid(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
