"""References inside documents: to stored objects, and to ConfigMap and Secret keys.

A map is a reference only if its keys say so exactly; anything that merely looks like one
is data and stays untouched. The test that dehydrate uses ("does this hold a reference?")
differs a little from the one hydrate uses, on the wire too, so both are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from bubu_storage.errors import KubeRefError
from bubu_storage.goduration import trim_go_space
from bubu_storage.payload.codec import encode_string
from bubu_storage.payload.decoder import MalformedJsonError, decode_json, decode_text
from bubu_storage.payload.paths import check_path
from bubu_storage.wire import (
    KUBE_CONFIG_MAP_REF_KEY,
    KUBE_SECRET_REF_KEY,
    STORAGE_CONTENT_TYPE_KEY,
    STORAGE_PATH_KEY,
    STORAGE_REF_KEY,
    STORAGE_REF_KEYS,
    STORAGE_SCHEMA_KEY,
    STORAGE_SCHEMA_VERSION_KEY,
)

__all__ = [
    "KubeRef",
    "KubeRefResolver",
    "RefWriter",
    "contains_ref",
    "is_storage_ref",
    "parse_kube_ref",
    "ref_verdict",
    "resolve_kube_ref",
    "storage_ref",
]


class KubeRefResolver(Protocol):
    """Reads single keys of ConfigMaps and Secrets; the library itself knows no Kubernetes.

    Implementations raise `KubeRefError`, or any ``LookupError``, for a missing object or key.
    """

    def config_map_value(self, namespace: str, name: str, key: str) -> str:
        """Return one text of a ConfigMap's ``data`` (not ``binaryData``)."""
        ...

    def secret_value(self, namespace: str, name: str, key: str) -> bytes:
        """Return one value of a Secret's ``data``, decoded from base64."""
        ...


def is_storage_ref(value: dict[Any, Any]) -> bool:
    """Tell whether hydrate takes a map as a reference to a stored object."""
    return (
        isinstance(value.get(STORAGE_REF_KEY), str)
        and isinstance(value.get(STORAGE_PATH_KEY, ""), str)
        and value.keys() <= STORAGE_REF_KEYS
    )


def ref_verdict(value: dict[Any, Any]) -> bool | None:
    """Tell whether dehydrate counts a map as a reference; None: look into its children."""
    if STORAGE_REF_KEY in value and value.keys() <= STORAGE_REF_KEYS:
        return isinstance(value[STORAGE_REF_KEY], str)
    return None


def contains_ref(value: Any, max_depth: int) -> bool:
    """Tell whether a value holds a reference at most ``max_depth`` levels down."""
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if isinstance(item, dict):
                verdict = ref_verdict(cast("dict[Any, Any]", item))
                if verdict:
                    return True
                children: Iterator[Any] = iter(cast("dict[Any, Any]", item).values())
                if verdict is False:
                    continue
            elif isinstance(item, (list, tuple)):
                children = iter(cast("list[Any]", item))
            else:
                continue
            if len(stack) <= max_depth:
                stack.append(children)
                break
        else:
            stack.pop()
    return False


def storage_ref(
    path: str, *, selector: str = "", content_type: str = "", schema: str = "", schema_version: str = ""
) -> dict[str, str]:
    """Build a reference to a stored object.

    Args:
        path: of the object, as returned by or given to the manager.
        selector: part of the stored document, as ``items[0].name`` or ``items[*].name``.
        content_type: informative, as ``application/json``.
        schema: informative.
        schema_version: informative.

    Returns:
        A map to put into a document; the optional keys only where given.

    Raises:
        InvalidKeyError: the path could not be read.
    """
    ref = {STORAGE_REF_KEY: check_path(path, "storage path")}
    optional = (
        (STORAGE_PATH_KEY, selector),
        (STORAGE_CONTENT_TYPE_KEY, content_type),
        (STORAGE_SCHEMA_KEY, schema),
        (STORAGE_SCHEMA_VERSION_KEY, schema_version),
    )
    ref.update((key, value) for key, value in optional if value)
    return ref


