"""`StorageManager`: what an engram uses to offload payloads and to get them back.

The manager is a thin, synchronous, thread-safe shell: it plans with the pure functions of
`bubu_storage.payload`, moves objects with a `Transfer`, and owns the threads and the
backend. asyncio callers use ``asyncio.to_thread``.

Invariants: a returned document refers only to objects that have been written; no call
waits for its store, or goes on asking it, beyond its one deadline (time for encoding, and a
local disk that hangs, are not interrupted); no call reads more than a stated limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.blobs import BlobOperations
from bubu_storage.errors import ConfigurationError, StorageDisabledError, StorageError
from bubu_storage.lifetime import BackendHolder
from bubu_storage.opening import check_limits, open_handle, opened_handle, reopened_handle
from bubu_storage.payload.codec import Default
from bubu_storage.payload.context import current_max_recursion_depth, current_schema, naming_step_run
from bubu_storage.payload.dehydrate import Plan, PlanOptions, measure_document, plan_dehydrate, plan_inputs
from bubu_storage.payload.hydrate import Fetcher, HydrateOptions, hydrate
from bubu_storage.payload.kube import KubeRefResolver
from bubu_storage.payload.outlook import Want
from bubu_storage.payload.paths import check_path, clean_path, require_text
from bubu_storage.settings import ManagerSettings

if TYPE_CHECKING:
    from bubu_storage.observability import StorageMetrics

__all__ = ["StorageManager"]

_LEAST_HOPS: Final = 2
"""`dehydrate_inputs` itself writes chains of two; they come back whatever the budget."""

_log: Final = logging.getLogger(__name__)


class StorageManager(BlobOperations):
    """Moves large parts of documents to an object store and back (Go: StorageManager).

    Use `from_env` in a workflow pod, `in_memory` in tests; as a context manager, or call
    `close`. All methods may be called from several threads at once.

    Objects as they are, without references, have a family of their own: `put`, `get`, `delete`,
    `list_objects`, `open_blob`, `read_blob`, `write_blob`.

    Args:
        settings: limits, prefixes, and the store when ``backend`` is not given.
        backend: a store to use instead of opening ``settings.backend``; it stays the
            caller's to close.
        kube_resolver: reads ConfigMap and Secret references; without one they are a
            `KubeRefError`.
        max_workers: objects in flight at a time, over all calls; None for the settings' number.
        metrics: where to count, instead of Prometheus's default registry;
            ``ManagerSettings(metrics_enabled=False)`` counts nowhere.

    Raises:
        ConfigurationError: the settings contradict themselves.
        StorageError: the store cannot be opened.
    """

    def __init__(
        self,
        settings: ManagerSettings,
        backend: ObjectBackend | None = None,
        *,
        kube_resolver: KubeRefResolver | None = None,
        max_workers: int | None = None,
        metrics: StorageMetrics | None = None,
    ) -> None:
        workers = check_limits(settings, max_workers)
        self._kube_resolver = kube_resolver
        self._wanted_workers = max_workers
        self._metrics = metrics
        self._reconfiguring = threading.RLock()
        handle = (
            open_handle(settings, metrics)
            if backend is None
            else opened_handle(backend, settings, metrics, owned=False, local=False)
        )
        super().__init__(settings, BackendHolder(handle, max_workers=workers), workers)

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        kube_resolver: KubeRefResolver | None = None,
        metrics: StorageMetrics | None = None,
    ) -> Self:
        """Build a manager from ``BUBU_*`` variables (Go: NewManager).

        Args:
            env: the variables; the process's own when None.
            kube_resolver: see the class.
            metrics: see the class.

        Raises:
            ConfigurationError: names the variable that is wrong.
        """
        return cls(ManagerSettings.from_env(env), kube_resolver=kube_resolver, metrics=metrics)

    @classmethod
    def in_memory(
        cls, settings: ManagerSettings | None = None, *, kube_resolver: KubeRefResolver | None = None
    ) -> Self:
        """Build a manager on a store of its own that lives in this process; for tests.

        Args:
            settings: limits and prefixes; defaults when None. Its ``backend`` is not used.
            kube_resolver: see the class.
        """
        from bubu_storage.backend.memory import MemoryBackend  # noqa: PLC0415 - for tests only

        manager = cls(settings or ManagerSettings(), MemoryBackend(), kube_resolver=kube_resolver)
        manager._holder.current.local = True
        return manager

    @property
    def settings(self) -> ManagerSettings:
        """The settings in force."""
        return self._settings

    @property
    def enabled(self) -> bool:
        """Whether there is a store."""
        return self._holder.current.backend is not None

    @property
    def backend(self) -> ObjectBackend:
        """The store as this manager uses it, with its cache and its metrics (Go: GetStore).

        `bubu_storage.backend.decorator.innermost` gives the store below them; who writes there
        goes behind the cache's back.

        Raises:
            StorageDisabledError: there is none.
        """
        return self._holder.current.require()

    def dehydrate(self, data: Any, *, run_id: str, default: Default | None = None) -> Any:
        """Offload what is too large and return the document with references in its place.

        Args:
            data: any JSON value; also tuples, and bytes as base64 text. Never changed.
            run_id: usually ``<namespace>/<name>`` of the step run (see `namespaced_key`); the
                same id writes to the same paths. Never leave it empty: all runs that do share
                one directory and overwrite each other's objects (the Go SDK allows it, so it
                is only logged).
            default: converts values of other types, as for ``json.dumps``.

        Returns:
            A new document, short enough to be stored inline.

        Raises:
            EncodeError: a value has no JSON form; names its JSON path.
            StorageDisabledError: the document is too long and there is no store.
            InvalidKeyError: a run id or key leads out of the store.
            StorageTimeoutError: not finished in time.
            StorageError: the store failed; no reference is returned.
        """
        return self._dehydrate(data, run_id, default, inputs=False, max_inline_size=None)

    def dehydrate_inputs(
        self, data: Any, *, run_id: str, max_inline_size: int | None = None, default: Default | None = None
    ) -> Any:
        """Offload a story run's inputs: like `dehydrate`, but the result is short for certain.

        Args:
            data: as for `dehydrate`.
            run_id: of the story run.
            max_inline_size: bytes, instead of the manager's limit; None, 0 or less is the
                manager's (Go: DehydrateInputsWithMaxInlineSize).
            default: as for `dehydrate`.

        Raises:
            as `dehydrate`.
        """
        return self._dehydrate(data, run_id, default, inputs=True, max_inline_size=max_inline_size)

    def hydrate(self, data: Any, *, allowed_prefixes: Sequence[str] | None = None) -> Any:
        """Return the document with every storage, ConfigMap and Secret reference resolved.

        Args:
            data: any JSON value. Never changed.
            allowed_prefixes: paths of whole segments, as ``outputs/team-a``; a reference to
                anywhere else is refused. Set it when the document comes from somebody who
                may not read the whole store (and use `hydrate_storage_refs_only` when they
                may not read the namespace's Secrets either). None allows all.

        Raises:
            ObjectNotFoundError: a reference is stale.
            CorruptObjectError: an object is not a stored object.
            RefCycleError, DepthError: references lead in a circle, or too far.
            RefNotAllowedError, SelectorError, KubeRefError: see there.
            LimitExceededError: larger than ``settings.max_hydrated_size_bytes``.
            StorageDisabledError: a reference, and no store.
            StorageTimeoutError: not finished in time.
            StorageError: the store failed.
        """
        return self._hydrate("hydrate", data, allowed_prefixes, kube_refs=True)

    def hydrate_storage_refs_only(self, data: Any, *, allowed_prefixes: Sequence[str] | None = None) -> Any:
        """`hydrate` that leaves ConfigMap and Secret references as they are."""
        return self._hydrate("hydrate_storage_refs_only", data, allowed_prefixes, kube_refs=False)

    def close(self) -> None:
        """Release threads and connections; twice is fine. Calls that are under way finish."""
        self._holder.close()

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._holder.closed

    def reconfigure(self, settings: ManagerSettings) -> None:
        """Take over other settings; calls under way finish with those that they began with.

        The store is opened anew only when its own settings, the cache's or the metrics' differ.
        A new cache is not used before the calls that are under way have ended. A store that was
        given to the constructor stays.

        Raises:
            ConfigurationError: as the constructor; nothing has changed then.
            StorageError: the store cannot be opened, or the manager is closed.
        """
        with self._reconfiguring:
            if self.closed:
                raise StorageError("this storage manager is closed; make a new one")
            if settings == self._settings:
                return
            workers = check_limits(settings, self._wanted_workers)
            fresh = reopened_handle(self._holder.current, self._settings, settings, self._metrics)
            if fresh is not None:
                self._holder.exchange(fresh)
            self._settings = settings
            if workers != self._max_workers:
                self._max_workers = workers
                self._holder.resize(workers)

    def use_kube_resolver(self, kube_resolver: KubeRefResolver) -> None:
        """Resolve ConfigMap and Secret references with this, unless the manager has a resolver already."""
        if self._kube_resolver is None:
            self._kube_resolver = kube_resolver

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        backend = self._holder.current.backend
        store = "no store" if backend is None else backend.name
        return f"<{type(self).__name__} on {store}{', closed' if self.closed else ''}>"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @naming_step_run
    def _dehydrate(
        self, data: Any, run_id: str, default: Default | None, *, inputs: bool, max_inline_size: int | None
    ) -> Any:
        name = "dehydrate_inputs" if inputs else "dehydrate"
        self._begin(name, run_id, data)
        if not require_text(run_id, "run_id"):
            _log.warning(
                "run_id is empty: runs without one overwrite each other's objects; give '<namespace>/<name>'"
            )
        settings = self._settings
        limit = settings.max_inline_size_bytes
        if max_inline_size is not None and max_inline_size > 0:
            limit = max_inline_size
        with self._holder.in_use() as handle:
            if handle.backend is None:
                return _measured_inline(data, default, limit)
            schema, schema_version = current_schema()
            options = PlanOptions(
                prefix=settings.input_prefix if inputs else settings.output_prefix,
                run_id=run_id,
                max_inline_size_bytes=limit,
                max_depth=current_max_recursion_depth() or settings.max_recursion_depth,
                ref_search_depth=settings.max_recursion_depth,
                schema=schema,
                schema_version=schema_version,
            )
            planner = plan_inputs if inputs else plan_dehydrate
            plan: Plan = planner(data, options, default=default)
            objects = [item for item in plan.objects if settings.keep_superseded or not item.superseded]
            size_bytes = plan.length
            if objects:
                with self._transfer_on(handle, name) as (transfer, _):
                    transfer.write_all(objects)
                    size_bytes += transfer.written_bytes
            self._observe_payload(settings, name, size_bytes)
            return plan.result

    @naming_step_run
    def _hydrate(
        self, operation: str, data: Any, allowed_prefixes: Sequence[str] | None, *, kube_refs: bool
    ) -> Any:
        self._begin(operation, "", data)
        settings = self._settings
        options = HydrateOptions(
            max_hops=max(_LEAST_HOPS, current_max_recursion_depth() or settings.max_recursion_depth),
            ref_search_depth=settings.max_recursion_depth,
            kube_refs=kube_refs,
            workload_namespace=settings.workload_namespace,
            kube_resolver=self._kube_resolver,
            allowed_prefixes=None if allowed_prefixes is None else _clean_prefixes(allowed_prefixes),
            max_copied_bytes=settings.max_hydrated_size_bytes,
        )
        with self._holder.in_use() as handle:
            if handle.backend is None:
                return hydrate(data, _NoStore(), replace(options, enabled=False))
            with self._transfer_on(handle, operation) as (transfer, _):
                result = hydrate(data, transfer, options)
                self._observe_payload(settings, operation, transfer.read_bytes)
                return result

    def _observe_payload(self, settings: ManagerSettings, operation: str, size_bytes: int) -> None:
        """Count a document by lengths that are known anyhow: inline and written, or loaded."""
        if not settings.metrics_enabled:
            return
        if self._metrics is None:
            from bubu_storage.observability import StorageMetrics as Metrics  # noqa: PLC0415

            self._metrics = Metrics.default()
        self._metrics.observe_payload(operation, size_bytes)


class _NoStore(Fetcher):
    """Stands in for a disabled store; hydrate never asks it."""

    def announce(self, wants: Iterator[Want]) -> None:
        """Do nothing."""

    def get(self, key: str) -> Any:
        """Fail."""
        raise StorageDisabledError(f"storage is disabled; {key!r} cannot be read", key=key)


def _measured_inline(data: Any, default: Default | None, limit: int) -> Any:
    if data is None:
        return None
    plan = measure_document(data, default=default)
    if plan.length > limit:
        raise StorageDisabledError(
            f"the value has {plan.length} bytes, more than the inline limit of {limit}, and storage is "
            "disabled; set BUBU_STORAGE_PROVIDER to s3 or file, or raise BUBU_MAX_INLINE_SIZE"
        )
    return plan.result


def _clean_prefixes(prefixes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(prefixes, str):
        raise ConfigurationError("allowed_prefixes must be a list of paths, not one text")
    return tuple(clean_path(check_path(prefix, "allowed prefix")) for prefix in prefixes)
