"""What live runs refer to, followed through stored documents.

The owners' specs and states name the first objects; a stored document may refer to others. What
counts as a reference is what hydrate takes for one: a map with ``$bubuStorageRef`` and no foreign
keys, anywhere in a JSON document.

Invariants:

* either everything that can be reached was read, or the pass stops: a document that cannot be
  read, and a bound that is exceeded, leave it unknown what is protected;
* an object that is missing protects nothing further, and neither does one that is no JSON
  document, unless it should be one: its name ends in ``.json``, or it begins like one and has
  the text of a reference in it (cut off, say);
* a path that could leave the store, or lies in the reserved area, is data like any other text;
* each document is read once a pass, however often and in whatever circles it is referred to. A
  run learns references from what it was given, and all of that was followed when the pass began.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError, InvalidKeyError, ObjectNotFoundError, StorageError
from bubu_storage.payload.paths import store_key
from bubu_storage.retention.crew import send_each
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.wire import STORAGE_REF_KEY, STORAGE_REF_KEYS

__all__ = [
    "DEFAULT_CACHED_DOCUMENTS",
    "Follower",
    "ReferenceCache",
    "ReferenceLimits",
    "UnreadableDocumentError",
    "references_in",
]

DEFAULT_CACHED_DOCUMENTS: Final = 50_000
"""Documents that a cache remembers unless told otherwise."""

_CHUNK_BYTES: Final = 256 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_JSON_BLANKS: Final = b" \t\r\n"
_JSON_STARTS: Final = (b"{", b"[")
"""Of values that can hold a reference."""
_REFERENCE_TEXT: Final = STORAGE_REF_KEY.removeprefix("$")
"""What a document that cannot be parsed, and yet may refer to something, has in it; ``$`` may be escaped."""


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """How far references are followed; beyond, the pass stops.

    Attributes:
        documents: objects that one pass looks at.
        document_bytes: length of one document that is read.
        depth: documents between an owner and the last object reached.
    """

    documents: int = 100_000
    document_bytes: int = 32 * 1024 * 1024
    depth: int = 64


class UnreadableDocumentError(ValueError):
    """A stored document cannot be understood, so it is unknown what it refers to."""


def references_in(text: str) -> tuple[str, ...]:
    """Return the paths that a JSON document refers to, each once, in the order of their ends.

    Read with more patience than hydrate has (NaN, control characters in strings): what it can
    read, this can.

    Raises:
        UnreadableDocumentError: this is no JSON, or nested too deep to be read.
    """
    found: dict[str, None] = {}

    def take(pairs: list[tuple[str, Any]]) -> None:
        # Maps are dropped as they are read, so that a large document is never held as objects.
        if any(key == STORAGE_REF_KEY for key, _ in pairs) and all(
            key in STORAGE_REF_KEYS for key, _ in pairs
        ):
            found.update(
                (value, None) for key, value in pairs if key == STORAGE_REF_KEY and isinstance(value, str)
            )

    try:
        json.loads(text, object_pairs_hook=take, parse_int=_nothing, parse_float=_nothing, strict=False)
    except (ValueError, RecursionError) as error:
        raise UnreadableDocumentError(f"{type(error).__name__}: {error}") from error
    return tuple(found)


def _nothing(_text: str) -> None:
    """Stand in for a number, of which nothing is wanted."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One request: a HEAD to compare the ETag with, a GET where there is none."""

    key: str
    depth: int
    known_etag: str = ""


