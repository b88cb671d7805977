"""The Go programs that charts are tested with: helm, kubeconform and helm-unittest.

Built once by `tests.cluster.build` and kept outside the clone; a variable may name a program that
is there already. Nothing is looked up on the network apart from the Go modules of these versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import Program, given_or_built

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HELM3_VERSION",
    "HELM_VERSION",
    "KUBECONFORM_VERSION",
    "UNITTEST_VERSION",
    "ensure_helm",
    "ensure_helm3",
    "ensure_helm_unittest",
    "ensure_kubeconform",
]

HELM_VERSION = "v4.3.1"
HELM3_VERSION = "v3.22.0"
KUBECONFORM_VERSION = "v0.8.0"
UNITTEST_VERSION = "v1.1.2"

_UNITTEST_MODULE = Path(__file__).with_name("unittest")


def _installed(name: str, title: str, package: str, version: str) -> Program:
    return Program(
        name=name,
        title=f"{title} {version}",
        version=version,
        go_arguments=("install", "-v", "-ldflags=-s -w", f"{package}@{version}"),
    )


_HELM = _installed("helm", "Helm", "helm.sh/helm/v4/cmd/helm", HELM_VERSION)
_HELM3 = _installed("helm", "Helm", "helm.sh/helm/v3/cmd/helm", HELM3_VERSION)
_KUBECONFORM = _installed(
    "kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", KUBECONFORM_VERSION
)
_UNITTEST = Program(
    name="helm-unittest",
    title=f"helm-unittest {UNITTEST_VERSION}",
    version=UNITTEST_VERSION,
    go_arguments=(
        "build",
        "-v",
        "-trimpath",
        "-mod=readonly",
        "-ldflags=-s -w",
        "-o",
        "{out}/helm-unittest",
        "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
    ),
    inputs=(_UNITTEST_MODULE / "go.mod", _UNITTEST_MODULE / "go.sum"),
    folder=_UNITTEST_MODULE,
)


def ensure_helm(report: Callable[[str], None] | None = None) -> Path:
    """Return Helm 4: ``$BUBU_HELM``, or the one in the cache, built first if needed.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_HELM, "BUBU_HELM", report)


def ensure_helm3(report: Callable[[str], None] | None = None) -> Path:
    """Return Helm 3, which many still use: ``$BUBU_HELM3``, or the one in the cache.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_HELM3, "BUBU_HELM3", report)


def ensure_kubeconform(report: Callable[[str], None] | None = None) -> Path:
    """Return kubeconform: ``$BUBU_KUBECONFORM``, or the one in the cache.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_KUBECONFORM, "BUBU_KUBECONFORM", report)


def ensure_helm_unittest(report: Callable[[str], None] | None = None) -> Path:
    """Return helm-unittest: ``$BUBU_HELM_UNITTEST``, or the one in the cache.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    return given_or_built(_UNITTEST, "BUBU_HELM_UNITTEST", report)
