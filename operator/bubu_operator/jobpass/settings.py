"""The settings of a store that an agent serves; loads nothing else, for the pass's own process."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AgentSettings"]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """A store that an agent serves; in the place of `FileSettings` and `S3Settings` in a pass's document.

    Attributes:
        descriptor: of a connected stream socket that the pass's process inherits.
        name: of the store, for messages.
    """

    descriptor: int
    name: str
