"""The store half of StorageConfig and ClusterStorageConfig: where objects live, who may reach them.

The two kinds differ only in how a Secret or ConfigMap is found. A namespaced config reads
its own namespace's; with a cluster-wide one, pods read the object of that name in *their*
namespace, and the controller reads it in ``controllerNamespace``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, ListSet, Rule, SpecModel
from bubu_operator.api.v1alpha1.scalars import (
    AbsolutePath,
    BucketName,
    ContainerName,
    Endpoint,
    KmsKeyID,
    NamespaceName,
    ObjectName,
    Quantity,
    Region,
    SecretKey,
    StorePrefix,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES
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

MAX_PART_SIZE_BYTES: Final = 5 * 1024**3


class Provider(StrEnum):
    """What kind of store a config describes; the value of ``BUBU_STORAGE_PROVIDER``."""

    S3 = "s3"
    FILE = "file"


class ConflictPolicy(StrEnum):
    """What injection does with variables that a container already sets."""

    KEEP = "Keep"
    OVERRIDE = "Override"


class ServerSideEncryption(StrEnum):
    """Encryption that the store applies; the values of S3's own header."""

    AES256 = "AES256"
    KMS = "aws:kms"


def _exactly_one(names: tuple[str, ...], message: str, *, attributes: tuple[str, ...] | None = None) -> Rule:
    attributes = attributes or names
    terms = ", ".join(f"has(self.{name})" for name in names)
    return Rule(
        cel=f"[{terms}].filter(given, given).size() == 1",
        message=message,
        holds=lambda self: sum(getattr(self, name) is not None for name in attributes) == 1,
    )


# --- S3 ----------------------------------------------------------------------------------------


class SecretKeys(SpecModel):
    """Which keys of the Secret hold what; the defaults are the names of the AWS variables."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.accessKeyID != self.secretAccessKey",
            message="accessKeyID and secretAccessKey must name two different keys of the Secret",
            holds=lambda self: self.access_key_id != self.secret_access_key,
        ),
    )

    access_key_id: Annotated[
        SecretKey, Field(alias="accessKeyID", description="Key of the Secret that holds the access key id.")
    ] = "AWS_ACCESS_KEY_ID"
    secret_access_key: Annotated[
        SecretKey, Field(description="Key of the Secret that holds the secret access key.")
    ] = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key, not a key
    session_token: Annotated[
        SecretKey,
        Field(description="Key of the Secret that holds the session token; the Secret need not have it."),
    ] = "AWS_SESSION_TOKEN"  # noqa: S105 - the name of a key, not a token


class SecretRef(SpecModel):
    """A Secret with an access key."""

    name: Annotated[ObjectName, Field(description="Name of the Secret, in the namespace of this object.")]
    keys: Annotated[SecretKeys, Field(description="Which keys of the Secret hold what.")] = SecretKeys()


class ClusterSecretRef(SecretRef):
    """A Secret with an access key, found by name in each namespace."""

    name: Annotated[
        ObjectName,
        Field(description="Name of the Secret. Pods read the Secret of that name in their own namespace."),
    ]
    controller_namespace: Annotated[
        NamespaceName | None,
        Field(
            description="Namespace in which the controller reads the Secret, to probe the store and to run "
            "retention passes. Without it the controller does neither and says NoCredentials."
        ),
    ] = None


class ServiceAccountRef(SpecModel):
    """A ServiceAccount that the user bound to a cloud identity."""

    name: Annotated[
        ObjectName,
        Field(
            description="Name of the ServiceAccount that pods run under. It must already be bound to an "
            "identity "
            "of the store (IRSA, workload identity); the operator changes neither it nor any pod's account."
        ),
    ]


class Anonymous(SpecModel):
    """Requests without a signature; written as an empty object."""


_ONE_AUTHENTICATION: Final = (
    "set exactly one of secretRef, serviceAccount and anonymous (as in anonymous: {})"
)


class _Authentication(SpecModel):
    RULES: ClassVar[tuple[Rule, ...]] = (
        _exactly_one(
            ("secretRef", "serviceAccount", "anonymous"),
            _ONE_AUTHENTICATION,
            attributes=("secret_ref", "service_account", "anonymous"),
        ),
    )


class S3Authentication(_Authentication):
    """How pods, and the controller, prove to the store who they are."""

    secret_ref: Annotated[
        SecretRef | None, Field(description="An access key in a Secret of this namespace.")
    ] = None
    service_account: Annotated[
        ServiceAccountRef | None,
        Field(
            description="The cloud identity of the pod's ServiceAccount. The controller never lends its own "
            "identity, so it does not probe such a store itself and says NoCredentials."
        ),
    ] = None
    anonymous: Annotated[
        Anonymous | None, Field(description="Unsigned requests, for a public store or a trusted network.")
    ] = None


class ClusterS3Authentication(_Authentication):
    """How pods, and the controller, prove to the store who they are."""

    secret_ref: Annotated[
        ClusterSecretRef | None,
        Field(
            description="An access key in a Secret; pods read the one of that name in their own namespace."
        ),
    ] = None
    service_account: Annotated[
        ServiceAccountRef | None,
        Field(
            description="The cloud identity of the pod's ServiceAccount. The controller never lends its own "
            "identity, so it does not probe such a store itself and says NoCredentials."
        ),
    ] = None
    anonymous: Annotated[
        Anonymous | None, Field(description="Unsigned requests, for a public store or a trusted network.")
    ] = None


class ConfigMapKeyRef(SpecModel):
    """One key of a ConfigMap."""

    name: Annotated[ObjectName, Field(description="Name of the ConfigMap, in the namespace of this object.")]
    key: Annotated[SecretKey, Field(description="Key of the ConfigMap.")] = "ca.crt"


class ClusterConfigMapKeyRef(ConfigMapKeyRef):
    """One key of a ConfigMap, found by name in each namespace."""

    name: Annotated[
        ObjectName,
        Field(
            description="Name of the ConfigMap. Pods read the ConfigMap of that name in their own namespace."
        ),
    ]
    controller_namespace: Annotated[
        NamespaceName | None,
        Field(description="Namespace in which the controller reads the ConfigMap."),
    ] = None


class CABundle(SpecModel):
    """Certificate authorities as PEM text."""

    config_map_ref: Annotated[ConfigMapKeyRef, Field(description="The ConfigMap that holds the PEM text.")]


class ClusterCABundle(SpecModel):
    """Certificate authorities as PEM text."""

    config_map_ref: Annotated[
        ClusterConfigMapKeyRef, Field(description="The ConfigMap that holds the PEM text.")
    ]


class TLS(SpecModel):
    """How the store's certificate is verified; there is no way to skip it."""

    ca_bundle: Annotated[
        CABundle | None, Field(description="Certificate authorities to trust for this store.")
    ] = None


