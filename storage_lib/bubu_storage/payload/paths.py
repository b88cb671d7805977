"""Where objects live: joining, cleaning and checking of store paths.

Names are fixed on the wire: ``<prefix>/<run id>/<key path>.json``, nothing escaped. Two
rules keep a document inside its own run directory, whatever its keys say: a key that
climbs out of the run but not out of the store gets its ``..`` segments written as
``%2E%2E``; one that climbs out of the store is refused. Invariants: what
`object_path` returns lies below prefix and run id; `check_path` is applied to every
path that enters from outside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from bubu_storage.backend.types import check_key
from bubu_storage.errors import InvalidKeyError
from bubu_storage.goduration import trim_go_space
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "INPUT_FILE_NAME",
    "KeyPath",
    "check_path",
    "clean_path",
    "distinct_file_name",
    "file_name",
    "format_json_path",
    "is_plain_path",
    "is_within",
    "join_path",
    "namespaced_key",
    "object_path",
    "require_text",
    "shown",
    "store_key",
]

KeyPath: TypeAlias = Sequence[str | int]
"""Map keys and list indices from the root to a value."""

INPUT_FILE_NAME: Final = "input.json"
"""File name of a whole inputs document that is still too long after its parts were offloaded."""

_ROOT_FILE_NAME: Final = "output.json"
_CLIMB: Final = ".."
_ESCAPED_CLIMB: Final = "%2E%2E"
_MAX_STEM_BYTES: Final = 200
_MAX_PLAIN_PATH: Final = 512
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
"""No segment begins with a dot, so none is "." or "..", nor is the reserved area meant."""
_SHOWN_CHARACTERS: Final = 120
_SHOWN_KEYS: Final = 16


def shown(text: str) -> str:
    """Quote a text for a message, cut short where it is long."""
    if len(text) <= _SHOWN_CHARACTERS:
        return repr(text)
    return f"{text[:_SHOWN_CHARACTERS]!r}… ({len(text)} characters)"


def require_text(value: object, what: str) -> str:
    """Return an argument that has to be text.

    Raises:
        TypeError: it is something else; paths of the file system have no place here.
    """
    if isinstance(value, str):
        return value
    raise TypeError(f"{what} must be a str, not {type(value).__name__}")


def clean_path(path: str) -> str:
    """Resolve a path lexically, as Go's ``path.Clean`` does; "" becomes ".".

    ``//`` and ``.`` vanish, ``..`` takes a segment away (or stays in front of a relative
    path), no slash stays at the end.
    """
    absolute = path.startswith("/")
    segments: list[str] = []
    for segment in path.split("/"):
        if segment in {"", "."}:
            continue
        if segment != _CLIMB:
            segments.append(segment)
        elif segments and segments[-1] != _CLIMB:
            segments.pop()
        elif not absolute:
            segments.append(segment)
    joined = "/".join(segments)
    return "/" + joined if absolute else joined or "."


def join_path(*parts: str) -> str:
    """Join the non-empty parts with ``/`` and clean the result; "" when all are empty."""
    given = [part for part in parts if part]
    return clean_path("/".join(given)) if given else ""


def check_path(path: str, what: str = "path") -> str:
    r"""Return ``path`` if it may name something in a store.

    Refused: empty; absolute; any segment that is ``..``, also with ``\`` as separator.

    Args:
        path: relative, ``/`` separated; need not be clean.
        what: how to call it in the message.

    Raises:
        InvalidKeyError: with the reason.
    """
    if not require_text(path, what):
        raise InvalidKeyError(f"the {what} is empty", key=path)
    if path.startswith("/"):
        raise InvalidKeyError(f"{what} {shown(path)} is absolute; paths are relative to the store", key=path)
    if _CLIMB in path.replace("\\", "/").split("/"):
        raise InvalidKeyError(f"{what} {shown(path)} has a '..' segment and could leave the store", key=path)
    return path


def store_key(path: str, what: str = "path") -> str:
    """Check a path from outside and return the clean object key it means.

    Raises:
        InvalidKeyError: see `check_path` and `backend.types.check_key` (too long, NUL, no
            valid Unicode); also for the store itself (``.``) and for ``.bubu/``, which is
            the operator's own area.
    """
    if is_plain_path(path):
        return path
    key = clean_path(check_path(path, what))
    if key == ".":
        raise InvalidKeyError(f"{what} {shown(path)} means the store itself, not an object in it", key=path)
    if is_within(key, RESERVED_PREFIX.rstrip("/")):
        raise InvalidKeyError(
            f"{what} {shown(path)} lies in {RESERVED_PREFIX}, which is reserved for the operator's own "
            "objects",
            key=path,
        )
    return check_key(key)


def is_plain_path(path: object) -> bool:
    """Tell whether a path is so ordinary that no rule can touch it, and is its own clean form."""
    return isinstance(path, str) and len(path) <= _MAX_PLAIN_PATH and _PLAIN_PATH.fullmatch(path) is not None


def is_within(path: str, directory: str) -> bool:
    """Tell whether a clean path is a directory (clean, "." or "" for the store) or below it."""
    if directory in {"", "."}:
        return path != _CLIMB and not path.startswith("../")
    return path == directory or path.startswith(directory + "/")


def namespaced_key(namespace: str, identifier: str) -> str:
    """Compose a run id ``<namespace>/<identifier>`` (Go: NamespacedKey).

    Both are trimmed; "" when either is blank. The join is lexical, so an identifier
    ``a/../b`` becomes ``b``; nothing is validated here, every use of a path is.
    """
    trimmed = (trim_go_space(namespace), trim_go_space(identifier))
    return join_path(*trimmed) if all(trimmed) else ""


def file_name(keys: KeyPath) -> str:
    """Return the file name of the value at a key path: keys joined by dots plus ``.json``.

    A leading empty key adds nothing, so ``""`` at the root gives ``output.json`` like the
    root itself; below the root it leaves its dot (``a..json``).
    """
    joined = ""
    for key in keys:
        joined = f"{joined}.{key}" if joined else str(key)
    return joined + ".json" if joined else _ROOT_FILE_NAME


def distinct_file_name(keys: KeyPath, attempt: int = 0) -> str:
    """Return another name for a value whose own name is taken.

    The suffix is a digest of the exact key path, so it depends on nothing else in the
    document and a repeated run writes to the same place. The name is one segment, so it
    lies below no other object, and short enough for a file system.
    """
    exact = json.dumps([*keys, attempt] if attempt else list(keys)).encode("ascii")
    digest = hashlib.sha256(exact).hexdigest()[:12]
    stem = file_name(keys).removesuffix(".json").replace("/", "_")
    readable = stem.encode("utf-8")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    return f"{readable}~{digest}.json"


def object_path(prefix: str, run_id: str, name: str) -> str:
    """Return the path of one object of a run.

    Args:
        prefix: outputs or inputs prefix, as configured.
        run_id: usually ``<namespace>/<name>``; "" leaves the segment out.
        name: from `file_name`; may hold ``/`` where a key holds one.

    Raises:
        InvalidKeyError: when the path is absolute or leaves the store, the run id leaves
            the prefix, or the path lies in the reserved area.
    """
    natural = join_path(prefix, run_id, name)
    check_path(natural, "storage path")
    run_directory = join_path(prefix, run_id)
    if not is_within(run_directory, join_path(prefix)):
        raise InvalidKeyError(
            f"run id {shown(run_id)} leads out of the prefix {prefix!r}; give an id as '<namespace>/<name>'",
            key=natural,
        )
    if not is_within(natural, run_directory):
        segments = [_ESCAPED_CLIMB if segment == _CLIMB else segment for segment in name.split("/")]
        natural = join_path(prefix, run_id, "/".join(segments))
    return store_key(natural, "storage path")


def format_json_path(keys: Sequence[object]) -> str:
    """Write a key path for people: ``$.a[3]["odd key"]``; long ones without their middle."""
    if len(keys) > _SHOWN_KEYS:
        half = _SHOWN_KEYS // 2
        left_out = f"…({len(keys) - 2 * half} levels)…"
        return "$" + _steps(keys[:half]) + left_out + _steps(keys[-half:])
    return "$" + _steps(keys)


def _steps(keys: Sequence[object]) -> str:
    text = ""
    for key in keys:
        if not isinstance(key, str):
            text += f"[{key}]" if isinstance(key, int) else f"[{shown(repr(key))}]"
        elif len(key) > _SHOWN_CHARACTERS:
            text += f"[{json.dumps(key[:_SHOWN_CHARACTERS])}…]"
        else:
            text += f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"
    return text
