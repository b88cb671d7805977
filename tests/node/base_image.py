"""The base image for machines whose registry is out of reach: a small Debian with Python.

The operator's Dockerfile builds upon ``python:3.13-slim``. Where no registry answers, debootstrap makes
a Debian with the same Python once; its files are kept in the cache outside the clone and imported into
buildah's store under a name that says what it is made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import build_lock, cache_root
from tests.cluster.errors import BuildError
from tests.node.packages import ensure_packages

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_BASE", "ensure_base_image", "ensure_root_archive", "registry_answers"]

DEFAULT_BASE = "docker.io/library/python:3.13-slim"
_REGISTRY = "https://registry-1.docker.io/v2/"
_MIRROR = "http://deb.debian.org/debian"
_SUITE = "trixie"  # its Python is 3.13, as in the default base
_INCLUDE = ("ca-certificates", "python3", "python3-venv")
# Nothing that runs in a container reads these; they are a third of the size.
_NEEDLESS = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
_REPORT_SECONDS = 5.0


def ensure_base_image(report: Callable[[str], None], *, may_pull: bool = True) -> str:
    """Return the reference of a base image that ``buildah bud --build-arg BASE_IMAGE=…`` can use.

    Args:
        report: gets a line now and then.
        may_pull: use the default base where Docker's registry answers.

    Raises:
        PrerequisiteError: debootstrap or buildah is missing and cannot be installed.
        BuildError: one of them failed.
    """
    if may_pull and registry_answers():
        return DEFAULT_BASE
    ensure_packages(report)
    reference = f"localhost/bubu-python-base:{_SUITE}-{_key()}"
    if _buildah("inspect", "--type", "image", reference, check=False).returncode == 0:
        return reference
    archive = ensure_root_archive(report)
    with build_lock(cache_root() / ".base-image.lock", "the base image", report):
        report(f"importing the base image {reference}")
        container = _buildah("from", "scratch").stdout.strip()
        try:
            _buildah("add", "--quiet", container, str(archive), "/")
            _buildah(
                *("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                *("--env", "LANG=C.UTF-8", "--cmd", "python3", container),
            )
            _buildah("commit", "--quiet", container, reference)
        finally:
            _buildah("rm", container, check=False)
    return reference


def ensure_root_archive(report: Callable[[str], None]) -> Path:
    """Return a tar archive with the base's root file system, made first where the cache lacks it.

    Raises:
        PrerequisiteError: debootstrap is missing and cannot be installed.
        BuildError: debootstrap failed.
    """
    ensure_packages(report)
    root = cache_root()
    target = root / f"base-{_SUITE}-{_key()}.tar"
    root.mkdir(parents=True, exist_ok=True)
    with build_lock(root / f".{target.name}.lock", "the base image's files", report):
        if target.is_file():
            return target
        # Not below the cache: it may be mounted without device files, which debootstrap makes.
        work = Path(tempfile.mkdtemp(prefix="bubu-base-"))
        try:
            files = work / "root"
            _debootstrap(files, work / "debootstrap.log", report)
            for path in _NEEDLESS:
                _empty(files / path)
            (files / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            _run("tar", "--create", "--numeric-owner", "--file", str(partial), "--directory", str(files), ".")
            partial.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    report(f"the base image's files are kept in {target}")
    return target


def registry_answers(url: str = _REGISTRY) -> bool:
    """Tell whether a container registry answers there (it asks for a login, which is an answer)."""
    try:
        with urllib.request.urlopen(url, timeout=5.0) as response:  # noqa: S310 -- a constant, https
            headers = response.headers
    except urllib.error.HTTPError as error:
        with error:
            headers = error.headers
    except (OSError, ValueError):
        return False
    return "docker-distribution-api-version" in headers


def _key() -> str:
    made_of = "\0".join([_SUITE, os.uname().machine, *_INCLUDE, *_NEEDLESS])
    return hashlib.sha256(made_of.encode()).hexdigest()[:12]


def _debootstrap(files: Path, log: Path, report: Callable[[str], None]) -> None:
    """Run debootstrap and say every few seconds which step it is at."""
    report(f"making a Debian {_SUITE} with Python for the base image (once, about a minute)")
    started = time.monotonic()
    next_report = started + _REPORT_SECONDS
    words = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(_INCLUDE)}",
        _SUITE,
        str(files),
        _MIRROR,
    ]
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            if time.monotonic() >= next_report:
                next_report += _REPORT_SECONDS
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                report(f"  {time.monotonic() - started:3.0f} s  {lines[-1] if lines else 'starting'}")
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        detail = "\n".join(f"    {line}" for line in lines[-15:])
        raise BuildError(f"debootstrap ended with {process.returncode}:\n{detail}")


def _empty(folder: Path) -> None:
    """Remove what a folder holds, and keep the folder: packages expect it."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _buildah(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _run("buildah", *arguments, check=check)


def _run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if check and done.returncode != 0:
        raise BuildError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done
