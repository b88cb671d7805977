"""The image of this clone, built where its contents have not been built before.

Archives are kept outside the clone under a hash of everything that decides the image's files; a
test run on an unchanged tree builds nothing. ``python -m tests.image.built_image`` builds it and
prints the archive's path.

Invariants: an archive that exists is complete (it is renamed into place); two builders wait for
each other; only the newest few are kept, for each is a quarter of a gigabyte.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import build_lock, cache_root
from tests.cluster.errors import BuildError, ClusterError, PrerequisiteError
from tests.cluster.progress import run_with_progress
from tests.node.base_image import ensure_base_image

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REFERENCE", "BuiltImage", "build_archive", "ensure_image", "image_inputs"]

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = "bubu-storage-operator:dev"
GIVEN = "BUBU_IMAGE_ARCHIVE"
KEPT = 3
_FILES = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "uv.lock")
_SCRIPTS = ("scripts/image", "scripts/image_tools.txt", "scripts/image_trim.py")
_known: list[BuiltImage] = []
_PACKAGES = ("operator/bubu_operator", "storage_lib/bubu_storage")


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image as a file.

    Attributes:
        reference: the name that containerd gives it on import, without registry and library.
        archive: a tar file in Docker's format.
    """

    reference: str
    archive: Path


def ensure_image(report: Callable[[str], None]) -> BuiltImage:
    """Return the image of this clone: the archive that ``$BUBU_IMAGE_ARCHIVE`` names, or one built here.

    One process has one image: who edits the clone meanwhile changes the next run's.

    Raises:
        PrerequisiteError: the given file is not there, or a tool is missing and cannot be installed.
        BuildError: the build failed.
    """
    if _known:
        return _known[0]
    given = os.environ.get(GIVEN)
    if given:
        if not Path(given).is_file():
            raise PrerequisiteError(f"{GIVEN}={given} is not a file.")
        return BuiltImage(REFERENCE, Path(given).absolute())
    base = ensure_base_image(report)
    target = cache_root() / f"image-{_key(base)}.tar"
    target.parent.mkdir(parents=True, exist_ok=True)
    with build_lock(target.parent / ".image.lock", "the operator's image", report):
        if not target.is_file():
            build_archive(target, base=base, report=report)
        target.touch()
        for old in sorted(target.parent.glob("image-*.tar"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink()
    _known.append(BuiltImage(REFERENCE, target))
    return _known[0]


def build_archive(
    archive: Path,
    *,
    base: str,
    report: Callable[[str], None],
    reference: str = REFERENCE,
    fresh: bool = False,
) -> None:
    """Run ``scripts/image`` and report each step of the build.

    Args:
        archive: where the image is written.
        base: reference of the base image.
        report: gets a line for each step.
        reference: the image's name.
        fresh: use no layer of an earlier build.

    Raises:
        BuildError: the build failed; the message ends with its last lines.
    """
    words = [ROOT / "scripts" / "image", "--tag", reference, "--base-image", base, "--archive", archive]
    started = time.monotonic()

    def tell(line: str) -> bool:
        if "STEP" in line or line.startswith(("building ", "built ", "/opt/")):
            report(f"  {time.monotonic() - started:3.0f} s  {line[:100]}")
        return True

    command = [*map(str, words), *(["--no-cache"] if fresh else [])]
    ended = run_with_progress(command, tell, kept_lines=25)
    if ended.code != 0:
        raise BuildError(f"scripts/image ended with {ended.code}:\n{ended.last_lines}")


def image_inputs() -> list[Path]:
    """Return every file of the clone that decides what is in the image, in one order."""
    files = [ROOT / name for name in (*_FILES, *_SCRIPTS)]
    for package in _PACKAGES:
        found = sorted((ROOT / package).rglob("*"))
        files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return files


def _key(base: str) -> str:
    digest = hashlib.sha256(f"{base}\0{os.uname().machine}\0".encode())
    for path in image_inputs():
        contents = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        digest.update(f"{name}\0{path.stat().st_mode & 0o111}\0{len(contents)}\0".encode() + contents)
    return digest.hexdigest()[:16]


def main() -> int:
    """Build the image of this clone if need be and print the archive's path."""
    try:
        print(ensure_image(lambda line: print(line, file=sys.stderr, flush=True)).archive)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
