"""What the operator writes into a status is what the CRDs know.

The API server prunes a field that the schema lacks without a word, and refuses a whole status for
one value out of bounds: both would make the operator forget what it did.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bubu_operator.api.crds import openapi_schema
from bubu_operator.api.v1alpha1 import (
    ClusterRetentionPolicy,
    Reason,
    RetentionMode,
    RetentionPolicy,
    StorageConfig,
)
from bubu_operator.controllers.config_status import Probed, Verdict, config_status
from bubu_operator.kube.conditions import ConditionStatus
from bubu_operator.kube.scrub import Redactor
from bubu_operator.owners.census import Anomaly, Census, OwnersProblem
from bubu_operator.retention import status as retention_status
from bubu_operator.retention.cycle import covers
from bubu_operator.retention.owners_status import owners_status
from bubu_operator.retention.plan import MAX_SCOPES
from bubu_storage.backend.probe import Capability, ProbeReport
from bubu_storage.errors import TransientError
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.reasons import Reason as Decided
from bubu_storage.retention.report import ErrorSample, Mode, PassReport, StoppedBy, Tally
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.tally import CycleTally

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LONG = "x" * 100_000
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": (list, tuple),
    "string": str,
    "integer": int,
    "boolean": bool,
}


def misfits(schema: dict[str, Any], value: Any, path: str = "status") -> list[str]:
    """Say where a value does not fit a structural schema: pruned, refused or out of bounds."""
    if value is None:
        return [] if schema.get("nullable") else [f"{path} is null"]
    kind = schema["type"]
    if not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        return [f"{path} is no {kind}: {value!r}"]
    found = []
    if kind == "object":
        found += [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
        every = schema.get("additionalProperties")
        if every is not None and len(value) > schema.get("maxProperties", len(value)):
            found.append(f"{path} has too many entries")
        for name, item in value.items():
            child = every or schema.get("properties", {}).get(name)
            found += misfits(child, item, f"{path}.{name}") if child else [f"{path}.{name} would be pruned"]
    elif kind == "array":
        if len(value) > schema.get("maxItems", len(value)):
            found.append(f"{path} has too many items")
        for number, item in enumerate(value):
            found += misfits(schema["items"], item, f"{path}[{number}]")
    elif kind == "string":
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            found.append(f"{path} has {len(value)} characters")
        if value not in schema.get("enum", [value]):
            found.append(f"{path} is {value!r}")
    elif kind == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{path} is {value}")
    return found


def status_schema(kind: Any) -> dict[str, Any]:
    """The schema of a kind's status."""
    return openapi_schema(kind)["properties"]["status"]


def full_report(mode: Mode, newest: datetime | None) -> PassReport:
    """Make a report in which everything is set, texts as long as they can be."""
    facts = RunFacts("outputs/team/" + "r" * 900 + "/", 5, 6, newest, 1, 2, complete=False)
    cursor = Cursor("k" * 1024, RunProgress(facts, Phase.SCANNING, facts.prefix + "k" * 90))
    return PassReport(
        mode=mode,
        started_at=NOW,
        finished_at=NOW,
        scanned=10,
        by_reason={reason: Tally(1, 2) for reason in Decided},
        oldest_overdue_seconds=3.5,
        cursor=cursor,
        complete_cycle=True,
        stopped_by=StoppedBy.BUDGET_SECONDS,
        message=LONG,
        error_count=99,
        duration_seconds=1e9,
        orphans=Tally(1 << 60, 1 << 60),
        cycle=CycleTally(1 << 60, 1 << 60, 1 << 60, "a" * 64),
        errors=tuple(ErrorSample.of(TransientError(LONG), "k" * 1024) for _ in range(10)),
    )


@pytest.mark.parametrize("mode", RetentionMode, ids=str)
@pytest.mark.parametrize("newest", [NOW, None], ids=["dated", "undated"])
def test_the_status_of_a_pass_fits(mode: RetentionMode, newest: datetime | None):
    """At its start, at a checkpoint and at its end, with everything set."""
    start = retention_status.PassStart(
        started=NOW,
        mode=mode,
        generation=4,
        fingerprint="f" * 16,
        passes=9,
        deleted_objects=100,
        deleted_bytes=1000,
        run_now="again",
        max_scan=1,
        max_delete=1,
        approved_plan="p" * 16,
        cycle_start="2026-01-01T00:00:00Z",
        covered=covers(f"namespace-{number}" for number in range(MAX_SCOPES)),
    )
    report = full_report(Mode(mode.value), newest)

    begun = retention_status.started_status({}, start)
    running = retention_status.progress_status(begun, start, report, Redactor())
    ended = retention_status.finished_status(
        running,
        start,
        report,
        retention_status.Verdict(True, Reason.PASS_PARTIAL, "x" * retention_status.MAX_MESSAGE_CHARACTERS),
        now=NOW,
        interval_seconds=120,
        redactor=Redactor(),
    )

    kinds = frozenset(f"{'K' * 62}{number:x}.{'v' * 63}.{'g' * 253}" for number in range(16))
    ended["owners"] = owners_status({}, Census(1, 2, kinds), None, now=NOW)
    odd = Anomaly(OwnersProblem.KIND_VANISHED, LONG, "t" * 16)
    running["owners"] = owners_status(ended["owners"], Census(), odd, now=NOW)

    schema = status_schema(RetentionPolicy)
    problems = [*misfits(schema, begun), *misfits(schema, running), *misfits(schema, ended)]
    assert problems == []
    assert status_schema(ClusterRetentionPolicy) == schema
    assert {"orphans", "lastPass"} <= ended.keys()


def test_the_status_of_a_config_fits():
    """With everything set, and after a probe that failed with a long message."""
    config = StorageConfig.model_validate(
        {
            "metadata": {"name": "main", "namespace": "team", "generation": 3},
            "spec": {"s3": {"bucket": "flows", "authentication": {"secretRef": {"name": "minio"}}}},
        }
    )
    good = Verdict(
        ready=ConditionStatus.TRUE,
        reason=Reason.PROBE_SUCCEEDED,
        message="fine",
        secrets=True,
        not_shared=True,
        probe=Probed(ProbeReport(0.1, tuple(Capability), 0.0), 0.2),
        probed=True,
    )

    status = config_status({}, config, good, generation=3, now=NOW)

    assert misfits(status_schema(StorageConfig), status) == []
    assert {"provider", "bucket", "storeIdentity", "lastProbeTime", "capabilities"} <= status.keys()


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"novelty": 1}, "status.novelty would be pruned"),
        ({"provider": 1}, "status.provider is no string: 1"),
        ({"bucket": None}, "status.bucket is null"),
        ({"injectedPods": True}, "status.injectedPods is no integer: True"),
        ({"provider": "x" * 64}, "status.provider has 64 characters"),
        ({"conditions": [{"type": "Ready"}]}, "status.conditions[0].status is missing"),
    ],
)
def test_the_check_itself_finds_misfits(status: dict[str, Any], problem: str):
    """A check that finds nothing anywhere would prove nothing."""
    assert problem in misfits(status_schema(StorageConfig), status)
