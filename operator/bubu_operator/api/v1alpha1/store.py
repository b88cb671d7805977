"""What StorageConfig and ClusterStorageConfig say about a store: its provider, limits and injection.

The provider's own half is `s3` or `FileSpec`; names of `s3` are given on, so that users of a
config need one import.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, ListSet, Rule, SpecModel, exactly_one
from bubu_operator.api.v1alpha1.s3 import (
    TLS,
    Anonymous,
    CABundle,
    ClusterCABundle,
    ClusterConfigMapKeyRef,
    ClusterS3Authentication,
    ClusterS3Spec,
    ClusterSecretRef,
    ClusterTLS,
    ConfigMapKeyRef,
    S3Authentication,
    S3Spec,
    SecretKeys,
    SecretRef,
    ServerSideEncryption,
    ServiceAccountRef,
)
from bubu_operator.api.v1alpha1.scalars import (
    AbsolutePath,
    ContainerName,
    ObjectName,
    Quantity,
    StorePrefix,
)
from bubu_storage.wire import (
    DEFAULT_FILE_PATH,
    DEFAULT_INPUT_PREFIX,
    DEFAULT_MAX_INLINE_SIZE,
    DEFAULT_MAX_RECURSION_DEPTH,
    DEFAULT_OUTPUT_PREFIX,
    DEFAULT_STORAGE_TIMEOUT_SECONDS,
)

__all__ = [
    "TLS",
    "Anonymous",
    "CABundle",
    "ClusterCABundle",
    "ClusterConfigMapKeyRef",
    "ClusterS3Authentication",
    "ClusterS3Spec",
    "ClusterSecretRef",
    "ClusterTLS",
    "ConfigMapKeyRef",
    "ConflictPolicy",
    "EmptyDir",
    "FileSpec",
    "InjectionSpec",
    "Provider",
    "S3Authentication",
    "S3Spec",
    "SecretKeys",
    "SecretRef",
    "ServerSideEncryption",
    "ServiceAccountRef",
    "StoreSpec",
]


class Provider(StrEnum):
    """What kind of store a config describes; the value of ``BUBU_STORAGE_PROVIDER``."""

    S3 = "s3"
    FILE = "file"


class ConflictPolicy(StrEnum):
    """What injection does with variables that a container already sets."""

    KEEP = "Keep"
    OVERRIDE = "Override"


# --- file --------------------------------------------------------------------------------------


class EmptyDir(SpecModel):
    """A directory that lives and dies with the pod; written as an empty object for the defaults."""

    medium: Annotated[
        Literal["", "Memory"] | None,
        Field(description="Memory for a RAM disk. Absent: the node's disk."),
    ] = None
    size_limit: Annotated[
        Quantity | None, Field(description="Most that the directory may hold, as in 512Mi. Absent: no limit.")
    ] = None


class FileSpec(SpecModel):
    """A directory as a store."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.volumeClaimName) || has(self.emptyDir) || has(self.path)",
            message="set volumeClaimName, or emptyDir, or path alone",
            holds=lambda self: (
                self.volume_claim_name is not None or self.empty_dir is not None or self.path is not None
            ),
        ),
        Rule(
            cel="!(has(self.volumeClaimName) && has(self.emptyDir))",
            message="set volumeClaimName or emptyDir, not both",
            holds=lambda self: self.volume_claim_name is None or self.empty_dir is None,
        ),
    )

    volume_claim_name: Annotated[
        ObjectName | None,
        Field(
            description="PersistentVolumeClaim, in the pod's namespace, that is mounted into pods. To be "
            "shared "
            "by pods on several nodes it needs access mode ReadWriteMany; such a claim is probed by a Job "
            "that mounts it, where the controller may run Jobs."
        ),
    ] = None
    path: Annotated[
        AbsolutePath | None,
        Field(
            description=f"Where pods mount the store. Absent: {DEFAULT_FILE_PATH}. With neither "
            f"volumeClaimName "
            "nor emptyDir, pods get an emptyDir there, and the controller treats the same path on its own "
            "machine as the store if it lies below one of its --allow-local-root directories "
            "(for development and demonstrations)."
        ),
    ] = None
    empty_dir: Annotated[
        EmptyDir | None,
        Field(
            description="A directory of each pod's own: not shared between pods, gone with the pod. "
            "There is nothing to probe or to collect; the condition NotShared says so."
        ),
    ] = None

    @property
    def mount_path(self) -> str:
        """Where pods find the store."""
        return self.path or DEFAULT_FILE_PATH

    @property
    def local_path(self) -> str | None:
        """The directory that the controller itself may use, given an allowed root; else None."""
        return self.path if self.volume_claim_name is None and self.empty_dir is None else None


