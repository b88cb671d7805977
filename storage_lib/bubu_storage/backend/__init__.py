"""Backends: S3, files and memory, what can be put around them, and what can be done with them.

All public names of the package's modules can be imported from here; each module is loaded when
one of its names is first used, so a file store never loads an SDK.

* stores: `S3Backend`, `FileBackend`, `MemoryBackend`, made by `open_backend` or `new_s3_backend`;
* around them: `PrefixBackend`, `CircuitBreakerBackend`, `MetricsBackend`, `CachingBackend`;
* with them: `copy_object`, `stream_copy`, `delete_prefix`, `for_each_page`, `probe_backend`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bubu_storage.backend.breaker import CircuitBreakerBackend as CircuitBreakerBackend
    from bubu_storage.backend.breaker import Recovery as Recovery
    from bubu_storage.backend.breaker import can_copy as can_copy
    from bubu_storage.backend.breaker import usable as usable
    from bubu_storage.backend.bulk import BulkDeleteProgress as BulkDeleteProgress
    from bubu_storage.backend.bulk import BulkDeleteReport as BulkDeleteReport
    from bubu_storage.backend.bulk import delete_keys as delete_keys
    from bubu_storage.backend.bulk import delete_prefix as delete_prefix
    from bubu_storage.backend.bulk import partial_report as partial_report
    from bubu_storage.backend.cache import CachingBackend as CachingBackend
    from bubu_storage.backend.circuit import CircuitBreaker as CircuitBreaker
    from bubu_storage.backend.circuit_events import CircuitEvent as CircuitEvent
    from bubu_storage.backend.circuit_events import CircuitListener as CircuitListener
    from bubu_storage.backend.circuit_events import CircuitState as CircuitState
    from bubu_storage.backend.circuit_events import CircuitTransition as CircuitTransition
    from bubu_storage.backend.circuit_events import LoggingListener as LoggingListener
    from bubu_storage.backend.circuit_events import PrometheusListener as PrometheusListener
    from bubu_storage.backend.config import BackendConfig as BackendConfig
    from bubu_storage.backend.config import CircuitConfig as CircuitConfig
    from bubu_storage.backend.config import new_s3_backend as new_s3_backend
    from bubu_storage.backend.config import validate_backends as validate_backends
    from bubu_storage.backend.copying import copy_object as copy_object
    from bubu_storage.backend.copying import materialised_copy as materialised_copy
    from bubu_storage.backend.copying import stream_copy as stream_copy
    from bubu_storage.backend.decorator import BackendDecorator as BackendDecorator
    from bubu_storage.backend.decorator import innermost as innermost
    from bubu_storage.backend.factory import open_backend as open_backend
    from bubu_storage.backend.failures import is_backend_failure as is_backend_failure
    from bubu_storage.backend.file import FileBackend as FileBackend
    from bubu_storage.backend.listing import for_each_page as for_each_page
    from bubu_storage.backend.memory import MemoryBackend as MemoryBackend
    from bubu_storage.backend.metrics import MetricsBackend as MetricsBackend
    from bubu_storage.backend.prefix import PrefixBackend as PrefixBackend
    from bubu_storage.backend.probe import Capability as Capability
    from bubu_storage.backend.probe import ProbeReport as ProbeReport
    from bubu_storage.backend.probe import probe_backend as probe_backend
    from bubu_storage.backend.s3 import S3Backend as S3Backend
    from bubu_storage.backend.types import BackendCopier as BackendCopier
    from bubu_storage.backend.types import BatchDeleter as BatchDeleter
    from bubu_storage.backend.types import Body as Body
    from bubu_storage.backend.types import GetObjectResult as GetObjectResult
    from bubu_storage.backend.types import ListedObject as ListedObject
    from bubu_storage.backend.types import ListPage as ListPage
    from bubu_storage.backend.types import ObjectBackend as ObjectBackend
    from bubu_storage.backend.types import ObjectInfo as ObjectInfo

_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "bubu_storage.backend.breaker": ("CircuitBreakerBackend", "Recovery", "can_copy", "usable"),
    "bubu_storage.backend.bulk": (
        "BulkDeleteProgress",
        "BulkDeleteReport",
        "delete_keys",
        "delete_prefix",
        "partial_report",
    ),
    "bubu_storage.backend.cache": ("CachingBackend",),
    "bubu_storage.backend.circuit": ("CircuitBreaker",),
    "bubu_storage.backend.circuit_events": (
        "CircuitEvent",
        "CircuitListener",
        "CircuitState",
        "CircuitTransition",
        "LoggingListener",
        "PrometheusListener",
    ),
    "bubu_storage.backend.config": ("BackendConfig", "CircuitConfig", "new_s3_backend", "validate_backends"),
    "bubu_storage.backend.copying": ("copy_object", "materialised_copy", "stream_copy"),
    "bubu_storage.backend.decorator": ("BackendDecorator", "innermost"),
    "bubu_storage.backend.factory": ("open_backend",),
    "bubu_storage.backend.failures": ("is_backend_failure",),
    "bubu_storage.backend.file": ("FileBackend",),
    "bubu_storage.backend.listing": ("for_each_page",),
    "bubu_storage.backend.memory": ("MemoryBackend",),
    "bubu_storage.backend.metrics": ("MetricsBackend",),
    "bubu_storage.backend.prefix": ("PrefixBackend",),
    "bubu_storage.backend.probe": ("Capability", "ProbeReport", "probe_backend"),
    "bubu_storage.backend.s3": ("S3Backend",),
    "bubu_storage.backend.types": (
        "BackendCopier",
        "BatchDeleter",
        "Body",
        "GetObjectResult",
        "ListPage",
        "ListedObject",
        "ObjectBackend",
        "ObjectInfo",
    ),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BackendConfig",
    "BackendCopier",
    "BackendDecorator",
    "BatchDeleter",
    "Body",
    "BulkDeleteProgress",
    "BulkDeleteReport",
    "CachingBackend",
    "Capability",
    "CircuitBreaker",
    "CircuitBreakerBackend",
    "CircuitConfig",
    "CircuitEvent",
    "CircuitListener",
    "CircuitState",
    "CircuitTransition",
    "FileBackend",
    "GetObjectResult",
    "ListPage",
    "ListedObject",
    "LoggingListener",
    "MemoryBackend",
    "MetricsBackend",
    "ObjectBackend",
    "ObjectInfo",
    "PrefixBackend",
    "ProbeReport",
    "PrometheusListener",
    "Recovery",
    "S3Backend",
    "can_copy",
    "copy_object",
    "delete_keys",
    "delete_prefix",
    "for_each_page",
    "innermost",
    "is_backend_failure",
    "materialised_copy",
    "new_s3_backend",
    "open_backend",
    "partial_report",
    "probe_backend",
    "stream_copy",
    "usable",
    "validate_backends",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bubu_storage.backend' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
