"""The leader's part of the built-in authority: keeps its Secret and the webhook's caBundle.

One thread, one loop: read the webhook's configuration, then the Secret, decide
(`bubu_operator.certificates.rotation`), write the Secret, write caBundle. Each write is tied
to the resourceVersion that was read, so a second controller that has not noticed yet that it
leads no more can do no harm: the later of two writes is refused, and its author looks again.

Somebody else may write both, too: what they did is put right at once a few times, then at a pace.
Watches wake the loop; what is decided on is read anew each time. What this process knows of
the authority heals a Secret that was deleted or damaged; it is forgotten with the lead.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Final

from bubu_operator.certificates.bundles import (
    ObservedConfiguration,
    bundle_patch,
    observe_configuration,
)
from bubu_operator.certificates.issuing import Authority, issue_authority
from bubu_operator.certificates.lifetimes import Lifetimes
from bubu_operator.certificates.rotation import Decision, Facts, Step, Tracker, decide, renewal_of
from bubu_operator.certificates.stored import AuthorityState, decode, encode
from bubu_operator.controllers.authority_report import AuthorityReport, Trouble
from bubu_operator.controllers.context import Context
from bubu_operator.defaults import AUTHORITY_SECRET
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeInvalidError,
    KubeNotFoundError,
)
from bubu_operator.kube.client import PatchType
from bubu_operator.kube.informer import Informer, backoff_seconds
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.resources import (
    MUTATING_WEBHOOKS,
    SECRETS,
    JsonObject,
    Resource,
    metadata_of,
    section,
)
from bubu_operator.kube.server_clock import ServerClock

__all__ = ["ROTATE_ANNOTATION", "AuthorityService"]

logger = logging.getLogger(__name__)

ROTATE_ANNOTATION: Final = "storage.bubustack.io/rotate-authority"
"""On the Secret: a value that was not there before starts a rotation, in its ordinary order."""

LOOK_SECONDS: Final = 30.0
"""Between two looks when nothing is due and nothing was heard."""

ROTATING_LOOK_SECONDS: Final = 5.0
BUSY_SECONDS: Final = 0.1
"""At least, between two looks; after a write, or a write that came too late, also at most."""

REPAIRS: Final = 5
"""How many times in a row the Secret or caBundle is put right at once."""

REPAIR_SECONDS: Final = 5.0
"""Between two further ones. Two writers that answer each other would write a hundred times a second."""

BACKOFF_BASE_SECONDS: Final = 0.5
BACKOFF_MAX_SECONDS: Final = 15.0
REQUEST_SECONDS: Final = 5.0
_LABELS: Final = {
    "app.kubernetes.io/name": "bubu-storage-operator",
    "app.kubernetes.io/component": "webhook",
}


class _Repairs:
    """How many times what others wrote may be put right now; one more every `REPAIR_SECONDS`."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._left = float(REPAIRS)
        self._counted_at = elapsed()

    def take(self) -> bool:
        """Use one up; False when there is none."""
        self._count()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def wait_seconds(self) -> float:
        """Until there is one."""
        self._count()
        return max(0.0, (1 - self._left) * REPAIR_SECONDS)

    @property
    def plenty(self) -> bool:
        """Whether it has been quiet for a while."""
        self._count()
        return self._left > REPAIRS - 1

    def _count(self) -> None:
        now = self._elapsed()
        self._left = min(REPAIRS, self._left + (now - self._counted_at) / REPAIR_SECONDS)
        self._counted_at = now


