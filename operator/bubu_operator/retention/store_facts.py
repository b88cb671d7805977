"""What a pass has learnt about others on its store: the claim on it, and the clusters that use it; pure.

Invariants: nothing here decides anything outside the pass that found it; texts come from the store, where
anybody who may write could have put them: they are shortened and printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from bubu_storage.retention.claim_document import FoundClaim, shown
from bubu_storage.retention.registration import Registration

__all__ = ["Sharer", "StoreFacts"]


@dataclass(frozen=True, slots=True)
class Sharer:
    """Another cluster whose operator has swept the store lately.

    Attributes:
        cluster: its uid.
        seen_at: when it registered itself last, by the store's clock.
    """

    cluster: str
    seen_at: datetime

    @classmethod
    def of(cls, registration: Registration) -> Self:
        """Return what a registration says."""
        return cls(shown(registration.cluster), registration.renewed_at)


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """Who else is on a store.

    Attributes:
        holder: who has the claim; "" for nobody.
        cluster: of the holder.
        ours: the claim is this pass's own.
        expires_at: the claim's end unless it is renewed, by the store's clock; None for never, or none.
        is_proven: conditional requests guard the claim; only a pass that claims can know.
        is_conditional: deletions are sent on the condition that nothing has changed; likewise.
        shared_with: other clusters.
        is_shared: rules about orphans are off: other clusters use the store, or nobody knows.
        problem: what could not be found out, "" if nothing.
    """

    holder: str = ""
    cluster: str = ""
    ours: bool = False
    expires_at: datetime | None = None
    is_proven: bool = False
    is_conditional: bool = False
    shared_with: tuple[Sharer, ...] = ()
    is_shared: bool = False
    problem: str = ""

    @classmethod
    def of_claim(cls, found: FoundClaim | None, *, ours: bool = False) -> Self:
        """Return what a claim says of its holder."""
        if found is None:
            return cls()
        document = found.document
        holder, cluster = ("", "") if document is None else (document.holder, document.cluster)
        return cls(
            holder=shown(holder) if holder else "unreadable",
            cluster=shown(cluster) if cluster else "",
            ours=ours,
            expires_at=found.expires_at,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of its line."""
        return {
            "holder": self.holder,
            "cluster": self.cluster,
            "ours": self.ours,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "is_proven": self.is_proven,
            "is_conditional": self.is_conditional,
            "shared_with": [[one.cluster, one.seen_at.isoformat()] for one in self.shared_with],
            "is_shared": self.is_shared,
            "problem": self.problem,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        expires_at = content["expires_at"]
        return cls(
            holder=str(content["holder"]),
            cluster=str(content["cluster"]),
            ours=bool(content["ours"]),
            expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
            is_proven=bool(content["is_proven"]),
            is_conditional=bool(content["is_conditional"]),
            shared_with=tuple(
                Sharer(str(cluster), datetime.fromisoformat(seen_at))
                for cluster, seen_at in content["shared_with"]
            ),
            is_shared=bool(content["is_shared"]),
            problem=str(content["problem"]),
        )
