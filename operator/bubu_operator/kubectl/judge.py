"""What the objects of an installation say about its health: pure, over what the API server sent."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import yaml
from cryptography import x509

from bubu_operator.api.crds import render_crds
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.injection.names import STRICT_LABEL
from bubu_operator.injection.ownership import read_record
from bubu_operator.injection.podspec import child, pod_problem, texts_of
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    RETENTION_POLICIES,
    VERSION,
    JsonObject,
    ObjectKey,
    key_of,
    metadata_of,
    section,
)
from bubu_operator.kubectl.findings import Finding, fail, ok, warn

__all__ = [
    "judge_conditions",
    "judge_crds",
    "judge_endpoints",
    "judge_lease",
    "judge_probe",
    "judge_strict",
    "judge_webhook",
    "list_of",
]

EXPIRES_SOON: Final = timedelta(days=7)
LEASE_GRACE_SECONDS: Final = 5.0
_PROCESS: Final = re.compile(r"(.+)_[0-9]+_[0-9a-f-]{36}")
"""Who holds the Lease: host (in a pod the pod's name), process id and uuid."""
_POLICIES: Final = frozenset(
    resource.kind.lower() for resource in (RETENTION_POLICIES, CLUSTER_RETENTION_POLICIES)
)
_NOT_BROKEN: Final = frozenset({Reason.NOT_PROBED, Reason.EMPTY_DIR, Reason.NO_CREDENTIALS})
"""Reasons of a Ready that is Unknown for good: the controller cannot look, and pods can."""

_WEBHOOK_REMEDY: Final = "look at the webhook: kubectl -n {namespace} get pods,deployments; its log says why"
_SILENT: Final = (
    "the API server did not reach the webhook, or does not trust its certificate (x509: is caBundle of the "
    "authority that signed it?): see the lines above, the webhook's log and the API server's"
)


def judge_crds(installed: Mapping[str, JsonObject | None]) -> list[Finding]:
    """Compare the CustomResourceDefinitions with those that this program was built with.

    Args:
        installed: by name; None for one that is not there.
    """
    findings: list[Finding] = []
    remedy = "apply the CRDs of this release: bubu-operator crds | kubectl apply --server-side -f -"
    wanted = [cast("JsonObject", yaml.safe_load(text)) for text in render_crds().values()]
    for crd in wanted:
        name = str(metadata_of(crd).get("name"))
        found = installed.get(name)
        if found is None:
            findings.append(fail("crds", f"{name} is not installed", remedy))
            continue
        if not _condition_is(found, "Established", "True"):
            findings.append(fail("crds", f"{name} is not established", remedy))
        ours, theirs = _schema_of(crd), _schema_of(found)
        if theirs is None:
            findings.append(fail("crds", f"{name} does not serve {VERSION}", remedy))
        elif ours != theirs:
            findings.append(
                warn("crds", f"{name} has another schema than kubectl-bubu of this version knows", remedy)
            )
    if not findings:
        findings.append(ok("crds", f"{len(wanted)} are installed, as this version has them"))
    return findings


def judge_lease(lease: JsonObject | None, now: datetime, place: str) -> Finding:
    """Tell whether a controller works, by its Lease.

    Args:
        lease: None where there is none.
        now: of the API server's clock.
        place: namespace and name, for messages.
    """
    remedy = f"kubectl -n {place.partition('/')[0]} get deployments,pods; the controller's log says why"
    if lease is None:
        return fail("controller", f"no controller has ever held the Lease {place}", remedy)
    spec = section(lease, "spec")
    identity = str(spec.get("holderIdentity") or "")
    process = _PROCESS.fullmatch(identity)
    holder = process[1] if process else identity
    renewed = _time(spec.get("renewTime"))
    if not holder or renewed is None:
        return fail("controller", f"nobody holds the Lease {place}", remedy)
    duration = spec.get("leaseDurationSeconds")
    seconds = duration if isinstance(duration, int) else 10
    age = (now - renewed).total_seconds()
    if age > seconds + LEASE_GRACE_SECONDS:
        return fail("controller", f"{holder} has not renewed its Lease {place} for {age:.0f} s", remedy)
    return ok("controller", f"{holder} works; it renewed its Lease {max(age, 0):.0f} s ago")


def judge_webhook(configuration: JsonObject | None, name: str, now: datetime) -> list[Finding]:
    """Look at the MutatingWebhookConfiguration: its entries and their certificate authorities."""
    if configuration is None:
        return [
            fail(
                "webhook",
                f"there is no MutatingWebhookConfiguration {name}: no pod is injected at admission",
                "install the chart, or name yours by --webhook-configuration",
            )
        ]
    entries = list_of(configuration, "webhooks")
    if not entries:
        return [fail("webhook", f"{name} has no entries", "install the chart again")]
    findings: list[Finding] = []
    remedy = "the controller (--webhook-authority) or cert-manager writes it; look at its log"
    lacking = [
        str(entry.get("name")) for entry in entries if not child(entry, "clientConfig").get("caBundle")
    ]
    if lacking:
        findings.append(
            fail(
                "certificate", f"no caBundle in {', '.join(lacking)}: the API server cannot trust it", remedy
            )
        )
    bundles = {str(child(entry, "clientConfig").get("caBundle")) for entry in entries} - {"None", ""}
    findings += [_judge_bundle(bundle, now, remedy) for bundle in sorted(bundles)]
    return [ok("webhook", f"{name} is registered with {len(entries)} entries"), *findings]


def _judge_bundle(bundle: str, now: datetime, remedy: str) -> Finding:
    try:
        authorities = x509.load_pem_x509_certificates(base64.b64decode(bundle, validate=True))
    except (ValueError, binascii.Error):
        return fail("certificate", "the caBundle is no PEM certificate", remedy)
    last = max(authority.not_valid_after_utc for authority in authorities)
    if last <= now:
        return fail(
            "certificate", f"every authority in caBundle expired by {last:%Y-%m-%d %H:%M} UTC", remedy
        )
    if last - now < EXPIRES_SOON:
        return warn(
            "certificate", f"the last authority in caBundle expires {last:%Y-%m-%d %H:%M} UTC", remedy
        )
    count = f"{len(authorities)} authorities" if len(authorities) > 1 else "one authority"
    return ok("certificate", f"caBundle holds {count}, good until {last:%Y-%m-%d}")


def judge_endpoints(slices: Sequence[JsonObject], place: str) -> Finding:
    """Tell whether the webhook's Service has addresses that are ready."""
    ready = 0
    waiting = 0
    for item in slices:
        for endpoint in list_of(item, "endpoints"):
            count = len(cast("list[object]", endpoint.get("addresses") or []))
            # Absent means ready, by the API's own rule.
            if section(endpoint, "conditions").get("ready") in (True, None):
                ready += count
            else:
                waiting += count
    namespace = place.partition("/")[0]
    remedy = _WEBHOOK_REMEDY.format(namespace=namespace)
    if not ready:
        more = f" ({waiting} are not ready)" if waiting else ""
        return fail("endpoints", f"Service {place} has no ready address{more}", remedy)
    if waiting:
        return warn("endpoints", f"Service {place}: {ready} ready, {waiting} not", remedy)
    if ready == 1:
        return warn(
            "endpoints",
            f"Service {place} has one ready address: a restart of it leaves pods without storage",
            "run at least two replicas of the webhook",
        )
    return ok("endpoints", f"Service {place} has {ready} ready addresses")


def judge_strict(
    namespaces: Iterable[JsonObject], configuration: JsonObject | None, *, serving: bool
) -> Finding | None:
    """Look at the namespaces that refuse pods without storage; None when there are none."""
    names = sorted(
        key_of(item).name
        for item in namespaces
        if texts_of(metadata_of(item), "labels").get(STRICT_LABEL) == "true"
    )
    if not names:
        return None
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
    entries = list_of(configuration or {}, "webhooks")
    if not any(entry.get("failurePolicy") == "Fail" for entry in entries):
        return fail(
            "strict",
            f"{shown}: labelled {STRICT_LABEL}, and no entry of the webhook has failurePolicy Fail",
            "install the webhook configuration of this release",
        )
    if not serving:
        return fail(
            "strict",
            f"{shown}: no pod that asks for storage can start while the webhook is away",
            f"bring the webhook back, or take the label {STRICT_LABEL} off meanwhile",
        )
    return ok("strict", f"{shown}: a pod that asks for storage does not start without it")


def judge_probe(pod: JsonObject, warnings: Sequence[str], namespace: str, *, named: str = "") -> Finding:
    """Look at what came back from creating a pod as a dry run.

    Args:
        pod: what came back.
        warnings: what the API server said with it.
        namespace: where it was created.
        named: the config that its label names; "" where it names none.
    """
    who = f"a pod in {namespace}" + (f" that names {named}" if named else "")
    record = None if pod_problem(pod) else read_record(pod)[0]
    if record is not None:
        return ok("dry run", f"{who} comes back with {record.config_text} injected")
    text = f"{who} that asks for storage comes back without it"
    if not warnings:
        return fail("dry run", f"{text}, and nothing says why", _SILENT)
    return fail(
        "dry run",
        f"{text}; the webhook says: {'; '.join(warnings)}",
        f"see the message; if it is not the webhook's, {_SILENT}",
    )


def judge_conditions(objects: Sequence[JsonObject], kind: str) -> list[Finding]:
    """Look at the conditions of configs or policies; those that are well share one line."""
    area = kind.lower()
    findings: list[Finding] = []
    well = 0
    for obj in sorted(objects, key=key_of):
        found = _judge_object(obj, area)
        findings += found
        well += not found
    if well or not objects:
        text = f"{well} of {len(objects)} are well" if objects else "there are none"
        findings.insert(0, ok(area, text))
    return findings


def _judge_object(obj: JsonObject, area: str) -> list[Finding]:
    key: ObjectKey = key_of(obj)
    where = f"-n {key.namespace} " if key.namespace else ""
    remedy = f"kubectl {where}describe {area} {key.name}"
    status = section(obj, "status")
    generation = metadata_of(obj).get("generation")
    conditions = {str(item.get("type")): item for item in list_of(status, "conditions")}
    if "Ready" not in conditions or status.get("observedGeneration") != generation:
        return [
            warn(area, f"{key}: no controller has judged its present form yet", "is the controller well?")
        ]
    found: list[Finding] = []
    ready = conditions["Ready"]
    told = _told(ready)
    if ready.get("reason") == Reason.SUSPENDED:
        return []
    if ready.get("status") == "False":
        # A policy that does not run leaves objects lying; a config that does not work leaves pods without.
        say = warn if area in _POLICIES else fail
        found.append(say(area, f"{key} is not ready: {told}", remedy))
    elif ready.get("status") != "True" and ready.get("reason") not in _NOT_BROKEN:
        found.append(warn(area, f"{key}: {told}", remedy))
    reconciled = conditions.get("Reconciled", {})
    if reconciled.get("status") == "False" and ready.get("status") != "False":
        found.append(warn(area, f"{key}: {_told(reconciled)}", remedy))
    for name in ("Degraded", "InjectionDrift"):
        condition = conditions.get(name, {})
        if condition.get("status") == "True":
            found.append(warn(area, f"{key}: {name}: {_told(condition)}", remedy))
    return found


def _told(condition: JsonObject) -> str:
    return f"{condition.get('reason')}: {condition.get('message')}"


def list_of(obj: JsonObject, name: str) -> list[JsonObject]:
    """The objects of a list-valued field; empty where it is absent."""
    value = obj.get(name)
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("JsonObject", item) for item in items if isinstance(item, dict)]


def _condition_is(obj: JsonObject, type_: str, status: str) -> bool:
    conditions = list_of(section(obj, "status"), "conditions")
    return any(item.get("type") == type_ and item.get("status") == status for item in conditions)


def _schema_of(crd: JsonObject) -> JsonObject | None:
    for version in list_of(section(crd, "spec"), "versions"):
        if version.get("name") == VERSION and version.get("served"):
            return section(section(version, "schema"), "openAPIV3Schema")
    return None


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
