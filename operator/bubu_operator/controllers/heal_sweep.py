"""One sweep over the pods: page by page, metadata alone, judged and counted at once.

No more than one page of pods is in memory. A pod without a record is read whole once for
each pod template that made it; the answers are remembered over sweeps, a bounded number of
them. A sweep is whole or it is nothing: an error, an expired list or a stop never leaves
counts that look like "no drift".
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from typing import Final

from bubu_operator.controllers.context import Context
from bubu_operator.controllers.heal_tally import Tally
from bubu_operator.controllers.heal_view import ClusterView, read_view
from bubu_operator.errors import KubeGoneError, KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.drift import (
    DriftState,
    PodJudgement,
    judge_pod,
    lacks_injection,
)
from bubu_operator.injection.names import RESTARTED_ANNOTATION
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.kube.owners import owner_of_pod
from bubu_operator.kube.resources import (
    DAEMON_SETS,
    JOBS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    JsonObject,
    metadata_of,
)
from bubu_operator.webhook.mutate import MAX_POD_BYTES

__all__ = ["ALIVE", "SweepStoppedError", "Sweeper"]

logger = logging.getLogger(__name__)

ALIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"
PAGE_SIZE: Final = 500
PAGE_PAUSE_SECONDS: Final = 0.05
"""Between two pages: the API server has other things to do than to list pods for us."""

LIST_TIMEOUT_SECONDS: Final = 30.0
MAX_ATTEMPTS: Final = 3
"""How often a sweep begins anew because its list expired between two pages."""

MAX_LOOKS: Final = 500
"""Pods that one sweep reads whole; the rest is looked at by the next ones."""

LOOK_PAUSE_SECONDS: Final = 0.01
MAX_REMEMBERED: Final = 8192

REVISION_LABEL: Final = "controller-revision-hash"
"""Kubernetes' label that tells a StatefulSet's or DaemonSet's pods from those of its earlier template."""


class SweepStoppedError(Exception):
    """The process is ending; what was counted is not whole."""


