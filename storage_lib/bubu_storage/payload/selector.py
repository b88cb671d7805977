"""The selector language of ``$bubuStoragePath``: ``items[0].name``, ``items[*].name``.

Grammar, left to right after trimming: dots are skipped; ``[…]`` is an index (a decimal
integer, or ``*`` for every element); anything else up to the next ``.`` or ``[`` is a field
name, trimmed. Keys with a dot or a bracket cannot be addressed. Parsing is pure; applying
the steps happens in `hydrate`, which loads what lies on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from bubu_storage.errors import SelectorError
from bubu_storage.goduration import trim_go_space
from bubu_storage.gotext import parse_go_int
from bubu_storage.payload.paths import shown

__all__ = ["WILDCARD", "Selection", "Step", "Wildcard", "kind_of", "parse_selector"]


class Wildcard(Enum):
    """Type of `WILDCARD`."""

    ALL = "*"


WILDCARD: Final = Wildcard.ALL
"""The step ``[*]``: every element of a list."""

Step: TypeAlias = str | int | Wildcard
"""A field name, a list index, or every element."""


def parse_selector(selector: str) -> tuple[Step, ...]:
    """Return the steps of a selector; none for a blank one or one of dots only.

    Raises:
        SelectorError: unterminated, empty or invalid index, blank field name.
    """
    text = trim_go_space(selector)
    steps: list[Step] = []
    position = 0
    while position < len(text):
        head = text[position]
        if head == ".":
            position += 1
        elif head == "[":
            end = text.find("]", position)
            if end < 0:
                raise SelectorError(f"selector {shown(selector)}: '[' at character {position} has no ']'")
            steps.append(_parse_index(text[position + 1 : end], selector))
            position = end + 1
        else:
            end = min(
                (i for i in (text.find(".", position), text.find("[", position)) if i >= 0), default=len(text)
            )
            name = trim_go_space(text[position:end])
            if not name:
                raise SelectorError(f"selector {shown(selector)}: blank field name at character {position}")
            steps.append(name)
            position = end
    return tuple(steps)


def _parse_index(text: str, selector: str) -> Step:
    index = trim_go_space(text)
    if index == "*":
        return WILDCARD
    if not index:
        raise SelectorError(f"selector {shown(selector)}: empty index; write a number or *")
    try:
        return parse_go_int(index)
    except ValueError:
        raise SelectorError(
            f"selector {shown(selector)}: invalid index {shown(index)}; write a decimal number or *"
        ) from None


def _describe_step(step: Step) -> str:
    """Name a step for a message."""
    if isinstance(step, str):
        return f"field {shown(step)}"
    return "wildcard [*]" if step is WILDCARD else f"index [{step}]"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selector and the key of the object that it is applied to, for messages."""

    selector: str
    key: str

    def error(self, step: Step, reason: str) -> SelectorError:
        """Return the error for a step that does not fit."""
        return SelectorError(
            f"selector {shown(self.selector)} does not fit object {self.key!r}: "
            f"{_describe_step(step)} {reason}",
            key=self.key,
        )


def kind_of(value: Any) -> str:
    """Name the JSON type of a value for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a string" if isinstance(value, str) else "a number"
