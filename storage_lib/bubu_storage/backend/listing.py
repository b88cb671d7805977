"""Listing by callback, as the Go implementation has it, on top of the listing by iterator."""

from __future__ import annotations

from collections.abc import Callable

from bubu_storage.backend.types import ListPage, ObjectBackend

__all__ = ["for_each_page"]


def for_each_page(
    backend: ObjectBackend,
    prefix: str,
    act: Callable[[ListPage], object],
    *,
    start_after: str = "",
    page_size: int = 1000,
) -> None:
    """Call ``act`` with each page of a listing, in order (Go: ListObjects).

    A page is asked of the store only when ``act`` has returned from the one before, and no page is
    empty: for a listing of nothing ``act`` is not called. The listing is no snapshot: what comes or
    goes meanwhile may be in it or not.

    Args:
        backend: the store.
        prefix: plain text; "" lists everything.
        act: what it raises ends the listing at once and comes out unchanged; pages that it had
            before stay delivered.
        start_after: only keys greater than this one.
        page_size: most entries of one page, 1 to 1,000.

    Raises:
        InvalidKeyError: see `check_prefix`.
        LimitExceededError: ``page_size`` is not 1 to 1,000.
        StorageError: a page cannot be had.
    """
    pages = backend.list_objects(prefix, start_after=start_after, page_size=page_size)
    try:
        for page in pages:
            act(page)
    finally:
        # An error's traceback would keep the listing, and what it has open, alive.
        close = getattr(pages, "close", None)
        if close is not None:
            close()
