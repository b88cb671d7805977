"""Whether a path on the controller's own machine may be used as a store.

Only below an allowed root, and never through a symbolic link: whoever can write into the
store could otherwise point a part of the path elsewhere. The root itself may be reached
by links, because the administrator names it. Nothing is created here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PathProblem", "check_local_path"]


@dataclass(frozen=True, slots=True)
class PathProblem:
    """Why a path cannot be used.

    Attributes:
        outside: it is not allowed, rather than not usable.
        message: for a condition.
    """

    outside: bool
    message: str


def check_local_path(path: str, roots: Sequence[Path]) -> PathProblem | None:
    """Return None if ``path`` may be used; parts of it that do not exist yet are fine."""
    if not roots:
        return PathProblem(
            True,
            f"{path} is on the controller's own machine, and the controller was started without "
            "--allow-local-root; a claim (file.volumeClaimName) is what pods can share",
        )
    wanted = os.path.normpath(path)
    for root in roots:
        lexical = os.path.normpath(root.absolute())
        for base in (lexical, os.path.realpath(lexical)):
            relative = os.path.relpath(wanted, base)
            if relative != ".." and not relative.startswith("../"):
                return _walk(path, base, [] if relative == "." else relative.split("/"))
    listed = ", ".join(str(root) for root in roots)
    return PathProblem(
        True, f"{path} lies below none of the allowed directories (--allow-local-root {listed})"
    )


def _walk(path: str, base: str, parts: list[str]) -> PathProblem | None:
    """Open the path part by part without following a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(base, flags)
    except FileNotFoundError:
        return PathProblem(False, f"{path}: the allowed directory {base} does not exist")
    except OSError as error:
        return PathProblem(False, f"{path}: the allowed directory {base} cannot be opened: {error.strerror}")
    at = base
    try:
        for part in parts:
            at = f"{at}/{part}"
            try:
                inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            except FileNotFoundError:
                return None
            except OSError as error:
                return _problem(path, at, error, descriptor, part)
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)
    return None


def _problem(path: str, at: str, error: OSError, descriptor: int, part: str) -> PathProblem:
    # With O_DIRECTORY a link gives ENOTDIR or ELOOP, depending on the kernel: look.
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        try:
            os.readlink(part, dir_fd=descriptor)
        except OSError:
            return PathProblem(False, f"{path}: {at} is not a directory")
        return PathProblem(True, f"{path}: {at} is a symbolic link, and links are not followed")
    return PathProblem(False, f"{path}: {at} cannot be opened: {error.strerror}")
