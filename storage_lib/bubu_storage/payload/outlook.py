"""What a call of hydrate will ask for next: the objects behind the references of loaded ones.

The walk of `hydrate` follows references one after another. An `Outlook` tells a fetcher early
what that walk will come to, so that objects are loaded side by side, over all levels: each
`Want` knows which further ones its object leads to once that is there. Pure, and as lazy as
its reader: nothing is worked out before it is asked for.

Invariants: only objects that the walk may fetch are announced (valid keys, allowed prefixes,
within the hops); for a reference with a selector, only those that the selector leads through;
each object's references are announced once, however many references lead to it. An Outlook
raises nothing of its own: what is wrong with a document is for the walk to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

from bubu_storage.errors import StorageError
from bubu_storage.payload.paths import is_within, store_key
from bubu_storage.payload.refs import is_storage_ref
from bubu_storage.payload.scan import Refs, find_refs
from bubu_storage.payload.selector import WILDCARD, Step, parse_selector
from bubu_storage.wire import STORAGE_PATH_KEY, STORAGE_REF_KEY

__all__ = ["Outlook", "Want"]


class Want(NamedTuple):
    """An object that the walk will ask for.

    Attributes:
        key: of the object.
        steps: the part of it that is wanted; none for all.
        hops: references that lead to it.
    """

    key: str
    steps: tuple[Step, ...]
    hops: int
    outlook: Outlook

    def further(self, value: Any) -> Iterator[Want] | None:
        """Return what the object leads to; None where that has been announced before.

        Args:
            value: what is in the object.

        Raises:
            DepthError: nested deeper than the format allows.
        """
        return self.outlook.further(self, value)


class Outlook:
    """What one call will need; may be used by several threads.

    Args:
        max_hops: longest chain of references.
        allowed_prefixes: clean paths; None for the whole store.
    """

    def __init__(self, max_hops: int, allowed_prefixes: tuple[str, ...] | None) -> None:
        self._max_hops = max_hops
        self._allowed_prefixes = allowed_prefixes
        self._keys: dict[str, str] = {}
        self._refs: dict[str, Refs] = {}
        self._claims: dict[tuple[str, tuple[Step, ...]], object] = {}

    def key_of(self, path: str) -> str:
        """Return the key that a reference's path means; checked once for each path.

        Raises:
            InvalidKeyError: see `store_key`.
        """
        key = self._keys.get(path)
        if key is None:
            key = self._keys[path] = store_key(path)
        return key

    def is_allowed(self, key: str) -> bool:
        """Tell whether an object may be read."""
        allowed = self._allowed_prefixes
        return allowed is None or any(is_within(key, prefix) for prefix in allowed)

    def refs_of(self, key: str, value: Any) -> Refs:
        """Return the references in an object; looked for once.

        Raises:
            DepthError: nested deeper than the format allows.
        """
        refs = self._refs.get(key)
        if refs is None:
            refs = self._refs[key] = find_refs(value)
        return refs

    def of(self, refs: Refs) -> Iterator[Want]:
        """Return what the references of the caller's own document lead to."""
        return self._wants(refs.targets, 0)

    def further(self, want: Want, value: Any) -> Iterator[Want] | None:
        """See `Want.further`."""
        claim = object()
        if self._claims.setdefault((want.key, want.steps), claim) is not claim:
            return None
        if want.steps:
            return self._through(value, want.steps, want.hops)
        if not isinstance(value, (dict, list)):
            return iter(())
        return self._wants(self.refs_of(want.key, value).targets, want.hops)

    def _wants(
        self, targets: Iterable[tuple[str, str]], hops: int, rest: tuple[Step, ...] = ()
    ) -> Iterator[Want]:
        if hops >= self._max_hops:
            return
        for path, selector in targets:
            try:
                key = self.key_of(path)
                steps = parse_selector(selector) if selector else ()
            except StorageError:
                continue
            if self.is_allowed(key):
                # A selector of its own comes first, and all that it selects is hydrated.
                yield Want(key, steps or rest, hops + 1, self)

    def _through(self, value: Any, steps: tuple[Step, ...], hops: int) -> Iterator[Want]:
        """Follow a selector as far as it goes without leaving the object."""
        for number, step in enumerate(steps):
            if isinstance(value, dict):
                fields = cast("dict[Any, Any]", value)
                if STORAGE_REF_KEY in fields and is_storage_ref(fields):
                    target = (fields[STORAGE_REF_KEY], fields.get(STORAGE_PATH_KEY, ""))
                    yield from self._wants((target,), hops, steps[number:])
                    return
                if not isinstance(step, str) or step not in fields:
                    return
                value = fields[step]
                continue
            if not isinstance(value, list) or isinstance(step, str):
                return
            items = cast("list[Any]", value)
            if step is WILDCARD:
                for item in items:
                    yield from self._through(item, steps[number + 1 :], hops)
                return
            if not 0 <= step < len(items):
                return
            value = items[step]
        try:
            refs = find_refs(value)
        except StorageError:
            return
        yield from self._wants(refs.targets, hops)
