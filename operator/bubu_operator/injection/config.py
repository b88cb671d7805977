"""A storage config as injection sees it: identity, who may use it, and its plan.

`load_config` is the border: API objects (plain dicts) go in, and every one of them comes
out as an `InjectionConfig`. One that cannot be used, because an older CRD let it pass,
keeps its place with the reason in `InjectionConfig.problem`: if it silently vanished,
pods would get another config than the one that people see in the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.common import LabelSelector
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.injection.environment import InjectionPlan, StoreLimits, make_plan

__all__ = ["CLUSTER_STORAGE_CONFIG", "STORAGE_CONFIG", "ConfigName", "InjectionConfig", "load_config"]

STORAGE_CONFIG: Final = StorageConfig.KIND
CLUSTER_STORAGE_CONFIG: Final = ClusterStorageConfig.KIND


ConfigName: TypeAlias = tuple[str, str, str]
"""Kind, namespace ("" for a cluster-wide one) and name."""


@dataclass(frozen=True, slots=True)
class InjectionConfig:
    """One StorageConfig or ClusterStorageConfig.

    Attributes:
        kind: ``StorageConfig`` or ``ClusterStorageConfig``.
        namespace: "" for a cluster-wide one.
        name: its name.
        uid: of the object; "" where it comes from a file.
        generation: ``metadata.generation``.
        default: wanted where a namespace has several.
        deleting: being deleted; not chosen any more.
        namespace_selector: of a cluster-wide config; None selects nothing.
        plan: what pods get; None exactly when there is a problem.
        problem: why the config cannot be used; "" when it can.
        rollout_on_change: whether a change may roll the workloads it was injected into.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    default: bool
    deleting: bool
    namespace_selector: LabelSelector | None
    plan: InjectionPlan | None
    problem: str = ""
    rollout_on_change: bool = False

    def __str__(self) -> str:
        """``StorageConfig flows/main``, for messages."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def config_name(self) -> ConfigName:
        """The name under which records and tallies know it."""
        return self.kind, self.namespace, self.name

    def selects(self, namespace_labels: Mapping[str, str]) -> bool:
        """Tell whether a cluster-wide config is offered to a namespace with these labels."""
        return self.namespace_selector is not None and self.namespace_selector.matches(namespace_labels)


def load_config(obj: Mapping[str, Any]) -> InjectionConfig:
    """Read an API object of either kind; ``kind`` must be set. Never raises for a bad object."""
    metadata = _mapping(obj.get("metadata"))
    kind = CLUSTER_STORAGE_CONFIG if obj.get("kind") == CLUSTER_STORAGE_CONFIG else STORAGE_CONFIG
    generation = metadata.get("generation")
    plan: InjectionPlan | None = None
    problem, rollout = "", False
    default, selector = _claims(_mapping(obj.get("spec")))
    # The status is of no interest here, and must not make a config unusable.
    content = {key: value for key, value in obj.items() if key != "status"}
    try:
        if kind == CLUSTER_STORAGE_CONFIG:
            spec = ClusterStorageConfig.model_validate(content).spec
        else:
            spec = StorageConfig.model_validate(content).spec
        rollout = spec.injection.rollout_on_change
        plan = make_plan(
            s3=spec.s3,
            file=spec.file,
            limits=StoreLimits(
                timeout_seconds=spec.timeout_seconds,
                max_inline_size=spec.max_inline_size,
                max_recursion_depth=spec.max_recursion_depth,
                output_prefix=spec.output_prefix,
                input_prefix=spec.input_prefix,
            ),
            injection=spec.injection,
        )
    except ValidationError as error:
        problem = describe_validation_error(error)
    except ValueError as error:
        problem = str(error)
    return InjectionConfig(
        kind=kind,
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        uid=str(metadata.get("uid") or ""),
        generation=generation if isinstance(generation, int) else 0,
        default=default,
        deleting=bool(metadata.get("deletionTimestamp")),
        namespace_selector=selector,
        plan=plan,
        problem=problem,
        rollout_on_change=rollout,
    )


def _claims(spec: Mapping[str, Any]) -> tuple[bool, LabelSelector | None]:
    """Whom the config is for, read by itself: an invalid config must refuse where it would be chosen."""
    try:
        selector = LabelSelector.model_validate(spec.get("namespaceSelector"))
    except ValidationError:
        selector = None
    return spec.get("default") is True, selector


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
