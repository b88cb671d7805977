"""What the leader does next with the authority: pure, total, one decision from what was read.

A new authority is *upcoming* first: it stands in caBundle and signs nothing. Once it has been
seen in every entry for the propagation time it becomes *signing*, and the one before is
*retired*: it stays in caBundle until whatever it signed is past. So each certificate that is
served is trusted by each caBundle that an API server may still go by.

The exception is a start with nothing to lose: where no authority is trusted yet, the first
one signs at once.

The order of the caller's steps is part of this: read the webhook's configuration *before* the
Secret, write the Secret before caBundle, both tied to the resourceVersion that was read. A
process that is late can then take nothing out of caBundle that a newer Secret put there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bubu_operator.certificates.bundles import ObservedConfiguration
from bubu_operator.certificates.issuing import Authority, TrustedCertificate
from bubu_operator.certificates.lifetimes import Lifetimes
from bubu_operator.certificates.stored import AuthorityState, RetiredAuthority, Stored

__all__ = ["Decision", "Facts", "Step", "Tracker", "decide", "renewal_of"]

MAX_RETIRED: Final = 8
"""Wanted rotations wait while so many are still trusted; caBundle would grow without end."""


class Step(StrEnum):
    """What a decision does; words for the log and for metrics."""

    CREATED = "Created"
    STARTED = "RotationStarted"
    PROMOTED = "Promoted"
    DROPPED = "Dropped"
    RESTORED = "Restored"
    ADOPTED = "Adopted"
    DISCARDED = "Discarded"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision rests on.

    Attributes:
        stored: the Secret as read; None when there is none.
        remembered: what this process read or wrote last; None after its start.
        observed: the webhook's configuration, read before the Secret; None when there is none.
        now: the API server's time.
        upcoming_seconds: how long the upcoming authority has been in every entry.
        retired_seconds: how long this process has known each retired authority as such.
        rotate_request: asks for a rotation where it differs from the last one answered.
        lifetimes: the durations in force.
    """

    stored: Stored | None
    remembered: AuthorityState | None
    observed: ObservedConfiguration | None
    now: datetime
    lifetimes: Lifetimes
    upcoming_seconds: float = 0.0
    retired_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    rotate_request: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be in the Secret, and so in caBundle.

    Attributes:
        state: the whole content.
        write: the Secret differs from it.
        steps: what changed, for the log.
        problems: what was found broken, for people.
    """

    state: AuthorityState
    write: bool
    steps: tuple[Step, ...]
    problems: tuple[str, ...]


def renewal_of(authority: Authority, lifetimes: Lifetimes) -> datetime:
    """Return when two thirds of an authority's life are over."""
    certificate = authority.certificate
    start = min(certificate.not_before + lifetimes.backdate, certificate.not_after)
    return start + (certificate.not_after - start) * 2 / 3


def decide(facts: Facts, issue: Callable[[], Authority]) -> Decision:
    """Decide on one step.

    Args:
        facts: what was read.
        issue: makes an authority that is valid at ``facts.now``.
    """
    return _Deciding(facts, issue).run()


