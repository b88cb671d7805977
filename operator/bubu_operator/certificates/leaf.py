"""What a webhook replica does next with its own certificate: pure, total.

It signs a new one at the start, at two thirds of the old one's life, and when another
authority signs. It changes to an authority that it had not seen in ``ca.crt`` before only
after the propagation time, and it signs only by a Secret that was read just now, as long
as what it serves is still good: a replica that is cut off keeps what it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bubu_operator.certificates.stored import AuthorityState

__all__ = ["HeldLeaf", "KnownAuthorities", "LeafDecision", "LeafReason", "decide_leaf"]

DISTRUST_FACTOR: Final = 6
"""What is served is given up this much sooner when its authority is said to be trusted no longer."""


class LeafReason(StrEnum):
    """Why a new certificate is signed, or not; words for the log."""

    FIRST = "First"
    RENEWAL = "Renewal"
    INVALID = "OutOfItsTime"
    AUTHORITY_CHANGED = "AuthorityChanged"
    KEPT = "Kept"
    AUTHORITY_TOO_NEW = "AuthorityTooNew"
    SECRET_UNREAD = "SecretUnread"  # noqa: S105 - a reason
    NO_AUTHORITY = "NoAuthority"


@dataclass(frozen=True, slots=True)
class HeldLeaf:
    """The certificate that is being served.

    Attributes:
        issuer: fingerprint of the authority that signed it.
        issued_at: by the API server's clock.
        not_before, not_after: its validity.
    """

    issuer: str
    issued_at: datetime
    not_before: datetime
    not_after: datetime

    @property
    def renew_at(self) -> datetime:
        """When two thirds of its life are over."""
        return self.issued_at + (self.not_after - self.issued_at) * 2 / 3

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether a client whose clock shows ``moment`` accepts it."""
        return self.not_before <= moment < self.not_after


@dataclass(frozen=True, slots=True)
class LeafDecision:
    """Whether to sign, why, and when to look again at the latest."""

    sign: bool
    reason: LeafReason
    look_again_at: datetime | None = None


class KnownAuthorities:
    """Since when this replica has seen each authority in ``ca.crt``, by a clock that nobody sets."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def note(self, fingerprints: Iterable[str], elapsed: float) -> None:
        """Take what the Secret trusts now."""
        self._since = {name: self._since.get(name, elapsed) for name in fingerprints}

    def seconds(self, fingerprint: str, elapsed: float) -> float:
        """Return for how long; 0 for one that is not there."""
        return elapsed - self._since.get(fingerprint, elapsed)


def decide_leaf(
    held: HeldLeaf | None, state: AuthorityState, now: datetime, *, known_seconds: float, fresh: bool
) -> LeafDecision:
    """Decide.

    Args:
        held: what is served; None for nothing.
        state: the Secret's content as last read.
        now: the API server's time.
        known_seconds: how long the signing authority has been seen in ``ca.crt``.
        fresh: the Secret was read just now.
    """
    good = held is not None and held.valid_at(now)
    signing = state.signing
    if signing is None or not signing.certificate.valid_at(now):
        return LeafDecision(sign=False, reason=LeafReason.NO_AUTHORITY)
    if held is None:
        return LeafDecision(sign=True, reason=LeafReason.FIRST)
    if not good:
        return LeafDecision(sign=True, reason=LeafReason.INVALID)
    changed = signing.certificate.fingerprint != held.issuer
    if not changed and now < held.renew_at:
        return LeafDecision(sign=False, reason=LeafReason.KEPT, look_again_at=held.renew_at)
    if not fresh:
        return LeafDecision(sign=False, reason=LeafReason.SECRET_UNREAD, look_again_at=held.not_after)
    patience_seconds: float = state.propagation_seconds
    if held.issuer not in {item.fingerprint for item in state.trusted}:
        # Trusted no longer, so what is served is worth little; but the leader may be about to correct it.
        patience_seconds /= DISTRUST_FACTOR
    missing_seconds = patience_seconds - known_seconds
    if changed and missing_seconds > 0:
        at = min(now + timedelta(seconds=missing_seconds), held.not_after)
        return LeafDecision(sign=False, reason=LeafReason.AUTHORITY_TOO_NEW, look_again_at=at)
    reason = LeafReason.AUTHORITY_CHANGED if changed else LeafReason.RENEWAL
    return LeafDecision(sign=True, reason=reason)
