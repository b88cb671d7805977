"""What ``retention`` is told to keep: a `RetentionPolicy` manifest, or the same rules without Kubernetes.

===========================  =====================================================================
a manifest                   ``kind: RetentionPolicy`` (or ``ClusterRetentionPolicy``); rule prefixes begin
                             with the store's output or input prefix, and the namespace is put in
``{rules: …}``               a manifest's ``spec`` alone; likewise
``{scopes: […], rules: …}``  whole prefixes of the store, nothing is put in
===========================  =====================================================================

Several documents and files are one plan: a run goes only if every rule that covers it lets it go, the
longest minimum age and the smallest share count. Invariants: a field that is not known is refused; what is
for the operator alone (interval, storageRef) is known and not used. Of ``mode`` and ``owners`` it is told who
has which, for whoever deletes: a manifest without a mode is a DryRun, as on the API server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from bubu_storage.cli.failures import Misconfigured
from bubu_storage.cli.retention_input import Fields, read_documents
from bubu_storage.errors import StorageError
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.wire import DEFAULT_RETENTION_MAX_DELETE, DEFAULT_RETENTION_MAX_SCAN

__all__ = ["PolicyPlaces", "RetentionPlan", "read_plan"]

_KINDS: Final = ("RetentionPolicy", "ClusterRetentionPolicy")
_GROUP: Final = "storage.bubustack.io/"
_SPEC: Final = ("rules", "safety", "limits", "orphans")
_OPERATORS: Final = ("mode", "interval", "storageRef", "owners", "suspend")
_GRACE_FLOOR_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class PolicyPlaces:
    """How prefixes of rules become prefixes of the store.

    Attributes:
        output_prefix: of the store.
        input_prefix: likewise.
        namespaces: in place of, or besides none of, a manifest's own; () = the manifest's.
    """

    output_prefix: str
    input_prefix: str
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What the files come down to.

    Attributes:
        spec: for the engine, as a dry run.
        max_due_percent: the smallest of all documents.
        suspended: names of policies that are suspended.
        rehearsing: names of those that must not delete by themselves: their mode is DryRun.
        needs_owners: names of those that cannot be judged whole without knowing who owns runs.
    """

    spec: PassSpec
    max_due_percent: int
    suspended: tuple[str, ...]
    rehearsing: tuple[str, ...] = ()
    needs_owners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    scopes: tuple[str, ...]
    rules: tuple[RetentionRule, ...]
    min_age_seconds: float
    max_due_percent: int
    limits: dict[str, Any]
    is_suspended: bool
    is_dry_run: bool
    needs_owners: bool


def read_plan(paths: Sequence[str], places: PolicyPlaces) -> RetentionPlan:
    """Read policies from files.

    Raises:
        Misconfigured: one cannot be read or is no policy; says where and why.
    """
    policies = [
        policy
        for path in paths
        for number, document in enumerate(read_documents(path))
        for policy in _policies(document, path if number == 0 else f"{path}[{number}]", places)
    ]
    if not policies:
        raise Misconfigured(f"there is no policy in {', '.join(paths)}")
    first = policies[0]
    try:
        spec = PassSpec(
            scopes=tuple({scope: None for policy in policies for scope in policy.scopes}),
            rules=tuple({rule: None for policy in policies for rule in policy.rules}),
            min_age_seconds=max(policy.min_age_seconds for policy in policies),
            dry_run=True,
        )
        spec = replace(spec, **first.limits)
    except StorageError as error:
        raise Misconfigured(f"{first.name}: {error}") from error
    return RetentionPlan(
        spec,
        min(policy.max_due_percent for policy in policies),
        suspended=tuple(policy.name for policy in policies if policy.is_suspended),
        rehearsing=tuple(policy.name for policy in policies if policy.is_dry_run),
        needs_owners=tuple(policy.name for policy in policies if policy.needs_owners),
    )


def _policies(document: Any, path: str, places: PolicyPlaces) -> Iterable[_Policy]:
    if isinstance(document, dict) and ("kind" in document or "apiVersion" in document):
        known = ("apiVersion", "kind", "metadata", "spec", "status", "items")
        manifest = Fields(document, path, known)
        if manifest.text("kind") == "List":
            for number, item in enumerate(manifest.items("items")):
                yield from _policies(item, f"{path}.items[{number}]", places)
            return
        yield _manifest(manifest, places)
    else:
        fields = Fields(document, path, (*_SPEC, *_OPERATORS, "scopes"))
        yield _policy(fields, path, _bases(fields, places, ()), mode="Enforce")


