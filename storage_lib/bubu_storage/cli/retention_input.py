"""Files that ``retention`` reads: JSON, or YAML where PyYAML is installed; nothing in them is overlooked.

Invariants: a field that is not known is an error, as is one that is given twice; a message names the file
and the path in it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from bubu_storage.cli.failures import Misconfigured

__all__ = ["Fields", "read_documents"]

_MAX_BYTES: Final = 64 * 1024 * 1024
_DURATION: Final = re.compile("([1-9][0-9]{0,9})([smhdw])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def read_documents(path: str) -> list[Any]:
    """Return the documents of a file, ``-`` being standard input.

    Raises:
        Misconfigured: it cannot be read, or is neither JSON nor YAML.
    """
    shown = "standard input" if path == "-" else repr(path)
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"{shown} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise Misconfigured(f"{shown} is longer than {_MAX_BYTES // 1024 // 1024} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{shown} is no UTF-8 text") from error
    try:
        return [json.loads(text, object_pairs_hook=_once)]
    except _TwiceError as error:
        raise Misconfigured(f"{shown}: {error}") from error
    except (ValueError, RecursionError):
        return _read_yaml(text, shown)


class _TwiceError(Exception):
    """A field is given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(f"field {name!r} is given twice")
        found[name] = value
    return found


def _read_yaml(text: str, shown: str) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415 - workflow images do without
    except ImportError:
        raise Misconfigured(
            f"{shown} is no JSON, and to read YAML the package pyyaml is needed: pip install pyyaml, or give "
            "it as JSON (kubectl get … -o json)"
        ) from None

    class Loader(yaml.SafeLoader):
        """Refuses what is given twice."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        pairs: list[tuple[str, Any]] = []
        for name, _ in node.value:
            key: object = loader.construct_object(name, deep=True)  # pyright: ignore[reportUnknownMemberType]
            if not isinstance(key, str):
                raise _TwiceError(f"field {key!r} is no text")
            pairs.append((key, None))
        _once(pairs)
        return cast("dict[Any, Any]", yaml.SafeLoader.construct_mapping(loader, node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return [one for one in yaml.load_all(text, Loader) if one is not None]
    except _TwiceError as error:
        raise Misconfigured(f"{shown}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise Misconfigured(f"{shown} is neither JSON nor YAML{where}") from error


class Fields:
    """One mapping of a document: takes known fields of the right type, and refuses all others.

    Args:
        value: what should be a mapping.
        path: where it is, for messages.
        known: the names that it may have.

    Raises:
        Misconfigured: it is none, or has others.
    """

    def __init__(self, value: Any, path: str, known: Iterable[str]) -> None:
        self.path = path
        if not isinstance(value, Mapping):
            raise Misconfigured(f"{path} must be a mapping")
        self._values = cast("Mapping[str, Any]", value)
        known = tuple(known)
        for name in self._values:
            if name not in known:
                raise Misconfigured(f"{path}: unknown field {name!r}; known are {', '.join(known)}")

    def has(self, name: str) -> bool:
        """Tell whether a field is given, and not null."""
        return self._values.get(name) is not None

    def raw(self, name: str) -> Any:
        """Return a field as it is, None where it is not given."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text.

        Raises:
            Misconfigured: it is none, or missing without a default.
        """
        value = self._given(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a text")
        return value

    def whole(self, name: str, default: int | None = None, *, least: int, most: int) -> int:
        """Return a whole number within bounds.

        Raises:
            Misconfigured: it is none, or missing without a default.
        """
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least:,} to {most:,}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return true or false.

        Raises:
            Misconfigured: it is neither, or missing without a default.
        """
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def seconds(self, name: str, default: str | None = None) -> float:
        """Return a duration, as ``30d``, in seconds.

        Raises:
            Misconfigured: it is none, or missing without a default.
        """
        found = _DURATION.fullmatch(self.text(name, default))
        if found is None:
            raise self.wrong(name, "must be a whole number above 0 and one of s, m, h, d, w, as 30d")
        return float(int(found[1]) * _UNIT_SECONDS[found[2]])

    def items(self, name: str, *, required: bool = False) -> list[Any]:
        """Return a list; empty where it is not given.

        Raises:
            Misconfigured: it is none, or missing though required.
        """
        value = self._given(name, None if required else [])
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return cast("list[Any]", value)

    def fields(self, name: str, known: Iterable[str]) -> Fields:
        """Return a mapping; an empty one where it is not given.

        Raises:
            Misconfigured: see the class.
        """
        return Fields(self._values.get(name) or {}, f"{self.path}.{name}", known)

    def wrong(self, name: str, what: str) -> Misconfigured:
        """Return an error about a field."""
        return Misconfigured(f"{self.path}.{name} {what}")

    def _given(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(name, "is missing")
        return value