class _Deciding:
    """One decision in the making: each method looks at one thing and changes `state`."""

    def __init__(self, facts: Facts, issue: Callable[[], Authority]) -> None:
        self._facts = facts
        self._now = facts.now
        self._issue = issue
        self._before = facts.stored.state if facts.stored is not None else AuthorityState()
        self._steps: list[Step] = []
        self._problems = list(facts.stored.problems) if facts.stored is not None else []
        self.state = self._before

    def run(self) -> Decision:
        self._recall()
        self._leave_invalid()
        self._adopt()
        self._need_signer()
        self._start_rotation()
        self._promote()
        self._date_retired()
        self._drop()
        lifetimes, stored = self._facts.lifetimes, self._facts.stored
        state = replace(
            self.state,
            leaf_seconds=lifetimes.leaf_seconds,
            propagation_seconds=lifetimes.propagation_seconds,
        )
        write = stored is None or bool(stored.problems) or state != self._before
        if write:
            known = self._facts.remembered.revision if self._facts.remembered is not None else 0
            state = replace(state, revision=max(self._before.revision, known) + 1)
        return Decision(state, write, tuple(self._steps), tuple(self._problems))

    # -- what was lost -------------------------------------------------------------------

    def _recall(self) -> None:
        """Bring back from memory what is missing in a Secret that no leader can have written."""
        memory, stored = self._facts.remembered, self._facts.stored
        if memory is None or (stored is not None and not stored.problems and stored.state == memory):
            return
        intact = stored is not None and not stored.problems and stored.state.signing is not None
        if intact and self.state.revision > memory.revision:
            return
        if stored is None:
            self._problems.append("the Secret is gone")
        elif intact:
            self._problems.append("the Secret was changed by somebody else, or set back")
        found = self.state
        if found.signing is None:
            self.state = replace(found, signing=None, upcoming=None, rotated=memory.rotated)
            pair = memory.signing
            if pair is not None and self._trusted_now(pair.certificate):
                self.state = replace(self.state, signing=pair, upcoming=memory.upcoming or found.upcoming)
            else:
                self.state = replace(self.state, upcoming=memory.upcoming or found.upcoming or pair)
        lost = [*memory.trusted, *found.trusted]
        ends = {item.certificate.fingerprint: item.until for item in memory.retired}
        self._retire(*(RetiredAuthority(item, ends.get(item.fingerprint)) for item in lost))
        self._steps.append(Step.RESTORED)

    def _leave_invalid(self) -> None:
        """An authority out of its time is of no use to anybody."""
        signing, upcoming = self.state.signing, self.state.upcoming
        if upcoming is not None and not upcoming.certificate.valid_at(self._now):
            self.state = replace(self.state, upcoming=None)
            self._steps.append(Step.DISCARDED)
            self._problems.append(f"the upcoming authority {upcoming.certificate.short} is out of its time")
        if signing is not None and not signing.certificate.valid_at(self._now):
            self.state = replace(self.state, signing=None)
            self._retire(RetiredAuthority(signing.certificate))
            self._steps.append(Step.DISCARDED)
            self._problems.append(f"the signing authority {signing.certificate.short} is out of its time")

    def _adopt(self) -> None:
        """Keep trusted what is trusted, when the Secret cannot say what was signed by whom.

        With a signing authority that caBundle does not know, only our own are kept: others in
        it belong to somebody who wrote there by mistake, and are replaced.
        """
        observed, signing = self._facts.observed, self.state.signing
        if observed is None or (signing is not None and self._trusted_now(signing.certificate)):
            return
        known = {item.fingerprint for item in self.state.trusted}
        strays = [
            RetiredAuthority(item)
            for item in observed.certificates
            if item.fingerprint not in known and item.valid_at(self._now) and (signing is None or item.ours)
        ][:MAX_RETIRED]
        if strays:
            self._retire(*strays)
            self._steps.append(Step.ADOPTED)

    # -- the ordinary way ----------------------------------------------------------------

    def _need_signer(self) -> None:
        """Without a signing authority: the first one at once if nobody relies on another."""
        if self.state.signing is not None:
            return
        if any(item.certificate.valid_at(self._now) for item in self.state.retired):
            if self.state.upcoming is None:
                self.state = replace(self.state, upcoming=self._issue())
                self._steps.append(Step.STARTED)
            return
        signing = self.state.upcoming or self._issue()
        self.state = replace(self.state, signing=signing, upcoming=None)
        self._steps.append(Step.CREATED)

    def _start_rotation(self) -> None:
        signing, request = self.state.signing, self._facts.rotate_request
        if signing is None or self.state.upcoming is not None:
            return
        asked = bool(request) and request != self.state.rotated
        if asked and len(self.state.retired) >= MAX_RETIRED:
            self._problems.append(
                f"a rotation was asked for, but {MAX_RETIRED} earlier authorities are still trusted; it waits"
            )
            asked = False
        if asked or self._now >= renewal_of(signing, self._facts.lifetimes):
            rotated = request if asked else self.state.rotated
            self.state = replace(self.state, upcoming=self._issue(), rotated=rotated)
            self._steps.append(Step.STARTED)

    def _promote(self) -> None:
        """The upcoming authority signs from now on, if it was in the Secret all the while."""
        upcoming, before = self.state.upcoming, self._before.upcoming
        if upcoming is None or before is None or upcoming != before:
            return
        if self._facts.upcoming_seconds < self._facts.lifetimes.propagation_seconds:
            return
        past = self.state.signing
        self.state = replace(self.state, signing=upcoming, upcoming=None)
        if past is not None:
            self._retire(RetiredAuthority(past.certificate))
        self._steps.append(Step.PROMOTED)

    def _date_retired(self) -> None:
        """Every retired authority gets an end; one beyond what we would give was set by a wrong clock."""
        end = (self._now + self._facts.lifetimes.kept).replace(microsecond=0) + timedelta(seconds=1)
        at_work = {
            pair.certificate.fingerprint
            for pair in (self.state.signing, self.state.upcoming)
            if pair is not None
        }
        self.state = replace(
            self.state,
            retired=tuple(
                item if item.until is not None and item.until <= end else replace(item, until=end)
                for item in self.state.retired
                if item.certificate.fingerprint not in at_work
            ),
        )

    def _drop(self) -> None:
        """Forget those whose time is over, by the clock and by how long we have known them."""
        kept = tuple(item for item in self.state.retired if not self._past(item))
        if kept != self.state.retired:
            self.state = replace(self.state, retired=kept)
            self._steps.append(Step.DROPPED)

    def _past(self, item: RetiredAuthority) -> bool:
        if item.certificate.not_after <= self._now:
            return True
        known_seconds = self._facts.retired_seconds.get(item.certificate.fingerprint, 0.0)
        return (
            item.until is not None
            and item.until <= self._now
            and known_seconds >= self._facts.lifetimes.slack_seconds
        )

    # -- helpers -------------------------------------------------------------------------

    def _trusted_now(self, certificate: TrustedCertificate) -> bool:
        observed = self._facts.observed
        return observed is None or observed.all_trust(certificate.fingerprint)

    def _retire(self, *items: RetiredAuthority) -> None:
        """Add to the retired what is not among the trusted yet."""
        known = {item.fingerprint for item in self.state.trusted}
        fresh = {item.certificate.fingerprint: item for item in items}
        added = tuple(item for name, item in fresh.items() if name not in known)
        self.state = replace(self.state, retired=(*added, *self.state.retired))


class Tracker:
    """How long things have been as they are, by a clock that nobody sets; one per leader's term."""

    def __init__(self) -> None:
        self._upcoming = ""
        self._since = 0.0
        self._retired: dict[str, float] = {}

    def upcoming_seconds(
        self, state: AuthorityState, observed: ObservedConfiguration | None, elapsed: float
    ) -> float:
        """Return how long every entry has trusted the upcoming authority, without a change in between.

        No configuration at all counts as trust: no API server calls us by it.
        """
        upcoming = state.upcoming
        identity = "absent" if observed is None else observed.identity
        if upcoming is None or (
            observed is not None and not observed.all_trust(upcoming.certificate.fingerprint)
        ):
            self._upcoming = ""
            return 0.0
        key = f"{upcoming.certificate.fingerprint} {identity}"
        if key != self._upcoming:
            self._upcoming, self._since = key, elapsed
        return elapsed - self._since

    def retired_seconds(self, state: AuthorityState, elapsed: float) -> dict[str, float]:
        """Return how long each retired authority has been known as such."""
        names = [item.certificate.fingerprint for item in state.retired]
        self._retired = {name: self._retired.get(name, elapsed) for name in names}
        return {name: elapsed - since for name, since in self._retired.items()}
