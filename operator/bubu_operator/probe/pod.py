"""What the pods of our Jobs have in common, whatever they do with their store.

They open it from their environment, exactly as the team's own pods do, and under the same refusals
as the controller: no other engine than the reference, no retries, no link-local address or metadata
service as an endpoint. The node's own identity counts for nothing. What they come to is told in the
pod's termination message, with nothing secret in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.kube.scrub import Redactor
from bubu_operator.probe.result import ProbeResult
from bubu_storage.settings import FileSettings, ManagerSettings, S3Settings

__all__ = ["guarded", "no_identity", "secrets_of", "shut_out_node", "store_of_pod", "tell"]

MAX_SECRET_FILE_BYTES: Final = 65536

_CREDENTIALS_FILE: Final = "AWS_SHARED_CREDENTIALS_FILE"
_SECRET_FILES: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    _CREDENTIALS_FILE,
)
_SECRET_NAMES: Final = ("KEY", "SECRET", "TOKEN", "PASSWORD")


def shut_out_node() -> Redactor:
    """Let no identity of the node be found from now on; return what knows the pod's own secrets."""
    # The node's identity is not the account's, whatever the node's metadata service would hand out.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    redactor = Redactor()
    redactor.add(secrets_of(os.environ))
    return redactor


def store_of_pod(*, require_identity: bool) -> FileSettings | S3Settings | ProbeResult:
    """Return the store of the environment, or the result that says why there is none to be asked.

    Args:
        require_identity: an anonymous request is no answer; say that the account has no identity.

    Raises:
        ConfigurationError: the environment is wrong.
    """
    settings = ManagerSettings.from_env().backend
    if settings is None:
        return ProbeResult(reason=Reason.STORE_ERROR, message="BUBU_STORAGE_PROVIDER is not set in this pod")
    if isinstance(settings, S3Settings) and settings.anonymous and require_identity:
        return no_identity()
    return settings


def guarded(
    settings: S3Settings, *, connect_seconds: float, request_seconds: float, allow_loopback: bool
) -> S3Settings:
    """Return settings by which each request is tried once, by the engine that follows no redirects."""
    return replace(
        settings,
        engine="boto3",
        max_attempts=1,
        connect_timeout_seconds=connect_seconds,
        timeout_seconds=request_seconds,
        address_policy="remote-or-loopback" if allow_loopback else "remote",
    )


def no_identity() -> ProbeResult:
    """Say that the cloud gave the pod nothing."""
    return ProbeResult(
        reason=Reason.UNAUTHENTICATED,
        message="the pod got no identity for the store: the cloud's webhook added nothing to it. Bind the "
        "ServiceAccount to a role (its annotation), and see that the webhook runs",
    )


def secrets_of(env: Mapping[str, str]) -> list[str]:
    """Return what must not be told: telling variables, and the contents of credential files."""
    values = [
        value for name, value in env.items() if any(part in name.upper() for part in _SECRET_NAMES) and value
    ]
    # Paths and names of files are no secrets, and messages are about them.
    values = [value for value in values if not value.startswith("/")]
    for name in _SECRET_FILES:
        if not env.get(name):
            continue
        try:
            with Path(env[name]).open("rb") as file:
                text = file.read(MAX_SECRET_FILE_BYTES).decode("utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            key, is_pair, value = line.partition("=")
            if not is_pair or name != _CREDENTIALS_FILE:
                values.append(line.strip())
            elif any(part in key.upper() for part in _SECRET_NAMES):
                values.append(value.strip())
    return [value for value in values if value and not value.startswith("[")]


def tell(result: ProbeResult, path: Path, redactor: Redactor) -> bool:
    """Write a result, scrubbed, where the kubelet looks for it; tell whether that could be done."""
    text = result.model_copy(update={"message": redactor.scrub(result.message)}).to_text()
    # For `kubectl logs`: the same that the controller gets.
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"the result cannot be written to {path}: {error.strerror}\n")
        return False
    return True
