"""What a pod carries already, against what it would get now: pure, for explanations.

The record on the pod tells what was injected; the plan's hash tells whether that still is what the
config says. A pod's environment cannot change while it runs, so each answer has the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import cast

from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.inject import InjectionReason, InjectionResult
from bubu_operator.injection.names import RECORD_ANNOTATION
from bubu_operator.injection.ownership import InjectionRecord, read_record
from bubu_operator.injection.podspec import child, texts_of
from bubu_storage.apply_env import Json

__all__ = [
    "Carried",
    "CarriedState",
    "carried_by",
    "carried_from_template",
    "carried_in_vain",
    "objects_of",
]


class CarriedState(StrEnum):
    """How what a pod carries relates to what it would get now."""

    NOTHING = "Nothing"
    """It carries nothing, and would get nothing or does not exist yet."""
    CURRENT = "Current"
    STALE = "Stale"
    MISSING = "Missing"
    """It runs without what it would get now."""
    LEFT_OVER = "LeftOver"
    """It carries a config that it would not get any more."""
    UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True)
class Carried:
    """What the pod carries already.

    Attributes:
        state: see `CarriedState`.
        config: as ``StorageConfig flows/main``; "" for none.
        generation, hash: of the config as it was injected; 0 and "" for none.
        note: what that means, and what to do.
    """

    state: CarriedState
    config: str = ""
    generation: int = 0
    hash: str = ""
    note: str = ""


def carried_by(pod: Json, result: InjectionResult, config: InjectionConfig, *, exists: bool) -> Carried:
    """Compare what the pod carries with what it would get; both are known."""
    record, complaint = read_record(pod)
    if complaint:
        return Carried(
            CarriedState.UNREADABLE,
            note=f"{complaint}; what stands in the containers counts as the user's own. {_remedy(pod)}",
        )
    wants = result.reason in (InjectionReason.INJECTED, InjectionReason.ALREADY_INJECTED)
    if record is None:
        if wants and exists:
            note = (
                "it was created without its storage: before the config or the label was there, or while the "
                f"webhook was away. {_remedy(pod)}"
            )
            return Carried(CarriedState.MISSING, note=note)
        return Carried(CarriedState.NOTHING, note="it carries nothing of ours")
    if not wants:
        return _found(record, CarriedState.LEFT_OVER, f"it would get nothing now. {_remedy(pod)}")
    if record.config_name != config.config_name:
        return _found(record, CarriedState.STALE, f"{config} is the one that counts now. {_remedy(pod)}")
    if config.plan is not None and record.hash != config.plan.hash:
        return _found(
            record,
            CarriedState.STALE,
            f"the config has changed since, to generation {config.generation}. {_remedy(pod)}",
        )
    return _found(record, CarriedState.CURRENT, "it is what the config says now")


def carried_in_vain(pod: Json, why: str, *, exists: bool) -> Carried:
    """Judge a pod that would get nothing; `why` begins the note."""
    record, complaint = read_record(pod)
    if record is not None and exists:
        return _found(record, CarriedState.LEFT_OVER, f"{why}; it keeps what it has for as long as it runs")
    if record is not None:
        return _found(record, CarriedState.LEFT_OVER, f"{why}; what it carries is left as it is")
    if complaint:
        return Carried(CarriedState.UNREADABLE, note=complaint)
    return Carried(CarriedState.NOTHING, note="it carries nothing of ours")


def carried_from_template(carried: Carried, configs: Sequence[InjectionConfig]) -> Carried:
    """Judge what a pod carries that does not ask by itself: its owner's pod template brought it along."""
    origin = "it came with its owner's pod template, which the controller writes; explain the workload"
    config = next((config for config in configs if str(config) == carried.config), None)
    if config is None or config.plan is None:
        return replace(carried, note=f"{origin}. The config is gone or invalid; pods keep what they have")
    if config.plan.hash != carried.hash:
        note = f"{origin}. The config has changed since, to generation {config.generation}"
        return replace(carried, state=CarriedState.STALE, note=note)
    return replace(carried, state=CarriedState.CURRENT, note=f"{origin}. It is what the config says now")


def _found(record: InjectionRecord, state: CarriedState, note: str) -> Carried:
    return Carried(state, record.config_text, record.generation, record.hash, note)


def objects_of(obj: Json, key: str) -> list[Json]:
    """The objects of a list that nobody has checked."""
    value = obj.get(key)
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Json", item) for item in items if isinstance(item, dict)]


def _remedy(pod: Json) -> str:
    """How the pod gets what it should have: its environment cannot be changed while it runs."""
    metadata = child(pod, "metadata")
    if RECORD_ANNOTATION in texts_of(metadata, "annotations") and not metadata.get("uid"):
        return "It is brought up to date when it is created"
    owners = objects_of(metadata, "ownerReferences")
    owner = next((item for item in owners if item.get("controller")), None)
    if owner is None:
        return "Create the pod again"
    return f"Restart its owner ({owner.get('kind')} {owner.get('name')}), or delete the pod"
