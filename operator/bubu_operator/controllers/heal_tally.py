"""Counts of one sweep, kept small: numbers for every config, owners for a bounded few.

Nothing here grows with the number of pods. Owners beyond the bounds are counted and not
named; the sweep after those before them are healed names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bubu_operator.injection.config import ConfigName
from bubu_operator.injection.select import Selection
from bubu_operator.kube.owners import Owner
from bubu_operator.kube.resources import DAEMON_SETS, REPLICA_SETS, STATEFUL_SETS

__all__ = ["MAX_RESTARTS_SEEN", "ConfigTally", "OwnerGroup", "Tally", "UnconfiguredGroup"]

MAX_OWNERS_OF_CONFIG: Final = 200
MAX_OTHERS_OF_CONFIG: Final = 50
"""Owners that no restart would help: Jobs, and pods without an owner. They must not hide those it would."""

MAX_OWNERS: Final = 2000
MAX_RESTARTS_SEEN: Final = 4096

_RESTARTED: Final = (REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS)


@dataclass(slots=True)
class OwnerGroup:
    """Drifting pods of one controller.

    Attributes:
        owner: the pods' own controller, not yet the top one.
        missing, stale: how many pods.
    """

    owner: Owner
    missing: int = 0
    stale: int = 0

    @property
    def pods(self) -> int:
        """All of them."""
        return self.missing + self.stale


@dataclass(slots=True)
class ConfigTally:
    """What a sweep found about one config.

    Attributes:
        carried: pods whose record names it, in whatever form: ``status.injectedPods``.
        current, stale, missing: pods that it is meant for.
        unchecked: pods without a record that were not looked at whole in this sweep.
        newest_current: when the newest pod was created that is as it should be; "" without one.
        groups: drifting pods by the uid of their controller.
        others: how many of the groups are of owners that no restart would help.
    """

    carried: int = 0
    current: int = 0
    stale: int = 0
    missing: int = 0
    unchecked: int = 0
    newest_current: str = ""
    groups: dict[str, OwnerGroup] = field(default_factory=dict[str, OwnerGroup])
    others: int = 0

    @property
    def drifting(self) -> int:
        """Pods that are not as they should be."""
        return self.stale + self.missing

    @property
    def meant(self) -> int:
        """Pods that the config is meant for."""
        return self.current + self.stale + self.missing + self.unchecked


@dataclass(slots=True)
class UnconfiguredGroup:
    """Pods of one controller that ask and find no config."""

    owner: Owner
    selection: Selection
    pods: int = 0


@dataclass(slots=True)
class Tally:
    """One sweep's counts.

    Attributes:
        pods: how many were seen.
        configs: by name; only those that some pod has to do with.
        unconfigured: pods that ask and find no config, by reason.
        lost: their controllers, by uid; a bounded few.
        restarts: restarts that pods come from, by namespace and what the template says of it; True
            while all of a restart's pods are as they should be.
    """

    pods: int = 0
    configs: dict[ConfigName, ConfigTally] = field(default_factory=dict[ConfigName, ConfigTally])
    unconfigured: dict[str, int] = field(default_factory=dict[str, int])
    lost: dict[str, UnconfiguredGroup] = field(default_factory=dict[str, UnconfiguredGroup])
    restarts: dict[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    _owners: int = 0

    def came_from(self, restart: tuple[str, str], *, well: bool) -> None:
        """Note a pod that a restart of ours made, and whether it is as it should be."""
        if restart in self.restarts or len(self.restarts) < MAX_RESTARTS_SEEN:
            self.restarts[restart] = well and self.restarts.get(restart, True)

    def of(self, name: ConfigName) -> ConfigTally:
        """The counts of a config, begun where there are none."""
        return self.configs.setdefault(name, ConfigTally())

    def drifting(self, name: ConfigName, owner: Owner, *, missing: bool) -> None:
        """Count one drifting pod."""
        tally = self.of(name)
        if missing:
            tally.missing += 1
        else:
            tally.stale += 1
        group = tally.groups.get(owner.uid)
        if group is None:
            other = owner.resource not in _RESTARTED
            room = (
                tally.others < MAX_OTHERS_OF_CONFIG
                if other
                else len(tally.groups) - tally.others < MAX_OWNERS_OF_CONFIG
            )
            if not room or self._owners >= MAX_OWNERS:
                return
            tally.others += other
            self._owners += 1
            group = tally.groups[owner.uid] = OwnerGroup(owner)
        if missing:
            group.missing += 1
        else:
            group.stale += 1

    def no_config(self, owner: Owner, selection: Selection) -> None:
        """Count one pod that asks and finds no config."""
        reason = selection.reason.value
        self.unconfigured[reason] = self.unconfigured.get(reason, 0) + 1
        group = self.lost.get(owner.uid)
        if group is None:
            if len(self.lost) >= MAX_OWNERS_OF_CONFIG:
                return
            group = self.lost[owner.uid] = UnconfiguredGroup(owner, selection)
        group.pods += 1

    def drifting_configs(self) -> Iterator[tuple[ConfigName, ConfigTally]]:
        """Configs with pods that are not as they should be."""
        for name, tally in self.configs.items():
            if tally.drifting:
                yield name, tally