class ClusterTLS(SpecModel):
    """How the store's certificate is verified; there is no way to skip it."""

    ca_bundle: Annotated[
        ClusterCABundle | None, Field(description="Certificate authorities to trust for this store.")
    ] = None


def _ca_bundle_usable(self: Any) -> bool:
    return not (self.endpoint or "").startswith("http:") or self.tls is None or self.tls.ca_bundle is None


class _S3Base(SpecModel):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.sseKmsKeyID) || (has(self.sse) && self.sse == 'aws:kms')",
            message="sseKmsKeyID needs sse: aws:kms",
            holds=lambda self: self.sse_kms_key_id is None or self.sse == ServerSideEncryption.KMS,
            field_path=".sseKmsKeyID",
        ),
        Rule(
            cel="!has(self.endpoint) || !self.endpoint.startsWith('http:') "
            "|| !has(self.tls) || !has(self.tls.caBundle)",
            message="tls.caBundle needs an https endpoint",
            holds=_ca_bundle_usable,
            field_path=".tls",
        ),
    )

    bucket: Annotated[
        BucketName, Field(description="Name of the bucket. It must exist; the operator creates none.")
    ]
    region: Annotated[
        Region | None,
        Field(description="Region of the bucket. Absent: the SDK's own choice, else us-east-1."),
    ] = None
    endpoint: Annotated[
        Endpoint | None,
        Field(description="URL of an S3-compatible server, as in https://minio.minio.svc:9000. Absent: AWS."),
    ] = None
    use_path_style: Annotated[
        bool | None,
        Field(
            description="Address objects as endpoint/bucket/key instead of bucket.endpoint/key. "
            "Absent: true with an endpoint, false without."
        ),
    ] = None
    sse: Annotated[
        Annotated[ServerSideEncryption, LAX] | None,
        Field(
            description="Server-side encryption to ask for on every write. Absent: none asked for.",
        ),
    ] = None
    sse_kms_key_id: Annotated[
        KmsKeyID | None,
        Field(alias="sseKmsKeyID", description="Key for sse: aws:kms. Absent: the account's default key."),
    ] = None
    max_part_size: Annotated[
        int | None,
        Field(
            ge=MIN_PART_SIZE_BYTES,
            le=MAX_PART_SIZE_BYTES,
            description="Bytes above which an object is uploaded in parts, and the size of a part. "
            "Absent: the SDK's default, 5 MiB.",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        Field(ge=1, le=64, description="Parts of one upload in flight. Absent: the SDK's default, 5."),
    ] = None
    max_attempts: Annotated[
        int | None,
        Field(ge=1, le=20, description="Tries in all for one request. Absent: the SDK's default, 3."),
    ] = None
    max_backoff_seconds: Annotated[
        int | None,
        Field(ge=1, le=300, description="Longest pause between two tries. Absent: the SDK's default, 10."),
    ] = None
    request_timeout_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=86400,
            description="For one HTTP exchange with the store, body included. Absent: the SDK's default, "
            "300.",
        ),
    ] = None

    @property
    def path_style(self) -> bool:
        """`use_path_style`, or what follows from the endpoint where it is absent."""
        return self.endpoint is not None if self.use_path_style is None else self.use_path_style


class S3Spec(_S3Base):
    """A bucket of an S3-compatible store."""

    authentication: Annotated[
        S3Authentication,
        Field(description="Exactly one of secretRef, serviceAccount and anonymous; there is no default."),
    ]
    tls: Annotated[TLS | None, Field(description="How the store's certificate is verified.")] = None


class ClusterS3Spec(_S3Base):
    """A bucket of an S3-compatible store."""

    authentication: Annotated[
        ClusterS3Authentication,
        Field(description="Exactly one of secretRef, serviceAccount and anonymous; there is no default."),
    ]
    tls: Annotated[ClusterTLS | None, Field(description="How the store's certificate is verified.")] = None


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
            "by pods on several nodes it needs access mode ReadWriteMany. The controller does not reach it."
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
            description="Let a change of this object roll the labelled workloads whose pod template is "
            "injected."
        ),
    ] = False


def _apart(self: Any) -> bool:
    output, input_ = f"{self.output_prefix}/", f"{self.input_prefix}/"
    return not output.startswith(input_) and not input_.startswith(output)


class StoreSpec(SpecModel):
    """What both kinds of config say about a store besides its provider."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _exactly_one(("s3", "file"), "set exactly one of s3 and file"),
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
