"""What retention needs to know of one owner, taken from its object; pure and total.

References are found wherever they stand in spec and status, also in texts that are JSON themselves, at
any depth. A map counts as soon as it holds ``$bubuStorageRef`` with a text, whatever else it holds: hydrate
is stricter, and what it would not resolve is protected all the same. Invariants: no object can make this
fail, or cost more than a small multiple of its own size; a text that cannot be read as JSON, or is nested
too deeply, is searched as it stands.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from bubu_operator.kube.resources import JsonObject, metadata_of, section
from bubu_operator.owners.kinds import STEP_RUN, STORY_RUN, KindKey, OwnerKind, has_ended
from bubu_storage.errors import InvalidKeyError
from bubu_storage.payload.paths import store_key
from bubu_storage.wire import STORAGE_REF_KEY

__all__ = ["PARENT_LABEL", "OwnerRecord", "extract", "references_in"]

PARENT_LABEL: Final = "bubustack.io/parent-storyrun"
MAX_TEXT_DEPTH: Final = 8
"""JSON in JSON in JSON …: each level costs no more than the text that it stands in."""

_NEVER: Final = sys.maxsize
_MARK: Final = STORAGE_REF_KEY.removeprefix("$")
_IN_TEXT: Final = re.compile(re.escape(_MARK) + r'\\*"(?:\s|\\+[nrt])*:(?:\s|\\+[nrt])*\\*"([^"]*)"')
"""A reference in a text, whatever the number of times that its quotes were escaped."""


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """One owner.

    Attributes:
        run: the run that it owns, ``<namespace>/<name>``.
        version: resourceVersion that this was taken from; "" for one that has to be read again.
        live: by its own phase.
        created: seconds; never before anything else where it is not known.
        story: what it is ranked within; "" for none.
        ranked_as: the StoryRun whose rank it has; "" for none.
        parents: owners that keep it alive by being live.
        references: keys of objects that its spec and status refer to, clean.
    """

    run: str
    version: str
    live: bool
    created: int = _NEVER
    story: str = ""
    ranked_as: str = ""
    parents: tuple[tuple[KindKey, str], ...] = ()
    references: tuple[str, ...] = ()


def extract(obj: JsonObject, kind: OwnerKind) -> OwnerRecord:
    """Take from an owner's object what retention needs.

    Args:
        obj: as the API server sent it; it has a name.
        kind: of the object.
    """
    metadata = metadata_of(obj)
    namespace = str(metadata.get("namespace") or "")
    run = f"{namespace}/{metadata.get('name') or ''}"
    spec = section(obj, "spec")
    story = ranked_as = ""
    parents: list[tuple[KindKey, str]] = []
    if kind.key == STORY_RUN.key:
        if story := _named(spec, "storyRef", namespace):
            story = sys.intern(f"{namespace}:{story}")
            ranked_as = run
    elif kind.key == STEP_RUN.key and (story_run := _named(spec, "storyRunRef", namespace)):
        ranked_as = sys.intern(story_run)
        parents.append((STORY_RUN.key, ranked_as))
    parents += _parents(metadata, namespace)
    return OwnerRecord(
        run=run,
        version=str(metadata.get("resourceVersion") or ""),
        live=not has_ended(obj, kind, namespace),
        created=_seconds(metadata.get("creationTimestamp")),
        story=story,
        ranked_as=ranked_as,
        parents=tuple(dict.fromkeys(parents)),
        references=_keys({*references_in(spec), *references_in(obj.get("status"))}),
    )


def references_in(value: object) -> set[str]:
    """Return the paths that the references in a document name, as they are written."""
    found: set[str] = set()
    stack: list[tuple[Any, int]] = [(value, MAX_TEXT_DEPTH)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict):
            content = cast("dict[str, Any]", item)
            path = content.get(STORAGE_REF_KEY)
            if isinstance(path, str):
                found.add(path)
            stack += [(child, depth) for child in content.values()]
        elif isinstance(item, list):
            stack += [(child, depth) for child in cast("list[Any]", item)]
        elif isinstance(item, str) and _MARK in item:
            parsed = _parse(item) if depth else None
            if parsed is None:
                found |= _references_in_text(item)
            else:
                stack.append((parsed, depth - 1))
    return found


def _parse(text: str) -> Any:
    """Return the JSON that a text is; None if it is none, or none that can be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _references_in_text(text: str) -> set[str]:
    """Return what looks like a reference in a text, with every reading of its escapes."""
    found: set[str] = set()
    for match in _IN_TEXT.finditer(text):
        path = match[1].rstrip("\\")
        for _ in range(MAX_TEXT_DEPTH):
            found.add(path)
            try:
                read: Any = json.loads(f'"{path}"')
            except ValueError:
                break
            if read == path:
                break
            path = str(read)
    return found


def _keys(paths: set[str]) -> tuple[str, ...]:
    """Return the keys that paths mean; what can be no key refers to nothing."""
    keys: set[str] = set()
    for path in paths:
        try:
            keys.add(store_key(path))
        except InvalidKeyError:
            continue
    return tuple(sorted(keys))


def _named(spec: JsonObject, field: str, namespace: str) -> str:
    """Return ``<namespace>/<name>`` of an object that a spec refers to; "" where it does not."""
    reference = section(spec, field)
    name: Any = reference.get("name")
    where: Any = reference.get("namespace")
    if not isinstance(name, str) or not name:
        return ""
    return f"{where if isinstance(where, str) and where else namespace}/{name}"


def _parents(metadata: JsonObject, namespace: str) -> list[tuple[KindKey, str]]:
    """Return the StoryRun that a label names, and the controllers that owner references name."""
    parents: list[tuple[KindKey, str]] = []
    parent: Any = section(metadata, "labels").get(PARENT_LABEL)
    if isinstance(parent, str) and parent:
        parents.append((STORY_RUN.key, sys.intern(f"{namespace}/{parent}")))
    references: Any = metadata.get("ownerReferences")
    for reference in cast("list[Any]", references) if isinstance(references, list) else []:
        if not isinstance(reference, dict):
            continue
        owner = cast("JsonObject", reference)
        if owner.get("controller") is True:
            group, _, version = str(owner.get("apiVersion") or "").rpartition("/")
            key = KindKey(group if version else "", str(owner.get("kind") or ""))
            parents.append((key, sys.intern(f"{namespace}/{owner.get('name') or ''}")))
    return parents


def _seconds(created: object) -> int:
    try:
        return int(datetime.fromisoformat(str(created)).timestamp())
    except (ValueError, OverflowError):
        return _NEVER
