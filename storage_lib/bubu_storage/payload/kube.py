"""References to ConfigMap and Secret keys, as they stand inside documents.

Nothing here knows Kubernetes: a `KubeRefResolver` reads the values. A map that is no valid
reference for this workload is data. Invariants: a value never shows in a message; a document
cannot make more calls to the resolver than there are different keys in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from bubu_storage.errors import KubeRefError
from bubu_storage.goduration import trim_go_space
from bubu_storage.payload.codec import measure, normalize
from bubu_storage.payload.decoder import MalformedJsonError, decode_json, decode_text
from bubu_storage.payload.paths import shown
from bubu_storage.wire import KUBE_CONFIG_MAP_REF_KEY, KUBE_SECRET_REF_KEY

__all__ = [
    "KubeRef",
    "KubeRefResolver",
    "KubeValues",
    "has_kube_ref_key",
    "parse_kube_ref",
    "resolve_kube_ref",
]

_log: Final = logging.getLogger(__name__)


class KubeRefResolver(Protocol):
    """Reads single keys of ConfigMaps and Secrets; the library itself knows no Kubernetes.

    Implementations raise `KubeRefError`, or any ``LookupError``, for a missing object or key,
    and have timeouts of their own: the manager's deadline does not interrupt them. Each key
    is asked for once in a call, however often a document refers to it.
    """

    def config_map_value(self, namespace: str, name: str, key: str) -> str:
        """Return one text of a ConfigMap's ``data`` (not ``binaryData``)."""
        ...

    def secret_value(self, namespace: str, name: str, key: str) -> bytes:
        """Return one value of a Secret's ``data``, decoded from base64."""
        ...


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
        return f"{self.kind} {shown(f'{self.namespace}/{self.name}')} key {shown(self.key)}"


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
            f"{ref} cannot be read: this manager has no access to Kubernetes; pass kube_resolver= to the "
            "manager, or use hydrate_storage_refs_only to leave such references as they are"
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


class KubeValues:
    """The values that one call reads.

    Args:
        workload_namespace: the only namespace that references may name; "" for none.
        resolver: reads them; None makes every reference an error.
    """

    def __init__(self, workload_namespace: str, resolver: KubeRefResolver | None) -> None:
        self._workload_namespace = workload_namespace
        self._resolver = resolver
        self._known: dict[KubeRef, tuple[Any, int]] = {}
        self._warned = False

    def find(self, found: dict[Any, Any], place: Callable[[], str]) -> tuple[Any, int] | None:
        """Return what a map stands for and the bytes of its JSON form; None when it is data.

        Args:
            found: any map.
            place: says where it stands, for messages.

        Raises:
            KubeRefError: see `resolve_kube_ref`.
        """
        if not has_kube_ref_key(found):
            return None
        ref = parse_kube_ref(found, self._workload_namespace)
        if ref is None:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%s looks like a ConfigMap or Secret reference and is none for this workload "
                    "(malformed, another namespace, or no BUBU_POD_NAMESPACE): left as data, as are all "
                    "others of its kind in this call",
                    place(),
                )
            return None
        if ref not in self._known:
            value = resolve_kube_ref(ref, self._resolver)
            self._known[ref] = value, measure(value).length
        value, length = self._known[ref]
        return normalize(value), length
