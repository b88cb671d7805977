"""What `dehydrate` decides: the document with references in it, and the objects to write. Pure data.

A planned object is encoded when it is written, so that few bodies are in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bubu_storage.payload.stored import encode_stored_json, encode_stored_text
from bubu_storage.wire import DEFAULT_MAX_BULK_SIZE

__all__ = ["Plan", "PlanOptions", "PlannedObject"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the plan of one call depends on.

    Attributes:
        prefix, run_id: where objects go.
        max_inline_size_bytes: longer values are offloaded.
        max_depth: values nested deeper are offloaded whole.
        ref_search_depth: how far down a reference counts as "in" a value; the configured
            depth, which a context's override does not change.
        schema, schema_version: written into references, "" for none.
        max_bulk_size_bytes: longest container with references in it that stays inline.
    """

    prefix: str
    run_id: str
    max_inline_size_bytes: int
    max_depth: int
    ref_search_depth: int
    schema: str = ""
    schema_version: str = ""
    max_bulk_size_bytes: int = DEFAULT_MAX_BULK_SIZE


@dataclass(slots=True)
class PlannedObject:
    """One object to write.

    Attributes:
        path: in the store.
        superseded: a container around this value was offloaded too, with the value in it.
            The Go SDK leaves such objects behind, so they are written as well; nothing
            refers to them.
    """

    path: str
    keys: tuple[str | int, ...]
    value: Any
    is_text: bool
    simple: bool
    ref: dict[str, str]
    superseded: bool = False

    def body(self) -> bytes | bytearray:
        """Return the object's bytes; encoded here, so that few are in memory at a time."""
        if self.is_text:
            return encode_stored_text(self.value)
        return encode_stored_json(self.value, simple=self.simple)


@dataclass(slots=True)
class Plan:
    """The outcome of a walk.

    Attributes:
        result: the document with references in it; shares nothing mutable with the input.
        length: bytes of the result's JSON form (with colliding names before their suffix).
        simple: see `codec.Measure`, for the result.
        objects: what to write, children first.
    """

    result: Any
    length: int
    simple: bool
    objects: list[PlannedObject] = field(default_factory=list[PlannedObject])
