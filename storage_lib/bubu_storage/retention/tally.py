"""What a cycle has decided so far, small enough to travel with the cursor.

A policy's share of due objects is reckoned over whole cycles, which take many passes and may
be interrupted anywhere. So the tally is stored with the cursor and advanced only together
with it: it counts what lies before the cursor, and what is gone. A pass that goes on from a
stored cursor meets, decides and counts exactly what lies behind it and is still there.

Invariants: no object is counted twice; equal snapshots give equal tallies, however a dry cycle
is cut into pages and passes. A pass that is killed leaves its last stored cursor: what it deleted
after that is gone and not counted. So a tally may be low by what was under way then, never high.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

__all__ = ["CycleTally"]

_DIGEST: Final = re.compile(r"([0-9a-f]{64})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CycleTally:
    """What the present cycle has decided up to the cursor.

    Attributes:
        decided: objects that were judged, kept or due.
        due: those of them that were judged due, whatever became of them.
        due_bytes: their total length.
        digest: SHA-256 in hex, chained over the due run directories in byte order; "" while
            there are none. Equal digests name equal runs.
        orphans: objects of the runs that were decided and had no owner, whatever their verdict.
        orphan_bytes: their total length.
    """

    decided: int = 0
    due: int = 0
    due_bytes: int = 0
    digest: str = ""
    orphans: int = 0
    orphan_bytes: int = 0

    def with_objects(self, objects: int, size_bytes: int, *, is_due: bool) -> Self:
        """Return the tally after further objects were decided."""
        if not is_due:
            return replace(self, decided=self.decided + objects)
        return replace(
            self,
            decided=self.decided + objects,
            due=self.due + objects,
            due_bytes=self.due_bytes + size_bytes,
        )

    def with_due_run(self, run_prefix: str) -> Self:
        """Return the tally after one more run directory was found due; its objects are counted apart."""
        text = f"{self.digest}\n{run_prefix}"
        # Keys of other origin may hold what UTF-8 cannot spell; the digest must not fail on them.
        return replace(self, digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())

    def with_orphan(self, objects: int, size_bytes: int) -> Self:
        """Return the tally after a run without an owner was decided; its objects are counted apart, too."""
        return replace(self, orphans=self.orphans + objects, orphan_bytes=self.orphan_bytes + size_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "decided": self.decided,
            "due": self.due,
            "dueBytes": self.due_bytes,
            "digest": self.digest,
            "orphans": self.orphans,
            "orphanBytes": self.orphan_bytes,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: this is no tally.
        """
        decided, due = _count(data["decided"]), _count(data["due"])
        if due > decided:
            raise ValueError(f"{due} of {decided} objects cannot be due")
        orphans, orphan_bytes = _count(data.get("orphans", 0)), _count(data.get("orphanBytes", 0))
        return cls(decided, due, _count(data["dueBytes"]), _digest(data["digest"]), orphans, orphan_bytes)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"count expected, not {value!r}")
    return value


def _digest(value: str) -> str:
    # What is no text is refused here with a TypeError.
    if _DIGEST.fullmatch(value) is None:
        raise ValueError(f"digest expected, not {value!r}")
    return value
