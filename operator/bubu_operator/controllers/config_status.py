"""What the status of a storage config says: pure functions from findings to conditions.

`judge` turns what was gathered into a `Verdict`; `config_status` turns a verdict into the
whole status. Nothing here reads a clock or talks to anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.controllers.bounded import CallTimeoutError
from bubu_operator.controllers.store_access import (
    AnyConfig,
    Refusal,
    StoreAccess,
    bucket_text,
    store_identity,
)
from bubu_operator.errors import EndpointRefusedError
from bubu_operator.kube.conditions import (
    ConditionStatus,
    condition_list,
    format_time,
    parse_time,
    remove_condition,
    set_condition,
)
from bubu_operator.kube.resources import JsonObject
from bubu_storage.backend.probe import VERSIONED_MEANING, ProbeReport
from bubu_storage.errors import (
    AddressNotAllowedError,
    BucketNotFoundError,
    PermissionDeniedError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)

__all__ = ["Probed", "Verdict", "config_status", "is_stale", "judge", "only_wording"]

QUIET_SECONDS: Final = 60.0
"""A status in which only times and wording changed is written at most this often."""

_REASONS: Final[tuple[tuple[type[BaseException], Reason], ...]] = (
    (BucketNotFoundError, Reason.BUCKET_NOT_FOUND),
    (UnauthenticatedError, Reason.UNAUTHENTICATED),
    (PermissionDeniedError, Reason.PERMISSION_DENIED),
    (ThrottledError, Reason.THROTTLED),
    (StorageTimeoutError, Reason.TIMEOUT),
    (CallTimeoutError, Reason.TIMEOUT),
    (EndpointRefusedError, Reason.ENDPOINT_NOT_ALLOWED),
    (AddressNotAllowedError, Reason.ENDPOINT_NOT_ALLOWED),
    (UnavailableError, Reason.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe that worked, and how long it took in all, opening the store included."""

    report: ProbeReport
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a config came to; everything that its conditions say.

    Attributes:
        ready: can the store be used, as far as the controller knows.
        reason, message: why.
        reconciled: the controller could do its work, whatever it found.
        secrets: None when the config names no Secret or ConfigMap.
        not_shared: the store is each pod's own.
        probe: the outcome of a probe that worked.
        probed: a probe was tried.
    """

    ready: ConditionStatus
    reason: Reason
    message: str
    reconciled: bool = True
    secrets: bool | None = None
    not_shared: bool = False
    probe: Probed | None = None
    probed: bool = False


def judge(
    access: StoreAccess | Refusal, outcome: Probed | BaseException | None, *, is_file: bool, names: bool
) -> Verdict:
    """Turn what was gathered into a verdict; pure.

    Args:
        access: how the store is opened, or why it is not.
        outcome: the probe's report or error; None where nothing was probed.
        is_file: the store is a directory.
        names: the config names a Secret or a ConfigMap.
    """
    if isinstance(access, Refusal):
        empty_dir = access.reason is Reason.EMPTY_DIR
        unknown = ConditionStatus.TRUE if empty_dir else ConditionStatus.UNKNOWN
        return Verdict(
            ready=unknown if access.usable else ConditionStatus.FALSE,
            reason=access.reason,
            message=access.message,
            reconciled=access.usable or not access.about_secrets,
            secrets=False if access.about_secrets else None,
            not_shared=empty_dir,
        )
    secrets = True if names else None
    if isinstance(outcome, Probed):
        able = ", ".join(outcome.report.words)
        return Verdict(
            ready=ConditionStatus.TRUE,
            reason=Reason.PROBE_SUCCEEDED,
            message=f"the store answers: {able}{_versions(outcome.report)}",
            secrets=secrets,
            probe=outcome,
            probed=True,
        )
    reason = next((found for kind, found in _REASONS if isinstance(outcome, kind)), Reason.STORE_ERROR)
    if is_file and reason is not Reason.TIMEOUT:
        reason = Reason.PATH_NOT_WRITABLE
    return Verdict(
        ready=ConditionStatus.FALSE,
        reason=reason,
        message=str(outcome) or type(outcome).__name__,
        secrets=secrets,
        probed=True,
    )


def _versions(report: ProbeReport) -> str:
    """Say what versions mean for retention, where the store keeps them."""
    return f". It {VERSIONED_MEANING}" if report.versioned else ""


def config_status(
    old: JsonObject, config: AnyConfig | None, verdict: Verdict, *, generation: int, now: datetime
) -> JsonObject:
    """Return the whole new status; ``verdict.message`` must be scrubbed already."""
    message = verdict.message
    conditions: Any = old.get("conditions")

    def put(type_: ConditionType, status: ConditionStatus | bool, reason: Reason, text: str) -> None:
        nonlocal conditions
        conditions = set_condition(
            conditions, type_, status, reason=reason, message=text, generation=generation, now=now
        )

    put(ConditionType.READY, verdict.ready, verdict.reason, message)
    if verdict.reconciled:
        put(
            ConditionType.RECONCILED,
            True,
            Reason.RECONCILE_SUCCEEDED,
            "the operator did all that it had to do",
        )
    else:
        put(ConditionType.RECONCILED, False, verdict.reason, message)
    put(ConditionType.DEGRADED, False, Reason.AS_EXPECTED, "nothing is missing")
    if verdict.secrets is None:
        conditions = remove_condition(conditions, ConditionType.SECRETS_PRESENT)
    elif verdict.secrets:
        put(ConditionType.SECRETS_PRESENT, True, Reason.SECRETS_FOUND, "everything that is named was found")
    else:
        put(ConditionType.SECRETS_PRESENT, False, verdict.reason, message)
    if verdict.not_shared:
        put(ConditionType.NOT_SHARED, True, verdict.reason, message)
    else:
        conditions = remove_condition(conditions, ConditionType.NOT_SHARED)
    new: JsonObject = {**old, "observedGeneration": generation, "conditions": conditions}
    if config is not None:
        new["provider"] = config.spec.provider.value
        new["bucket"] = bucket_text(config)
        new["storeIdentity"] = store_identity(config)
    if verdict.probed:
        new["lastProbeTime"] = format_time(now)
    if verdict.probe is not None:
        new["probeLatencyMilliseconds"] = max(1, round(verdict.probe.seconds * 1000))
        new["capabilities"] = list(verdict.probe.report.words)
    elif verdict.ready is ConditionStatus.FALSE or not verdict.probed:
        new.pop("capabilities", None)
        new.pop("probeLatencyMilliseconds", None)
    return {key: value for key, value in new.items() if value not in ("", None)}


def only_wording(old: JsonObject, new: JsonObject) -> bool:
    """Tell whether two statuses differ in times, latency and texts at most."""

    def bones(status: JsonObject) -> Any:
        conditions = [
            tuple(item.get(field) for field in ("type", "status", "reason", "observedGeneration"))
            for item in condition_list(status.get("conditions"))
        ]
        plain = {"lastProbeTime", "probeLatencyMilliseconds", "conditions"}
        return conditions, {key: value for key, value in status.items() if key not in plain}

    return bones(old) == bones(new)


def is_stale(old: JsonObject, now: datetime) -> bool:
    """Tell whether times and texts of a status are old enough to be written again."""
    last = parse_time(old.get("lastProbeTime"))
    return last is None or now - last >= timedelta(seconds=QUIET_SECONDS - 1)
