"""Following a bucket's listing page by page, and believing it only as far as it is consistent.

Retention resumes listings by key: a listing that is not in byte order, repeats itself or is
no listing at all must be an error, because objects would be skipped or taken for gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from typing import Any, Final

from bubu_storage.backend.types import EPOCH, ListedObject, ListPage
from bubu_storage.errors import StorageError

__all__ = ["pages"]

_FIELDS: Final = frozenset({"Contents", "IsTruncated", "KeyCount", "Name"})
"""One of these is in every listing, also in an empty one."""


_MAX_EMPTY_PAGES: Final = 10_000
"""Pages in a row without an object (ten million deleted ones, say) after which a listing leads nowhere."""


def pages(
    fetch: Callable[[dict[str, str]], dict[str, Any]], *, prefix: str, start_after: str, store: str
) -> Iterator[ListPage]:
    """Yield the pages that are not empty; one is fetched when the one before is consumed.

    Args:
        fetch: asks the store for a page, given what says where it starts (``StartAfter``,
            ``ContinuationToken``).
        prefix: what the keys must begin with.
        start_after: only keys greater than this one.
        store: name for messages.

    Raises:
        StorageError: the pages are out of order (``ListingOrder``), repeat themselves
            (``ListingLoop``), hold what was not asked for (``ListingPrefix``) or are none
            (``ListingFormat``).
    """
    more = {"StartAfter": start_after} if start_after else {}
    tokens: set[str] = set()
    last = start_after
    while True:
        answer = fetch(more)
        if not _FIELDS & answer.keys():
            # Some web page, say: taken for an empty listing it would mean "nothing is there".
            raise StorageError(
                f"{store} cannot be listed: the answer is not one of an S3 store; check the endpoint",
                code="ListingFormat",
            )
        objects = tuple(_listed(item, store) for item in answer.get("Contents", []))
        for one in objects:
            if not one.key.startswith(prefix):
                # Whoever deletes what a listing names would delete other people's objects.
                raise StorageError(
                    f"{store} lists {one.key!r}, which does not begin with {prefix!r} as was asked; "
                    "a listing of this store cannot be relied on",
                    code="ListingPrefix",
                )
            if one.key <= last:
                raise StorageError(
                    f"{store} lists {one.key!r} after {last!r}: not in byte order, or repeated; "
                    "a listing of this store cannot be relied on",
                    code="ListingOrder",
                )
            last = one.key
        if objects:
            yield ListPage(objects)
        if not answer.get("IsTruncated"):
            return
        token: str = answer.get("NextContinuationToken", "")
        if not token or token in tokens or len(tokens) >= _MAX_EMPTY_PAGES:
            raise StorageError(
                f"{store} says that a listing goes on but gives no new continuation token, "
                "or no objects for very long",
                code="ListingLoop",
            )
        if objects:
            tokens.clear()
        tokens.add(token)
        more = {**more, "ContinuationToken": token}


def _listed(item: Mapping[str, Any], store: str) -> ListedObject:
    size = item.get("Size", 0)
    try:
        modified = item.get("LastModified", EPOCH).astimezone(UTC)
    except OverflowError:
        modified = None
    if modified is None or size < 0 or not item.get("Key"):
        raise StorageError(
            f"{store} cannot be listed: an entry has no key, a length below 0 or a time outside of all "
            "calendars; check the endpoint",
            code="ListingFormat",
        )
    return ListedObject(key=item["Key"], size_bytes=size, etag=item.get("ETag", ""), last_modified=modified)
