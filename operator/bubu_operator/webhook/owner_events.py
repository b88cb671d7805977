"""Events on the owners of pods that asked for storage and got none.

A warning reaches whoever creates a pod; for nearly every pod that is a controller, which
throws it away. The event is where people look: on the ReplicaSet, Job or StatefulSet that the
pod's controller reference names. It is built from the reference alone: nothing is read.
A pod without such an owner gets no event: it has no uid yet, so ``kubectl describe`` would not
find one, and its creator is the one who sees the warning.

Invariants: offering never blocks and never raises; the queue is bounded, and what does not fit
is counted and dropped; the same event of the same owner is offered once in ten minutes; dry runs
leave nothing.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import JsonObject, Resource, metadata_of
from bubu_operator.observability.webhook_metrics import EventOutcome, WebhookMetrics
from bubu_operator.webhook.mutate import Verdict
from bubu_operator.webhook.review import ReviewRequest

__all__ = ["Emitter", "OwnerEvents", "OwnerReference", "controller_of"]

logger = logging.getLogger(__name__)

QUEUE_LENGTH: Final = 256
REPEAT_SECONDS: Final = 600.0
MAX_REMEMBERED: Final = 4096
MAX_REFERENCE_CHARACTERS: Final = 253
MAX_NOTE_CHARACTERS: Final = 1024
"""As long as an event's note may be. A label of a pod that is not validated yet may be longer than a MiB."""

ACTION: Final = "Inject"


class Emitter(Protocol):
    """What posts an event; see `EventRecorder`."""

    def emit(
        self, resource: Resource, obj: JsonObject, *, type_: EventType, reason: str, note: str, action: str
    ) -> bool:
        """Post one; tell whether it was."""
        ...


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """The controller that a pod names as its owner."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class _Note:
    owner: OwnerReference
    namespace: str
    reason: str
    text: str


def controller_of(pod: object) -> OwnerReference | None:
    """The reference with ``controller: true``; None without a usable one. For unchecked pods."""
    references: Any = (
        metadata_of(cast("JsonObject", pod)).get("ownerReferences") if isinstance(pod, dict) else None
    )
    for item in cast("list[object]", references) if isinstance(references, list) else ():
        if not isinstance(item, dict):
            continue
        reference = cast("JsonObject", item)
        if reference.get("controller") is not True:
            continue
        texts: list[Any] = [reference.get(key) for key in ("apiVersion", "kind", "name", "uid")]
        if all(isinstance(text, str) and 0 < len(text) <= MAX_REFERENCE_CHARACTERS for text in texts):
            return OwnerReference(*texts)
    return None


class OwnerEvents:
    """The queue and the one thread behind it; `offer` is called from the event loop only."""

    def __init__(
        self, emitter: Emitter, metrics: WebhookMetrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._emitter = emitter
        self._monotonic = monotonic
        self._count = {word: metrics.events.labels(word.value).inc for word in EventOutcome}
        self._queue: queue.Queue[_Note | None] = queue.Queue(QUEUE_LENGTH)
        self._recent: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owner-events", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Post no more; an event that is just being posted may be lost."""
        self._stopping.set()
        # A full queue needs no wake-up: the thread looks at the flag after each event.
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout_seconds)

    def offer(self, request: ReviewRequest, verdict: Verdict) -> None:
        """Queue an event for a pod that goes without, if it has an owner and this is no dry run."""
        if request.dry_run or not verdict.wanted or not verdict.unserved:
            return
        owner = controller_of(request.pod)
        if owner is None or not request.namespace:
            return
        now = self._monotonic()
        identity = (owner.uid, verdict.reason)
        offered = self._recent.get(identity)
        if offered is not None and now - offered < REPEAT_SECONDS:
            self._count[EventOutcome.REPEATED]()
            return
        # The last warning is why it goes without; those before may quote the pod, whoever sent it.
        text = verdict.warnings[-1] if verdict.warnings else f"no storage was injected: {verdict.reason}"
        try:
            self._queue.put_nowait(
                _Note(owner, request.namespace, str(verdict.reason), text[:MAX_NOTE_CHARACTERS])
            )
        except queue.Full:
            self._count[EventOutcome.DROPPED]()
            return
        self._recent[identity] = now
        self._recent.move_to_end(identity)
        while len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)

    def _run(self) -> None:
        while not self._stopping.is_set():
            note = self._queue.get()
            if note is not None:
                self._post(note)

    def _post(self, note: _Note) -> None:
        group, _, version = note.owner.api_version.rpartition("/")
        resource = Resource(group, version, plural="", kind=note.owner.kind)
        owner = {"metadata": {"namespace": note.namespace, "name": note.owner.name, "uid": note.owner.uid}}
        try:
            posted = self._emitter.emit(
                resource, owner, type_=EventType.WARNING, reason=note.reason, note=note.text, action=ACTION
            )
        except Exception:
            logger.exception("an event could not be posted")
            posted = False
        self._count[EventOutcome.POSTED if posted else EventOutcome.FAILED]()
