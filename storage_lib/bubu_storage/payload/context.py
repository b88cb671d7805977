"""Values that belong to a call without being arguments of it, as Go's context carries them.

Each is a context manager over a `contextvars.ContextVar`: it covers the calls made inside
the ``with`` block, in this thread or asyncio task only::

    with storage_schema("orders", "v2"):
        manager.dehydrate(data, run_id="team/run-1")
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from bubu_storage.errors import StorageError
from bubu_storage.goduration import trim_go_space

__all__ = [
    "current_max_recursion_depth",
    "current_schema",
    "current_step_run_id",
    "max_recursion_depth",
    "naming_step_run",
    "step_run_id",
    "storage_schema",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SCHEMA: Final[ContextVar[tuple[str, str]]] = ContextVar("bubu_storage_schema", default=("", ""))
_DEPTH: Final[ContextVar[int | None]] = ContextVar("bubu_storage_max_recursion_depth", default=None)
_STEP_RUN_ID: Final[ContextVar[str]] = ContextVar("bubu_storage_step_run_id", default="")

_MAX_NOTED_CHARACTERS: Final = 200


@contextmanager
def storage_schema(schema: str, schema_version: str = "") -> Generator[None]:
    """Write a schema name and version into every reference made inside (Go: WithStorageSchema).

    Both are trimmed; a blank one is left out; when both are blank nothing changes.
    """
    pair = (trim_go_space(schema), trim_go_space(schema_version))
    token = _SCHEMA.set(pair if any(pair) else _SCHEMA.get())
    try:
        yield
    finally:
        _SCHEMA.reset(token)


@contextmanager
def max_recursion_depth(depth: int) -> Generator[None]:
    """Override the recursion budget inside (Go: WithMaxRecursionDepth); only above 0 counts."""
    token = _DEPTH.set(depth if depth > 0 else _DEPTH.get())
    try:
        yield
    finally:
        _DEPTH.reset(token)


@contextmanager
def step_run_id(identifier: str) -> Generator[None]:
    """Name the step run that the calls inside belong to (Go: WithStepRunID); "" changes nothing.

    Errors of documents that are raised inside carry it as a note. It is no label of any metric:
    there would be a new time series for each run.
    """
    token = _STEP_RUN_ID.set(identifier or _STEP_RUN_ID.get())
    try:
        yield
    finally:
        _STEP_RUN_ID.reset(token)


def naming_step_run(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function: its errors carry the step run of this context, if there is one, as a note."""

    @wraps(function)
    def named(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except StorageError as error:
            identifier = _STEP_RUN_ID.get()
            if identifier:
                error.add_note(f"in step run {identifier[:_MAX_NOTED_CHARACTERS]!r}")
            raise

    return named


def current_schema() -> tuple[str, str]:
    """Return schema and version of this context, "" where unset."""
    return _SCHEMA.get()


def current_max_recursion_depth() -> int | None:
    """Return the override of this context, or None."""
    return _DEPTH.get()


def current_step_run_id() -> str:
    """Return the step run of this context, "" where unset."""
    return _STEP_RUN_ID.get()
