"""From a config to settings that open its store: Secrets, ConfigMaps and paths, each with its reason.

Invariants: credentials come only from the config's own namespace (or, cluster-wide, from
the one it names for the controller); settings always say explicitly who asks, with keys
or anonymously, so the SDK never looks for an identity of ours; every secret value read is
told to the redactor, as one of this config's texts, before anything else is done with it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.api.v1alpha1.store import (
    ClusterConfigMapKeyRef,
    ClusterS3Spec,
    ClusterSecretRef,
    ConfigMapKeyRef,
    S3Spec,
    SecretRef,
)
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.endpoint import address_policy
from bubu_operator.controllers.local_path import PathProblem, check_local_path
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.resources import CONFIG_MAPS, SECRETS, JsonObject, section
from bubu_operator.kube.scrub import credential_scope
from bubu_storage.settings import FileSettings, S3Settings

__all__ = [
    "AnyConfig",
    "Refusal",
    "StoreAccess",
    "bucket_text",
    "for_pass",
    "for_probe",
    "grant_command",
    "resolve_store",
    "scope_of",
    "store_identity",
]

AnyConfig: TypeAlias = StorageConfig | ClusterStorageConfig

DEFAULT_ACCOUNT: Final = "bubu-storage-controller"
MAX_CREDENTIAL_CHARACTERS: Final = 8192
"""Session tokens are the longest, some kilobytes."""

MAX_KEY_NAMES: Final = 10

PROBE_CONNECT_SECONDS: Final = 3.0
PROBE_TIMEOUT_SECONDS: Final = 5.0
PASS_CONNECT_SECONDS: Final = 5.0
PASS_TIMEOUT_SECONDS: Final = 30.0

_ACCOUNT = re.compile(r'User "system:serviceaccount:(?P<namespace>[^:"]+):(?P<name>[^:"]+)"')
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The store cannot be opened by the controller, and why.

    Attributes:
        reason: for the Ready condition.
        message: for people: the thing, the cause, the way out.
        usable: True when pods may well use the store although the controller cannot.
        about_secrets: the reason belongs into SecretsPresent, too.
    """

    reason: Reason
    message: str
    usable: bool = False
    about_secrets: bool = False


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """Settings that open the store.

    Attributes:
        settings: explicit in who asks; secrets inside.
        names_secrets: the config names a Secret or ConfigMap, and all were found.
    """

    settings: FileSettings | S3Settings
    names_secrets: bool


def store_identity(config: AnyConfig) -> str:
    """Return what two configs have in common exactly when they mean the same store; no secrets in it."""
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        if s3.endpoint is None:
            return f"s3://aws/{s3.bucket}"
        parts = urlsplit(s3.endpoint)
        host = (parts.hostname or "").lower()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"s3://{host}:{port}{parts.path.rstrip('/')}/{s3.bucket}"
    if file is None:  # the model has exactly one of the two
        return ""
    if file.volume_claim_name is not None:
        return f"pvc://{config.metadata.namespace}/{file.volume_claim_name}"
    if file.local_path is not None:
        return f"file://{file.local_path.rstrip('/')}"
    return ""


def scope_of(config: AnyConfig) -> str:
    """Return whose texts are cleaned of the credentials of a config's store; see `Redactor`."""
    return credential_scope(config.KIND, config.metadata.namespace, config.metadata.name)


def bucket_text(config: AnyConfig) -> str:
    """Return what the BUCKET column shows."""
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        return s3.bucket
    if file is None or file.empty_dir is not None:
        return "emptyDir"
    return f"pvc/{file.volume_claim_name}" if file.volume_claim_name is not None else file.mount_path


def resolve_store(context: Context, config: AnyConfig) -> StoreAccess | Refusal:
    """Gather what is needed to open the config's store from the controller.

    Raises:
        KubeApiError: the API server failed, other than by "not found" and "forbidden".
    """
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        return _resolve_s3(context, config, s3)
    if file is None or file.empty_dir is not None:
        return Refusal(
            Reason.EMPTY_DIR,
            "each pod has an empty directory of its own: nothing is shared, and there is nothing to probe "
            "or to collect",
            usable=True,
        )
    if file.volume_claim_name is not None:
        return Refusal(
            Reason.NOT_PROBED,
            f"the controller does not mount claims, so no retention pass runs on {file.volume_claim_name}; "
            "pods that mount it are not affected",
            usable=True,
        )
    problem = check_local_path(file.mount_path, context.options.allow_local_roots)
    if problem is not None:
        return _path_refusal(problem)
    return StoreAccess(FileSettings(path=file.mount_path), names_secrets=False)


def _path_refusal(problem: PathProblem) -> Refusal:
    return Refusal(Reason.PATH_NOT_ALLOWED if problem.outside else Reason.PATH_NOT_WRITABLE, problem.message)