def _manifest(manifest: Fields, places: PolicyPlaces) -> _Policy:
    kind, version = manifest.text("kind"), manifest.text("apiVersion")
    if kind not in _KINDS or not version.startswith(_GROUP):
        raise Misconfigured(
            f"{manifest.path} is a {kind} of {version}; {' or '.join(_KINDS)} of {_GROUP}v1alpha1 is wanted"
        )
    metadata = manifest.raw("metadata")
    facts = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    namespace = facts.get("namespace")
    own = (namespace,) if isinstance(namespace, str) and namespace and kind == "RetentionPolicy" else ()
    if own and places.namespaces and places.namespaces != own:
        raise Misconfigured(
            f"{manifest.path} is of namespace {own[0]!r} and cleans nothing else; leave --namespace out"
        )
    spec = Fields(manifest.raw("spec"), f"{manifest.path}.spec", (*_SPEC, *_OPERATORS))
    return _policy(spec, str(facts.get("name") or manifest.path), _bases(spec, places, own), mode="DryRun")


def _bases(spec: Fields, places: PolicyPlaces, own: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Return pairs of what a rule begins with and the scope that it means; None: prefixes are whole."""
    if spec.has("scopes"):
        if places.namespaces:
            raise Misconfigured(f"{spec.path}.scopes are whole prefixes of the store; leave --namespace out")
        return None
    namespaces = places.namespaces or own
    if not namespaces:
        raise Misconfigured(
            f"{spec.path} names no namespace; give --namespace NAME, or scopes: [outputs/NAME/, …] in it"
        )
    return [
        (root, f"{root}{namespace}/")
        for root in (f"{places.output_prefix.strip('/')}/", f"{places.input_prefix.strip('/')}/")
        for namespace in namespaces
    ]


def _policy(spec: Fields, name: str, bases: list[tuple[str, str]] | None, *, mode: str) -> _Policy:
    """Read a spec; ``mode`` is what it has where it does not say."""
    safety = spec.fields("safety", ("minAge", "maxDuePercent"))
    orphans = spec.fields("orphans", ("action", "grace"))
    grace = _grace(orphans)
    scopes: dict[str, None] = {}
    if bases is None:
        for number, scope in enumerate(spec.items("scopes")):
            if not isinstance(scope, str):
                raise Misconfigured(f"{spec.path}.scopes[{number}] must be a text")
            scopes[scope] = None
    rules: list[RetentionRule] = []
    for number, item in enumerate(spec.items("rules", required=True)):
        rule = Fields(item, f"{spec.path}.rules[{number}]", ("prefix", "keep"))
        keep = rule.fields("keep", ("within", "lastRuns"))
        placed = _placed(rule, bases)
        scopes.update(dict.fromkeys(scope for scope, _ in placed if scope))
        within = keep.seconds("within") if keep.has("within") else None
        last_runs = keep.whole("lastRuns", least=1, most=100_000) if keep.has("lastRuns") else None
        try:
            rules += [RetentionRule(prefix, within, last_runs, grace) for _, prefix in placed]
        except StorageError as error:
            raise Misconfigured(f"{rule.path}: {error}") from error
    mode = spec.text("mode", mode)
    if mode not in {"DryRun", "Enforce"}:
        raise spec.wrong("mode", "must be DryRun or Enforce")
    counts = any(rule.keep_last_runs is not None for rule in rules)
    return _Policy(
        name=name,
        scopes=tuple(scopes),
        rules=tuple(rules),
        min_age_seconds=safety.seconds("minAge", "24h"),
        max_due_percent=safety.whole("maxDuePercent", 50, least=1, most=100),
        limits=_limits(spec),
        is_suspended=spec.flag("suspend", default=False),
        is_dry_run=mode == "DryRun",
        needs_owners=bool(spec.items("owners")) or counts or grace is not None,
    )


def _grace(orphans: Fields) -> float | None:
    action = orphans.text("action", "Report")
    if action not in {"Report", "Delete"}:
        raise orphans.wrong("action", "must be Report or Delete")
    grace = orphans.seconds("grace", "24h")
    if grace < _GRACE_FLOOR_SECONDS:
        raise orphans.wrong("grace", "must be at least 5m")
    return grace if action == "Delete" else None


def _placed(rule: Fields, bases: list[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """Return (scope, whole prefix) for each namespace that a rule is about."""
    prefix = rule.text("prefix")
    if bases is None:
        return [("", prefix)]
    placed = [(scope, scope + prefix[len(root) :]) for root, scope in bases if prefix.startswith(root)]
    if not placed:
        roots = " nor ".join(dict.fromkeys(root for root, _ in bases))
        raise rule.wrong(
            "prefix", f"{prefix!r} begins with neither {roots} of the store; nothing would match"
        )
    return placed


def _limits(spec: Fields) -> dict[str, Any]:
    limits = spec.fields("limits", ("maxScan", "maxDelete", "budgetSeconds", "requestsPerSecond"))
    return {
        "max_scan": limits.whole("maxScan", DEFAULT_RETENTION_MAX_SCAN, least=1, most=10_000_000),
        "max_delete": limits.whole("maxDelete", DEFAULT_RETENTION_MAX_DELETE, least=1, most=1_000_000),
        "budget_seconds": float(limits.whole("budgetSeconds", 60, least=1, most=3_600)),
        "requests_per_second": float(limits.whole("requestsPerSecond", 0, least=0, most=10_000)),
    }
