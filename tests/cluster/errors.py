"""Errors of the test infrastructure.

    ClusterError
    ├── PrerequisiteError      the machine lacks something: the message says what to install
    ├── ContextRefusedError    KUBECONFIG does not look like a test cluster
    ├── BuildError             Go could not build a program
    ├── StartError             a program did not come up
    └── KubectlError           kubectl ended with a non-zero code

The command line prints each as one message without a traceback.
"""

from __future__ import annotations

__all__ = [
    "BuildError",
    "ClusterError",
    "ContextRefusedError",
    "KubectlError",
    "PrerequisiteError",
    "StartError",
]


class ClusterError(Exception):
    """Base of everything that tests.cluster and tests.s3server raise."""


class PrerequisiteError(ClusterError):
    """The machine lacks a program that cannot be done without; the message is one sentence."""


class ContextRefusedError(ClusterError):
    """The context that KUBECONFIG selects does not look like a test cluster."""


class BuildError(ClusterError):
    """Go could not build a program; the message ends with the tail of Go's own output."""


class StartError(ClusterError):
    """A program ended early or did not answer in time; the message ends with the tail of its log."""


class KubectlError(ClusterError):
    """A kubectl call failed.

    Attributes:
        returncode: what kubectl ended with.
        stdout: what it had printed.
        stderr: its error text.
    """

    def __init__(self, arguments: tuple[str, ...], returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(f"kubectl {' '.join(arguments)} ended with {returncode}: {stderr.strip()}")
