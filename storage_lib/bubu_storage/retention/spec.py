"""What one retention pass may see, keep and delete, checked before anything is contacted.

Invariants: a `PassSpec` that exists is safe to run. Every scope and rule prefix is a path
of whole segments ending in ``/``; scopes do not overlap and stay out of the reserved area;
every rule lies in one scope and covers whole run directories; there is at least one rule
and none keeps nothing; the minimum age is never under its floor.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final, Self

from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.wire import (
    DEFAULT_RETENTION_MAX_DELETE,
    DEFAULT_RETENTION_MAX_SCAN,
    RESERVED_PREFIX,
)

__all__ = [
    "DEFAULT_BUDGET_SECONDS",
    "DEFAULT_MIN_AGE_SECONDS",
    "MIN_AGE_FLOOR_SECONDS",
    "PassSpec",
    "RetentionRule",
    "RuleIndex",
    "check_path_prefix",
    "run_prefix_of",
]

DEFAULT_MIN_AGE_SECONDS: Final = 86_400.0
"""A run whose newest member is younger than this is never touched (24 h)."""

MIN_AGE_FLOOR_SECONDS: Final = 300.0
"""The minimum age cannot be set below this (5 min)."""

DEFAULT_BUDGET_SECONDS: Final = 60.0
"""How long a pass may take."""

_RESERVED_SEGMENT: Final = RESERVED_PREFIX.rstrip("/")


def check_path_prefix(prefix: str, what: str = "prefix") -> str:
    """Return ``prefix`` if it is a relative path of whole segments that ends in ``/``.

    Args:
        prefix: for example ``outputs/team-a/``.
        what: how to call it in the message.

    Raises:
        InvalidKeyError: empty, ``/``, absolute, not ``/``-terminated, an empty, ``.`` or
            ``..`` segment, NUL, or within the reserved area ``.bubu/``.
    """
    if not prefix:
        raise InvalidKeyError(
            f"{what} is empty and would cover the whole store; name a path such as 'outputs/team-a/'"
        )
    if prefix.startswith("/"):
        raise InvalidKeyError(
            f"{what} {prefix!r} begins with '/'; prefixes are relative to the store", key=prefix
        )
    if not prefix.endswith("/"):
        raise InvalidKeyError(
            f"{what} {prefix!r} does not end with '/'; as plain text it would also cover '{prefix}-other'; "
            f"write '{prefix}/'",
            key=prefix,
        )
    if "\x00" in prefix or "\\" in prefix:
        raise InvalidKeyError(f"{what} {prefix!r} holds a NUL or a backslash", key=prefix)
    segments = prefix[:-1].split("/")
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise InvalidKeyError(
                f"{what} {prefix!r} has the segment {segment!r}; name whole folders", key=prefix
            )
    if _RESERVED_SEGMENT in segments:
        raise InvalidKeyError(f"{what} {prefix!r} lies in the reserved area {RESERVED_PREFIX!r}", key=prefix)
    return prefix


def run_prefix_of(key: str, scope: str) -> str:
    """Return the run directory that ``key`` belongs to, ``/``-terminated; "" if in none.

    The run is the first path segment below the scope. The scope's own marker object, an
    object directly in the scope, and a key with an empty first segment are in no run.
    """
    end = key.find("/", len(scope))
    if end <= len(scope) or not key.startswith(scope):
        return ""
    return key[: end + 1]


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """What one prefix keeps, and thereby what it allows to be deleted.

    Attributes:
        prefix: whole store prefix, ``/``-terminated: a scope (``outputs/team-a/``) or one
            run directory of it (``outputs/team-a/run-1/``).
        keep_within_seconds: a run is kept while its newest member is at most this old; None
            if the rule keeps nothing by age.
        keep_last_runs: the newest so many runs of each story are kept whatever their age, and
            so is every run of which it is not known that it is none of them; None if the rule
            keeps nothing by number.
        orphan_grace_seconds: a run that has had no owner for longer than this is let go by
            ``keep_last_runs``; None if that keeps orphans.

    Raises:
        InvalidKeyError: see `check_path_prefix`.
        ConfigurationError: the rule keeps nothing, or a number is out of range.
    """

    prefix: str
    keep_within_seconds: float | None
    keep_last_runs: int | None = None
    orphan_grace_seconds: float | None = None

    def __post_init__(self) -> None:
        check_path_prefix(self.prefix, "a rule's prefix")
        within, last_runs, grace = self.keep_within_seconds, self.keep_last_runs, self.orphan_grace_seconds
        if within is None and last_runs is None:
            raise ConfigurationError(
                f"rule {self.prefix!r} keeps nothing, which is refused: keep.within must be more than 0 "
                "seconds, or keep.lastRuns at least 1"
            )
        if within is not None and (not _is_number(within) or within <= 0):
            raise ConfigurationError(
                f"rule {self.prefix!r}: keep.within must be more than 0 seconds, not {within!r}; "
                "a rule that keeps nothing is refused"
            )
        if last_runs is not None and not _is_count(last_runs):
            raise ConfigurationError(
                f"rule {self.prefix!r}: keep.lastRuns must be a whole number of at least 1, not "
                f"{last_runs!r}; a rule that keeps nothing is refused"
            )
        if grace is not None and (not _is_number(grace) or grace <= 0):
            raise ConfigurationError(
                f"rule {self.prefix!r}: orphans.grace must be more than 0 seconds, not {grace!r}; "
                "one look at the owners proves nothing"
            )

    def covers(self, run_prefix: str) -> bool:
        """Tell whether the rule speaks about this run directory (whole, or not at all)."""
        return run_prefix.startswith(self.prefix)


class RuleIndex:
    """Finds the rules that cover a run directory by its folders, however many rules there are.

    Args:
        rules: any.
    """

    def __init__(self, rules: Iterable[RetentionRule]) -> None:
        self._rules = tuple(rules)
        self._at: dict[str, list[int]] = {}
        for position, rule in enumerate(self._rules):
            self._at.setdefault(rule.prefix, []).append(position)

    def covering(self, run_prefix: str) -> tuple[RetentionRule, ...]:
        """Return the rules of which `RetentionRule.covers` is true, in their order."""
        # A rule's prefix ends with "/", so it is one of the folders of what it covers.
        found: list[int] = []
        end = run_prefix.find("/")
        while end >= 0:
            found += self._at.get(run_prefix[: end + 1], ())
            end = run_prefix.find("/", end + 1)
        return tuple(self._rules[position] for position in sorted(found))


@dataclass(frozen=True, slots=True)
class PassSpec:
    """One policy, resolved to store prefixes: the whole input of a pass besides the cursor.

    Attributes:
        scopes: store prefixes that the policy may see, ``/``-terminated, not overlapping;
            kept in byte order. The first segment below a scope is a run directory.
        rules: at least one, each inside a scope. A run that no rule covers is kept. **Keep
            wins**: a run is kept if the keep of *any* rule that covers it matches. The
            longest covering prefix is the one named as the reason of a deletion.
        min_age_seconds: whatever the rules say, a run whose newest member is at most this
            old is kept; not under `MIN_AGE_FLOOR_SECONDS`.
        max_scan: most list entries a pass may ask for, re-listings included.
        max_delete: most objects a pass may send for deletion, failures included.
        max_due_objects: most objects that may be found due in one cycle; an enforcing pass
            stops before a deletion that would exceed it. None is no bound.
        budget_seconds: after this long no further request is sent.
        requests_per_second: cap over all requests of the pass; 0 is no cap.
        dry_run: decide and report, delete nothing.

    Raises:
        InvalidKeyError: a scope or prefix is malformed.
        ConfigurationError: a number is out of range, no rule, a rule outside all scopes or
            inside a run directory, overlapping scopes.
    """

    scopes: tuple[str, ...]
    rules: tuple[RetentionRule, ...]
    min_age_seconds: float = DEFAULT_MIN_AGE_SECONDS
    max_scan: int = DEFAULT_RETENTION_MAX_SCAN
    max_delete: int = DEFAULT_RETENTION_MAX_DELETE
    budget_seconds: float = DEFAULT_BUDGET_SECONDS
    requests_per_second: float = 0.0
    dry_run: bool = True
    max_due_objects: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", tuple(sorted(self.scopes)))
        object.__setattr__(self, "rules", tuple(self.rules))
        self._check_scopes()
        self._check_rules()
        self._check_limits()

    def _check_scopes(self) -> None:
        if not self.scopes:
            raise ConfigurationError("a retention pass needs at least one scope, such as 'outputs/team-a/'")
        for scope in self.scopes:
            check_path_prefix(scope, "scope")
        for shorter, longer in pairwise(self.scopes):
            if longer.startswith(shorter):
                raise ConfigurationError(
                    f"scopes {shorter!r} and {longer!r} overlap: it would be unclear what a run directory is"
                )

    def _check_rules(self) -> None:
        if not self.rules:
            raise ConfigurationError(
                "a retention pass needs at least one rule with a prefix and a keep; else everything is kept"
            )
        for rule in self.rules:
            scope = self.scope_of(rule.prefix)
            if scope is None:
                raise ConfigurationError(
                    f"rule {rule.prefix!r} lies outside what this policy may see: {', '.join(self.scopes)}"
                )
            run_prefix = run_prefix_of(rule.prefix, scope)
            if len(rule.prefix) > len(run_prefix) > 0:
                raise ConfigurationError(
                    f"rule {rule.prefix!r} reaches into the run directory {run_prefix!r}; a run is kept or "
                    f"deleted whole: use {run_prefix!r} or {scope!r}"
                )

    def _check_limits(self) -> None:
        if not _is_number(self.min_age_seconds) or self.min_age_seconds < MIN_AGE_FLOOR_SECONDS:
            raise ConfigurationError(
                f"minAge must be at least {MIN_AGE_FLOOR_SECONDS:.0f} seconds, not {self.min_age_seconds!r}: "
                "younger objects may still be in use"
            )
        for name, count in (("maxScan", self.max_scan), ("maxDelete", self.max_delete)):
            if not _is_count(count):
                raise ConfigurationError(f"{name} must be a whole number of at least 1, not {count!r}")
        most_due = self.max_due_objects
        if most_due is not None and not _is_count(most_due, least=0):
            raise ConfigurationError(f"maxDueObjects must be a whole number of at least 0, not {most_due!r}")
        if not _is_number(self.budget_seconds) or self.budget_seconds <= 0:
            raise ConfigurationError(f"budgetSeconds must be more than 0, not {self.budget_seconds!r}")
        if not _is_number(self.requests_per_second) or self.requests_per_second < 0:
            raise ConfigurationError(
                f"requestsPerSecond must be 0 (no cap) or more, not {self.requests_per_second!r}"
            )

    def scope_of(self, key: str) -> str | None:
        """Return the scope that a key or prefix lies in, None if in none."""
        # They are sorted and do not overlap: whatever lies between a scope and a key in it lies in it, too.
        position = bisect_right(self.scopes, key)
        scope = self.scopes[position - 1] if position else ""
        return scope if scope and key.startswith(scope) else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, for handing the pass to another process."""
        return asdict(self) | {"scopes": list(self.scopes), "rules": [asdict(rule) for rule in self.rules]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, with all checks of the constructor.

        Raises:
            ConfigurationError: a field is missing, unknown or of the wrong type.
            InvalidKeyError: a prefix is malformed.
        """
        try:
            fields = dict(data)
            fields["scopes"] = tuple(fields["scopes"])
            fields["rules"] = tuple(RetentionRule(**rule) for rule in fields["rules"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"this is no retention pass: {error}") from error


def _is_count(value: object, least: int = 1) -> bool:
    """True for a whole number of at least ``least``; bool is a mistake, not a number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    """True for a finite int or float; bool is a mistake, not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
