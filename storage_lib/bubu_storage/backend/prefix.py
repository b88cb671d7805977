"""A part of a store as a store of its own: all keys below one prefix.

Two users of one bucket, each behind a prefix of its own, see and touch nothing of each other:
keys are checked before the prefix goes in front of them, so there is no way up. Whoever uses
such a backend never meets the prefix in a key: it is taken off listings, answers to batches,
facts and the ``key`` of errors (messages name the object as it is in the store).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from bubu_storage.backend.checks import MAX_QUOTED_CHARACTERS
from bubu_storage.backend.decorator import BackendDecorator, WrappedBody
from bubu_storage.backend.types import (
    MAX_KEY_BYTES,
    Body,
    GetObjectResult,
    ListedObject,
    ListPage,
    ObjectBackend,
    ObjectInfo,
    check_batch,
    check_key,
    check_page_size,
    check_prefix,
)
from bubu_storage.errors import InvalidKeyError, StorageError
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["PrefixBackend"]

_T = TypeVar("_T")


class PrefixBackend(BackendDecorator):
    """The objects of another backend whose keys begin with ``prefix/``, under the rest of their keys.

    Args:
        inner: the backend that has the objects.
        prefix: one or more whole segments, as ``team-a`` or ``team-a/runs/``; the slash at its end
            may be left out.

    Raises:
        InvalidKeyError: the prefix is empty, begins with a slash, has an empty, ``.`` or ``..``
            segment, or leaves no room for a key.
    """

    def __init__(self, inner: ObjectBackend, prefix: str) -> None:
        super().__init__(inner)
        self.prefix = _whole_segments(prefix)
        self._prefix_bytes = len(self.prefix.encode("utf-8"))

    @property
    def name(self) -> str:
        """Name of the wrapped backend with the prefix, as ``s3://bucket/team-a``."""
        name = self.inner.name
        return f"{name}{'' if name.endswith('/') else '/'}{self.prefix[:-1]}"

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Store an object below the prefix; see `ObjectBackend.put_object`."""
        whole = self._whole(key)
        return self._told(
            {whole: key},
            lambda: self.inner.put_object(
                whole,
                body,
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                if_match=if_match,
                if_none_match=if_none_match,
            ),
        )

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object below the prefix; see `ObjectBackend.get_object`."""
        whole = self._whole(key)
        names = {whole: key}
        found = self._told(
            names, lambda: self.inner.get_object(whole, range_header=range_header, if_match=if_match)
        )
        stream = _Body(found, lambda act: self._told(names, act)).result()
        stream.info = replace(found.info, key=key)
        return stream

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object below the prefix; see `ObjectBackend.head_object`."""
        whole = self._whole(key)
        return replace(self._told({whole: key}, lambda: self.inner.head_object(whole)), key=key)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete an object below the prefix; see `ObjectBackend.delete_object`."""
        whole = self._whole(key)
        self._told({whole: key}, lambda: self.inner.delete_object(whole, if_match=if_match))

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream the objects below the prefix; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`; also when there is no room for ``prefix``.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
        """
        check_page_size(page_size)
        pages = self.inner.list_objects(
            self._joined(check_prefix(prefix), "prefix"),
            start_after=self.prefix + start_after if start_after else "",
            page_size=page_size,
        )
        return (ListPage(tuple(self._listed(one) for one in page.objects)) for page in pages)

    def _listed(self, one: ListedObject) -> ListedObject:
        if not one.key.startswith(self.prefix):
            raise StorageError(
                f"{self.inner.name} lists object {one.key[:80]!r}, which does not begin with the prefix "
                f"{self.prefix!r} that was asked for",
                code="ListingPrefix",
            )
        return ListedObject(one.key[len(self.prefix) :], one.size_bytes, one.etag, one.last_modified)

    def _delete_objects(
        self, keys: Sequence[str], if_match: Mapping[str, str] | None
    ) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        names: dict[str, str] = {}
        for key in check_batch(keys):
            try:
                names[self._whole(key)] = key
            except InvalidKeyError as error:
                failed[key] = error
        conditions = {self.prefix + key: etag for key, etag in (if_match or {}).items()}
        pass_on = super()._delete_objects
        answer = self._told(names, lambda: pass_on(list(names), conditions or None))
        for whole, error in answer.items():
            failed[names.get(whole, whole)] = _renamed(error, names)
        return failed

    def _copy_object(
        self, source_key: str, destination_key: str, content_type: str, metadata: Mapping[str, str] | None
    ) -> str:
        source, destination = self._whole(source_key), self._whole(destination_key)
        names = {source: source_key, destination: destination_key}
        pass_on = super()._copy_object
        return self._told(names, lambda: pass_on(source, destination, content_type, metadata))

    def _whole(self, key: str) -> str:
        """Return a key as it is in the store."""
        return self._joined(check_key(key), "object key")

    def _joined(self, text: str, what: str) -> str:
        length = len(text.encode("utf-8"))
        if length + self._prefix_bytes > MAX_KEY_BYTES:
            raise InvalidKeyError(
                f"{what} {_quoted(text)} has {length} bytes; behind the prefix {_quoted(self.prefix)} of "
                f"{self._prefix_bytes} bytes there is room for {MAX_KEY_BYTES - self._prefix_bytes}",
                key=text,
            )
        return self.prefix + text

    def _told(self, names: Mapping[str, str], act: Callable[[], _T]) -> _T:
        """Make a request; an error names the object as the caller knows it."""
        try:
            return act()
        except StorageError as error:
            _renamed(error, names)
            raise


class _Body(WrappedBody):
    """A body whose errors name the object as the caller knows it."""

    def __init__(self, inner: GetObjectResult, told: Callable[[Callable[[], bytes]], bytes]) -> None:
        super().__init__(inner)
        self._told = told

    def read(self, size: int | None = -1, /) -> bytes:
        pass_on = super().read
        return self._told(lambda: pass_on(size))


def _quoted(text: str) -> str:
    """Quote a text of any length, as messages do."""
    return repr(text) if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]!r}…"


def _renamed(error: StorageError, names: Mapping[str, str]) -> StorageError:
    if error.key is not None:
        error.key = names.get(error.key, error.key)
    return error


def _whole_segments(prefix: str) -> str:
    """Return a prefix with the slash at its end."""
    segments = check_key(prefix).removesuffix("/").split("/")
    if "" in segments or "." in segments:
        raise InvalidKeyError(
            f"prefix {_quoted(prefix)} has an empty or '.' segment; give whole segments, as 'team-a/runs'",
            key=prefix,
        )
    whole = "/".join(segments) + "/"
    if len(whole.encode("utf-8")) >= MAX_KEY_BYTES:
        raise InvalidKeyError(f"prefix {_quoted(prefix)} leaves no room for a key", key=prefix)
    return whole
