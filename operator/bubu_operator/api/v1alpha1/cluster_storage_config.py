"""ClusterStorageConfig: a store for the pods of many namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from bubu_operator.api.v1alpha1.base import Column, Resource, Rule
from bubu_operator.api.v1alpha1.common import LabelSelector
from bubu_operator.api.v1alpha1.storage_config import NAME_FITS_A_LABEL, StorageConfigStatus, config_columns
from bubu_operator.api.v1alpha1.store import ClusterS3Spec, StoreSpec

__all__ = ["ClusterStorageConfig", "ClusterStorageConfigSpec"]


class ClusterStorageConfigSpec(StoreSpec):
    """What is wanted: one store, the namespaces it is for, and how their pods are given it."""

    s3: Annotated[
        ClusterS3Spec | None, Field(description="A bucket as the store; exactly one of s3 and file.")
    ] = None
    namespace_selector: Annotated[
        LabelSelector | None,
        Field(description="Namespaces whose pods may use this store. Absent: none. Empty ({}): all."),
    ] = None

    def selects(self, namespace_labels: Mapping[str, str]) -> bool:
        """Tell whether a namespace with these labels may use this store."""
        return self.namespace_selector is not None and self.namespace_selector.matches(namespace_labels)


class ClusterStorageConfig(Resource):
    """Describes an object store for the pods of all namespaces that its selector chooses.

    A StorageConfig of the pod's own namespace comes first. Secrets and ConfigMaps are read by
    pods from their own namespace, under the name given here.
    """

    KIND: ClassVar[str] = "ClusterStorageConfig"
    PLURAL: ClassVar[str] = "clusterstorageconfigs"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("cbsc",)
    NAMESPACED: ClassVar[bool] = False
    COLUMNS: ClassVar[tuple[Column, ...]] = tuple(
        column for column in config_columns() if column.name != "Default"
    )
    RULES: ClassVar[tuple[Rule, ...]] = (NAME_FITS_A_LABEL,)

    spec: Annotated[
        ClusterStorageConfigSpec,
        Field(
            description="What is wanted: one store, the namespaces it is for, and how their pods are given "
            "it."
        ),
    ]
    status: Annotated[
        StorageConfigStatus, Field(description="What the operator found. Written by the operator only.")
    ] = StorageConfigStatus()