def _resolve_s3(context: Context, config: AnyConfig, s3: S3Spec | ClusterS3Spec) -> StoreAccess | Refusal:
    settings = S3Settings(
        bucket=s3.bucket,
        region=s3.region or "",
        endpoint=s3.endpoint or "",
        use_path_style=s3.path_style,
        sse=str(s3.sse) if s3.sse is not None else "",
        sse_kms_key_id=s3.sse_kms_key_id or "",
        max_attempts=1,
        # The other engine follows redirects within a host, and tenants write the endpoint.
        engine="boto3",
        address_policy=address_policy(allow_loopback=context.options.allow_loopback_endpoints),
    )
    authentication = s3.authentication
    if authentication.service_account is not None:
        name = authentication.service_account.name
        cluster_wide = (
            "; a cluster-wide config has no namespace in which a Job could run under that account, so the "
            "store is not probed either"
            if isinstance(config, ClusterStorageConfig)
            else ""
        )
        return Refusal(
            Reason.NO_CREDENTIALS,
            f"pods reach this store as service account {name}; the controller has no identity for it and "
            f"never lends its own, so no retention pass can run on it{cluster_wide}. Pods are not affected. "
            "Use authentication.secretRef for both",
            usable=True,
        )
    if authentication.secret_ref is not None:
        found = _credentials(context, config, authentication.secret_ref, settings)
    else:
        found = replace(settings, anonymous=True)
    if isinstance(found, Refusal):
        return found
    bundle = s3.tls.ca_bundle if s3.tls is not None else None
    if bundle is not None:
        with_bundle = _ca_bundle(context, config, bundle.config_map_ref)
        if isinstance(with_bundle, Refusal):
            return with_bundle
        found = replace(found, ca_bundle_pem=with_bundle)
    return StoreAccess(found, names_secrets=authentication.secret_ref is not None or bundle is not None)


def _credentials(
    context: Context, config: AnyConfig, reference: SecretRef | ClusterSecretRef, settings: S3Settings
) -> S3Settings | Refusal:
    namespace = _namespace_of(config, reference)
    if not namespace:
        return Refusal(
            Reason.NO_CREDENTIALS,
            f"secretRef.controllerNamespace is not set: the controller does not know which Secret "
            f"{reference.name} is meant for it, so the store was not probed. Pods are not affected: each "
            "reads the Secret of its own namespace",
            usable=True,
        )
    where = f"Secret {namespace}/{reference.name}"
    try:
        secret = context.client.get(SECRETS, reference.name, namespace)
    except KubeNotFoundError:
        return Refusal(
            Reason.SECRET_NOT_FOUND,
            f"{where} does not exist; create it, or correct secretRef.name",
            about_secrets=True,
        )
    except KubeForbiddenError as error:
        return Refusal(
            Reason.SECRET_FORBIDDEN, _grant(context.options, where, namespace, str(error)), about_secrets=True
        )
    data = _decoded(section(secret, "data"))
    keys = reference.keys
    named = (keys.access_key_id, keys.secret_access_key, keys.session_token)
    # Only what is used: the other values of a Secret are no business of ours, and must not blot out texts.
    # Nor what everybody reads anyway: a key id is often the team's name, and commands in messages hold that.
    public = {namespace, reference.name, config.metadata.namespace, config.metadata.name, settings.bucket}
    context.redactor.add(
        (data.get(key, "") for key in named if data.get(key, "").strip() not in public), scope_of(config)
    )
    values: list[str] = []
    for key in named[:2]:
        value = data.get(key)
        if not value:
            what = "is empty" if key in data else "is missing"
            return Refusal(
                Reason.SECRET_KEY_MISSING,
                f"key {key} of {where} {what}; it has: {_key_names(data)}. Add it, or "
                "name another one in secretRef.keys",
                about_secrets=True,
            )
        values.append(value)
    values.append(data.get(keys.session_token, "").strip())
    for key, value in zip(named, values, strict=True):
        if value != value.strip():
            return Refusal(
                Reason.UNAUTHENTICATED,
                f"the value of key {key} of {where} begins or ends with white space, most often a line "
                "break; no store accepts that. Write it again without (printf instead of echo)",
            )
        # It becomes part of a header: what does not fit there would fail later, and be quoted then.
        if len(value) > MAX_CREDENTIAL_CHARACTERS or not value.isascii() or not value.isprintable():
            return Refusal(
                Reason.UNAUTHENTICATED,
                f"the value of key {key} of {where} is no credential: at most {MAX_CREDENTIAL_CHARACTERS} "
                "printable ASCII characters on one line are one. Is it another file's content?",
            )
    return replace(settings, access_key_id=values[0], secret_access_key=values[1], session_token=values[2])


