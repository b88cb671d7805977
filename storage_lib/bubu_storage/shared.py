"""One manager for a whole process, for code that cannot be handed one.

The registry is the library's only global state. Two environments that name the same store
and prefixes mean the same manager, as in the Go SDK; unlike there, a change of anything
else (limits, timeouts, credentials, part size) is noticed and taken over.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from bubu_storage import environment
from bubu_storage.manager import StorageManager
from bubu_storage.observability import StorageMetrics
from bubu_storage.payload.kube import KubeRefResolver
from bubu_storage.settings import ManagerSettings

__all__ = ["reset_shared_managers", "shared_manager"]

_MAX_MANAGERS: Final = 32
_managers: Final[OrderedDict[tuple[str, ...], StorageManager]] = OrderedDict()
_lock: Final = threading.RLock()
# A process that is forked while another thread makes a manager would otherwise never make one.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def shared_manager(
    env: Mapping[str, str] | None = None,
    *,
    kube_resolver: KubeRefResolver | None = None,
    metrics: StorageMetrics | None = None,
) -> StorageManager:
    """Return this process's manager for the current configuration (Go: SharedManager).

    The same store and prefixes give the same manager. When another part of the
    configuration has changed since, that manager takes the change over: later calls use it,
    calls under way finish as they began. A failure is not remembered. Do not close the
    manager; `reset_shared_managers` does.

    Args:
        env: the variables; the process's own when None.
        kube_resolver: reads ConfigMap and Secret references; the first one that is given stays.
        metrics: where to count, for a manager that is made now; one that is there stays as it is.

    Raises:
        ConfigurationError: names the variable that is wrong.
    """
    values = environment.variables(env)
    settings = ManagerSettings.from_env(values)
    key = environment.shared_key(values)
    with _lock:
        manager = _managers.get(key)
        if manager is None or manager.closed:
            manager = _managers[key] = StorageManager(settings, kube_resolver=kube_resolver, metrics=metrics)
        else:
            manager.reconfigure(settings)
            if kube_resolver is not None:
                manager.use_kube_resolver(kube_resolver)
        _managers.move_to_end(key)
        while len(_managers) > _MAX_MANAGERS:
            # Only forgotten: whoever holds it may go on using it.
            _managers.popitem(last=False)
        return manager


def reset_shared_managers() -> None:
    """Close and forget all shared managers; for tests (Go: ResetSharedManagerCacheForTests)."""
    with _lock:
        managers = list(_managers.values())
        _managers.clear()
    for manager in managers:
        manager.close()