class Follower:
    """Follows references through the documents of one store, for one pass.

    Args:
        backend: the store.
        gate: lets each request through.
        cache: what earlier passes have read.
        limits: how far.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        cache: ReferenceCache,
        limits: ReferenceLimits | None = None,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._cache = cache
        self._limits = limits or ReferenceLimits()
        self._reached: set[str] = set()

    def follow(self, paths: Iterable[str]) -> frozenset[str]:
        """Return the keys that can be reached from these paths, themselves included, and were not before.

        Raises:
            PassStoppedError: a document cannot be read, a bound is exceeded, or a limit of the
                gate is reached.
        """
        before = set(self._reached)
        queue: deque[_Step] = deque()
        self._enqueue(queue, paths, depth=0)
        for step, answer in send_each(self._gate, queue, self._ask, self._gate.turn):
            if isinstance(answer, (ObjectNotFoundError, InvalidKeyError)):
                self._cache.forget(step.key)
            elif isinstance(answer, StorageError):
                raise _unreadable(f"{step.key!r} cannot be read: {answer}", answer)
            elif isinstance(answer, UnreadableDocumentError):
                raise _unreadable(f"{step.key!r} is no document that can be understood: {answer}")
            else:
                self._take(queue, step, *answer)
        return frozenset(self._reached - before)

    def _take(self, queue: deque[_Step], step: _Step, etag: str, references: tuple[str, ...] | None) -> None:
        """Go on from a document whose ETag, and perhaps content, is known now."""
        if references is not None:
            self._cache.put(step.key, etag, references)
        else:
            references = self._cache.get(step.key, etag)
            if references is None:
                queue.append(_Step(step.key, step.depth))
                return
        self._enqueue(queue, references, step.depth + 1)

    def _enqueue(self, queue: deque[_Step], paths: Iterable[str], depth: int) -> None:
        for path in paths:
            try:
                key = store_key(path, "reference")
            except InvalidKeyError:
                continue
            if key in self._reached:
                continue
            if depth > self._limits.depth:
                raise _unreadable(f"{key!r} lies behind more than {self._limits.depth} documents")
            if len(self._reached) >= self._limits.documents:
                raise _unreadable(f"live runs refer to more than {self._limits.documents} objects")
            self._reached.add(key)
            queue.append(_Step(key, depth, self._cache.etag_of(key)))

    def _ask(self, step: _Step) -> tuple[str, tuple[str, ...] | None] | UnreadableDocumentError:
        """Send one request; return the ETag and, if it was read, what the document refers to."""
        if step.known_etag:
            return self._backend.head_object(step.key).etag, None
        with self._backend.get_object(step.key) as document:
            must_be_json = step.key.lower().endswith(".json")
            content = bytearray()
            is_checked = must_be_json
            while chunk := document.read(_CHUNK_BYTES):
                content += chunk
                if not is_checked and (start := content.removeprefix(_BYTE_ORDER_MARK).lstrip(_JSON_BLANKS)):
                    if not start.startswith(_JSON_STARTS):
                        return document.info.etag, ()
                    is_checked = True
                if len(content) > self._limits.document_bytes:
                    return UnreadableDocumentError(f"longer than {self._limits.document_bytes} bytes")
        text = content.decode("utf-8-sig", "replace")
        del content
        try:
            return document.info.etag, references_in(text) if text.strip() else ()
        except UnreadableDocumentError as error:
            return error if must_be_json or _REFERENCE_TEXT in text else (document.info.etag, ())


def _unreadable(what: str, error: StorageError | None = None) -> PassStoppedError:
    return PassStoppedError(
        StoppedBy.REFERENCES_UNREADABLE,
        f"a live run refers to an object, and {what}; so it is unknown what else is needed, and nothing is "
        "deleted. Repair or delete that object, or let the run that refers to it end",
        error,
    )


class ReferenceCache:
    """Remembers what documents refer to, by key and ETag; the least recently used go first.

    May be kept between passes over one store, and handed to another process as JSON. It is
    never wrong: an entry counts only while the store says that the document has its ETag.

    Args:
        most_documents: how many are remembered at most.
    """

    def __init__(self, most_documents: int = DEFAULT_CACHED_DOCUMENTS) -> None:
        if most_documents < 1:
            raise ConfigurationError(f"a cache must hold at least 1 document, not {most_documents}")
        self._most_documents = most_documents
        self._entries: OrderedDict[str, tuple[str, tuple[str, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def etag_of(self, key: str) -> str:
        """Return the ETag of the document as it was read; "" if it is not remembered."""
        entry = self._entries.get(key)
        return "" if entry is None else entry[0]

    def get(self, key: str, etag: str) -> tuple[str, ...] | None:
        """Return what the document refers to; None if that is not known of this ETag."""
        entry = self._entries.get(key)
        if entry is None or not etag or entry[0] != etag:
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: str, etag: str, references: tuple[str, ...]) -> None:
        """Remember what a document refers to; without an ETag there is nothing to know it by."""
        self.forget(key)
        if not etag:
            return
        self._entries[key] = (etag, references)
        while len(self._entries) > self._most_documents:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget a document, if it is remembered."""
        self._entries.pop(key, None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, least recently used first."""
        return {
            "documents": [[key, etag, list(references)] for key, (etag, references) in self._entries.items()]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], most_documents: int = DEFAULT_CACHED_DOCUMENTS) -> Self:
        """Read what `to_dict` wrote; an empty mapping is an empty cache.

        Raises:
            ConfigurationError: this is no cache. The way out is an empty one.
        """
        cache = cls(most_documents)
        try:
            for key, etag, references in data.get("documents", ()):
                cache.put(_text(key), _text(etag), tuple(_text(reference) for reference in references))
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                f"this is no cache of references ({error}); start again with an empty one"
            ) from error
        return cache


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {value!r}")
    return value
