"""The kill switch of retention: one annotation on the operator's namespace stops every pass.

``kubectl annotate namespace NAMESPACE storage.bubustack.io/pause-retention=true`` and every pass
under way is asked to end, no other one starts, and each policy says so. It is read every second, with the
one right to read that namespace; ``--pause-retention`` is the same for the life of a process.

Invariants: any value but ``false`` pauses, so a typing error is on the safe side; before the
annotation has been read once no pass starts; while it cannot be read what was read last holds. A
controller without the right to read its namespace says so in its log and in a metric, and works
without this switch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Self

from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError, OperatorError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import NAMESPACES, metadata_of, section
from bubu_operator.observability.retention_metrics import RetentionMetrics

__all__ = ["PAUSE_ANNOTATION", "PauseState", "PauseWatch"]

logger = logging.getLogger(__name__)

PAUSE_ANNOTATION: Final = "storage.bubustack.io/pause-retention"
POLL_SECONDS: Final = 1.0
READ_SECONDS: Final = 3.0
NOT_READ_YET: Final = "whether passes are paused has not been read yet"


class PauseState:
    """Whether passes may run; thread-safe.

    Attributes:
        known: False before anything was read: no pass starts, and nothing is reported.
    """

    def __init__(self, why: str, *, known: bool) -> None:
        self._why = why
        self.known = known

    @classmethod
    def released(cls) -> Self:
        """Return the state of a process that nobody pauses."""
        return cls("", known=True)

    @classmethod
    def unread(cls) -> Self:
        """Return the state before the annotation has been read."""
        return cls(NOT_READ_YET, known=False)

    @property
    def why(self) -> str:
        """Why no pass may run now; "" when they may."""
        return self._why

    def set(self, why: str) -> bool:
        """Note what was read; tell whether it is news."""
        news = not self.known or why != self._why
        self._why, self.known = why, True
        return news


class PauseWatch:
    """Reads the annotation until it is stopped; a `Service`.

    Args:
        client: of the process, behind its fence.
        namespace: the operator's.
        state: is written.
        metrics: of retention.
        always: ``--pause-retention``: paused whatever the annotation says.
        changed: called after a change, from this thread.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        state: PauseState,
        metrics: RetentionMetrics,
        *,
        always: bool,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._state = state
        self._metrics = metrics
        self._always = always
        self._changed = changed
        self._told = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pause", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for its thread; tell whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(POLL_SECONDS)

    def look(self) -> None:
        """Read the annotation once and note what it says."""
        why = self._read()
        if why is None or not self._state.set(why):
            return
        self._metrics.paused.set(1 if why else 0)
        logger.log(
            logging.WARNING if why else logging.INFO,
            "retention is paused: %s" if why else "retention is not paused%s",
            why,
        )
        self._changed()

    def _read(self) -> str | None:
        """Return why passes are paused, "" if they are not, None if what was read last holds."""
        if self._always:
            return "the controller was started with --pause-retention"
        try:
            found = self._client.get(
                NAMESPACES, self._namespace, metadata_only=True, timeout_seconds=READ_SECONDS
            )
        except (KubeForbiddenError, KubeNotFoundError) as error:
            self._unreadable(f"passes cannot be paused by an annotation: {error}")
            return None if self._state.known else ""
        except OperatorError as error:
            self._unreadable(f"whether passes are paused could not be read: {error}")
            return None
        self._metrics.pause_unreadable.set(0)
        self._told = ""
        value = section(metadata_of(found), "annotations").get(PAUSE_ANNOTATION)
        if value is None or str(value) == "false":
            return ""
        return f"namespace {self._namespace} has the annotation {PAUSE_ANNOTATION}; remove it to go on"

    def _unreadable(self, problem: str) -> None:
        self._metrics.pause_unreadable.set(1)
        if problem != self._told:
            self._told = problem
            logger.warning("%s", problem)