# --- common ------------------------------------------------------------------------------------


class InjectionSpec(SpecModel):
    """How pods are given this store."""

    containers: Annotated[
        Annotated[tuple[ContainerName, ...], LAX, Field(min_length=1, max_length=64), ListSet()] | None,
        Field(
            description="Names of the containers to inject. Absent: all, init containers and sidecars "
            "included.",
        ),
    ] = None
    conflict_policy: Annotated[
        Annotated[ConflictPolicy, LAX],
        Field(
            description="Keep leaves variables that a container already sets, group by group, with an "
            "admission "
            "warning; Override replaces them.",
        ),
    ] = ConflictPolicy.KEEP
    rollout_on_change: Annotated[
        bool,
        Field(
            description="Let the operator restart workloads for this config, one at a time: a change rolls "
            "labelled workloads whose pod template is injected, and owners of pods that lack the config or "
            "carry an older form of it are restarted."
        ),
    ] = False


def _apart(self: Any) -> bool:
    output, input_ = f"{self.output_prefix}/", f"{self.input_prefix}/"
    return not output.startswith(input_) and not input_.startswith(output)


class StoreSpec(SpecModel):
    """What both kinds of config say about a store besides its provider."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one(("s3", "file"), "set exactly one of s3 and file"),
        Rule(
            cel="!(self.outputPrefix + '/').startsWith(self.inputPrefix + '/') "
            "&& !(self.inputPrefix + '/').startsWith(self.outputPrefix + '/')",
            message="outputPrefix and inputPrefix must be apart: neither the same nor one inside the other, "
            "or inputs and outputs would overwrite each other",
            holds=_apart,
        ),
    )

    file: Annotated[
        FileSpec | None, Field(description="A directory as the store; exactly one of s3 and file.")
    ] = None
    timeout_seconds: Annotated[
        int, Field(ge=1, le=86400, description="For one whole storage call of a pod (BUBU_STORAGE_TIMEOUT).")
    ] = int(DEFAULT_STORAGE_TIMEOUT_SECONDS)
    max_inline_size: Annotated[
        int,
        Field(
            ge=0,
            le=1024 * 1024,
            description="Bytes above which a value is offloaded to the store (BUBU_MAX_INLINE_SIZE).",
        ),
    ] = DEFAULT_MAX_INLINE_SIZE
    max_recursion_depth: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Nesting and reference budget of documents (BUBU_MAX_RECURSION_DEPTH).",
        ),
    ] = DEFAULT_MAX_RECURSION_DEPTH
    output_prefix: Annotated[
        StorePrefix, Field(description="Path below which outputs are written (BUBU_STORAGE_OUTPUT_PREFIX).")
    ] = DEFAULT_OUTPUT_PREFIX
    input_prefix: Annotated[
        StorePrefix, Field(description="Path below which inputs are written (BUBU_STORAGE_INPUT_PREFIX).")
    ] = DEFAULT_INPUT_PREFIX
    injection: Annotated[InjectionSpec, Field(description="How pods are given this store.")] = InjectionSpec()

    @property
    def provider(self) -> Provider:
        """Which of the two providers this is."""
        return Provider.FILE if self.file is not None else Provider.S3
