"""S3 as a store: the bucket, and who may reach it how.

The namespaced and the cluster-wide kind differ only in how a Secret or ConfigMap is found. A
namespaced config reads its own namespace's; with a cluster-wide one, pods read the object of that
name in *their* namespace, and the controller reads it in ``controllerNamespace``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from bubu_operator.api.v1alpha1.base import LAX, Rule, SpecModel, exactly_one
from bubu_operator.api.v1alpha1.scalars import (
    BucketName,
    Endpoint,
    KmsKeyID,
    NamespaceName,
    ObjectName,
    Region,
    SecretKey,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES

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
    "S3Authentication",
    "S3Spec",
    "SecretKeys",
    "SecretRef",
    "ServerSideEncryption",
    "ServiceAccountRef",
]

MAX_PART_SIZE_BYTES: Final = 5 * 1024**3


class ServerSideEncryption(StrEnum):
    """Encryption that the store applies; the values of S3's own header."""

    AES256 = "AES256"
    KMS = "aws:kms"


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
        exactly_one(
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
            "identity: it probes such a store by a Job under that account where it may run Jobs, and says "
            "NoCredentials where it may not."
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
            "identity, and a cluster-wide config has no namespace for a Job: the store is not probed, and "
            "the status says NoCredentials."
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
