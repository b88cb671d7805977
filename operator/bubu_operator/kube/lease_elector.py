"""Takes part in the election: a thread that waits for the Lease, takes it, renews it, gives it back.

Every write is conditional on the version that was read, so that of several at once one
wins. What `bubu_operator.kube.lease` decides is done here, and the fence is opened for as
long as a renewal is good for, counted from before it was sent.

Invariants: leadership that was lost once is never taken up again by the same elector; a
holder whose time has passed (stopped, asleep, cut off) writes nothing, not even a renewal;
the Lease is given back only by `release`, after its owner has stopped acting.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeNotFoundError,
)
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.lease import (
    LeaseRecord,
    LeaseTimes,
    Observation,
    Step,
    decide,
    held_record,
    lease_record,
    lease_spec,
    observe,
    released_record,
)
from bubu_operator.kube.lease_fence import LeadershipFence, boot_seconds
from bubu_operator.kube.resources import LEASES, JsonObject, section
from bubu_operator.kube.watch import WatchStream

__all__ = ["LeaseElector"]

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""How long one that waits gives the API server to answer."""

HURRY_SECONDS: Final = 0.5
"""Pause of a holder whose renewal failed, and of anybody after a conflict."""

WATCH_SECONDS: Final = 60.0
HUNG_SECONDS: Final = 20.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LeaseElector:
    """One candidate for one Lease.

    Args:
        client: without a guard, and used by nobody else.
        namespace, name: of the Lease.
        identity: of this process; nobody else ever has the same.
        fence: opened and closed here.
        times: see there.
        wall_clock: written into the Lease for people to read, otherwise unused.
        clock: of the fence, see `boot_seconds`.
        rng: spreads the looks of several that wait.

    Attributes:
        acquired: set once this process leads; stays set.
        lost: set once it does not any more; stays set.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        fence: LeadershipFence,
        times: LeaseTimes | None = None,
        wall_clock: Callable[[], datetime] = _utc_now,
        clock: Callable[[], float] = boot_seconds,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._fence = fence
        self._times = times or LeaseTimes()
        self._wall_clock = wall_clock
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads requests, protects nothing
        self.acquired = threading.Event()
        self.lost = threading.Event()
        self._stopping = threading.Event()
        self._bell = threading.Event()
        self._lease: JsonObject | None = None
        self._observation: Observation | None = None
        self._told_problem: str = ""
        self._told_holder: str = ""
        self._problem: str = "the Lease has not been read yet"
        self._why_lost = ""
        self._heartbeat = clock()
        self._stream: WatchStream | None = None
        self._threads = [
            threading.Thread(target=self._run, name="elector", daemon=True),
            threading.Thread(target=self._listen, name="elector-watch", daemon=True),
        ]

    # -- for its owner -------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why this process cannot take part at the moment; "" when it can."""
        return self._problem

    @property
    def why_lost(self) -> str:
        """A sentence for the log once `lost` is set."""
        return self._why_lost or self._not_renewed()

    @property
    def stuck(self) -> str:
        """Why the process should be restarted: nothing has moved here for too long; "" if all is well."""
        silent_seconds = self._clock() - self._heartbeat
        runs = self._threads[0].ident is not None and not (self._stopping.is_set() or self.lost.is_set())
        if not runs or silent_seconds < HUNG_SECONDS:
            return ""
        return f"the election has not moved for {silent_seconds:.0f} s"

    def start(self) -> None:
        """Begin to wait for the Lease."""
        self._heartbeat = self._clock()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no further step; what is held is kept until `release` or until it runs out."""
        self._stopping.set()
        self._bell.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def join(self, timeout_seconds: float) -> None:
        """Wait for the threads."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_seconds)

    def release(self) -> bool:
        """Close the fence and let the next one take over at once; tell whether it was told.

        To be called when nothing acts any more, and after `stop` and `join`.
        """
        leads = self.acquired.is_set() and not self.lost.is_set() and self._fence.is_open
        self._fence.revoke()
        if not leads:
            return False
        try:
            for _ in range(2):
                with contextlib.suppress(KubeConflictError):
                    return self._write_release()
                self._read(self._times.retry_seconds)
        except KubeApiError as error:
            logger.warning("the Lease was not given back, the next controller has to wait: %s", error)
        return False

    def _write_release(self) -> bool:
        record = self._observation.record if self._observation is not None else None
        if record is None or record.holder != self._identity:
            return False
        self._put(released_record(record, self._wall_clock()), self._times.retry_seconds)
        logger.info("gave the Lease %s back", self._where)
        return True

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set() and not self.lost.is_set():
            self._heartbeat = self._clock()
            self._bell.clear()
            try:
                pause_seconds = self.step()
            except Exception:  # a bug here must not leave a leader behind that nobody watches over
                logger.exception("the election failed")
                self._lose("the election failed by a fault of its own")
                return
            self._bell.wait(pause_seconds)

    def step(self) -> float:
        """Do what is to be done now; return after how many seconds to be called again."""
        if self.acquired.is_set() and not self._fence.is_open:
            self._lose(self._not_renewed())
            return 0.0
        try:
            pause_seconds = self._renew() if self.acquired.is_set() else self._contend()
        except KubeConflictError:
            # Somebody was faster, or has edited the Lease; the next look says which.
            self._lease = None
            return 0.0 if self.acquired.is_set() else self._rng.uniform(0.1, 1.0) * HURRY_SECONDS
        except KubeApiError as error:
            self._complain(error)
            self._lease = None
            return HURRY_SECONDS if self.acquired.is_set() else self._pause()
        self._problem = ""
        self._told_problem = ""
        return pause_seconds

    def _contend(self) -> float:
        self._read(LOOK_SECONDS)
        observation = self._observation
        if observation is None:  # `_read` has just set it
            return 0.0
        decision = decide(observation, self._identity, self._times, self._clock())
        if decision.step is Step.WAIT:
            holder = observation.record.holder if observation.record is not None else ""
            if holder and self._told_holder != holder:
                logger.info("standing by: the Lease %s is held by %s", self._where, holder)
                self._told_holder = holder
            return min(self._pause(), decision.wait_seconds)
        sent_at = self._clock()
        record = held_record(observation.record, self._identity, self._times, self._wall_clock())
        self._put(record, LOOK_SECONDS)
        self._fence.extend(sent_at + self._times.renew_deadline_seconds)
        before = observation.record
        logger.info(
            "acquired the Lease %s as %s (%s)",
            self._where,
            self._identity,
            "new"
            if before is None
            else "given back"
            if not before.holder
            else f"not renewed by {before.holder}",
        )
        self.acquired.set()
        return self._pause()

    def _renew(self) -> float:
        allowed_seconds = min(self._times.renew_deadline_seconds / 3, self._fence.remaining_seconds)
        sent_at = self._clock()
        if self._lease is None:
            self._read(allowed_seconds)
        record = self._observation.record if self._observation is not None else None
        if record is None or record.holder != self._identity:
            holder = record.holder if record is not None else ""
            self._lose(
                f"the Lease {self._where} is held by {holder}"
                if holder
                else f"the Lease {self._where} was taken from us: it is gone or names nobody"
            )
            return 0.0
        self._put(
            held_record(record, self._identity, self._times, self._wall_clock()), max(allowed_seconds, 0.1)
        )
        self._fence.extend(sent_at + self._times.renew_deadline_seconds)
        return self._pause()

    def _not_renewed(self) -> str:
        text = f"the Lease {self._where} was not renewed for {self._times.renew_deadline_seconds:g} s"
        return f"{text}; the last failure: {self._problem}" if self._problem else text

    def _lose(self, why: str) -> None:
        self._fence.revoke()
        self._why_lost = why
        self.lost.set()

    def _pause(self) -> float:
        return self._times.retry_seconds * self._rng.uniform(0.75, 1.0)

    # -- the Lease -----------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    def _read(self, timeout_seconds: float) -> None:
        try:
            lease = self._client.get(LEASES, self._name, self._namespace, timeout_seconds=timeout_seconds)
        except KubeNotFoundError:
            lease = None
        self._note(lease)

    def _note(self, lease: JsonObject | None) -> None:
        # The clock is read after the answer: an observer must not count time before the change.
        record = lease_record(lease) if lease is not None else None
        self._lease = lease
        self._observation = observe(self._observation, record, self._clock())

    def _put(self, record: LeaseRecord, timeout_seconds: float) -> None:
        spec = lease_spec(record)
        lease = self._lease
        if lease is None:
            body: JsonObject = {
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": spec,
            }
            answer = self._client.create(LEASES, body, self._namespace, timeout_seconds=timeout_seconds)
        else:
            # Fields and labels that others have added stay.
            body = {**lease, "spec": {**section(lease, "spec"), **spec}}
            answer = self._client.replace(LEASES, body, timeout_seconds=timeout_seconds)
        self._note(answer)

    def _complain(self, error: KubeApiError) -> None:
        if isinstance(error, KubeForbiddenError):
            problem = (
                f"the election needs rights to get, create and update the Lease {self._where}; apply the "
                f"Role of controller-rbac.yaml there, or run one controller with --no-leader-elect: {error}"
            )
        elif isinstance(error, KubeNotFoundError):
            problem = (
                f"the Lease {self._where} cannot be made, most likely because the namespace is not there; "
                f"create it, or name another one by --operator-namespace: {error}"
            )
        else:
            problem = f"the Lease {self._where} cannot be read or written: {error}"
        if problem != self._told_problem:
            logger.warning("%s", problem)
        self._problem = problem
        self._told_problem = problem

    # -- hearing at once -----------------------------------------------------------------

    def _listen(self) -> None:
        """Wake the election when the Lease changes; without the right to watch it just looks regularly."""
        while not (self._stopping.is_set() or self.acquired.is_set()):
            try:
                with self._client.watch(
                    LEASES,
                    self._namespace,
                    resource_version="",
                    field_selector=f"metadata.name={self._name}",
                    timeout_seconds=WATCH_SECONDS,
                    inactivity_seconds=WATCH_SECONDS + LOOK_SECONDS,
                ) as self._stream:
                    for _ in self._stream:
                        if self.acquired.is_set():
                            return
                        self._bell.set()
            except KubeApiError as error:
                logger.debug("the Lease is not watched: %s", error)
            finally:
                self._stream = None
            self._stopping.wait(self._times.retry_seconds)
