"""What happens to a manager's settings before it works with them: checked, then opened."""

from __future__ import annotations

from types import UnionType

from bubu_storage.errors import ConfigurationError
from bubu_storage.lifetime import BackendHandle
from bubu_storage.settings import FileSettings, ManagerSettings, S3Settings

__all__ = ["check_limits", "open_handle"]


def open_handle(settings: ManagerSettings) -> BackendHandle:
    """Open the store that the settings name; a handle without one when storage is disabled.

    Raises:
        ConfigurationError: the settings contradict themselves.
        StorageError: the store cannot be opened.
    """
    if settings.backend is None:
        return BackendHandle(None, owned=False, local=True)
    from bubu_storage.backend.factory import open_backend  # noqa: PLC0415 - a disabled store needs none

    return BackendHandle(
        open_backend(settings.backend), owned=True, local=isinstance(settings.backend, FileSettings)
    )


def check_limits(settings: ManagerSettings, max_workers: int) -> None:
    """Refuse settings that no manager can work with.

    Raises:
        ConfigurationError: a number is out of its range.
        TypeError: something is not of its type; says what to write.
    """
    _check_type(settings, ManagerSettings, "settings", "ManagerSettings(backend=FileSettings('/data'))")
    if settings.backend is not None:
        _check_type(settings.backend, FileSettings | S3Settings, "settings.backend", "FileSettings('/data')")
    for name, value, least in (
        ("max_inline_size_bytes", settings.max_inline_size_bytes, 0),
        ("max_recursion_depth", settings.max_recursion_depth, 1),
        ("max_hydrated_size_bytes", settings.max_hydrated_size_bytes, 1),
        ("max_workers", max_workers, 1),
    ):
        _check_type(value, int, name, str(least))
        if value < least:
            raise ConfigurationError(f"{name} is {value}; it must be {least} or more")
    if not settings.timeout_seconds > 0:
        raise ConfigurationError(f"timeout_seconds is {settings.timeout_seconds}; it must be above 0")


def _check_type(value: object, wanted: type | UnionType, name: str, example: str) -> None:
    if not isinstance(value, wanted):
        raise TypeError(f"{name} is a {type(value).__name__}; give something like {example}")