class RefWriter:
    """Makes the references of one call: content type, path and the schema of the context.

    Args:
        schema, schema_version: trimmed; "" leaves the key out.
    """

    def __init__(self, schema: str = "", schema_version: str = "") -> None:
        self._schema: dict[str, str] = {}
        if schema:
            self._schema[STORAGE_SCHEMA_KEY] = schema
        if schema_version:
            self._schema[STORAGE_SCHEMA_VERSION_KEY] = schema_version
        fields = {STORAGE_CONTENT_TYPE_KEY: "", STORAGE_REF_KEY: "", **self._schema}
        # Braces and commas, then key, colon and value of each field but the two that vary.
        self._fixed_length = len(fields) + 1
        for key, value in fields.items():
            self._fixed_length += len(key) + 3
            if key in self._schema:
                self._fixed_length += len(encode_string(value).encode("utf-8"))

    def make(self, path: str, content_type: str) -> dict[str, str]:
        """Return a new reference."""
        return {STORAGE_CONTENT_TYPE_KEY: content_type, STORAGE_REF_KEY: path, **self._schema}

    def length(self, path: str, content_type: str) -> int:
        """Return the bytes of the JSON form of what `make` returns."""
        return self._fixed_length + len(encode_string(path).encode("utf-8")) + len(content_type) + 2


@dataclass(frozen=True, slots=True)
class KubeRef:
    """A reference to one key of a ConfigMap or Secret.

    Attributes:
        kind: ``ConfigMap`` or ``Secret``.
        namespace, name, key: where.
        format: ``auto``, ``raw``, ``json``, or what the document says in its place.
    """

    kind: str
    namespace: str
    name: str
    key: str
    format: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name} key {self.key!r}"


_KUBE_KINDS: Final = ((KUBE_CONFIG_MAP_REF_KEY, "ConfigMap"), (KUBE_SECRET_REF_KEY, "Secret"))


def parse_kube_ref(value: dict[Any, Any], workload_namespace: str) -> KubeRef | None:
    """Read a map as a Kubernetes reference; None when it is data.

    It is one only if the reference key is its single key, a workload namespace is known,
    and the reference names no other namespace than that.
    """
    if len(value) != 1:
        return None
    for key, kind in _KUBE_KINDS:
        if key in value:
            return _parse_kube_value(kind, value[key], trim_go_space(workload_namespace))
    return None


def has_kube_ref_key(value: dict[Any, Any]) -> bool:
    """Tell whether a map of one key looks as if it was meant as a Kubernetes reference."""
    return len(value) == 1 and any(key in value for key, _ in _KUBE_KINDS)


def _parse_kube_value(kind: str, value: Any, workload_namespace: str) -> KubeRef | None:
    if isinstance(value, str):
        location, colon, key = trim_go_space(value).partition(":")
        if not colon:
            return None
        namespace, slash, name = location.partition("/")
        if not slash:
            namespace, name = "", location
        format_ = ""
    elif isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        namespace, name, key, format_ = (
            _text(fields, field) for field in ("namespace", "name", "key", "format")
        )
    else:
        return None
    namespace, name, key = trim_go_space(namespace), trim_go_space(name), trim_go_space(key)
    if not name or not key or not workload_namespace or namespace not in {"", workload_namespace}:
        return None
    return KubeRef(kind, workload_namespace, name, key, trim_go_space(format_).lower() or "auto")


def _text(fields: dict[Any, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def resolve_kube_ref(ref: KubeRef, resolver: KubeRefResolver | None) -> Any:
    """Read what a Kubernetes reference stands for.

    Raises:
        KubeRefError: no resolver, missing object or key, unsupported format, bad JSON. The
            value itself is never in the message.
    """
    if resolver is None:
        raise KubeRefError(
            f"{ref} cannot be read: this manager has no access to Kubernetes; pass kube_resolver= to "
            "StorageManager, or use hydrate_storage_refs_only to leave such references as they are"
        )
    reader: Callable[[Any], Any] | None = _FORMATS.get(ref.format)
    if reader is None:
        raise KubeRefError(f"{ref}: unsupported format {ref.format[:40]!r}; use auto, raw or json")
    try:
        if ref.kind == "ConfigMap":
            text = resolver.config_map_value(ref.namespace, ref.name, ref.key)
        else:
            text = decode_text(resolver.secret_value(ref.namespace, ref.name, ref.key))
    except KubeRefError:
        raise
    except LookupError as error:
        raise KubeRefError(f"{ref} does not exist") from error
    try:
        return reader(text)
    except MalformedJsonError:
        # The cause would show parts of a Secret.
        raise KubeRefError(f"{ref} has format json and its value is not JSON") from None


def _read_auto(text: str) -> Any:
    trimmed = trim_go_space(text)
    if not trimmed:
        return ""
    try:
        return decode_json(trimmed)
    except MalformedJsonError:
        return text


def _read_raw(text: str) -> Any:
    return text


_FORMATS: Final[dict[str, Callable[[str], Any]]] = {
    "auto": _read_auto,
    "raw": _read_raw,
    "json": decode_json,
}
