"""``bubu-operator probe``: look at the store once, from inside the pod that a Job started.

The store is opened from the pod's environment with the library, exactly as the team's own pods
open it, under the same refusals as in the controller: no other engine than the reference, no
retries, no link-local address or metadata service as an endpoint. The node's own identity counts
for nothing: what is looked at is whether the *account* is bound to one.

Invariants: the result is written whatever happens, within the deadline; nothing secret is in it,
nor on stderr; no traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.defaults import OPERATOR_NAME
from bubu_operator.probe.pod import guarded, no_identity, shut_out_node, store_of_pod, tell
from bubu_operator.probe.result import ProbeResult
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.probe import probe_backend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import (
    AddressNotAllowedError,
    BucketNotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from bubu_storage.retention.registration import register
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["ProbeOptions", "result_of_error", "run_probe"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

CONNECT_SECONDS: Final = 3.0
REQUEST_SECONDS: Final = 5.0
_NOTHING_FOUND: Final = frozenset({"NoCredentialsError", "PartialCredentialsError"})
"""What the SDK raises before it asks anybody, by name: it is loaded by the S3 backend only."""

_UNREGISTERED: Final = (
    "other clusters may take this one's runs for orphans, as it cannot register in the store"
)
_EXCHANGE: Final = "AssumeRoleWithWebIdentity"
"""The SDK's request behind the request; a store never has an operation of that name."""

_REASONS: Final[tuple[tuple[type[BaseException], Reason], ...]] = (
    (BucketNotFoundError, Reason.BUCKET_NOT_FOUND),
    (UnauthenticatedError, Reason.UNAUTHENTICATED),
    (PermissionDeniedError, Reason.PERMISSION_DENIED),
    (ThrottledError, Reason.THROTTLED),
    (StorageTimeoutError, Reason.TIMEOUT),
    (AddressNotAllowedError, Reason.ENDPOINT_NOT_ALLOWED),
    (UnavailableError, Reason.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Options of ``bubu-operator probe``.

    Attributes:
        result: file that the result is written to; a kubelet reads it as the termination message.
        deadline_seconds: for everything; then the result says Timeout.
        require_identity: an anonymous request is no answer; say that the account has no identity.
        allow_loopback_endpoints: see the controller's option of that name.
        cluster_uid: under which to register in a store that works; "" for not at all.
    """

    result: Path
    deadline_seconds: float = 60.0
    require_identity: bool = False
    allow_loopback_endpoints: bool = False
    cluster_uid: str = ""


def run_probe(options: ProbeOptions) -> int:
    """Probe, write the result, and return the exit code: 0 the store works, 1 it does not."""
    redactor = shut_out_node()
    found: list[ProbeResult] = []
    thread = threading.Thread(
        target=lambda: found.append(_probe(options, found.append)), name="probe", daemon=True
    )
    thread.start()
    thread.join(options.deadline_seconds)
    result = (
        found[-1]
        if found
        else ProbeResult(
            reason=Reason.TIMEOUT, message=f"the probe did not end within {options.deadline_seconds:g} s"
        )
    )
    code = EXIT_OK if result.reason is Reason.PROBE_SUCCEEDED else EXIT_FAILED
    if not tell(result, options.result, redactor):
        code = EXIT_FAILED
    if thread.is_alive():
        sys.stderr.flush()
        os._exit(code)  # a hanging request must not keep the pod
    return code


def result_of_error(error: BaseException, *, is_file: bool) -> ProbeResult:
    """Turn what a probe raised into a result; the message is not scrubbed yet."""
    reason = next((found for kind, found in _REASONS if isinstance(error, kind)), Reason.STORE_ERROR)
    if is_file and reason is not Reason.TIMEOUT:
        reason = Reason.PATH_NOT_WRITABLE
    # Errors of the tree are written for people; of others only the kind is safe to tell.
    known = isinstance(error, (StorageError, OSError)) and str(error)
    return ProbeResult(reason=reason, message=str(error) if known else type(error).__name__)


def _probe(options: ProbeOptions, early: Callable[[ProbeResult], object]) -> ProbeResult:
    """Return the result; ``early`` gets that of the probe itself, before the store is written to again."""
    is_file = False
    try:
        settings = store_of_pod(require_identity=options.require_identity)
        if isinstance(settings, ProbeResult):
            return settings
        is_file = isinstance(settings, FileSettings)
        if isinstance(settings, S3Settings):
            # Short: this is a look.
            settings = guarded(
                settings,
                connect_seconds=CONNECT_SECONDS,
                request_seconds=REQUEST_SECONDS,
                allow_loopback=options.allow_loopback_endpoints,
            )
        began = time.monotonic()
        with contextlib.closing(open_backend(settings)) as backend:
            report = probe_backend(backend)
            milliseconds = max(1, round((time.monotonic() - began) * 1000))
            result = ProbeResult(
                reason=Reason.PROBE_SUCCEEDED,
                capabilities=report.words,
                latency_milliseconds=milliseconds,
            )
            if not options.cluster_uid:
                return result
            early(result.model_copy(update={"message": f"{_UNREGISTERED}: no answer in time"}))
            return result.model_copy(update={"message": _register(backend, options.cluster_uid)})
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        if options.require_identity and type(error.__cause__).__name__ in _NOTHING_FOUND:
            return no_identity()
        if getattr(error.__cause__, "operation_name", "") == _EXCHANGE:
            return _not_exchanged(error)
        return result_of_error(error, is_file=is_file)


def _register(backend: ObjectBackend, cluster_uid: str) -> str:
    """Let the store know that this cluster uses it; return what went wrong, "" for nothing."""
    try:
        register(backend, cluster_uid, name=OPERATOR_NAME)
    except (StorageError, OSError) as error:
        return f"{_UNREGISTERED}: {error}"
    return ""


def _not_exchanged(error: Exception) -> ProbeResult:
    code = getattr(error, "code", "") or "no reason given"
    return ProbeResult(
        reason=Reason.UNAUTHENTICATED,
        message=f"the pod's token was refused when it was to be exchanged for role "
        f"{os.environ.get('AWS_ROLE_ARN', '?')} ({code}). Look at the role's trust policy: it must name this "
        "cluster, this namespace and this ServiceAccount",
    )
