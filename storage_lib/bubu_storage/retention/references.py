"""What live runs refer to, followed through stored documents.

The owners' specs and states name the first objects; a stored document may refer to others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Self

from bubu_storage.errors import ConfigurationError

__all__ = ["DEFAULT_CACHED_DOCUMENTS", "ReferenceCache"]

DEFAULT_CACHED_DOCUMENTS: Final = 50_000
"""Documents that a cache remembers unless told otherwise."""


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