class AuthorityService:
    """A `Service` of the leading controller; may be started again after it has ended.

    Args:
        context: clients, options and metrics.
        lifetimes: the durations in force.
        secret: name of the Secret in the operator's namespace.
        elapsed: seconds by a clock that nobody sets.
    """

    def __init__(
        self,
        context: Context,
        lifetimes: Lifetimes,
        *,
        secret: str = AUTHORITY_SECRET,
        elapsed: Callable[[], float] = boot_seconds,
    ) -> None:
        self._client = context.client
        self._namespace = context.options.operator_namespace
        self._configuration = context.options.webhook_configuration
        self._secret = secret
        self._lifetimes = lifetimes
        self._elapsed = elapsed
        self._clock = ServerClock(context.client, elapsed=elapsed)
        self._report = AuthorityReport(
            context.metrics, secret=f"{self._namespace}/{secret}", configuration=self._configuration
        )
        self._rng = random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._tracker = Tracker()
        self._remembered: AuthorityState | None = None
        self._repairs = _Repairs(elapsed)

    # -- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """See `Service`."""
        # Another controller may have led in between: what was known then proves nothing now.
        self._tracker, self._remembered = Tracker(), None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping, self._wake), name="authority", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """See `Service`."""
        self._stopping.set()
        self._wake.set()

    def join(self, timeout_seconds: float) -> bool:
        """See `Service`."""
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self, stopping: threading.Event, wake: threading.Event) -> None:
        watches = [
            Informer(
                self._client,
                resource,
                _nothing,
                namespace=namespace,
                field_selector=f"metadata.name={name}",
                on_change=lambda _change, _key: wake.set(),
            ).start()
            for resource, namespace, name in (
                (SECRETS, self._namespace, self._secret),
                (MUTATING_WEBHOOKS, None, self._configuration),
            )
        ]
        failures = 0
        try:
            while not stopping.is_set():
                try:
                    pause = self.look()
                    failures = 0
                except KubeApiError as error:
                    failures += 1
                    self._report.trouble(Trouble.API, str(error))
                    pause = self._backoff(failures)
                except Exception:  # the authority outlives every bug of a single look
                    failures += 1
                    logger.exception("looking after the webhook's authority failed; trying again")
                    pause = self._backoff(failures)
                # Our own write wakes us, too: without a least time, two writers would be as fast as they can.
                if not stopping.wait(BUSY_SECONDS):
                    wake.wait(pause)
                    wake.clear()
        finally:
            for watch in watches:
                watch.stop(1.0)
            self._report.ended()

    def _backoff(self, failures: int) -> float:
        return backoff_seconds(failures, self._rng, base=BACKOFF_BASE_SECONDS, maximum=BACKOFF_MAX_SECONDS)

    # -- one look ------------------------------------------------------------------------

    def look(self) -> float:
        """Read, decide, write; return in how many seconds to look again at the latest.

        Raises:
            KubeApiError: something could not be read or written.
        """
        self._clock.ask()
        # Before the Secret: what is taken out of caBundle below then rests on a Secret that is newer.
        observed = self._observe()
        secret = self._read(SECRETS, self._secret, self._namespace)
        stored = None if secret is None else decode(secret.get("data"))
        elapsed = self._elapsed()
        before = stored.state if stored is not None else AuthorityState()
        facts = Facts(
            stored=stored,
            remembered=self._remembered,
            observed=observed,
            now=self._clock.now(),
            lifetimes=self._lifetimes,
            upcoming_seconds=self._tracker.upcoming_seconds(before, observed, elapsed),
            retired_seconds=self._tracker.retired_seconds(before, elapsed),
            rotate_request=_rotate_request(secret),
        )
        decision = decide(facts, self._issue)
        if Step.RESTORED in decision.steps and not self._repairs.take():
            self._report.contested(is_contested=True)
            return self._repairs.wait_seconds
        if decision.write and not self._write(secret, decision):
            return BUSY_SECONDS
        # What we changed ourselves is no repair: a rotation waits for nobody.
        is_repair = self._remembered is not None and self._remembered.trusted == decision.state.trusted
        self._remembered = decision.state
        patch = self._patch_for(observed, decision)
        delayed = bool(patch) and is_repair and not self._repairs.take()
        if delayed or self._repairs.plenty:
            self._report.contested(is_contested=delayed)
        written = bool(patch) and not delayed and self._write_bundle(observed, decision, patch)
        self._report.looked(
            decision,
            observed,
            waiting_seconds=facts.upcoming_seconds,
            ahead_seconds=self._clock.ahead_seconds if self._clock.known else 0.0,
        )
        if decision.write or written:
            return BUSY_SECONDS
        if delayed:
            # Woken by each write of the other, this looks again and writes nothing.
            return self._repairs.wait_seconds
        return self._next_look(decision.state, facts)

    def _issue(self) -> Authority:
        return issue_authority(
            self._clock.now(), lifetime=self._lifetimes.ca, backdate=self._lifetimes.backdate
        )

    def _observe(self) -> ObservedConfiguration | None:
        found = self._read(MUTATING_WEBHOOKS, self._configuration, None)
        return None if found is None else observe_configuration(found)

    def _read(self, resource: Resource, name: str, namespace: str | None) -> JsonObject | None:
        try:
            return self._client.get(resource, name, namespace, timeout_seconds=REQUEST_SECONDS)
        except KubeNotFoundError:
            return None

    def _write(self, secret: JsonObject | None, decision: Decision) -> bool:
        """Write the Secret if it is still as it was read; False when somebody else was first."""
        if self._stopping.is_set():
            return False
        data = encode(decision.state)
        try:
            if secret is None:
                metadata = {"name": self._secret, "namespace": self._namespace, "labels": dict(_LABELS)}
                body: JsonObject = {"metadata": metadata, "type": "Opaque", "data": data}
                self._client.create(SECRETS, body, self._namespace, timeout_seconds=REQUEST_SECONDS)
            else:
                body = {key: secret[key] for key in ("metadata", "type") if key in secret}
                self._client.replace(SECRETS, {**body, "data": data}, timeout_seconds=REQUEST_SECONDS)
        except (KubeConflictError, KubeNotFoundError) as error:
            if isinstance(error, KubeNotFoundError) and secret is None:
                raise  # the namespace is not there
            logger.info("the authority's Secret was changed by somebody else meanwhile; looking again")
            return False
        return True

    def _patch_for(self, observed: ObservedConfiguration | None, decision: Decision) -> list[dict[str, Any]]:
        """What makes every entry trust what the Secret says; empty where nothing is to be written."""
        if observed is None or observed.injector or self._stopping.is_set():
            return []
        return bundle_patch(observed, decision.state.trusted)

    def _write_bundle(
        self, observed: ObservedConfiguration | None, decision: Decision, patch: list[dict[str, Any]]
    ) -> bool:
        """Write caBundle; True when something was written, here or by somebody else."""
        if observed is None:
            return False
        self._report.bundle(observed, decision.state)
        try:
            self._client.patch(
                MUTATING_WEBHOOKS,
                self._configuration,
                patch,
                patch_type=PatchType.JSON,
                timeout_seconds=REQUEST_SECONDS,
            )
        except (KubeConflictError, KubeNotFoundError):
            return True
        except KubeInvalidError as error:
            # A test that fails is an invalid patch, too; the next look tells the two apart.
            now = self._observe()
            if now is not None and now.resource_version == observed.resource_version:
                self._report.trouble(Trouble.API, str(error))
                raise
        return True

    def _next_look(self, state: AuthorityState, facts: Facts) -> float:
        """The earliest of what is due."""
        due = [LOOK_SECONDS]
        if state.upcoming is not None:
            missing = self._lifetimes.propagation_seconds - facts.upcoming_seconds
            due += [ROTATING_LOOK_SECONDS, missing]
        elif state.signing is not None:
            due.append((renewal_of(state.signing, self._lifetimes) - facts.now).total_seconds())
        for item in state.retired:
            if item.until is not None:
                known_seconds = facts.retired_seconds.get(item.certificate.fingerprint, 0.0)
                unknown_seconds = self._lifetimes.slack_seconds - known_seconds
                due.append(max((item.until - facts.now).total_seconds(), unknown_seconds))
        # Half a second: the API server tells the time in whole seconds.
        return max(0.5, min(due))


def _rotate_request(secret: JsonObject | None) -> str:
    if secret is None:
        return ""
    return str(section(metadata_of(secret), "annotations").get(ROTATE_ANNOTATION) or "")


def _nothing(_obj: JsonObject) -> bool:
    """Keep nothing of what is watched: keys have no place in a second copy."""
    return True
