"""The one JSON document that a pass's process is given, and the lines it answers with.

The document goes through a pipe, never through arguments or the environment: those can be
read by every process of the machine. It holds credentials; it is never logged.

Lines on stdin after it: ``stop`` ends the pass in good order, ``until SECONDS`` says how long
the controller that started it is known to lead, on the machine's `boot_seconds`; answers about
owners are those of `owner_lines`.

Lines on stdout: ``{"type": "checkpoint" | "report", "report": {…}}``; ``facts`` about the store,
before the pass begins; ``owners``, a question; ``cache``, what is to be remembered for the next
pass; in the place of a report ``{"type": "error", "message": …}`` when the pass could not be run,
or ``claimed``, the same, when another sweeper has the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self, cast

from bubu_operator.jobpass.settings import AgentSettings
from bubu_operator.retention.owner_lines import OwnerQuestion
from bubu_operator.retention.store_facts import StoreFacts
from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.claim_document import ClaimSettings
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.report import PassReport
from bubu_storage.retention.spec import PassSpec
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["STOP_LINE", "LineType", "PassDocument", "PassLine", "read_until", "until_line"]

VERSION = 1
STOP_LINE = "stop\n"
"""Written to the process's stdin: end the pass in good order and report."""

_UNTIL: Final = "until "
_KINDS: Final = {"file": FileSettings, "s3": S3Settings, "agent": AgentSettings}


def until_line(valid_until: float) -> str:
    """Return the line that says how long the pass may go on, line break included."""
    return f"{_UNTIL}{valid_until:.3f}\n"


def read_until(line: str) -> float | None:
    """Read what `until_line` wrote; None for any other line."""
    if not line.startswith(_UNTIL):
        return None
    try:
        return float(line.removeprefix(_UNTIL))
    except ValueError:
        return None


class LineType(StrEnum):
    """What a line of the process is."""

    CHECKPOINT = "checkpoint"
    REPORT = "report"
    ERROR = "error"
    CLAIMED = "claimed"
    FACTS = "facts"
    OWNERS = "owners"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class PassDocument:
    """Everything a pass needs.

    Attributes:
        settings: of the store, credentials inside; or of the agent that serves it.
        spec: what may be seen, kept and deleted.
        cursor: where to go on.
        valid_until: how long the controller leads for sure, on `boot_seconds`; more of it
            comes in lines. None where there is no election.
        owners: the controller answers questions about owners; `PassProcess` sets this.
        claim: how to claim the store before anything is deleted; None for without.
        cluster_uid: under which the store's users register; "" for not at all.
        shared: it is known already that other clusters use the store.
        reference_cache: what the last pass left to remember, None for nothing.
        ended_claim: holder of a claim whose process is known to have ended; "" for none.
        conditional: ``StoreFacts.is_conditional`` of an earlier pass on the store; None to find out.
    """

    settings: FileSettings | S3Settings | AgentSettings
    spec: PassSpec
    cursor: Cursor
    valid_until: float | None = None
    owners: bool = False
    claim: ClaimSettings | None = None
    cluster_uid: str = ""
    shared: bool = False
    reference_cache: Mapping[str, Any] | None = None
    ended_claim: str = ""
    conditional: bool | None = None

    def to_line(self) -> str:
        """Return the document as one line of JSON, line break included."""
        kind = next(kind for kind, settings in _KINDS.items() if settings is type(self.settings))
        document = {
            "version": VERSION,
            "store": {"kind": kind, **asdict(self.settings)},
            "spec": self.spec.to_dict(),
            "cursor": self.cursor.to_dict(),
            "valid_until": self.valid_until,
            "owners": self.owners,
            "claim": None if self.claim is None else asdict(self.claim),
            "cluster_uid": self.cluster_uid,
            "shared": self.shared,
            "reference_cache": self.reference_cache,
            "ended_claim": self.ended_claim,
            "conditional": self.conditional,
        }
        return json.dumps(document, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read what `to_line` wrote.

        Raises:
            ConfigurationError: this is no such document; its content is not repeated.
        """
        try:
            document = cast("dict[str, Any]", json.loads(line))
            if document["version"] != VERSION:
                raise ConfigurationError(f"pass document of version {document['version']!r}, not {VERSION}")
            store = dict(document["store"])
            kind = store.pop("kind")
            if kind not in _KINDS:
                raise ConfigurationError(f"unknown kind of store {kind!r}")
            settings = _KINDS[kind](**store)
            spec, cursor = PassSpec.from_dict(document["spec"]), Cursor.from_dict(document["cursor"])
            until, claim = document["valid_until"], document["claim"]
            return cls(
                settings,
                spec,
                cursor,
                None if until is None else 0.0 + until,
                owners=bool(document["owners"]),
                claim=None if claim is None else ClaimSettings(**claim),
                cluster_uid=str(document["cluster_uid"]),
                shared=bool(document["shared"]),
                reference_cache=document["reference_cache"],
                ended_claim=str(document["ended_claim"]),
                conditional=document["conditional"],
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                f"stdin holds no retention pass ({type(error).__name__}); this command is started by the "
                "controller"
            ) from error


@dataclass(frozen=True, slots=True)
class PassLine:
    """One line of the process.

    Attributes:
        type: see `LineType`.
        report: of a checkpoint or the end.
        message: of an error, or of a store that is claimed.
        facts: about the store.
        question: about owners.
        cache: what to give the next pass as ``reference_cache``.
    """

    type: LineType
    report: PassReport | None = None
    message: str = ""
    facts: StoreFacts | None = None
    question: OwnerQuestion | None = None
    cache: Mapping[str, Any] | None = None

    def to_line(self) -> str:
        """Return the line, line break included."""
        content: dict[str, Any] = {"type": self.type.value}
        if self.report is not None:
            content["report"] = self.report.to_dict()
        if self.message:
            content["message"] = self.message
        if self.facts is not None:
            content["facts"] = self.facts.to_dict()
        if self.question is not None:
            content |= self.question.to_dict()
        if self.cache is not None:
            content["cache"] = self.cache
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Self:
        """Read what `to_line` wrote.

        Raises:
            ConfigurationError: the line is something else.
        """
        try:
            content = cast("dict[str, Any]", json.loads(line))
            type_ = LineType(content["type"])
            report = content.get("report")
            return cls(
                type_,
                None if report is None else PassReport.from_dict(report),
                str(content.get("message") or ""),
                StoreFacts.from_dict(content["facts"]) if type_ is LineType.FACTS else None,
                OwnerQuestion.from_dict(content) if type_ is LineType.OWNERS else None,
                dict(content["cache"]) if type_ is LineType.CACHE else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"the pass wrote a line that is none of its own: {error!r}") from error
