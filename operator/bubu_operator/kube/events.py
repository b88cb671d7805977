"""Kubernetes events, for transitions only: bounded, scrubbed, never in the way.

The caller decides what a transition is; this module makes sure that the same event of
the same object is not repeated within a while, that no text is longer than the API takes,
and that a failure to post is a log line and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import EVENTS, JsonObject, Resource, key_of
from bubu_operator.kube.scrub import Redactor, credential_scope, shorten

__all__ = ["EventRecorder", "EventType"]

logger = logging.getLogger(__name__)

MAX_NOTE_CHARACTERS: Final = 1000
"""The API refuses notes of 1 kB and more, counted in bytes; see `_fit`."""

MAX_NOTE_BYTES: Final = 1000
MAX_NAME_CHARACTERS: Final = 200
REPEAT_SECONDS: Final = 600.0
MAX_REMEMBERED: Final = 2048
CLUSTER_EVENTS_NAMESPACE: Final = "default"


class EventType(StrEnum):
    """The two types the API knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


class EventRecorder:
    """Posts events about objects; thread-safe."""

    def __init__(
        self,
        client: KubeClient,
        redactor: Redactor,
        *,
        controller: str,
        instance: str,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._redactor = redactor
        self._controller = controller
        self._instance = instance[:128]
        self._monotonic = monotonic
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def emit(
        self,
        resource: Resource,
        obj: JsonObject,
        *,
        type_: EventType,
        reason: str,
        note: str,
        action: str,
    ) -> bool:
        """Post an event about ``obj`` unless the same one was posted within ten minutes.

        Returns:
            Whether it was posted; failures are logged, never raised.
        """
        metadata: JsonObject = obj.get("metadata") or {}
        key = key_of(obj)
        own = self._redactor.of(credential_scope(resource.kind, key.namespace, key.name))
        note = _fit(own.scrub(note))
        identity = (str(metadata.get("uid") or key), reason, note)
        if not self._first_time(identity):
            return False
        namespace = key.namespace or CLUSTER_EVENTS_NAMESPACE
        body: JsonObject = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "name": f"{key.name[:MAX_NAME_CHARACTERS]}.{uuid.uuid4().hex[:16]}",
                "namespace": namespace,
            },
            "eventTime": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "type": type_.value,
            "note": note,
            "regarding": {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "name": key.name,
                "namespace": key.namespace,
                "uid": str(metadata.get("uid") or ""),
                "resourceVersion": str(metadata.get("resourceVersion") or ""),
            },
        }
        try:
            self._client.create(EVENTS, body, namespace)
        except KubeApiError as error:
            # Most often the namespace is being deleted; an event is not worth a retry.
            logger.info("event %s for %s %s was not posted: %s", reason, resource.kind, key, error)
            return False
        return True

    def _first_time(self, identity: tuple[str, str, str]) -> bool:
        now = self._monotonic()
        with self._lock:
            posted = self._recent.get(identity)
            if posted is not None and now - posted < REPEAT_SECONDS:
                return False
            self._recent[identity] = now
            self._recent.move_to_end(identity)
            while len(self._recent) > MAX_REMEMBERED:
                self._recent.popitem(last=False)
        return True


def _fit(note: str) -> str:
    line = shorten(note, MAX_NOTE_CHARACTERS)
    data = line.encode("utf-8", errors="replace")
    if len(data) <= MAX_NOTE_BYTES:
        return line
    return data[: MAX_NOTE_BYTES - 3].decode("utf-8", errors="ignore") + "…"
