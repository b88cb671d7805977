"""One container with a config's part: what it gets, what it keeps, what gives way.

Nearly every container sets no variable of ours and mounts nothing where ours goes. What such a
one gets depends on the config alone, so it is worked out once and kept (`EnvPart`); the rest goes
the long way, which gives the same for them too.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from bubu_operator.api.v1alpha1.store import ConflictPolicy
from bubu_operator.injection.environment import (
    GROUP_VARIABLES,
    INJECTABLE_VARIABLES,
    NAMESPACE_VARIABLES,
    Group,
    InjectionPlan,
    PlannedEnv,
    canonical_json,
    env_digest,
    mount_digest,
)
from bubu_operator.injection.ownership import ContainerRecord
from bubu_operator.injection.patch import compact_json
from bubu_operator.injection.podspec import items_of
from bubu_storage.apply_env import Json

__all__ = ["ALL_GROUPS", "CLAIMED_VARIABLES", "EnvPart", "FilledContainer", "fill_container", "part_of"]

ALL_GROUPS: Final = frozenset(Group)
MAX_PARTS: Final = 256
"""Kept for the configs used last; each takes about 6 KiB."""

CLAIMED_VARIABLES: Final = INJECTABLE_VARIABLES - NAMESPACE_VARIABLES
"""A container that sets any of these has to be compared with the config one by one."""


@dataclass(frozen=True, slots=True)
class EnvPart:
    """The variables that a container gets which sets none of ours itself.

    Attributes:
        entries: in their order; never modified.
        texts: the same as JSON texts, the last one first.
        record: of them, without mounts.
    """

    entries: tuple[Json, ...]
    texts: tuple[str, ...]
    record: ContainerRecord


@dataclass(frozen=True, slots=True)
class FilledContainer:
    """A container with our part, and what became of the user's.

    Attributes:
        container: as it is now.
        record: of what is ours in it.
        mounts: ours.
        kept: groups and variables of the user's that stand against the config's, in words.
        clashes: what is mounted where ours would be, in words.
        part: the variables that were put before the user's, where that is all that became of them.
    """

    container: Json
    record: ContainerRecord
    mounts: tuple[Json, ...]
    kept: tuple[str, ...]
    clashes: tuple[str, ...]
    part: EnvPart | None = None


def fill_container(container: Json, plan: InjectionPlan, usable: frozenset[Group]) -> FilledContainer:
    """Put a plan into a container that has nothing of ours.

    Args:
        container: of a pod without problems (`pod_problem`); never modified.
        plan: of the config.
        usable: groups whose volumes can be had.
    """
    mounts, clashed, clashes = _missing_mounts(container, plan, usable)
    left_out = (ALL_GROUPS - usable) | clashed
    env = items_of(container, "env")
    names = [entry["name"] for entry in env]
    if not CLAIMED_VARIABLES.isdisjoint(names):
        return _fill_contested(container, plan, mounts, left_out, clashes)
    part = part_of(plan, left_out, NAMESPACE_VARIABLES.intersection(names))
    our_mounts = tuple(mount for group, mount in mounts if group not in left_out)
    record = part.record
    if our_mounts:
        record = replace(record, mounts=tuple(mount_digest(mount) for mount in our_mounts))
    return FilledContainer(
        _with_ours(container, [*part.entries, *env], our_mounts), record, our_mounts, (), clashes, part
    )


@lru_cache(maxsize=MAX_PARTS)
def part_of(plan: InjectionPlan, left_out: frozenset[Group], theirs: frozenset[str]) -> EnvPart:
    """What a container gets that sets at most the namespace itself (`theirs`), without some groups."""
    ours = [item for item in plan.env if item.group not in left_out and not item.unless & theirs]
    digests = {item.name: item.digest for item in ours}
    return EnvPart(
        entries=tuple(item.entry for item in ours),
        texts=tuple(compact_json(item.entry) for item in reversed(ours)),
        record=ContainerRecord(env=digests, env_text=canonical_json(digests)),
    )


def _with_ours(container: Json, env: list[Json], our_mounts: tuple[Json, ...]) -> Json:
    """A container with other variables, if there are any, and more mounts."""
    result = dict(container)
    if env:
        result["env"] = env
    if our_mounts:
        result["volumeMounts"] = [*items_of(container, "volumeMounts"), *our_mounts]
    return result


def _fill_contested(
    container: Json,
    plan: InjectionPlan,
    mounts: list[tuple[Group, Json]],
    left_out: frozenset[Group],
    clashes: tuple[str, ...],
) -> FilledContainer:
    """Decide variable by variable, for a container that sets some of ours itself."""
    env = items_of(container, "env")
    theirs = {entry["name"] for entry in env}
    override = plan.conflict_policy is ConflictPolicy.OVERRIDE
    agreed: set[Group] = set()
    kept: list[str] = []
    if not override:
        for group in sorted({item.group for item in plan.env if item.group is not None} - left_out):
            set_by_user = sorted(GROUP_VARIABLES[group] & theirs)
            if set_by_user and _agrees(env, group, plan):
                agreed.add(group)
            elif set_by_user:
                left_out |= {group}
                kept.append(f"{group.value} ({', '.join(set_by_user)})")
    ours: list[PlannedEnv] = []
    for item in plan.env:
        if item.group in left_out or item.group in agreed or item.unless & theirs:
            continue
        if item.group is None and item.name in theirs and not override:
            if not any(entry["name"] == item.name and env_digest(entry) == item.digest for entry in env):
                kept.append(item.name)
            continue
        ours.append(item)
    # What agrees in words may still lack its mount: without it, data would go into the container itself.
    our_mounts = tuple(mount for group, mount in mounts if group not in left_out)
    replaced = _replaced(env, ours)
    gone = {index for index, _ in replaced}
    result_env = [item.entry for item in ours] + [e for i, e in enumerate(env) if i not in gone]
    record = ContainerRecord(
        env={item.name: item.digest for item in ours},
        mounts=tuple(mount_digest(mount) for mount in our_mounts),
        replaced=replaced,
    )
    filled = _with_ours(container, result_env if ours else [], our_mounts)
    return FilledContainer(filled, record, our_mounts, tuple(kept), clashes)


def _missing_mounts(
    container: Json, plan: InjectionPlan, usable: frozenset[Group]
) -> tuple[list[tuple[Group, Json]], set[Group], tuple[str, ...]]:
    """Mounts that the container lacks, groups whose path is taken, and by what."""
    missing: list[tuple[Group, Json]] = []
    clashed: set[Group] = set()
    clashes: list[str] = []
    for group, mount in plan.mounts:
        if group not in usable:
            continue
        present, taken_by = _mount_state(container, mount)
        if taken_by:
            clashed.add(group)
            clashes.append(f"{taken_by} is mounted at {mount['mountPath']}")
        elif not present:
            missing.append((group, mount))
    return missing, clashed, tuple(clashes)


def _replaced(env: list[Json], ours: list[PlannedEnv]) -> tuple[tuple[int, Json], ...]:
    """The user's variables that give way: every one of our names, and the rest of our groups.

    A group is replaced whole: the user's endpoint must not meet our bucket and credentials.
    """
    names = {item.name for item in ours}
    for group in {item.group for item in ours if item.group is not None}:
        names |= GROUP_VARIABLES[group]
    return tuple((index, entry) for index, entry in enumerate(env) if entry["name"] in names)


def _agrees(env: list[Json], group: Group, plan: InjectionPlan) -> bool:
    """Whether the container already has the whole group exactly as planned, and nothing besides.

    Of two entries of one name the later one counts, as it does for the kubelet.
    """
    wanted = {item.name: item.digest for item in plan.env if item.group is group}
    return wanted == {
        entry["name"]: env_digest(entry) for entry in env if entry["name"] in GROUP_VARIABLES[group]
    }


def _mount_state(container: Json, wanted: Json) -> tuple[bool, str]:
    """Whether the mount is there already, and which other volume takes its path ("" for none)."""
    path = posixpath.normpath(wanted["mountPath"])
    for mount in items_of(container, "volumeMounts"):
        if posixpath.normpath(mount["mountPath"]) == path:
            same = mount["name"] == wanted["name"]
            return same, "" if same else f"volume {mount['name']}"
    for device in items_of(container, "volumeDevices"):
        if posixpath.normpath(device["devicePath"]) == path:
            return False, f"device {device['name']}"
    return False, ""
