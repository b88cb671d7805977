"""Images of one static program, written without any tool: one file in one layer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PAUSE_IMAGE", "PROBE_IMAGE", "write_image"]

PAUSE_IMAGE = "bubu.test/pause:1"
PROBE_IMAGE = "bubu.test/probe:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(name: str, executable: Path, archive: Path) -> Path:
    """Write an image that holds one static executable, its entry point, as a docker-archive.

    Args:
        name: the image's name, with its registry.
        executable: is in the image's root folder under its own name.
        archive: the file to write; ``ctr images import`` reads it.

    Returns:
        The archive.
    """
    layer = _tar({executable.name: executable.read_bytes()}, mode=0o755)
    machine = os.uname().machine
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": [f"/{executable.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    archive.write_bytes(_tar(files, mode=0o644))
    return archive


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            out.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
