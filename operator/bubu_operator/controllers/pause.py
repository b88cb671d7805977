"""The kill switch of retention: one annotation on the operator's namespace stops every pass.

``kubectl annotate namespace NAMESPACE storage.bubustack.io/pause-retention=true`` and every pass
under way is asked to end, no other one starts, and each policy says so. It is read every second, with the
one right to read that namespace; ``--pause-retention`` is the same for the life of a process.

Invariants: any value but ``false`` pauses, so a typing error is on the safe side; before the
annotation has been read once no pass starts; while the API server does not answer what was read last
holds. A controller that may not read its namespace runs no pass, and says which right is missing: a
switch that does nothing is found out about when it is needed. ``--no-pause-annotation`` says that none
is wanted. A namespace that does not exist counts likewise, except without leader election, as on a
laptop: who elects has a Lease there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Self

from bubu_operator.api.v1alpha1.conditions import Reason
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
        self._what = why, Reason.PASSES_PAUSED
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
        return self._what[0]

    @property
    def reason(self) -> Reason:
        """What to call it: somebody wants it so, or nobody can tell."""
        return self._what[1]

    def set(self, why: str, reason: Reason = Reason.PASSES_PAUSED) -> bool:
        """Note what was read; tell whether it is news."""
        news = not self.known or (why, reason) != self._what
        self._what, self.known = (why, reason), True
        return news


class PauseWatch:
    """Reads the annotation until it is stopped; a `Service`.

    Args:
        client: of the process, behind its fence.
        namespace: the operator's.
        state: is written.
        metrics: of retention.
        always: ``--pause-retention``: paused whatever the annotation says.
        wanted: False: ``--no-pause-annotation``: nothing is read.
        needs_namespace: a namespace that does not exist is a mistake.
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
        wanted: bool = True,
        needs_namespace: bool = True,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._state = state
        self._metrics = metrics
        self._always = always
        self._wanted = wanted
        self._needs_namespace = needs_namespace
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
            try:
                self.look()
            except Exception as error:
                # The switch outlives every bug of a single look: nobody would see that it does nothing.
                self._metrics.pause_unreadable.set(1)
                if repr(error) != self._told:
                    self._told = repr(error)
                    logger.exception("looking whether passes are paused failed; what was read last holds")
            self._stop.wait(POLL_SECONDS)

    def look(self) -> None:
        """Read the annotation once and note what it says."""
        found = self._read()
        if found is None or not self._state.set(*found):
            return
        why, _ = found
        self._metrics.paused.set(1 if why else 0)
        logger.log(
            logging.WARNING if why else logging.INFO,
            "retention is paused: %s" if why else "retention is not paused%s",
            why,
        )
        self._changed()

    def _read(self) -> tuple[str, Reason] | None:
        """Return why passes are paused, "" if they are not, None if what was read last holds."""
        if self._always:
            return "the controller was started with --pause-retention", Reason.PASSES_PAUSED
        if not self._wanted:
            return "", Reason.PASSES_PAUSED
        try:
            found = self._client.get(
                NAMESPACES, self._namespace, metadata_only=True, timeout_seconds=READ_SECONDS
            )
        except KubeForbiddenError as error:
            return self._blind(
                f"the annotation {PAUSE_ANNOTATION} on the operator's namespace may not be read: {error}. "
                f"Grant it the verb get on namespaces, resourceName {self._namespace}, by a Role there"
            )
        except KubeNotFoundError:
            missing = (
                f"the operator's namespace {self._namespace}, whose annotation {PAUSE_ANNOTATION} pauses "
                "passes, does not exist"
            )
            if not self._needs_namespace:
                self._unreadable(f"passes cannot be paused by an annotation: {missing}")
                return "", Reason.PASSES_PAUSED
            return self._blind(f"{missing}. Create it, or correct --operator-namespace")
        except OperatorError as error:
            self._unreadable(f"whether passes are paused could not be read: {error}")
            return None
        self._metrics.pause_unreadable.set(0)
        self._told = ""
        value = section(metadata_of(found), "annotations").get(PAUSE_ANNOTATION)
        if value is None or str(value) == "false":
            return "", Reason.PASSES_PAUSED
        return (
            f"namespace {self._namespace} has the annotation {PAUSE_ANNOTATION}; remove it to go on",
            Reason.PASSES_PAUSED,
        )

    def _blind(self, problem: str) -> tuple[str, Reason]:
        self._metrics.pause_unreadable.set(1)
        return f"{problem}; or start the controller with --no-pause-annotation", Reason.PAUSE_UNKNOWN

    def _unreadable(self, problem: str) -> None:
        self._metrics.pause_unreadable.set(1)
        if problem != self._told:
            self._told = problem
            logger.warning("%s", problem)
