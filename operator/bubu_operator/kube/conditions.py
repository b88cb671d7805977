"""Conditions as the Kubernetes API wants them: pure functions over plain dicts.

Invariant: ``lastTransitionTime`` moves only when ``status`` changes; setting a condition
to what it already is changes nothing, so callers may compare and skip the write.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, cast

from bubu_operator.kube.resources import JsonObject

__all__ = [
    "ConditionStatus",
    "condition_list",
    "find_condition",
    "format_time",
    "parse_time",
    "remove_condition",
    "set_condition",
]

MAX_MESSAGE_CHARACTERS: Final = 2048


class ConditionStatus(StrEnum):
    """What a condition says."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


def format_time(when: datetime) -> str:
    """Return a time as the API writes it: UTC, whole seconds, ``Z``."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """Read a time of the API; None for what is absent or no time."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def find_condition(conditions: Any, type_: str) -> JsonObject | None:
    """Return the condition of a type from a status's raw list, or None."""
    if not isinstance(conditions, (list, tuple)):
        return None
    for item in cast("Sequence[Any]", conditions):
        if isinstance(item, dict):
            condition = cast("JsonObject", item)
            if condition.get("type") == type_:
                return condition
    return None


def set_condition(
    conditions: Any,
    type_: str,
    status: ConditionStatus | bool,
    *,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> list[JsonObject]:
    """Return the conditions with one of them set; the input stays as it is.

    Args:
        conditions: a status's raw list, or None.
        type_: as ``Ready``.
        status: see `ConditionStatus`; a bool is True or False.
        reason: one word from a StrEnum.
        message: for people; cut at 2,048 characters.
        generation: ``metadata.generation`` that was looked at.
        now: timezone-aware.
    """
    if isinstance(status, bool):
        status = ConditionStatus.TRUE if status else ConditionStatus.FALSE
    before = find_condition(conditions, type_)
    moved = before is None or before.get("status") != status.value or not before.get("lastTransitionTime")
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    new: JsonObject = {
        "type": type_,
        "status": status.value,
        "reason": str(reason),
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": format_time(now) if moved else (before or {})["lastTransitionTime"],
    }
    result: list[JsonObject] = []
    placed = False
    for item in condition_list(conditions):
        if item.get("type") == type_:
            if not placed:
                result.append(new)
            placed = True
        else:
            result.append(dict(item))
    if not placed:
        result.append(new)
    return result


def remove_condition(conditions: Any, type_: str) -> list[JsonObject]:
    """Return the conditions without the one of a type."""
    return [dict(item) for item in condition_list(conditions) if item.get("type") != type_]


def condition_list(conditions: Any) -> list[JsonObject]:
    """Return a status's raw list with whatever is no condition left out; empty for None."""
    if not isinstance(conditions, (list, tuple)):
        return []
    return [cast("JsonObject", item) for item in cast("Sequence[Any]", conditions) if isinstance(item, dict)]
