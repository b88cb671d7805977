"""The mark of a roll-out, kept on its owner in the very write that begins it; pure.

By the marks a new process finds what is under way. Anybody may write annotations: what is no mark
of ours counts as none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from bubu_operator.controllers.rollout_state import RolloutState, rollout_state
from bubu_operator.injection.names import ROLLOUT_ANNOTATION
from bubu_operator.kube.resources import JsonObject, metadata_of, section

__all__ = ["Mark", "generation_of", "read_mark", "write_mark"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a workload's annotation says of its last roll-out by us.

    Attributes:
        config, revision, began: see `RolloutGate.request`, and when that was.
        generation: the one that it made.
        broken: the roll-out before it had failed already.
    """

    config: str
    revision: str
    began: datetime
    generation: int
    broken: bool


def write_mark(config: str, workload: JsonObject, *, revision: str, now: datetime) -> dict[str, str]:
    """Return the annotation for the metadata of an owner.

    Args:
        config: what is rolled out, as the gate names it.
        revision: which state of it.
        workload: the owner as read, before the write.
        now: the time.
    """
    content: JsonObject = {
        "config": config,
        "revision": revision,
        "began": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "generation": generation_of(workload) + 1,
    }
    before = read_mark(workload)
    our_doing = before is not None and not before.broken and before.generation == generation_of(workload)
    if rollout_state(workload) is RolloutState.FAILED and not our_doing:
        content["broken"] = True
    return {ROLLOUT_ANNOTATION: json.dumps(content, separators=(",", ":"))}


def read_mark(workload: JsonObject) -> Mark | None:
    """Read what `write_mark` wrote; None for anything else, which counts as no mark."""
    text = section(metadata_of(workload), "annotations").get(ROLLOUT_ANNOTATION)
    try:
        content: Any = json.loads(str(text))
        fields = cast("dict[str, Any]", content)
        began = datetime.strptime(fields["began"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        generation, broken = int(fields["generation"]), fields.get("broken") is True
        return Mark(str(fields["config"]), str(fields["revision"]), began, generation, broken)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def generation_of(workload: JsonObject) -> int:
    """Return ``metadata.generation``; 0 without one."""
    generation: Any = metadata_of(workload).get("generation")
    return generation if isinstance(generation, int) else 0
