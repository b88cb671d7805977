"""What the chart renders, as objects: for tests that judge it without a cluster.

Values go in as a mapping, the way a values file does; a rendering that is refused raises with Helm's
own words, so that tests can say what a user reads.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from tests.chart.programs import ensure_helm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CHART",
    "FILES",
    "NAMESPACE",
    "RELEASE",
    "ChartError",
    "Rendered",
    "helm",
    "helm_environment",
    "hook_of",
    "render",
]

CHART = Path(__file__).resolve().parents[2] / "charts" / "bubu-storage-operator"
FILES = CHART / "files"
RELEASE = "bubu-storage"
NAMESPACE = "bubu-storage-system"

Object = dict[str, Any]

if TYPE_CHECKING:
    _Safe = yaml.SafeLoader
else:
    # The CRDs are long, and the parser in C is ten times faster.
    _Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Refuses a key that is there twice, as YAML does; the parser alone would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ChartError(f"key there twice:{node.start_mark}: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep=deep)


class ChartError(Exception):
    """Helm refused; the message is what it printed."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All objects of one rendering, hooks included."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [obj for obj in self.objects if obj["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Return one object by kind and name.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = [
            obj
            for obj in self.of(kind)
            if obj["metadata"]["name"] == name
            and (namespace is None or obj["metadata"].get("namespace") == namespace)
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} objects {kind} {name}")
        return found[0]

    @property
    def installed(self) -> list[Object]:
        """What an installation creates: everything but hooks."""
        return [obj for obj in self.objects if not hook_of(obj)]


def hook_of(obj: Object) -> str:
    """Return the hook that an object belongs to, "" if to none."""
    annotations: dict[str, str] = obj["metadata"].get("annotations") or {}
    return annotations.get("helm.sh/hook", "")


def helm_environment(folder: Path | str) -> dict[str, str]:
    """An environment in which Helm keeps its own files in a folder and knows no cluster."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
    return kept | {f"HELM_{name}_HOME": f"{folder}/{name.lower()}" for name in ("CACHE", "CONFIG", "DATA")}


def helm(*arguments: str, program: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run Helm; return what it printed.

    Raises:
        ChartError: it ended with another code than 0.
    """
    with tempfile.TemporaryDirectory(prefix="bubu-helm-") as folder:
        done = subprocess.run(
            [str(program or ensure_helm()), *arguments],
            env={**helm_environment(folder), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode != 0:
        raise ChartError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def render(
    values: Mapping[str, Any] | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    arguments: Iterable[str] = (),
    program: Path | None = None,
) -> Rendered:
    """Render the chart.

    Args:
        values: what a values file would hold.
        release: its name.
        namespace: of the release.
        arguments: further ones of ``helm template``.
        program: another Helm than the usual one.

    Raises:
        ChartError: a value is refused, or a template fails.
    """
    # JSON is YAML, and says exactly which text is a number.
    chosen = json.dumps(dict(values or {}))
    text = _rendered(chosen, release, namespace, tuple(arguments), program or ensure_helm())
    documents = cast("list[Object | None]", list(yaml.load_all(text, Loader=_Loader)))
    return Rendered(tuple(document for document in documents if document))


@functools.cache
def _rendered(values: str, release: str, namespace: str, arguments: tuple[str, ...], program: Path) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="bubu-values-", suffix=".yaml") as file:
        file.write(values)
        file.flush()
        return helm(
            "template", release, str(CHART), "--namespace", namespace, "--values", file.name, *arguments,
            program=program,
        )  # fmt: skip
