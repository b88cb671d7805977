"""Live reads for reviews that the cache cannot decide: one look at the API server, with a deadline.

Used while the cache is cold, and when a config or namespace is still missing after the watch
had time to deliver it. Invariants: reads run in at most `MAX_READS` threads, off the event loop;
for one namespace and name there is one read at a time, and a review joins only a read that
begins after its own arrival, so it never misses what was there when it came; a read ends within
`READ_SECONDS` or fails; nobody waits longer than their own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from bubu_operator.errors import KubeApiError, KubeNotFoundError, KubeTimeoutError
from bubu_operator.injection import InjectionConfig
from bubu_operator.injection.names import CONFIG_LABEL
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    Resource,
)
from bubu_operator.observability.webhook_metrics import FallbackOutcome, WebhookMetrics
from bubu_operator.webhook.cache import labels_of

__all__ = ["Fallback", "LiveReader", "LiveView"]

logger = logging.getLogger(__name__)

MAX_READS: Final = 4
MAX_PENDING: Final = 128
"""Reads that wait for a thread; more reviews than that are answered from what is known."""

READ_SECONDS: Final = 0.8
PAGE_SIZE: Final = 500

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LiveView:
    """What the API server said about one namespace.

    Attributes:
        labels: of the namespace; None when there is none of that name.
        own: StorageConfigs in it, as far as they matter.
        shared: ClusterStorageConfigs, as far as they matter.
    """

    labels: Mapping[str, str] | None
    own: tuple[InjectionConfig, ...] = ()
    shared: tuple[InjectionConfig, ...] = ()

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:  # noqa: ARG002 - there is one only
        """See `ClusterView`."""
        return self.labels

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:  # noqa: ARG002 - there is one only
        """See `ClusterView`."""
        return self.own

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """See `ClusterView`."""
        return self.shared


class LiveReader:
    """Reads what one decision needs; blocking, thread-safe.

    Args:
        client: to the API server.
        parse: reads a config's object, whose ``kind`` is set.
        shared: False: ClusterStorageConfigs are not asked for.
    """

    def __init__(
        self,
        client: KubeClient,
        parse: Callable[[JsonObject], InjectionConfig],
        *,
        shared: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._parse = parse
        self._shared = shared
        self._monotonic = monotonic

    def __call__(self, namespace: str, config_name: str) -> LiveView:
        """Read a namespace and the configs that a pod in it may get.

        Args:
            namespace: its name, unchecked.
            config_name: what the pod names by label; "" for none.

        Raises:
            KubeTimeoutError: it took longer than `READ_SECONDS`.
            KubeApiError: any other of the tree.
        """
        end = self._monotonic() + READ_SECONDS
        # Whoever reaches the port may write anything here; it becomes part of a path.
        found = self._get(NAMESPACES, namespace, None, end) if _NAME.fullmatch(namespace) else None
        if found is None:
            return LiveView(None)
        labels = labels_of(found)
        name = config_name or labels.get(CONFIG_LABEL, "")
        if name:
            own = self._named(STORAGE_CONFIGS, name, namespace, end)
            if own or not self._shared:
                return LiveView(labels, own)
            return LiveView(labels, own, self._named(CLUSTER_STORAGE_CONFIGS, name, None, end))
        own = self._all(STORAGE_CONFIGS, namespace, end)
        if not self._shared or any(not config.deleting for config in own):
            return LiveView(labels, own)
        return LiveView(labels, own, self._all(CLUSTER_STORAGE_CONFIGS, None, end))

    def _named(
        self, resource: Resource, name: str, namespace: str | None, end: float
    ) -> tuple[InjectionConfig, ...]:
        obj = self._get(resource, name, namespace, end) if _NAME.fullmatch(name) else None
        return () if obj is None else (self._parse(obj),)

    def _get(self, resource: Resource, name: str, namespace: str | None, end: float) -> JsonObject | None:
        try:
            return self._client.get(resource, name, namespace, timeout_seconds=self._left(end))
        except KubeNotFoundError:
            return None

    def _all(self, resource: Resource, namespace: str | None, end: float) -> tuple[InjectionConfig, ...]:
        configs: list[InjectionConfig] = []
        token = ""
        while True:
            page = self._client.list_page(
                resource,
                namespace,
                limit=PAGE_SIZE,
                continue_token=token,
                timeout_seconds=self._left(end),
            )
            configs.extend(
                self._parse({**item, "kind": resource.kind, "apiVersion": resource.api_version})
                for item in page.items
            )
            token = page.continue_token
            if not token:
                return tuple(configs)

    def _left(self, end: float) -> float:
        left = end - self._monotonic()
        if left <= 0:
            raise KubeTimeoutError("the live read for a review took too long")
        return left


class Fallback:
    """Shares reads between the reviews of one event loop.

    Args:
        read: blocking; see `LiveReader`.
        metrics: counts how reads ended.
    """

    def __init__(self, read: Callable[[str, str], LiveView], metrics: WebhookMetrics) -> None:
        self._read = read
        self._executor = ThreadPoolExecutor(MAX_READS, thread_name_prefix="live-read")
        self._places = asyncio.Semaphore(MAX_READS)
        self._pending: dict[_Key, asyncio.Task[LiveView | None]] = {}
        self._reading: dict[_Key, asyncio.Task[LiveView | None]] = {}
        self._count = {word: metrics.fallback_reads.labels(word.value).inc for word in FallbackOutcome}

    async def look(self, namespace: str, config_name: str, deadline: float) -> LiveView | None:
        """Look at a namespace; None when that failed or did not end by the deadline (loop time)."""
        key = (namespace, config_name)
        task = self._pending.get(key)
        if task is None:
            if len(self._pending) >= MAX_PENDING:
                self._count[FallbackOutcome.TIMEOUT]()
                return None
            task = self._pending[key] = asyncio.create_task(self._run(key, self._reading.get(key)))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(task)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Take no more reads; those under way end by their own deadline."""
        for task in (*self._pending.values(), *self._reading.values()):
            task.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, key: _Key, before: asyncio.Task[LiveView | None] | None) -> LiveView | None:
        if before is not None:
            await asyncio.wait([before])
        async with self._places:
            # From here on nobody may join: what is read now may be older than their review.
            this = self._reading[key] = self._pending.pop(key)
            try:
                view = await asyncio.get_running_loop().run_in_executor(self._executor, self._read, *key)
            except KubeTimeoutError:
                self._count[FallbackOutcome.TIMEOUT]()
                return None
            except KubeApiError as error:
                logger.warning("a live read failed: %s", error)
                self._count[FallbackOutcome.FAILED]()
                return None
            except Exception:
                logger.exception("a live read failed")
                self._count[FallbackOutcome.FAILED]()
                return None
            finally:
                if self._reading.get(key) is this:
                    del self._reading[key]
        self._count[FallbackOutcome.ABSENT if view.labels is None else FallbackOutcome.FOUND]()
        return view
