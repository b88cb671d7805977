"""The owners of runs as the API server tells them, always fresh enough to delete by.

For a controller::

    source = open_owners(client, kinds, namespace="team-a", before=census, acknowledged=token)

* ``kinds``: `OwnerKind.named(...)` for each of a policy's ``spec.owners``; StoryRun and StepRun
  count besides them wherever they are served;
* ``namespace``: of a namespaced policy; None for all of them;
* ``before``: the `Census` of ``status.owners`` (live, existing, kinds), `NO_CENSUS` for none;
* ``acknowledged``: the approved token; releases exactly the `Anomaly` of that token;
* ``remembered``: ``source.belief`` of the policy's last source in this process, None for none;
* ``joined``: kinds that other policies know on the same part of the store, see `joined`. They protect
  what they own, and are no part of ``source.kinds`` and ``source.census``;
* ``discovery``: what the API server said lately of its kinds. It spares requests of looks that lead to no
  pass: the first observation asks anew.

Returns None where nobody owns runs here (no kind is named, the usual ones are not served and never were):
the engine is then given no owners at all. Raises `OwnersUnknownError` where that cannot be told: no pass
may start. The error's ``code`` is an `OwnersProblem`; an `OwnersAnomalyError` holds the `Anomaly` whose
token is to be approved. After a pass ``source.census`` is what to keep in the status, and
``source.anomaly`` what waits for an approval (or None).

`PassProcess(document, environment=…, owners=source)` answers its process from it.

Invariants: what is returned is complete and was read no earlier than asked for; callers that come at
the same time share one observation; a failed observation changes nothing; nothing is let go
by the first reading that would let it go (see `relations`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import Resource
from bubu_operator.owners.belief import Belief
from bubu_operator.owners.census import NO_CENSUS, Anomaly, Census, OwnersProblem
from bubu_operator.owners.gather import Discovery, Gatherer, NotServedError, Traffic
from bubu_operator.owners.joined import NOTHING_JOINED, JoinedKinds
from bubu_operator.owners.kinds import OwnerKind
from bubu_operator.owners.reading import read_again, read_all
from bubu_operator.owners.relations import Reading, Related, relate
from bubu_operator.owners.served import OwnersAnomalyError, find_served
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.owners import OwnerView
from bubu_storage.retention.runner import boot_seconds

__all__ = ["OBSERVE_SECONDS", "ApiOwnerSource", "open_owners"]

logger = logging.getLogger(__name__)

OBSERVE_SECONDS: Final = 90.0
"""No observation takes longer; the first one reads every object."""

REDISCOVER_SECONDS: Final = 60.0


def open_owners(
    client: KubeClient,
    kinds: Sequence[OwnerKind] = (),
    *,
    namespace: str | None,
    before: Census = NO_CENSUS,
    acknowledged: str = "",
    remembered: Belief | None = None,
    joined: JoinedKinds = NOTHING_JOINED,
    discovery: Discovery | None = None,
    believes: bool = False,
) -> ApiOwnerSource | None:
    """Find the kinds of owners; see the module.

    Args:
        client: of the API server.
        kinds: a policy's own.
        namespace: list only there; None for everywhere.
        before: of the last complete list, of an earlier pass.
        acknowledged: token of the anomaly that somebody approved.
        remembered: ``source.belief`` of the policy's last source in this process.
        joined: kinds of other policies.
        discovery: what the API server said lately; learns what it is asked anew.
        believes: take what ``discovery`` knows for what is.

    Raises:
        OwnersUnknownError: it cannot be told who owns runs.
    """
    source = ApiOwnerSource(
        client,
        kinds,
        namespace=namespace,
        before=before,
        acknowledged=acknowledged,
        remembered=remembered,
        joined=joined,
    )
    return source if source.find_kinds(discovery, believes=believes) else None


@dataclass(frozen=True, slots=True)
class _State:
    """What the last observation left.

    Attributes:
        reading: of all owners.
        related: what it means, put together with the reading before.
        settled: the reading before was the same one.
        view: for callers.
    """

    reading: Reading
    related: Related
    settled: bool
    view: OwnerView


class ApiOwnerSource:
    """An `OwnerSource` over the API server; shared by threads.

    Args:
        client, kinds, namespace, before, acknowledged, remembered, joined: see `open_owners`.
        clock: `boot_seconds`.
        sleep: waits.

    Attributes:
        belief: what is known of owners that were live; for the policy's next source.
        anomaly: why the last list is not believed; None if it is, or there is none.
        traffic: what the API server was asked so far.
    """

    def __init__(
        self,
        client: KubeClient,
        kinds: Sequence[OwnerKind] = (),
        *,
        namespace: str | None,
        before: Census = NO_CENSUS,
        acknowledged: str = "",
        remembered: Belief | None = None,
        joined: JoinedKinds = NOTHING_JOINED,
        clock: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._kinds = tuple(kinds)
        self._namespace = namespace
        self._acknowledged = acknowledged
        self._clock = clock
        self._sleep = sleep
        self.anomaly: Anomaly | None = None
        self.traffic = Traffic()
        self.belief = Belief(before, acknowledged, remembered)
        self._joined = joined
        self._own: tuple[OwnerKind, ...] = ()
        self._served: dict[OwnerKind, Resource] = {}
        self._served_at = float("-inf")
        self._state: _State | None = None
        self._turn = threading.Condition()
        self._busy = False
        self._failure: tuple[float, OwnersUnknownError] | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """Names of the policy's own kinds that are listed; another set of them decides differently."""
        return frozenset(kind.name for kind in self._own)

    @property
    def own(self) -> tuple[OwnerKind, ...]:
        """The policy's own kinds that are listed."""
        return self._own

    @property
    def census(self) -> Census:
        """Of the last complete list that was believed; at first the one that was given."""
        return self.belief.census

    def find_kinds(self, discovery: Discovery | None = None, *, believes: bool = False) -> bool:
        """Find what is to be listed; False if nobody owns runs here. Not to be called during `observe`.

        Args:
            discovery: see `open_owners`.
            believes: see `open_owners`; the first observation does not rely on it.

        Raises:
            OwnersUnknownError: it cannot be told.
        """
        found = self._find_served(self._gatherer(discovery, believes=believes))
        if believes:
            self._served_at = float("-inf")
        return bool(found)

    def observe(self, not_before: float) -> OwnerView:
        """Return a view whose observation began at ``not_before`` (boot seconds) or later.

        Raises:
            OwnersUnknownError: there is none; its ``code`` is an `OwnersProblem`.
        """
        with self._turn:
            waited = False
            while True:
                if self._state is not None and self._state.view.observed_at >= not_before:
                    return self._state.view
                # An observation that failed while we waited for it is as good as one of our own.
                if waited and self._failure is not None and self._failure[0] >= not_before:
                    raise self._again(self._failure[1])
                if not self._busy:
                    break
                waited = True
                self._turn.wait()
            self._busy = True
        began = self._clock()
        state: _State | None = None
        failure: OwnersUnknownError | None = None
        try:
            state = self._observe()
        except OwnersUnknownError as error:
            failure = error
            raise
        else:
            return state.view
        finally:
            with self._turn:
                self._busy = False
                self._state = state or self._state
                self._failure = None if failure is None else (began, failure)
                self._turn.notify_all()

    @staticmethod
    def _again(error: OwnersUnknownError) -> OwnersUnknownError:
        """Return the same error for another caller: one exception is raised in one thread."""
        if isinstance(error, OwnersAnomalyError):
            return OwnersAnomalyError(error.anomaly)
        return OwnersUnknownError(error.message, code=error.code)

    # -- one observation -------------------------------------------------------------------

    def _observe(self) -> _State:
        gatherer = self._gatherer()
        try:
            return self._read(gatherer)
        except NotServedError:
            # Gone, or served by another name now: discovery knows, and says what that means.
            self._served_at = float("-inf")
            return self._read(gatherer)

    def _read(self, gatherer: Gatherer) -> _State:
        if self._clock() - self._served_at >= REDISCOVER_SECONDS:
            self._find_served(gatherer)
        old = self._state
        before = read_all(gatherer, self._served, self._namespace) if old is None else old.reading
        # Read twice at first: by one reading alone nothing is let go.
        observed_at = self._clock()
        reading = read_again(gatherer, self._served, self._namespace, before)
        is_known = old is not None and reading is before
        self.anomaly = None if is_known else self._believe(reading)
        if self.anomaly is not None:
            raise OwnersAnomalyError(self.anomaly)
        settled = reading is before
        if old is not None and settled and old.settled:
            related = old.related
        else:
            related = relate(reading, before)
            if old is not None and related == old.related:
                related = old.related
        return _State(reading, related, settled, self._view(related, old, observed_at))

    def _believe(self, reading: Reading) -> Anomaly | None:
        """Compare the policy's own kinds with those before: what neighbours name comes and goes with them."""
        own = {kind.key for kind in self._own}
        return self.belief.take({key: reading[key] for key in reading if key in own}, self._own)

    @staticmethod
    def _view(related: Related, old: _State | None, observed_at: float) -> OwnerView:
        version = 1 if old is None else old.view.version + (related is not old.related)
        return OwnerView(version, observed_at, related.owners, related.references)

    def _find_served(self, gatherer: Gatherer) -> dict[OwnerKind, Resource]:
        try:
            own = find_served(gatherer, self._kinds, before=self.census, acknowledged=self._acknowledged)
        except OwnersAnomalyError as error:
            self.anomaly = error.anomaly
            raise
        served = {self._joined.read(kind): resource for kind, resource in own.items()}
        mine = {kind.key for kind in own}
        for kind in self._joined.borrowed:
            if kind.key not in mine:
                served[kind] = gatherer.resource_of(kind)
        if self._served and not served:
            raise OwnersUnknownError(
                "the kinds that own runs are not served any more", code=OwnersProblem.UNKNOWN.value
            )
        self._own, self._served, self._served_at = tuple(own), served, self._clock()
        return served

    def _gatherer(self, discovery: Discovery | None = None, *, believes: bool = False) -> Gatherer:
        return Gatherer(
            self._client,
            deadline=self._clock() + OBSERVE_SECONDS,
            traffic=self.traffic,
            monotonic=self._clock,
            sleep=self._sleep,
            discovery=discovery,
            believes=believes,
        )
