"""What happens to a manager's settings before it works with them: checked, then opened.

A manager works on a stack of backends: the cache, where there is one, around the metrics around
the store. So only what really goes to the store is counted.
"""

from __future__ import annotations

from functools import partial
from types import UnionType
from typing import TYPE_CHECKING

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.lifetime import BackendHandle
from bubu_storage.settings import FileSettings, ManagerSettings, S3Settings

if TYPE_CHECKING:
    from bubu_storage.observability import StorageMetrics

__all__ = ["check_limits", "open_handle", "opened_handle", "reopened_handle"]


def open_handle(
    settings: ManagerSettings, metrics: StorageMetrics | None = None, *, before: BackendHandle | None = None
) -> BackendHandle:
    """Open the store that the settings name; a handle without one when storage is disabled.

    Args:
        settings: the store, the cache, whether to count.
        metrics: where to count; None for the default registry.
        before: the handle that this one takes over from.

    Raises:
        ConfigurationError: the settings contradict themselves.
        StorageError: the store cannot be opened.
    """
    if settings.backend is None:
        return BackendHandle(None, owned=False, local=True)
    from bubu_storage.backend.factory import open_backend  # noqa: PLC0415 - a disabled store needs none

    store = open_backend(settings.backend)
    local = isinstance(settings.backend, FileSettings)
    try:
        handle = opened_handle(store, settings, metrics, owned=True, local=local, before=before)
    except BaseException:
        store.close()
        raise
    handle.reopen = partial(open_handle, settings, metrics)
    return handle


def opened_handle(
    store: ObjectBackend,
    settings: ManagerSettings,
    metrics: StorageMetrics | None = None,
    *,
    owned: bool,
    local: bool,
    before: BackendHandle | None = None,
) -> BackendHandle:
    """Return a handle on a store that is open, with what the settings put around it.

    Args:
        store: the store.
        settings: the cache, whether to count.
        metrics: where to count; None for the default registry. A store that counts already is
            not counted twice.
        owned: whether the store is ours to close.
        local: whether it answers without a network in between.
        before: the handle that this one takes over from; the cache waits for its calls to end.
    """
    handle = BackendHandle(store, owned=owned, local=local, store=store, before=before)
    backend = store
    if settings.metrics_enabled and not _counts(store):
        from bubu_storage.backend.metrics import MetricsBackend  # noqa: PLC0415 - only where wanted
        from bubu_storage.observability import StorageMetrics as Metrics  # noqa: PLC0415

        backend = MetricsBackend(backend, metrics or Metrics.default())
    if settings.cache_size_bytes:
        from bubu_storage.backend.cache import CachingBackend  # noqa: PLC0415 - only where wanted

        backend = CachingBackend(
            backend, settings.cache_size_bytes, settings.cache_ttl_seconds, paused=handle.follows_others
        )
    handle.backend = backend
    return handle


def reopened_handle(
    current: BackendHandle, old: ManagerSettings, new: ManagerSettings, metrics: StorageMetrics | None
) -> BackendHandle | None:
    """Return a handle for changed settings; None where the current one fits them.

    A store that the caller gave stays, whatever store the settings name.

    Raises:
        ConfigurationError: the settings contradict themselves.
        StorageError: the store cannot be opened.
    """
    is_given = current.store is not None and not current.owned
    if new.backend != old.backend and not is_given:
        return open_handle(new, metrics, before=current)
    if current.store is None or _around(old) == _around(new):
        return None
    if current.owned:
        return open_handle(new, metrics, before=current)
    return opened_handle(current.store, new, metrics, owned=False, local=current.local, before=current)


def check_limits(settings: ManagerSettings, max_workers: int | None) -> int:
    """Refuse settings that no manager can work with; return how many workers it has.

    Args:
        settings: of the manager.
        max_workers: instead of the settings' number, unless None.

    Raises:
        ConfigurationError: a number is out of its range.
        TypeError: something is not of its type; says what to write.
    """
    _check_type(settings, ManagerSettings, "settings", "ManagerSettings(backend=FileSettings('/data'))")
    if settings.backend is not None:
        _check_type(settings.backend, FileSettings | S3Settings, "settings.backend", "FileSettings('/data')")
    workers = settings.max_workers if max_workers is None else max_workers
    for name, value, least in (
        ("max_inline_size_bytes", settings.max_inline_size_bytes, 0),
        ("max_recursion_depth", settings.max_recursion_depth, 1),
        ("max_hydrated_size_bytes", settings.max_hydrated_size_bytes, 1),
        ("max_workers", workers, 1),
        ("cache_size_bytes", settings.cache_size_bytes, 0),
    ):
        _check_type(value, int, name, str(least))
        if value < least:
            raise ConfigurationError(f"{name} is {value}; it must be {least} or more")
    for name, seconds in (
        ("timeout_seconds", settings.timeout_seconds),
        ("cache_ttl_seconds", settings.cache_ttl_seconds),
    ):
        if not seconds > 0:
            raise ConfigurationError(f"{name} is {seconds}; it must be above 0")
    return workers


def _around(settings: ManagerSettings) -> tuple[object, ...]:
    """Return what decides about the layers around the store."""
    cache = (settings.cache_size_bytes, settings.cache_ttl_seconds) if settings.cache_size_bytes else None
    return settings.metrics_enabled, cache


def _counts(backend: ObjectBackend) -> bool:
    """Tell whether one of the layers of a backend counts already."""
    from bubu_storage.backend.decorator import BackendDecorator  # noqa: PLC0415 - with the metrics
    from bubu_storage.backend.metrics import MetricsBackend  # noqa: PLC0415

    while isinstance(backend, BackendDecorator):
        if isinstance(backend, MetricsBackend):
            return True
        backend = backend.unwrap()
    return False


def _check_type(value: object, wanted: type | UnionType, name: str, example: str) -> None:
    if not isinstance(value, wanted):
        raise TypeError(f"{name} is a {type(value).__name__}; give something like {example}")
