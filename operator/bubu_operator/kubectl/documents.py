"""Objects from files: YAML or JSON, several documents, Lists unfolded; nothing is trusted.

Invariants: a file is read up to `MAX_BYTES`; times stay the texts that the API would send;
whatever is wrong comes out as one line that names the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, cast

import yaml

from bubu_operator.kube.resources import JsonObject
from bubu_operator.kubectl.failures import BadInputError, one_line

__all__ = ["MAX_BYTES", "read_documents"]

MAX_BYTES: Final = 8 * 1024 * 1024
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """YAML as JSON would have it: a time is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(name: str) -> list[JsonObject]:
    """Return the objects of a file, or of standard input for ``-``.

    Raises:
        BadInputError: it cannot be read, is no YAML, or holds something else than objects.
    """
    shown = "standard input" if name == "-" else name
    try:
        data = _read(name)
    except OSError as error:
        raise BadInputError(f"cannot read {shown}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise BadInputError(f"{shown} is larger than {MAX_BYTES} bytes; is it the right file?")
    found: list[JsonObject] = []
    try:
        for document in cast("Any", yaml.load_all(data, Loader=_Loader)):
            found += _unfolded(document, shown)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise BadInputError(f"{shown} is no YAML: {_cause(error)}") from error
    if not found:
        raise BadInputError(f"{shown} holds no object")
    return found


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(name).open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _unfolded(document: object, shown: str) -> list[JsonObject]:
    if document is None:
        return []
    if not isinstance(document, dict) or not isinstance(cast("JsonObject", document).get("kind"), str):
        raise BadInputError(f"{shown} holds a document that is no Kubernetes object: it has no kind")
    obj = cast("JsonObject", document)
    if not str(obj["kind"]).endswith("List"):
        return [obj]
    items = obj.get("items")
    listed = cast("list[object]", items) if isinstance(items, list) else []
    return [found for item in listed for found in _unfolded(item, shown)]


def _cause(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {one_line(str(error.problem))}"
    return one_line(str(error))
