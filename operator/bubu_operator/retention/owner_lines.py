"""How a pass's process asks who owns runs, and is answered: lines of JSON; pure.

The process asks on stdout, ``{"type": "owners", "id": 3, "not_before": 12.5, "have": 2}``. The answer comes
on stdin, in parts that are short enough for other lines to come in between, and ends with a line that says
what the whole must amount to: everything if the process has nothing yet, else what differs from the
version that it has. An error comes in the place of all that.

Invariants: an answer is applied whole or not at all; what it amounts to is compared with what the sender
says; no line grows with the number of owners.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

from bubu_storage.errors import ConfigurationError, OwnersUnknownError
from bubu_storage.retention.owners import OwnerFacts, OwnerView

__all__ = ["Assembly", "OwnerQuestion", "answer_lines", "error_line", "is_answer"]

PART_ENTRIES: Final = 500
"""Owners or references of one line: some 50 KiB, at most 512 KiB."""

_TYPE: Final = "owners"
_BROKEN: Final = "the controller's answer about owners is broken"


@dataclass(frozen=True, slots=True)
class OwnerQuestion:
    """What a process wants to know.

    Attributes:
        number: of the question; the answer bears it.
        not_before: when the observation may have begun at the earliest, on `boot_seconds`.
        have: version of the view that the process has; None for none.
    """

    number: int
    not_before: float
    have: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of its line."""
        return {"id": self.number, "not_before": self.not_before, "have": self.have}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        have = content["have"]
        return cls(int(content["id"]), float(content["not_before"]), None if have is None else int(have))


def answer_lines(question: OwnerQuestion, view: OwnerView, base: OwnerView | None) -> Iterator[bytes]:
    """Yield the lines of an answer.

    Args:
        question: as asked.
        view: the answer.
        base: the view that was sent last, None if none was. If the process has it, only the difference is
            sent.
    """
    goes_on = base is not None and base.version == question.have
    if base is None or not goes_on:
        base = OwnerView(0, 0.0)
    owners, old = view.owners, base.owners
    if view.owners is not base.owners:
        changed = {run: facts for run, facts in owners.items() if old.get(run) != facts}
        for part in _parts(changed):
            yield _line(question, set={run: [changed[run].live, changed[run].rank] for run in part})
        for part in _parts([run for run in old if run not in owners]):
            yield _line(question, gone=part)
    for part in _parts(view.references - base.references):
        yield _line(question, refs=part)
    for part in _parts(base.references - view.references):
        yield _line(question, unrefs=part)
    yield _line(
        question,
        base=base.version if goes_on else None,
        version=view.version,
        observed_at=view.observed_at,
        owners=len(owners),
        references=len(view.references),
    )


def error_line(question: OwnerQuestion, error: OwnersUnknownError) -> bytes:
    """Return the answer that there is no answer."""
    return _line(question, error=error.message, code=error.code)


def is_answer(line: bytes) -> bool:
    """Tell whether a line on stdin belongs to an answer; cheap."""
    return line.startswith(b"{")


def _line(question: OwnerQuestion, **content: Any) -> bytes:
    whole = {"type": _TYPE, "id": question.number, **content}
    return json.dumps(whole, separators=(",", ":")).encode("ascii") + b"\n"


def _parts(items: Any) -> Iterator[list[str]]:
    whole: list[str] = list(items)
    for start in range(0, len(whole), PART_ENTRIES):
        yield whole[start : start + PART_ENTRIES]


@dataclass(slots=True)
class Assembly:
    """Puts the lines of one answer together.

    Attributes:
        question: what was asked; lines of other answers are passed over.
        base: the view that the process has.
    """

    question: OwnerQuestion
    base: OwnerView | None
    _set: dict[str, OwnerFacts] = field(default_factory=dict[str, OwnerFacts])
    _gone: set[str] = field(default_factory=set[str])
    _refs: set[str] = field(default_factory=set[str])
    _unrefs: set[str] = field(default_factory=set[str])
    _known: dict[tuple[bool, int | None], OwnerFacts] = field(
        default_factory=dict[tuple[bool, "int | None"], OwnerFacts]
    )

    def take(self, line: bytes) -> OwnerView | None:
        """Take the next line; return the view once it is whole.

        Raises:
            OwnersUnknownError: the answer is an error, or is broken.
        """
        try:
            content = cast("dict[str, Any]", json.loads(line))
            if content["type"] != _TYPE or content["id"] != self.question.number:
                return None
            if "error" in content:
                raise OwnersUnknownError(str(content["error"]), code=content.get("code"))
            if "version" in content:
                return self._whole(content)
            for run, (live, rank) in content.get("set", {}).items():
                self._set[run] = self._facts(live, rank)
            self._gone.update(content.get("gone", ()))
            self._refs.update(content.get("refs", ()))
            self._unrefs.update(content.get("unrefs", ()))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OwnersUnknownError(f"{_BROKEN}: {type(error).__name__}") from error
        return None

    def _whole(self, content: dict[str, Any]) -> OwnerView:
        version, observed_at = int(content["version"]), float(content["observed_at"])
        if content["base"] is None:
            base = OwnerView(0, 0.0)
        elif self.base is not None and self.base.version == content["base"]:
            base = self.base
        else:
            raise OwnersUnknownError(f"{_BROKEN}: it goes on from what was never received")
        owners, references = base.owners, base.references
        if self._set or self._gone:
            changed = {**owners, **self._set}
            for run in self._gone:
                del changed[run]
            owners = changed
        if self._refs or self._unrefs:
            references = (references - self._unrefs) | self._refs
        if len(owners) != content["owners"] or len(references) != content["references"]:
            raise OwnersUnknownError(f"{_BROKEN}: a part of it is missing")
        return OwnerView(version, observed_at, owners, references)

    def _facts(self, live: object, rank: object) -> OwnerFacts:
        if not isinstance(live, bool) or not (rank is None or type(rank) is int):
            raise ConfigurationError("these are no facts of an owner")
        facts = self._known.get((live, rank))
        return facts or self._known.setdefault((live, rank), OwnerFacts(live, rank))