def _ca_bundle(
    context: Context, config: AnyConfig, reference: ConfigMapKeyRef | ClusterConfigMapKeyRef
) -> str | Refusal:
    namespace = _namespace_of(config, reference)
    if not namespace:
        return Refusal(
            Reason.NO_CREDENTIALS,
            f"caBundle.configMapRef.controllerNamespace is not set: the controller does not know which "
            f"ConfigMap {reference.name} is meant for it, so the store was not probed. Pods are not affected",
            usable=True,
        )
    where = f"ConfigMap {namespace}/{reference.name}"
    try:
        found = context.client.get(CONFIG_MAPS, reference.name, namespace)
    except KubeNotFoundError:
        return Refusal(
            Reason.CONFIG_MAP_NOT_FOUND,
            f"{where} does not exist; create it, or correct tls.caBundle.configMapRef.name",
            about_secrets=True,
        )
    except KubeForbiddenError as error:
        return Refusal(
            Reason.CONFIG_MAP_FORBIDDEN,
            _grant(context.options, where, namespace, str(error)),
            about_secrets=True,
        )
    data = section(found, "data")
    text = data.get(reference.key)
    if not isinstance(text, str) or not text.strip():
        return Refusal(
            Reason.CONFIG_MAP_KEY_MISSING,
            f"key {reference.key} of {where} is missing or empty; it has: {_key_names(data)}",
            about_secrets=True,
        )
    if _PEM.search(text) is None:
        return Refusal(
            Reason.CA_BUNDLE_INVALID,
            f"key {reference.key} of {where} holds no certificate in PEM form "
            "(-----BEGIN CERTIFICATE----- …)",
        )
    return text


def _namespace_of(
    config: AnyConfig,
    reference: SecretRef | ClusterSecretRef | ConfigMapKeyRef | ClusterConfigMapKeyRef,
) -> str:
    if isinstance(config, StorageConfig):
        return config.metadata.namespace
    if isinstance(reference, (ClusterSecretRef, ClusterConfigMapKeyRef)):
        return reference.controller_namespace or ""
    return ""


def _decoded(data: JsonObject) -> dict[str, str]:
    """Return a Secret's values as text; what is no base64 or no UTF-8 counts as empty."""
    decoded: dict[str, str] = {}
    for key, value in data.items():
        try:
            decoded[key] = base64.b64decode(str(value), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            decoded[key] = ""
    return decoded


def _key_names(data: JsonObject) -> str:
    names = sorted(data)
    shown = ", ".join(names[:MAX_KEY_NAMES]) or "no keys"
    return shown if len(names) <= MAX_KEY_NAMES else f"{shown} and {len(names) - MAX_KEY_NAMES} more"


def grant_command(options: ControllerOptions, role: str, namespace: str, refusal: str) -> str:
    """Return the command that grants a role of ours to whom a refusal names; "" if it names nobody."""
    match = _ACCOUNT.search(refusal)
    return _rolebinding(options, role, namespace, f"{match['namespace']}:{match['name']}") if match else ""


def _grant(options: ControllerOptions, where: str, namespace: str, refusal: str) -> str:
    role = options.secret_reader_role
    command = grant_command(options, role, namespace, refusal) or _rolebinding(
        options, role, namespace, f"<its namespace>:{DEFAULT_ACCOUNT}"
    )
    return f"the controller may not read {where}. Allow it with: {command}"


def _rolebinding(options: ControllerOptions, role: str, namespace: str, account: str) -> str:
    # An installation for some namespaces has its roles in them, and nothing for the whole cluster.
    kind = "role" if options.namespaces else "clusterrole"
    return (
        f"kubectl create rolebinding {role} --namespace {namespace} --{kind} {role} "
        f"--serviceaccount {account}"
    )


def for_probe(settings: FileSettings | S3Settings) -> FileSettings | S3Settings:
    """Return the settings with timeouts that suit a look: short, no retries."""
    if isinstance(settings, FileSettings):
        return settings
    return replace(
        settings, connect_timeout_seconds=PROBE_CONNECT_SECONDS, timeout_seconds=PROBE_TIMEOUT_SECONDS
    )


def for_pass(config: AnyConfig, settings: FileSettings | S3Settings) -> FileSettings | S3Settings:
    """Return the settings with timeouts and retries that suit a pass."""
    if isinstance(settings, FileSettings):
        return settings
    s3 = cast("S3Spec", config.spec.s3)
    return replace(
        settings,
        connect_timeout_seconds=PASS_CONNECT_SECONDS,
        timeout_seconds=min(PASS_TIMEOUT_SECONDS, float(s3.request_timeout_seconds or PASS_TIMEOUT_SECONDS)),
        max_attempts=s3.max_attempts or 3,
        max_backoff_seconds=float(s3.max_backoff_seconds or 10),
    )
