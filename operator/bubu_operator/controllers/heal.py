"""Healing: a sweep now and then finds pods that lack their storage, and says or mends it.

A webhook that fails open lets pods through while it is away, and nothing else ever looks
at them again. The sweep does: soon after this process begins to lead, after configs have
changed, and every ``heal_interval_seconds``. It reads (`heal_sweep`), reports
(`heal_report`) and, where a config asks for it, restarts owners (`heal_restart`).

It never stands in its own way: sweeps do not overlap, a slow one makes the next wait as
long as it took, and whatever fails is tried again later, with the last whole sweep's words
left as they are.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Final

from bubu_operator.controllers.context import Context
from bubu_operator.controllers.heal_proof import WebhookProof
from bubu_operator.controllers.heal_report import Reporter, describe, findings_of, forbidden
from bubu_operator.controllers.heal_restart import Restarter
from bubu_operator.controllers.heal_sweep import Sweeper, SweepStoppedError
from bubu_operator.controllers.heal_tally import Tally
from bubu_operator.controllers.heal_view import ClusterView, read_view
from bubu_operator.controllers.rollout import RolloutGate
from bubu_operator.errors import KubeApiError, KubeForbiddenError
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.owners import OwnerLookup
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, STORAGE_CONFIGS, metadata_of

__all__ = ["HealService"]

logger = logging.getLogger(__name__)

START_SECONDS: Final = 3.0
"""The watches of this process, and the webhooks' caches, come first."""

SETTLE_SECONDS: Final = 2.0
"""After a config has changed: more changes may follow, and the webhooks must hear of it."""

POLL_SECONDS: Final = 1.0
SOON_SECONDS: Final = 10.0
"""Until the next look while restarts are under way, or pods were left for it."""

SOON_FACTOR: Final = 4.0
"""The same in times of the last sweep: a large cluster's pods are not listed all the time for hours."""

RETRY_BASE_SECONDS: Final = 2.0
JITTER: Final = 0.1


class HealService:
    """One thread that sweeps; see `bubu_operator.controllers.services.Service`."""

    def __init__(
        self,
        context: Context,
        gate: RolloutGate,
        *,
        sweeper: Sweeper | None = None,
        proof: WebhookProof | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._context = context
        self._stopping = threading.Event()
        self._sweeper = sweeper or Sweeper(context, self._stopping)
        self._reporter = Reporter(context)
        self._restarter = Restarter(context, gate, self._stopping, proof)
        self._lookup = OwnerLookup(context.client)
        self._rng = rng or random.Random()  # noqa: S311 - spreads sweeps, protects nothing
        self._failures = 0
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="heal", daemon=True)

    # -- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; the first sweep follows in some seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end: between two requests, at the latest."""
        self._stopping.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; tell whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        interval = self._context.options.heal_interval_seconds
        monotonic = self._context.monotonic
        due = monotonic() + min(START_SECONDS, interval) * (1 + self._rng.random())
        earliest = 0.0
        known = self._revision()
        while not self._stopping.wait(min(POLL_SECONDS, max(0.01, due - monotonic()))):
            now, revision = monotonic(), self._revision()
            if revision != known:
                known = revision
                due = max(earliest, min(due, now + SETTLE_SECONDS))
            if now < due:
                continue
            pause = self._guarded()
            ended = monotonic()
            earliest = ended + (ended - now)
            due = max(earliest, ended + pause)

    def _revision(self) -> int:
        """A number that changes when a config does: its spec, its deletion, its being there."""
        cache, total = self._context.cache, 0
        for resource in (STORAGE_CONFIGS, CLUSTER_STORAGE_CONFIGS):
            for key in cache.keys(resource):
                metadata = metadata_of(cache.get(resource, key) or {})
                spec = metadata.get("uid"), metadata.get("generation"), metadata.get("deletionTimestamp")
                total ^= hash((resource.plural, key, spec))
        return total

    def _guarded(self) -> float:
        """Sweep; return the pause until the next one, whatever happens."""
        interval = self._context.options.heal_interval_seconds
        try:
            try:
                pause = self.sweep_once()
            except KubeApiError as error:
                pause = self._failed(error)
            else:
                self._failures, self._told = 0, ""
        except SweepStoppedError:
            self._context.metrics.heal_sweeps.labels("stopped").inc()
            return interval
        except Exception:  # healing outlives every bug in it; injection goes on anyway
            self._context.metrics.heal_sweeps.labels("failed").inc()
            self._failures += 1
            logger.exception("a sweep over the pods failed")
            pause = interval
        return pause * (1 - JITTER + 2 * JITTER * self._rng.random())

    def _failed(self, error: KubeApiError) -> float:
        denied = isinstance(error, KubeForbiddenError)
        self._context.metrics.heal_sweeps.labels("forbidden" if denied else "failed").inc()
        self._failures += 1
        text = str(error)
        if text != self._told:
            # Once for each trouble, not once for each sweep.
            logger.warning("pods were not swept for missing storage, the last findings stay: %s", text)
            self._told = text
        interval = self._context.options.heal_interval_seconds
        if denied:
            self._say_forbidden(error)
            return interval
        return backoff_seconds(
            self._failures, self._rng, base=min(RETRY_BASE_SECONDS, interval), maximum=interval
        )

    def _say_forbidden(self, error: KubeApiError) -> None:
        try:
            view = read_view(self._context.client, self._context.options.namespaces)
            words = {name: forbidden(error) for name in view.standing}
            # What the pods carry is not known: the last number stays.
            self._reporter.write_words(view, words)
        except KubeApiError as another:
            logger.debug("nor could that be said in the configs: %s", another)

    # -- one sweep -----------------------------------------------------------------------

    def sweep_once(self) -> float:
        """Gather, report and heal; return the seconds until the next sweep.

        Raises:
            KubeApiError: not everything could be read; nothing was reported.
            SweepStoppedError: stopped in the middle.
        """
        began = self._context.monotonic()
        view, tally = self._sweeper.sweep()
        soon = self._report(view, tally)
        metrics = self._context.metrics
        metrics.heal_sweeps.labels("complete").inc()
        metrics.heal_last_success.set(self._context.clock().timestamp())
        took = self._context.monotonic() - began
        metrics.heal_duration.set(took)
        interval = self._context.options.heal_interval_seconds
        return min(interval, max(SOON_SECONDS, SOON_FACTOR * took)) if soon else interval

    def _report(self, view: ClusterView, tally: Tally) -> bool:
        """Say and mend what was found; tell whether the next look should be soon."""
        findings = findings_of(view, tally, self._lookup)
        self._reporter.count(view, tally)
        self._reporter.tell(tally, findings, self._lookup)
        healed = self._restarter.heal(view, tally, findings)
        said = {
            finding.name: describe(finding, healed[index].notes if index in healed else ())
            for index, finding in enumerate(findings)
        }
        self._reporter.write(view, tally, said)
        unchecked = any(counts.unchecked for counts in tally.configs.values())
        return unchecked or any(item.under_way for item in healed.values())
