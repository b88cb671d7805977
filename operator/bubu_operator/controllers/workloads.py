"""Hears of changes of workloads, of which a cluster has thousands and only few concern us.

Kopf keeps a queue, a memory and the last event of every object that it watches: 70 MiB for 2,000
Deployments that nobody labelled, measured. So these kinds have an informer each, which
forgets what does not concern us as soon as it has read it. A label selector would be cheaper still,
but who takes the label away must be heard, too, and selectors cannot ask for annotations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bubu_operator.controllers.feed import WORKLOADS, slim_workload
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.informer import Change, Informer
from bubu_operator.kube.resources import JsonObject, ObjectKey, Resource

__all__ = ["WorkloadWatcher"]

Sink: TypeAlias = Callable[[Resource, "str | None", JsonObject], None]


class WorkloadWatcher:
    """Informers of all kinds of workloads, in all namespaces or in some."""

    def __init__(self, client: KubeClient, namespaces: Sequence[str], sink: Sink) -> None:
        self._sink = sink
        self._informers = [
            self._informer(client, resource, namespace)
            for resource in WORKLOADS
            for namespace in (namespaces or (None,))
        ]

    def start(self) -> None:
        """Begin to list and watch; returns at once."""
        for informer in self._informers:
            informer.start()

    def stop(self) -> None:
        """Ask the informers to end; returns at once."""
        for informer in self._informers:
            informer.stop(0.0)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for them; threads that wait for an answer end with the process, and can do no harm."""
        deadline = time.monotonic() + timeout_seconds
        for informer in self._informers:
            informer.stop(max(0.0, deadline - time.monotonic()))
        return True

    def _informer(
        self, client: KubeClient, resource: Resource, namespace: str | None
    ) -> Informer[JsonObject | None]:
        def tell(change: Change, key: ObjectKey) -> None:
            slim = None if change is Change.DELETED else informer.get(key)
            if slim is None:
                gone: JsonObject = {"metadata": {"namespace": key.namespace, "name": key.name}}
                self._sink(resource, "DELETED", gone)
            else:
                self._sink(resource, None, slim)

        informer = Informer[JsonObject | None](
            client, resource, slim_workload, namespace=namespace, on_change=tell
        )
        return informer
