"""The result of a probe in a Job: a small JSON document that travels in the pod's termination message.

Invariants: what is written fits into what a kubelet keeps (4,096 bytes), whatever an error says;
what is read is untrusted, since whoever owns the namespace may control the pod. It is parsed
within limits into fixed words and bounded text, or not at all.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.kube.scrub import shorten
from bubu_storage.backend.probe import VERSIONED, Capability

__all__ = ["MAX_RESULT_BYTES", "RESULT_REASONS", "ProbeResult", "UnreadableResultError", "parse_result"]

MAX_RESULT_BYTES: Final = 4096
"""A kubelet cuts termination messages there."""

MAX_MESSAGE_CHARACTERS: Final = 700
"""Leaves room: in JSON a character may take six bytes, twelve outside the basic plane."""

MAX_LATENCY_MILLISECONDS: Final = 600_000
MAX_CAPABILITIES: Final = 32

RESULT_REASONS: Final = frozenset(
    {
        Reason.PROBE_SUCCEEDED,
        Reason.BUCKET_NOT_FOUND,
        Reason.UNAUTHENTICATED,
        Reason.PERMISSION_DENIED,
        Reason.UNREACHABLE,
        Reason.TIMEOUT,
        Reason.THROTTLED,
        Reason.ENDPOINT_NOT_ALLOWED,
        Reason.STORE_ERROR,
        Reason.PATH_NOT_WRITABLE,
    }
)
"""What a probe can come to; other reasons are the controller's to give."""


class UnreadableResultError(ValueError):
    """The termination message is no result of this version; the text never quotes it."""


def _known(value: Reason) -> Reason:
    if value not in RESULT_REASONS:
        raise ValueError("no outcome of a probe")
    return value


class ProbeResult(BaseModel):
    """What a probe came to.

    Attributes:
        version: of this format.
        reason: `Reason.PROBE_SUCCEEDED`, or why not.
        message: for people; on success what went wrong besides, "" for nothing.
        capabilities: what the store was seen to do, and `VERSIONED`; words that are not known are left out.
        latency_milliseconds: the whole probe, opening the store included.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    reason: Annotated[Reason, AfterValidator(_known)]
    message: Annotated[str, Field(max_length=MAX_RESULT_BYTES)] = ""
    capabilities: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=MAX_CAPABILITIES)
    ] = ()
    latency_milliseconds: Annotated[int, Field(ge=0, le=MAX_LATENCY_MILLISECONDS, strict=True)] = 0

    @property
    def versioned(self) -> bool | None:
        """Whether the store keeps old versions; None where the probe has not seen it."""
        return True if VERSIONED in self.capabilities else None

    @property
    def seen(self) -> tuple[Capability, ...]:
        """The capabilities that this version knows, each once, in their order."""
        return tuple(one for one in Capability if one.value in self.capabilities)

    def to_text(self) -> str:
        """Return the JSON text, always below `MAX_RESULT_BYTES`."""
        document = self.model_dump(mode="json")
        message = shorten(self.message, MAX_MESSAGE_CHARACTERS)
        while True:
            text = json.dumps(document | {"message": message}, separators=(",", ":"))
            if len(text) < MAX_RESULT_BYTES:
                return text
            message = shorten(message, max(1, len(message) // 2))


def parse_result(text: str) -> ProbeResult:
    """Read a termination message.

    Raises:
        UnreadableResultError: it is empty, too long, no JSON, or of another form or version.
    """
    size = len(text.encode("utf-8", errors="replace"))
    if not text.strip():
        raise UnreadableResultError("it is empty")
    if size > MAX_RESULT_BYTES:
        raise UnreadableResultError(f"it has {size} bytes and a result has at most {MAX_RESULT_BYTES}")
    try:
        return ProbeResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Only names of our own fields: the place of an error inside a forged document is the forger's text.
        place = first["loc"][0] if first["loc"] else ""
        where = place if place in ProbeResult.model_fields else "the document"
        raise UnreadableResultError(f"{where} is not as it should be ({first['type']})") from None
