"""Equal parts of many configs, kept once.

A plan repeats what most configs of a cluster have in common: limits, names of keys, often the
endpoint and the Secret. Kept once for all, a config costs a third of the memory; with thousands of
them that is most of what a webhook holds.

Invariants: what is handed out equals what came in, and parts of a plan are never modified. The
pool is bounded: a cluster in which nothing is equal makes it begin anew now and then, not grow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bubu_operator.injection import InjectionConfig
from bubu_operator.injection.environment import PlannedEnv

__all__ = ["PartPool"]

MAX_PARTS: Final = 4096


class PartPool:
    """The parts seen so far; used from informer threads, where a race costs a second copy at most."""

    def __init__(self, max_parts: int = MAX_PARTS) -> None:
        self._max_parts = max_parts
        self._parts: dict[tuple[str, str], PlannedEnv] = {}

    def share(self, config: InjectionConfig) -> InjectionConfig:
        """Return an equal config whose variables are those of earlier ones where they are equal."""
        if config.plan is None:
            return config
        env = tuple(self._one(part) for part in config.plan.env)
        return replace(config, plan=replace(config.plan, env=env))

    def _one(self, part: PlannedEnv) -> PlannedEnv:
        key = (part.name, part.digest)
        known = self._parts.get(key)
        if known is None:
            if len(self._parts) >= self._max_parts:
                self._parts = {}
            self._parts[key] = part
            return part
        # The digest is short, and says nothing of the group.
        return known if known == part else part
