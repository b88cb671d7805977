"""The Debian packages that a node needs, and their installation.

Only what is missing is installed, only as root and only with apt; anything else ends in one error that
names what is missing and the command that helps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.errors import PrerequisiteError
from tests.cluster.progress import run_with_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CNI_PLUGINS", "ensure_packages", "missing_packages", "why_no_node"]

CNI_PLUGINS = Path("/usr/lib/cni")
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A file or a program of each package: what is there by other means need not be installed.
_PROOFS: Mapping[str, str] = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containernetworking-plugins": str(CNI_PLUGINS / "bridge"),
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "debootstrap": "debootstrap",
    "iproute2": "ip",
    "iptables": "iptables",
    "mount": "umount",
    "nftables": "nft",
    "runc": "runc",
    "util-linux": "nsenter",
}


def missing_packages() -> list[str]:
    """Return the names of the packages of which this machine has nothing."""
    return [package for package, proof in _PROOFS.items() if not _is_there(proof)]


def why_no_node() -> str:
    """Return why no node can run here, as one sentence; empty if one can."""
    if sys.platform != "linux":
        return "a node needs Linux"
    if os.geteuid() != 0:
        return "a node needs root (namespaces, mounts, cgroups)"
    missing = missing_packages()
    if missing:
        return f"a node needs {', '.join(missing)}: run python -m tests.node ensure as root"
    trial = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode != 0:
        return f"a node needs the right to make namespaces ({trial.stderr.strip()})"
    return ""


def ensure_packages(report: Callable[[str], None]) -> None:
    """Install the packages that are missing, with apt's own lines as progress.

    Args:
        report: gets what apt says, and one line of our own before it.

    Raises:
        PrerequisiteError: it is not possible, or apt failed.
    """
    missing = missing_packages()
    if not missing:
        return
    names = ", ".join(missing)
    command = f"apt-get install --yes --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0:
        raise PrerequisiteError(f"A node needs {names}, and only root may install them: run {command}.")
    if shutil.which("apt-get") is None:
        raise PrerequisiteError(
            f"A node needs {names}, and there is no apt-get here: install them with this "
            "machine's own package manager (the CNI plugins in /usr/lib/cni)."
        )
    report(f"installing {names}")
    for words in (["apt-get", "update"], command.split()):
        _apt(words, report)
    still = missing_packages()
    if still:
        raise PrerequisiteError(
            f"apt-get ended well, yet {', '.join(still)} cannot be found: reinstall them."
        )


def _is_there(proof: str) -> bool:
    if proof.startswith("/"):
        return Path(proof).exists()
    return shutil.which(proof, path=f"{os.environ.get('PATH', '')}:{_SEARCH_PATH}") is not None


def _apt(words: list[str], report: Callable[[str], None]) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}

    def tell(line: str) -> bool:
        report(f"  {line}")
        return True

    ended = run_with_progress(words, tell, env=env)
    if ended.code != 0:
        raise PrerequisiteError(f"{' '.join(words)} ended with {ended.code}:\n{ended.last_lines}")
