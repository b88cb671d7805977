"""Decide what of a document is offloaded, before anything is written.

`plan_dehydrate` is pure: it walks the document once, bottom up, and returns the document
with references in place of what was too large, and the objects that these references need.
The manager then writes each object once. Results and bytes equal the Go SDK's, with these
differences, none of which a reader can notice:

* two values whose names collide get two objects (the second one's name gets a suffix);
* a document key never leads out of the run's directory;
* a value that already is a reference is left as it is.

Lengths are cached on the way up: a container's dehydrated length is the sum of its
children's, and as long as none of them was offloaded that is its own length too. So one
pass is enough, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_storage.errors import EncodeError, InvalidKeyError, StorageError
from bubu_storage.payload.codec import (
    MAX_NESTING,
    Default,
    container_overhead,
    located,
    measure,
    normalize,
    pairs_of,
    string_length,
    too_deep,
)
from bubu_storage.payload.inline import InlineCopier
from bubu_storage.payload.numbers import NotPlainError, scalar_text, type_of
from bubu_storage.payload.paths import (
    INPUT_FILE_NAME,
    distinct_file_name,
    file_name,
    format_json_path,
    is_plain_path,
    object_path,
)
from bubu_storage.payload.plan import Plan, PlannedObject, PlanOptions
from bubu_storage.payload.refs import RefWriter, is_storage_ref, ref_verdict
from bubu_storage.wire import (
    CONTENT_TYPE_JSON,
    CONTENT_TYPE_TEXT,
    STORAGE_REF_KEY,
)

__all__ = ["Plan", "PlanOptions", "PlannedObject", "measure_document", "plan_dehydrate", "plan_inputs"]

_ROOT_NAME: Final = file_name(())
_NO_LIMIT: Final = 1 << 62
_MAX_ATTEMPTS: Final = 16


@dataclass(slots=True)
class _Frame:
    """A container whose children are being visited."""

    key: Any
    original: Any
    is_map: bool
    out: Any
    pairs: Iterator[tuple[Any, Any]]
    length: int
    first_object: int
    ref_distance: int = _NO_LIMIT  # levels from the nearest child down to the nearest reference
    simple: bool = True
    original_simple: bool = True


def plan_dehydrate(data: Any, options: PlanOptions, *, default: Default | None = None) -> Plan:
    """Plan a document (Go: Dehydrate, without the writing).

    Raises:
        EncodeError: something in it has no JSON form; names its JSON path.
        InvalidKeyError: a path would leave the store, or the run id its prefix.
        DepthError: nested deeper than the format allows, or containing itself.
    """
    plan = _walk_any(data, options, default)
    _settle_names(plan.objects, options, reserved=())
    return plan


def plan_inputs(data: Any, options: PlanOptions, *, default: Default | None = None) -> Plan:
    """Plan an inputs document (Go: DehydrateInputs): whatever remains must be short as well.

    When the dehydrated document is still longer than the limit it is offloaded itself, as
    ``input.json``. A field of that name then goes elsewhere.

    Raises:
        as `plan_dehydrate`.
    """
    plan = _walk_any(data, options, default)
    if plan.length <= options.max_inline_size_bytes:
        _settle_names(plan.objects, options, reserved=())
        return plan
    path = object_path(options.prefix, options.run_id, INPUT_FILE_NAME)
    _settle_names(plan.objects, options, reserved=(path,))
    writer = RefWriter(options.schema, options.schema_version)
    ref = writer.make(path, CONTENT_TYPE_JSON)
    whole = PlannedObject(path, (), plan.result, is_text=False, simple=plan.simple, ref=ref)
    return Plan(
        dict(ref), writer.length(path, CONTENT_TYPE_JSON), simple=True, objects=[*plan.objects, whole]
    )


def measure_document(data: Any, *, default: Default | None = None) -> Plan:
    """Copy and measure a document without offloading anything.

    Raises:
        EncodeError, DepthError: as `plan_dehydrate`.
    """
    return _walk_any(
        data, PlanOptions("", "", _NO_LIMIT, _NO_LIMIT, 0, max_bulk_size_bytes=_NO_LIMIT), default
    )


def _walk_any(data: Any, options: PlanOptions, default: Default | None) -> Plan:
    copier = InlineCopier(options.max_inline_size_bytes)
    if type_of(data) in {dict, list} and (copied := copier.copy(data, options.max_depth)):
        result, length, simple = copied
        return Plan(result, length, simple)
    try:
        return _Walk(options, copier).run(data)
    except NotPlainError:
        return _Walk(options, copier).run(normalize(data, default=default))


class _Walk:
    """One pass over one document of exact JSON types; iterative, so any depth is fine."""

    def __init__(self, options: PlanOptions, copier: InlineCopier) -> None:
        self._options = options
        self._inline = copier
        self._directory = ""
        self._writer = RefWriter(options.schema, options.schema_version)
        self._objects: list[PlannedObject] = []
        self._stack: list[_Frame] = []
        self._key_lengths: dict[str, int] = {}

    def run(self, data: Any) -> Plan:
        options = self._options
        stack = self._stack
        # The root is the only child of a frame that stands for the world around it.
        stack.append(_Frame(None, None, False, [], iter(((None, data),)), 0, 0))
        max_inline, max_depth = options.max_inline_size_bytes, options.max_depth
        while True:
            frame = stack[-1]
            out = frame.out
            in_map = frame.is_map
            depth = len(stack) - 1
            length = frame.length
            for key, item in frame.pairs:
                kind = type_of(item)
                if depth > max_depth:
                    facts = self._measured(key, item)
                    frame.original_simple = frame.original_simple and facts.simple
                    result, size = self._offload(key, item, is_text=False, simple=facts.simple)
                    frame.ref_distance = 0
                elif kind is str:
                    raw_length = len(item) if item.isascii() else _utf8_length(item)
                    if raw_length > max_inline:
                        result, size = self._offload(key, item, is_text=True, simple=True)
                        frame.ref_distance = 0
                    else:
                        result, size = item, string_length(item)
                elif kind is dict or kind is list:
                    if kind is dict and STORAGE_REF_KEY in item and is_storage_ref(item):
                        facts = self._measured(key, item)
                        frame.simple = frame.simple and facts.simple
                        frame.original_simple = frame.original_simple and facts.simple
                        result, size = normalize(item), facts.length
                        frame.ref_distance = 0
                    elif depth and (
                        copied := self._inline.copy(item, max_depth - depth)
                    ):  # the root was tried
                        result, size, simple = copied
                        frame.simple = frame.simple and simple
                        frame.original_simple = frame.original_simple and simple
                    else:
                        frame.length = length
                        self._push(key, item)
                        break
                else:
                    result, size = self._scalar(frame, key, item)
                length += size
                if in_map:
                    out[key] = result
                else:
                    out.append(result)
            else:
                frame.length = length
                if len(stack) == 1:
                    return Plan(out[0], length, frame.simple, self._objects)
                self._finish(stack.pop())

    def _scalar(self, frame: _Frame, key: Any, item: Any) -> tuple[Any, int]:
        """Return what stands for null, a boolean or a number, and its length."""
        try:
            text, plain = scalar_text(item)
        except EncodeError as error:
            raise located(error, self._keys(key)) from None
        frame.original_simple = frame.original_simple and plain
        if len(text) > self._options.max_inline_size_bytes:
            frame.ref_distance = 0
            return self._offload(key, item, is_text=False, simple=plain)
        frame.simple = frame.simple and plain
        return item, len(text)

    def _push(self, key: Any, container: Any) -> None:
        if len(self._stack) >= MAX_NESTING:
            raise too_deep(self._keys(key))
        is_map = type(container) is dict
        self._stack.append(
            _Frame(
                key,
                container,
                is_map,
                {} if is_map else [],
                pairs_of(container),
                container_overhead(container, self._key_lengths),
                len(self._objects),
            )
        )

    def _finish(self, frame: _Frame) -> None:
        """Keep a visited container, or offload it whole, and hand it to its parent."""
        parent = self._stack[-1]
        result, length, simple = frame.out, frame.length, frame.simple
        distance = _NO_LIMIT
        if frame.ref_distance <= self._options.ref_search_depth:
            too_long = length > self._options.max_bulk_size_bytes
        elif len(self._objects) > frame.first_object:
            # What was offloaded lies too deep to be seen, so the original's length counts.
            too_long = self._measured(frame.key, frame.original).length > self._options.max_inline_size_bytes
        else:
            too_long = length > self._options.max_inline_size_bytes
        if too_long:
            for planned in self._objects[frame.first_object :]:
                planned.superseded = True
            result, length = self._offload(
                frame.key, frame.original, is_text=False, simple=frame.original_simple
            )
            distance, simple = 0, True
        else:
            verdict = ref_verdict(cast("dict[str, Any]", result)) if isinstance(result, dict) else None
            if verdict is None:
                distance = frame.ref_distance + 1
            elif verdict:
                distance = 0
        parent.length += length
        parent.ref_distance = min(parent.ref_distance, distance)
        parent.simple = parent.simple and simple
        parent.original_simple = parent.original_simple and frame.original_simple
        if parent.is_map:
            parent.out[frame.key] = result
        else:
            parent.out.append(result)

    def _offload(self, key: Any, value: Any, *, is_text: bool, simple: bool) -> tuple[dict[str, str], int]:
        keys = self._keys(key)
        try:
            path = self._path(file_name(keys))
        except InvalidKeyError as error:
            where = format_json_path(keys)
            raise InvalidKeyError(f"{where} cannot be offloaded: {error.message}", key=error.key) from error
        content_type = CONTENT_TYPE_TEXT if is_text else CONTENT_TYPE_JSON
        ref = self._writer.make(path, content_type)
        self._objects.append(PlannedObject(path, tuple(keys), value, is_text, simple, ref))
        return ref, self._writer.length(path, content_type)

    def _path(self, name: str) -> str:
        if is_plain_path(name) and "/" not in name:
            # An ordinary file name cannot lead out of a directory that has been checked.
            if not self._directory:
                first = object_path(self._options.prefix, self._options.run_id, _ROOT_NAME)
                self._directory = first.removesuffix(_ROOT_NAME)
            path = self._directory + name
            if is_plain_path(path):
                return path
        return object_path(self._options.prefix, self._options.run_id, name)

    def _measured(self, key: Any, value: Any) -> Any:
        try:
            return measure(value)
        except EncodeError as error:
            inner = (error.json_path or "$").removeprefix("$")
            path = format_json_path(self._keys(key)) + inner
            raise EncodeError(f"{path}: {error.message.partition(': ')[2]}", json_path=path) from None

    def _keys(self, key: Any) -> list[Any]:
        """Return the key path of a child of the innermost frame (or of that frame, popped)."""
        if len(self._stack) == 1:
            return []
        return [*(frame.key for frame in self._stack[2:]), key]


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise NotPlainError from error


def _settle_names(objects: list[PlannedObject], options: PlanOptions, *, reserved: Sequence[str]) -> None:
    """Give every live object a path of its own, and drop superseded ones that are in the way."""
    if not objects:
        return
    live = [planned for planned in objects if not planned.superseded]
    nested = any("/" in file_name(planned.keys) for planned in objects)
    if not reserved and not nested and len({planned.path for planned in live}) == len(objects):
        return
    names = _Names(reserved)
    # Sorted, so that the outcome does not depend on the order in which a map was filled.
    # Siblings have keys of one type, and paths that differ in a type differ before that.
    for planned in sorted(live, key=lambda item: cast("tuple[Any, ...]", item.keys)):
        attempt = 0
        while not names.take(planned.path):
            if attempt == _MAX_ATTEMPTS:
                where = format_json_path(planned.keys)
                raise StorageError(f"{where}: no free name found for its object", key=planned.path)
            name = distinct_file_name(planned.keys, attempt)
            planned.path = object_path(options.prefix, options.run_id, name)
            attempt += 1
        planned.ref[STORAGE_REF_KEY] = planned.path
    objects[:] = [planned for planned in objects if not planned.superseded or names.take(planned.path)]


class _Names:
    """Paths that are taken. A file store cannot hold one object below another one's path."""

    def __init__(self, reserved: Sequence[str]) -> None:
        self._paths: set[str] = set()
        self._directories: set[str] = set()
        for path in reserved:
            self.take(path)

    def take(self, path: str) -> bool:
        """Take a path; False when it is in use."""
        segments = path.split("/")
        parents = ["/".join(segments[:count]) for count in range(1, len(segments))]
        if path in self._paths or path in self._directories or not self._paths.isdisjoint(parents):
            return False
        self._paths.add(path)
        self._directories.update(parents)
        return True
