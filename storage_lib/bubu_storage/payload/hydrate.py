"""Put the contents of stored objects back in place of their references.

The caller supplies a `Fetcher`, so this module does no I/O of its own. What counts towards
limits: a reference that leads to a document with references costs one hop each, up to the
recursion budget; nesting of plain data costs nothing (up to the format's own limit). A
reference that leads back to an object being resolved is a `RefCycleError` at once. What is
copied out of stored documents counts against a size limit, so a few small documents that
refer to each other many times over cannot become a huge result.

Invariants: the input is never changed and the result shares nothing mutable with it; an
object is fetched once per call however often it is referred to; documents are walked in
their own order, so the same fault always gives the same error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

from bubu_storage.errors import (
    DepthError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    RefCycleError,
    RefNotAllowedError,
    SelectorError,
    StorageDisabledError,
    StorageError,
)
from bubu_storage.payload.codec import pairs_of
from bubu_storage.payload.kube import KubeRefResolver, KubeValues
from bubu_storage.payload.outlook import Outlook, Want
from bubu_storage.payload.paths import format_json_path
from bubu_storage.payload.refs import contains_ref, is_storage_ref
from bubu_storage.payload.scan import NotPlainDataError, copy_plain, find_refs
from bubu_storage.payload.selector import WILDCARD, Selection, Step, kind_of, parse_selector
from bubu_storage.wire import DEFAULT_MAX_HYDRATED_SIZE, STORAGE_PATH_KEY, STORAGE_REF_KEY

__all__ = ["Fetcher", "HydrateOptions", "hydrate"]

_CONTAINER_BYTES: Final = 64  # about what an empty map or list takes, and each place in it
_SLOT_BYTES: Final = 8


class Fetcher(Protocol):
    """Brings decoded stored objects.

    Attributes:
        reads_ahead: whether it cares for announcements.
    """

    reads_ahead: bool = True

    def announce(self, wants: Iterator[Want]) -> None:
        """Take note of what the walk comes to next, in this order; see `Outlook`.

        Each of them leads to further ones as soon as it is there.
        """

    def get(self, key: str) -> Any:
        """Return the value inside a stored object; the same one when asked again.

        Raises:
            StorageError: it is missing, malformed, or cannot be read.
        """


@dataclass(frozen=True, slots=True)
class HydrateOptions:
    """What a call may do.

    Attributes:
        max_hops: longest chain of references.
        ref_search_depth: how far down a disabled store looks for references beforehand.
        enabled: whether there is a store.
        kube_refs: whether ConfigMap and Secret references are resolved.
        workload_namespace: the only namespace that these may name.
        kube_resolver: reads them.
        allowed_prefixes: paths of whole segments; references elsewhere are refused. None
            allows the whole store.
        max_copied_bytes: most that is copied out of loaded documents, each as often as it
            is referred to: texts by their characters, maps and lists by their size in memory.
    """

    max_hops: int
    ref_search_depth: int
    enabled: bool = True
    kube_refs: bool = True
    workload_namespace: str = ""
    kube_resolver: KubeRefResolver | None = None
    allowed_prefixes: tuple[str, ...] | None = None
    max_copied_bytes: int = DEFAULT_MAX_HYDRATED_SIZE


class _Hop(NamedTuple):
    """An object that is being resolved, and how we came to it."""

    key: str
    parent: _Hop | None
    number: int


@dataclass(slots=True)
class _Frame:
    """A container that is being copied.

    ``document`` is the index in the stack of the container that is its document's root.
    """

    key: Any
    out: Any
    pairs: Iterator[tuple[Any, Any]]
    hop: _Hop | None
    document: int


class _Where:
    """A place in a document; spelt out only when a message needs it."""

    __slots__ = ("_document", "_key", "_stack")

    def __init__(self, stack: Sequence[_Frame], document: int, key: Any) -> None:
        self._stack = stack
        self._document = document
        self._key = key

    def json_path(self) -> str:
        if len(self._stack) <= 1:
            return "$"
        return format_json_path([*(above.key for above in self._stack[self._document + 1 :]), self._key])

    def of(self, hop: _Hop | None) -> str:
        path = self.json_path()
        return f"{path} of {hop.key!r}" if hop else path


_ROOT: Final = _Where((), 0, None)


def hydrate(data: Any, fetcher: Fetcher, options: HydrateOptions) -> Any:
    """Return a copy of the data with every reference resolved.

    Raises:
        StorageDisabledError: there is a reference and no store.
        ObjectNotFoundError, CorruptObjectError, StorageError: an object cannot be had.
        DepthError: more hops than the budget, or nested deeper than the format allows.
        RefCycleError: a reference leads back to itself.
        RefNotAllowedError: a reference outside the allowed prefixes.
        SelectorError: a selector does not fit.
        LimitExceededError: the result is too large.
        KubeRefError: a ConfigMap or Secret reference cannot be resolved.
    """
    try:
        return copy_plain(data)
    except NotPlainDataError:
        pass
    if not options.enabled and contains_ref(data, options.ref_search_depth):
        raise _disabled()
    try:
        return _Hydration(fetcher, options).run(data)
    except RecursionError:
        # Only selectors nest calls, each one through another object.
        raise DepthError("references with selectors lead through too many objects") from None


def _disabled() -> StorageDisabledError:
    return StorageDisabledError(
        "the data holds a storage reference and storage is disabled; set BUBU_STORAGE_PROVIDER to s3 or file"
    )


class _Hydration:
    """One call."""

    def __init__(self, fetcher: Fetcher, options: HydrateOptions) -> None:
        self._fetcher = fetcher
        self._options = options
        self._outlook = Outlook(options.max_hops, options.allowed_prefixes)
        self._handed_out: set[str] = set()
        self._kube = KubeValues(options.workload_namespace, options.kube_resolver)
        self._copied_bytes = 0

    def run(self, data: Any) -> Any:
        """Return a copy of the caller's data with everything in it resolved."""
        refs = find_refs(data)
        if self._options.enabled and self._fetcher.reads_ahead and refs.targets:
            self._fetcher.announce(self._outlook.of(refs))
        return self.resolve_all(data, None)

    def resolve_all(self, value: Any, hop: _Hop | None) -> Any:
        """Copy a value with everything in it resolved.

        Args:
            value: as found in the document.
            hop: the object it comes from, None for the caller's data.
        """
        holder: list[Any] = []
        stack = [_Frame(None, holder, iter(((None, value),)), hop, 0)]
        while True:
            frame = stack[-1]
            out = frame.out
            in_map = isinstance(out, dict)
            for key, item in frame.pairs:
                container: Any = None
                item_hop = frame.hop
                if isinstance(item, dict):
                    container = cast("dict[Any, Any]", item)
                    if STORAGE_REF_KEY in container or len(container) == 1:
                        where = _Where(stack, frame.document, key)
                        resolved, final, item_hop = self._resolve_map(container, frame.hop, where)
                        if final:
                            item, container = resolved, None  # noqa: PLW2901 - what stands in its place
                        else:
                            container = resolved
                elif isinstance(item, (list, tuple)):
                    container = cast("list[Any]", item)
                copy = cast("Any", item)
                if container is not None:
                    if item_hop is not None:
                        self._charge(_CONTAINER_BYTES + _SLOT_BYTES * len(container))
                    copy = cast("Any", {} if isinstance(container, dict) else [])
                elif item_hop is not None and isinstance(copy, str):
                    self._charge(len(copy))
                if in_map:
                    out[key] = copy
                else:
                    out.append(copy)
                if container is not None:
                    is_root = len(stack) == 1 or item_hop is not frame.hop
                    document = len(stack) if is_root else frame.document
                    stack.append(_Frame(key, copy, pairs_of(container), item_hop, document))
                    break
            else:
                stack.pop()
                if not stack:
                    return holder[0]

    def _resolve_map(
        self, found: dict[Any, Any], hop: _Hop | None, where: _Where, rest: tuple[Step, ...] = ()
    ) -> tuple[Any, bool, _Hop | None]:
        """Follow a map as long as it is a reference.

        Args:
            found: the map.
            hop: the object it comes from.
            where: it stands.
            rest: steps that will be taken from there; none when all of it is wanted.

        Returns:
            What stands in its place; whether that is final, or a container to walk into; and
            the object that the container comes from.
        """
        value: Any = found
        while isinstance(value, dict):
            current = cast("dict[Any, Any]", value)
            if STORAGE_REF_KEY in current and is_storage_ref(current):
                target = self._follow(current, hop, where)
                selector = current.get(STORAGE_PATH_KEY, "")
                steps = self._steps(selector, target.key) if selector else ()
                value = self._fetch(target, hop, where)
                if self._fetcher.reads_ahead:
                    self._look_ahead(Want(target.key, steps or rest, target.number, self._outlook), value)
                if steps:
                    return self._select(value, steps, target, selector), True, None
                hop = target
                where = _ROOT
                if isinstance(value, (dict, list)) and target.key not in self._handed_out:
                    refs = self._outlook.refs_of(target.key, cast("Any", value))
                    if not refs.targets and not refs.kube:
                        # Ours alone and nothing to replace: no need for a copy.
                        self._handed_out.add(target.key)
                        return cast("Any", value), True, None
                continue
            kube = self._kube.find(current, where.json_path) if self._options.kube_refs else None
            if kube is not None:
                self._charge(kube[1])
                return kube[0], True, None
            return current, False, hop
        return cast("Any", value), not isinstance(value, list), hop

    def _charge(self, size_bytes: int) -> None:
        """Count what is about to be copied."""
        self._copied_bytes += size_bytes
        limit = self._options.max_copied_bytes
        if self._copied_bytes > limit:
            raise LimitExceededError(
                f"the references lead to {self._copied_bytes} bytes or more, more than the limit of {limit}; "
                "look for documents that refer to the same object many times over, or raise "
                "BUBU_MAX_HYDRATED_SIZE"
            )

    def _follow(self, ref: dict[Any, Any], hop: _Hop | None, where: _Where) -> _Hop:
        """Check a reference and return the hop to its object."""
        if not self._options.enabled:
            raise _disabled()
        try:
            key = self._outlook.key_of(cast("str", ref[STORAGE_REF_KEY]))
        except InvalidKeyError as error:
            raise InvalidKeyError(
                f"the reference at {where.of(hop)} cannot be followed: {error.message}", key=error.key
            ) from None
        if not self._outlook.is_allowed(key):
            allowed = ", ".join(self._options.allowed_prefixes or ()) or "none"
            raise RefNotAllowedError(
                f"the reference at {where.of(hop)} leads to {key!r}, outside the allowed prefixes "
                f"({allowed})",
                key=key,
                json_path=where.json_path(),
            )
        ancestor = hop
        while ancestor is not None:
            if ancestor.key == key:
                raise RefCycleError(
                    f"the reference at {where.of(hop)} leads back to {key!r}, which is being resolved",
                    key=key,
                    json_path=where.json_path(),
                )
            ancestor = ancestor.parent
        count = hop.number + 1 if hop else 1
        if count > self._options.max_hops:
            raise DepthError(
                f"the reference at {where.of(hop)} is number {count} of a chain; at most "
                f"{self._options.max_hops} are followed (BUBU_MAX_RECURSION_DEPTH)",
                key=key,
                json_path=where.json_path(),
            )
        return _Hop(key, hop, count)

    def _fetch(self, target: _Hop, hop: _Hop | None, where: _Where) -> Any:
        try:
            return self._fetcher.get(target.key)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"the reference at {where.of(hop)} leads to {target.key!r}, which does not exist; it was "
                "deleted, or never written to this store",
                key=target.key,
                status=error.status,
                code=error.code,
            ) from error
        except StorageError as error:
            error.add_note(f"while resolving the reference at {where.of(hop)} to {target.key!r}")
            raise

    def _look_ahead(self, want: Want, value: Any) -> None:
        further = want.further(value)
        if further is not None:
            self._fetcher.announce(further)

    def _steps(self, selector: str, key: str) -> tuple[Step, ...]:
        try:
            return parse_selector(selector)
        except SelectorError as error:
            raise SelectorError(f"{error.message} (for object {key!r})", key=key) from None

    def _select(self, value: Any, steps: tuple[Step, ...], hop: _Hop, selector: str) -> Any:
        """Apply a selector to a loaded document; only what it leads through is loaded further."""
        return self._apply(value, steps, hop, Selection(selector, hop.key), in_wildcard=False)

    def _apply(
        self,
        value: Any,
        steps: tuple[Step, ...],
        hop: _Hop | None,
        selection: Selection,
        *,
        in_wildcard: bool,
    ) -> Any:
        for number, step in enumerate(steps):
            final = False
            if isinstance(value, dict) and hop is not None:
                value, final, hop = self._resolve_map(
                    cast("dict[Any, Any]", value), hop, _ROOT, steps[number:]
                )
            if final:
                hop = None
            if isinstance(step, str):
                if not isinstance(value, dict):
                    raise selection.error(step, f"needs an object and found {kind_of(value)}")
                fields = cast("dict[Any, Any]", value)
                if step not in fields:
                    if in_wildcard:
                        return None
                    raise selection.error(step, "does not exist")
                value = fields[step]
                continue
            if not isinstance(value, (list, tuple)):
                raise selection.error(step, f"needs a list and found {kind_of(value)}")
            items = cast("list[Any]", value)
            if step is WILDCARD:
                self._charge(_CONTAINER_BYTES + _SLOT_BYTES * len(items))
                rest = steps[number + 1 :]
                return [self._apply(item, rest, hop, selection, in_wildcard=True) for item in items]
            if not 0 <= step < len(items):
                if in_wildcard:
                    return None
                raise selection.error(step, f"is out of range; the list has {len(items)} elements")
            value = items[step]
        return value if hop is None else self.resolve_all(value, hop)
