"""Whether others keep more than they did when a pass began: policies and configs that came or changed since.

The watch's cache says that something has changed, at no cost; only then is the plan guarded anew, by
complete lists, and the pass ends if it has to keep what it did not. So a tool that applies the
same again (no new generation), writes of status, and policies about other stores end nothing; and however
often somebody changes what counts, each pass has some seconds in which it gets on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from bubu_operator.controllers.context import ObjectCache
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    ObjectKey,
    metadata_of,
)
from bubu_operator.retention.plan import PassPlan, PlanProblem

__all__ = ["NeighbourChanges", "Versions", "neighbours_now"]

Versions: TypeAlias = Mapping[tuple[str, ObjectKey], tuple[str, int]]
"""uid and generation, by kind and key."""

_NAMESPACED: Final = (RETENTION_POLICIES, STORAGE_CONFIGS)
_CLUSTER_WIDE: Final = (CLUSTER_RETENTION_POLICIES, CLUSTER_STORAGE_CONFIGS)


def neighbours_now(cache: ObjectCache, namespace: str) -> Versions:
    """Return what may say what a policy must keep, as the cache knows it.

    Args:
        cache: of the watches.
        namespace: the policy's; "" for a cluster-wide one, which all may concern.
    """
    found: dict[tuple[str, ObjectKey], tuple[str, int]] = {}
    for resource in (*_NAMESPACED, *_CLUSTER_WIDE):
        place = namespace if namespace and resource in _NAMESPACED else None
        for key, obj in cache.items(resource, place):
            metadata = metadata_of(obj)
            version = str(metadata.get("uid") or ""), int(metadata.get("generation") or 0)
            found[resource.plural, key] = version
    return found


class NeighbourChanges:
    """Looks for a pass under way; not thread-safe.

    Args:
        cache: of the watches.
        namespace: the policy's; "" for a cluster-wide one.
        before: `neighbours_now` of a moment before ``plan`` was guarded.
        plan: as it was guarded.
        guard: guards it again, by lists that are read then.
        is_watched: the watch hears of all kinds; where it does not, each look reads the lists.
    """

    def __init__(
        self,
        cache: ObjectCache,
        namespace: str,
        before: Versions,
        plan: PassPlan,
        guard: Callable[[], PassPlan | PlanProblem],
        *,
        is_watched: bool = True,
    ) -> None:
        self._cache = cache
        self._namespace = namespace
        self._seen = before
        self._plan = plan
        self._guard = guard
        self._is_watched = is_watched

    def look(self) -> str | None:
        """Return why the pass must end, or None.

        Raises:
            KubeApiError: a list could not be read; the next look tries again.
        """
        now = neighbours_now(self._cache, self._namespace)
        # What is gone keeps nothing; going on with what it kept is safe.
        if self._is_watched and all(self._seen.get(key) == version for key, version in now.items()):
            return None
        guarded = self._guard()
        if isinstance(guarded, PlanProblem):
            return f"it may not go on as it is: {guarded.message}"
        keeps_more = set(guarded.spec.rules) - set(self._plan.spec.rules)
        if keeps_more or set(guarded.neighbours) - set(self._plan.neighbours):
            return "another policy or config has changed what must be kept"
        self._seen = now
        return None
