"""Vector files: how they are read, and how the outcome of a case is reported."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

__all__ = [
    "Case",
    "CaseReport",
    "Kind",
    "VectorFileError",
    "Verdict",
    "content_bytes",
    "expand",
    "load_cases",
]

Case: TypeAlias = Mapping[str, Any]
"""One case as it stands in the file."""

_SHOWN_CHARACTERS: Final = 160


class VectorFileError(Exception):
    """The file cannot be read, or holds no cases; the message says which and why."""


class Kind(StrEnum):
    """What a file is about."""

    STORAGE = "storage"
    APPLY_ENV = "apply_env"


class Verdict(StrEnum):
    """Outcome of one case."""

    PASSED = "passed"
    FAILED = "failed"
    DEVIATES = "deviates"


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What came of one case.

    Attributes:
        case_id: from the file.
        verdict: `Verdict.DEVIATES` for every case that the file marks as a defect of the
            recorded implementation.
        differences: one line each, "" when passed; for a deviation what we do instead.
    """

    case_id: str
    verdict: Verdict
    differences: tuple[str, ...] = ()


def load_cases(path: Path) -> tuple[Kind, list[Case]]:
    """Read a vector file.

    Raises:
        VectorFileError: missing, unreadable, not JSON, or not a list of known cases.
    """
    try:
        document: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise VectorFileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, list) or not document:
        raise VectorFileError(f"{path}: a vector file is a JSON list of at least one case")
    cases: list[Case] = []
    kinds: set[Kind] = set()
    for number, item in enumerate(cast("list[Any]", document)):
        if not isinstance(item, dict):
            raise VectorFileError(f"{path}: case number {number} is not an object")
        case = cast("dict[str, Any]", item)
        name = case.get("id")
        if not isinstance(name, str) or not isinstance(case.get("expect"), dict):
            raise VectorFileError(f"{path}: case number {number} needs a text 'id' and an object 'expect'")
        if isinstance(case.get("op"), str):
            kinds.add(Kind.STORAGE)
        elif isinstance(case.get("pod"), dict):
            kinds.add(Kind.APPLY_ENV)
        else:
            raise VectorFileError(f"{path}: case {name} has neither an 'op' nor a 'pod'")
        cases.append(case)
    if len(kinds) > 1:
        raise VectorFileError(f"{path}: storage cases and ApplyEnv cases must be in files of their own")
    return kinds.pop(), cases


def expand(value: Any) -> Any:
    """Replace every ``{"@repeat": [text, n]}`` by the text repeated n times."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.keys() == {"@repeat"}:
            text, count = fields["@repeat"]
            return text * count
        return {key: expand(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [expand(item) for item in cast("list[Any]", value)]
    return value


def content_bytes(content: Any) -> bytes:
    """Return a file's bytes as a case writes them: a text, or ``{"b64": …}``.

    Raises:
        ValueError: neither.
    """
    if isinstance(content, str):
        return content.encode("utf-8")
    try:
        return base64.b64decode(content["b64"], validate=True)
    except (TypeError, KeyError, binascii.Error) as error:
        raise ValueError("contents must be a text or {'b64': …}") from error


def difference(what: str, expected: Any, actual: Any) -> str:
    """Write one difference, centred on the place where long texts part."""
    left, right = (item if isinstance(item, str) else repr(item) for item in (expected, actual))
    if max(len(left), len(right)) <= _SHOWN_CHARACTERS:
        return f"{what}: expected {left}, got {right}"
    same = next((i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - _SHOWN_CHARACTERS // 2)
    end = start + _SHOWN_CHARACTERS
    return (
        f"{what}: differs from character {same} on; expected …{left[start:end]}… ({len(left)} characters), "
        f"got …{right[start:end]}… ({len(right)})"
    )


def shorten(text: str) -> str:
    """Cut a text for one line of output."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