class Sweeper:
    """Sweeps; keeps what it learnt about pods without a record between sweeps."""

    def __init__(
        self,
        context: Context,
        stopping: threading.Event,
        *,
        page_size: int = PAGE_SIZE,
        page_pause_seconds: float = PAGE_PAUSE_SECONDS,
        max_looks: int = MAX_LOOKS,
    ) -> None:
        self._context = context
        self._stopping = stopping
        self._page_size = page_size
        self._page_pause_seconds = page_pause_seconds
        self._max_looks = max_looks
        self._looks_left = 0
        self._lacking: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._left_out = context.options.left_out

    def sweep(self) -> tuple[ClusterView, Tally]:
        """See every pod once.

        Raises:
            KubeForbiddenError: pods, namespaces or configs may not be read.
            KubeApiError: a list could not be read whole.
            SweepStoppedError: stopped in the middle.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._once()
            except KubeGoneError as error:
                if attempt == MAX_ATTEMPTS:
                    raise
                logger.info("the list of pods expired between two pages, beginning anew: %s", error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self) -> tuple[ClusterView, Tally]:
        view = read_view(self._context.client, self._context.options.namespaces)
        tally = Tally()
        self._looks_left = self._max_looks
        for namespace in self._context.options.namespaces or (None,):
            token = ""
            while True:
                self._check()
                page = self._context.client.list_page(
                    PODS,
                    namespace,
                    field_selector=ALIVE,
                    limit=self._page_size,
                    continue_token=token,
                    metadata_only=True,
                    timeout_seconds=LIST_TIMEOUT_SECONDS,
                )
                for pod in page.items:
                    self._count(metadata_of(pod), view, tally)
                token = page.continue_token
                if not token:
                    break
                self._stopping.wait(self._page_pause_seconds)
        return view, tally

    def _check(self) -> None:
        if self._stopping.is_set():
            raise SweepStoppedError

    def _count(self, metadata: JsonObject, view: ClusterView, tally: Tally) -> None:
        tally.pods += 1
        judged = self._judge(metadata, view)
        if judged is None:
            return
        if judged.carries is not None and judged.carries in view.standing:
            tally.of(judged.carries).carried += 1
        if judged.selection is not None and view.shared_known:
            tally.no_config(owner_of_pod(metadata), judged.selection)
        config = judged.config
        if config is None:
            return
        name = config.config_name
        match judged.state:
            case DriftState.CURRENT:
                counts = tally.of(name)
                counts.current += 1
                # Times of the API are all of one form: they sort as texts.
                created = str(metadata.get("creationTimestamp") or "")
                counts.newest_current = max(counts.newest_current, created)
                _came_from(metadata, tally, well=True)
            case DriftState.STALE:
                tally.drifting(name, owner_of_pod(metadata), missing=False)
                _came_from(metadata, tally, well=False)
            case DriftState.NO_RECORD:
                lacks = self._lacks(metadata, config)
                if lacks is None:
                    tally.of(name).unchecked += 1
                elif lacks:
                    tally.drifting(name, owner_of_pod(metadata), missing=True)
                if lacks is not False:
                    _came_from(metadata, tally, well=False)
            case _:
                pass

    def _judge(self, metadata: JsonObject, view: ClusterView) -> PodJudgement | None:
        namespace = str(metadata.get("namespace") or "")
        if namespace in self._left_out:
            return None
        labels = view.labels(namespace)
        if labels is None:
            return None
        return judge_pod(
            metadata,
            labels,
            lambda: view.configs(namespace),
            lambda: view.shared,
            left_out=self._left_out,
        )

    def _lacks(self, metadata: JsonObject, config: InjectionConfig) -> bool | None:
        """Whether a pod without a record should have one; None when it could not be looked at now."""
        key = _template_of(metadata), "" if config.plan is None else config.plan.hash
        known = self._lacking.get(key)
        if known is not None:
            self._lacking.move_to_end(key)
            return known
        if self._looks_left <= 0:
            return None
        self._check()
        self._looks_left -= 1
        try:
            pod = self._context.client.get(PODS, str(metadata.get("name")), str(metadata.get("namespace")))
        except KubeNotFoundError:
            return False
        self._stopping.wait(LOOK_PAUSE_SECONDS)
        if metadata_of(pod).get("uid") != metadata.get("uid"):
            return False
        lacks = self._lacking[key] = lacks_injection(pod, config) and not _too_large(pod)
        while len(self._lacking) > MAX_REMEMBERED:
            self._lacking.popitem(last=False)
        return lacks


def _came_from(metadata: JsonObject, tally: Tally, *, well: bool) -> None:
    """Note what became of a restart: its pods have its words from the template."""
    restart = texts_of(metadata, "annotations").get(RESTARTED_ANNOTATION)
    if restart:
        tally.came_from((str(metadata.get("namespace") or ""), restart), well=well)


def _template_of(metadata: JsonObject) -> str:
    """Name what a pod was made from, where all pods of it are alike; else the pod itself.

    Controllers of other kinds may make pods of many sorts.
    """
    owner = owner_of_pod(metadata)
    if owner.resource in (REPLICA_SETS, JOBS):
        return owner.uid
    revision = texts_of(metadata, "labels").get(REVISION_LABEL)
    if owner.resource in (STATEFUL_SETS, DAEMON_SETS) and revision:
        return f"{owner.uid}/{revision}"
    return str(metadata.get("uid") or "")


def _too_large(pod: JsonObject) -> bool:
    """Whether the webhook leaves such a pod alone because it would not fit into the store any more."""
    metadata = {key: value for key, value in child(pod, "metadata").items() if key != "managedFields"}
    size = len(json.dumps({**pod, "metadata": metadata, "status": {}}, separators=(",", ":")))
    return size > MAX_POD_BYTES
