"""Make an installation fit for an image: drop what no role needs, compile the rest, fix the dates.

Runs in the Dockerfile's build stages, with nothing but the standard library, on a virtual
environment or on a folder of the same layout: ``image_trim.py FOLDER``.

Invariants: what is dropped is named here and nowhere else; two runs on the same files leave the
same bytes, dates and modes, so that an image can be compared with one that was built again.
"""

from __future__ import annotations

import compileall
import csv
import os
import py_compile
import re
import shutil
import sys
from pathlib import Path

# Programs that stay in bin/: ours, and the interpreter's names.
PROGRAMS = re.compile(r"bubu-operator|bubu-storage|kubectl-bubu|python[0-9.]*")

# Below site-packages. The operator speaks to the API server through its own client; of this
# package it reads kubeconfigs only. `kubernetes.client` loads its modules on demand.
NEEDLESS = ("kubernetes/aio", "kubernetes/client/api", "boto3/examples")

# What S3 and the ways to credentials are described by (assumed roles, web identities, single sign-on).
BOTOCORE_SERVICES = ("s3", "signin", "sso", "sso-oidc", "sts")

TEST_FOLDERS = ("test", "tests")

# Two of its seven hundred modules are loaded, and only by name; bytecode of all doubles its size.
NOT_COMPILED = re.compile(r"/kubernetes/client/models/v[0-9]")

# Files that differ from one build to the next, or name a folder that only the build had.
TRACES = ("direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED")

DATE = 315532800
"""1980-01-01, the oldest date that every archive can hold."""


def main(folder: Path) -> int:
    """Trim, compile and date one folder; return an exit code."""
    packages = next(iter(sorted(folder.glob("lib/python3.*/site-packages"))), None)
    if packages is None:
        sys.stderr.write(f"{folder} has no lib/python3.*/site-packages: nothing is installed there\n")
        return 1
    before = _bytes_below(folder)
    _keep_programs(folder / "bin")
    _drop(packages)
    _list_what_is_left(packages)
    _compile(packages)
    _settle(folder)
    after = _bytes_below(folder)
    print(f"{folder}: {before / 1e6:.1f} MB installed, {after / 1e6:.1f} MB kept, bytecode included")
    return 0


def _keep_programs(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if not PROGRAMS.fullmatch(path.name):
            path.unlink()


def _drop(packages: Path) -> None:
    for name in NEEDLESS:
        shutil.rmtree(packages / name, ignore_errors=True)
    services = packages / "botocore" / "data"
    for path in services.iterdir() if services.is_dir() else ():
        if path.is_dir() and path.name not in BOTOCORE_SERVICES:
            shutil.rmtree(path)
    for path in [*packages.rglob("*")]:
        if path.is_dir() and (path.name == "__pycache__" or _is_tests(path)):
            shutil.rmtree(path)
        elif path.parent.suffix == ".dist-info" and path.name in TRACES:
            path.unlink()


def _list_what_is_left(packages: Path) -> None:
    """Have each package's list of its files name no other ones; it has digests of traces, too."""
    for record in packages.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines()
        left = [line for line in lines if (packages / next(csv.reader([line]))[0]).exists()]
        record.write_text("\n".join(left) + "\n", encoding="utf-8")


def _is_tests(folder: Path) -> bool:
    """Tell whether a folder holds a package's own tests (and no module that says so by accident)."""
    return folder.name in TEST_FOLDERS and any(folder.glob("test_*.py"))


def _compile(packages: Path) -> None:
    """Write bytecode that is never compared with dates, which change, nor ever written anew."""
    fine = compileall.compile_dir(
        packages,
        quiet=1,
        rx=NOT_COMPILED,
        # One process, in one order: what marshal writes depends on what was compiled before.
        workers=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not fine:
        # Some packages ship a module in the grammar of another Python; importing it is their affair.
        print("not every module could be compiled; see above")


def _settle(folder: Path) -> None:
    """Give everything one date, and modes that let any uid read and only root write."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (DATE, DATE), follow_symlinks=False)
    os.utime(folder, (DATE, DATE))


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
