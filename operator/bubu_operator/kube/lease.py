"""Who may act, by a Lease: what its record says and what to do about it. Pure: no clock, no network.

Invariants: nobody else's clock is trusted. A record expires when the *observer* has seen it
unchanged for as long as it is good for, by the observer's own clock, and never by the times
written in it, which are for people. A holder reckons its own time from before it sent the
renewal, an observer from after it heard of it, and the holder's is the shorter one: whatever
a request is delayed, the holder has stopped before anybody takes over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from bubu_operator.kube.resources import JsonObject, section

__all__ = [
    "Decision",
    "LeaseRecord",
    "LeaseTimes",
    "Observation",
    "Step",
    "decide",
    "held_record",
    "lease_record",
    "lease_spec",
    "observe",
    "released_record",
]

LONGEST_TRUSTED_SECONDS: Final = 60
"""A record may ask for more patience than we have ourselves, up to this."""

RELEASED_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long things take.

    Attributes:
        lease_seconds: an observer waits this long for a sign of life before it takes over.
        renew_deadline_seconds: a holder that could not renew for this long stops acting.
        retry_seconds: between two renewals, and between two looks of one that waits.

    Raises:
        ValueError: they do not leave room for each other.
    """

    lease_seconds: int = 10
    renew_deadline_seconds: float = 7.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_seconds < self.renew_deadline_seconds < self.lease_seconds:
            raise ValueError("a lease needs 0 < retry < renew deadline < duration")

    @property
    def slack_seconds(self) -> float:
        """Time between a holder's last moment and the first one of its successor."""
        return self.lease_seconds - self.renew_deadline_seconds


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says.

    Attributes:
        holder: identity of who acts, "" for nobody.
        duration_seconds: what the holder asks others to wait; 0 where it does not say.
        acquire_time, renew_time: of the holder's wall clock, as written; "" where absent.
        transitions: how often the holder has changed.
    """

    holder: str = ""
    duration_seconds: int = 0
    acquire_time: str = ""
    renew_time: str = ""
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """A record and since when it is known to be like that.

    Attributes:
        record: None when there is no such Lease.
        changed_at: the observer's clock after the answer with the last change had arrived.
        vanished: there is none, and there was one with a holder, who may not know yet.
    """

    record: LeaseRecord | None
    changed_at: float
    vanished: bool = False


class Step(StrEnum):
    """What to do next."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, and for `Step.WAIT` how long nothing else can come of the record as it is."""

    step: Step
    wait_seconds: float = 0.0


def lease_record(lease: JsonObject) -> LeaseRecord:
    """Read a Lease; fields that are absent or no such thing count as empty."""
    spec = section(lease, "spec")
    return LeaseRecord(
        holder=_text(spec.get("holderIdentity")),
        duration_seconds=_number(spec.get("leaseDurationSeconds")),
        acquire_time=_text(spec.get("acquireTime")),
        renew_time=_text(spec.get("renewTime")),
        transitions=_number(spec.get("leaseTransitions")),
    )


def lease_spec(record: LeaseRecord) -> JsonObject:
    """Return a record as the fields of a Lease's spec; absent times are null."""
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration_seconds,
        "acquireTime": record.acquire_time or None,
        "renewTime": record.renew_time or None,
        "leaseTransitions": record.transitions,
    }


def observe(before: Observation | None, record: LeaseRecord | None, now: float) -> Observation:
    """Take note of a record as just read: it counts as new only when it says something else."""
    if before is not None and before.record == record:
        return before
    held = before is not None and before.record is not None and before.record.holder != ""
    return Observation(record, now, vanished=record is None and held)


def decide(observation: Observation, identity: str, times: LeaseTimes, now: float) -> Decision:
    """Tell what ``identity`` may do about the Lease.

    Args:
        observation: the record as this process has watched it.
        identity: of this process; nobody else ever has the same.
        times: of this process.
        now: the clock of `Observation.changed_at`.
    """
    record = observation.record
    if record is not None and record.holder == identity:
        return Decision(Step.RENEW)
    if record is None:
        patience, step = times.lease_seconds if observation.vanished else 0, Step.CREATE
    elif record.holder:
        patience, step = max(times.lease_seconds, _trusted(record)), Step.TAKE
    else:
        # Given back by its holder, or emptied by somebody else behind the holder's back.
        patience, step = 0 if record.duration_seconds <= RELEASED_SECONDS else _trusted(record), Step.TAKE
    left = observation.changed_at + patience - now
    return Decision(step) if left <= 0 else Decision(Step.WAIT, left)


def _trusted(record: LeaseRecord) -> int:
    return min(record.duration_seconds, LONGEST_TRUSTED_SECONDS)


def held_record(
    before: LeaseRecord | None, identity: str, times: LeaseTimes, wall_clock: datetime
) -> LeaseRecord:
    """Return the record with which ``identity`` takes, creates or renews the Lease.

    Its renewal time differs from the one before even if the wall clock stands still, so that
    every renewal is a change to those who watch.
    """
    now = _micro_time(wall_clock)
    if before is not None and before.renew_time == now:
        now = _micro_time(wall_clock + timedelta(microseconds=1))
    if before is not None and before.holder == identity:
        return replace(before, duration_seconds=times.lease_seconds, renew_time=now)
    return LeaseRecord(
        holder=identity,
        duration_seconds=times.lease_seconds,
        acquire_time=now,
        renew_time=now,
        transitions=0 if before is None else before.transitions + 1,
    )


def released_record(before: LeaseRecord, wall_clock: datetime) -> LeaseRecord:
    """Return the record that tells others to go ahead at once."""
    now = _micro_time(wall_clock)
    return replace(before, holder="", duration_seconds=RELEASED_SECONDS, acquire_time=now, renew_time=now)


def _micro_time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
