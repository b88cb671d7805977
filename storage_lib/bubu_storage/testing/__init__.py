"""For tests, yours included: the acceptance suite of backends, backends that fail on purpose, a mock.

* `BackendAcceptance`: subclass it to prove a backend of your own (needs pytest);
* `FaultBackend`, `CountingBackend`, `DelayBackend`, `crash_points`: around any backend;
* `MockStorageManager`: records its calls and fails as told;
* `bubu_storage.testing.pytest_plugin`: fixtures ``storage``, ``storage_backend``, ``storage_settings``.

Each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bubu_storage.testing.acceptance import BackendAcceptance as BackendAcceptance
    from bubu_storage.testing.fakes import CountingBackend as CountingBackend
    from bubu_storage.testing.fakes import DelayBackend as DelayBackend
    from bubu_storage.testing.fakes import Fault as Fault
    from bubu_storage.testing.fakes import FaultBackend as FaultBackend
    from bubu_storage.testing.fakes import crash_points as crash_points
    from bubu_storage.testing.mock import MockStorageManager as MockStorageManager

_HOME: Final = {
    "BackendAcceptance": "bubu_storage.testing.acceptance",
    "CountingBackend": "bubu_storage.testing.fakes",
    "DelayBackend": "bubu_storage.testing.fakes",
    "Fault": "bubu_storage.testing.fakes",
    "FaultBackend": "bubu_storage.testing.fakes",
    "MockStorageManager": "bubu_storage.testing.mock",
    "crash_points": "bubu_storage.testing.fakes",
}

__all__ = [
    "BackendAcceptance",
    "CountingBackend",
    "DelayBackend",
    "Fault",
    "FaultBackend",
    "MockStorageManager",
    "crash_points",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bubu_storage.testing' has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "pytest":
            raise
        raise ModuleNotFoundError(f"{name} needs pytest; pip install pytest", name="pytest") from error
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
