"""Run tests as plain functions, within one test: whether they notice what was broken around them.

Fixtures are made by `FIXTURES`, parameters come from the marks, and property tests are left out: what they
draw would make it a matter of luck. A test counts as having noticed when it fails in whatever way.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from _pytest.outcomes import Failed

from tests.unit.retention import test_delete, test_references
from tests.unit.retention.test_owned_passes import OwnedWorld
from tests.unit.retention.world import FakeTime, World

FIXTURES: dict[str, Callable[[], Any]] = {
    "time": FakeTime,
    "world": World,
    "single_world": lambda: World(batch=False),
    "owned": OwnedWorld,
    "store": test_references.Recorded,
    "bench": lambda: test_delete.Bench(World()),
}
"""What stands for each fixture."""


def noticed(test: Callable[..., None], *arguments: Any) -> bool:
    """Tell whether a test fails."""
    names = inspect.signature(test).parameters
    made = [FIXTURES[name]() for name in list(names)[: len(names) - len(arguments)]]
    # Errors are told by reports and not by texts: nothing of this is to be seen in a run that is well.
    with contextlib.redirect_stdout(None):
        try:
            test(*made, *arguments)
        except (Exception, Failed):  # noqa: BLE001 - whatever way it fails in
            return True
    return False


def tests_of(module: ModuleType) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield the tests of a module, each with each of its parameters, as something that tells if it fails."""
    owners = [None, *(value for name, value in vars(module).items() if name.startswith("Test"))]
    for owner in owners:
        for name, test in list(vars(owner or module).items()):
            if not name.startswith("test_") or hasattr(test, "hypothesis"):
                continue
            for arguments in _parameters(test):
                yield name, lambda test=test, owner=owner, arguments=arguments: _fails(test, owner, arguments)


def _fails(test: Callable[..., None], owner: type | None, arguments: dict[str, Any]) -> bool:
    bound = test if owner is None else getattr(owner(), test.__name__)
    made = {name: FIXTURES[name]() for name in inspect.signature(bound).parameters if name not in arguments}
    return noticed(lambda: bound(**made, **arguments))


def _parameters(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """Yield what a test is called with, by its marks."""
    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names, values = mark.args
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        choices.append(
            [dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values]
        )
    for chosen in itertools.product(*choices):
        yield {name: value for one in chosen for name, value in one.items()}
