"""What the authority's keeper tells: log lines on transitions only, and metrics.

Each kind of trouble is said when it begins or changes, and once more when it is over.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Final

from bubu_operator.certificates.bundles import ObservedConfiguration
from bubu_operator.certificates.rotation import Decision, Step
from bubu_operator.certificates.stored import AuthorityState
from bubu_operator.observability.controller_metrics import ControllerMetrics

__all__ = ["AuthorityReport", "Trouble"]

logger = logging.getLogger(__name__)

CLOCK_SECONDS: Final = 60.0
"""A machine's clock that is off by more is worth a word."""


class Trouble(StrEnum):
    """What may be wrong; labels of a metric and words for the log."""

    API = "ApiError"
    SECRET = "SecretUnusable"  # noqa: S105 - a word
    NO_CONFIGURATION = "ConfigurationAbsent"
    INJECTOR = "OtherInjector"
    CLOCK = "ClockDiffers"
    CONTESTED = "Contested"


_STEPS: Final = {
    Step.CREATED: "the first authority was made; it signs at once, because nothing is trusted yet",
    Step.STARTED: "a new authority was made; it is made known first and signs afterwards",
    Step.PROMOTED: "the new authority signs from now on; the one before stays trusted for a while",
    Step.DROPPED: "an authority whose certificates are all past is trusted no longer",
    Step.RESTORED: "the authority was put back from what this process remembers",
    Step.ADOPTED: "authorities found in caBundle stay trusted for a while",
    Step.DISCARDED: "an authority out of its time was replaced",
}


class AuthorityReport:
    """Log and metrics of one keeper."""

    def __init__(self, metrics: ControllerMetrics, *, secret: str, configuration: str) -> None:
        self._metrics = metrics
        self._secret = secret
        self._configuration = configuration
        self._troubles: dict[Trouble, str] = {}
        for trouble in Trouble:
            metrics.authority_trouble.labels(trouble.value).set(0)

    def trouble(self, kind: Trouble, words: str) -> None:
        """Note a trouble, or with "" that there is none."""
        before = self._troubles.get(kind, "")
        if words == before:
            return
        self._metrics.authority_trouble.labels(kind.value).set(1 if words else 0)
        self._troubles[kind] = words
        if words:
            self._metrics.authority_troubles.labels(kind.value).inc()
            logger.warning("webhook authority: %s", words, extra={"trouble": kind.value})
        else:
            logger.info("webhook authority: over: %s", before, extra={"trouble": kind.value})

    def contested(self, *, is_contested: bool) -> None:
        """Tell whether somebody else writes what is ours again and again."""
        self.trouble(
            Trouble.CONTESTED,
            f"something else keeps writing caBundle of {self._configuration}, or the Secret {self._secret}; "
            "that is put right every few seconds only. Have your GitOps tool ignore both, or look for a "
            "second installation"
            if is_contested
            else "",
        )

    def bundle(self, observed: ObservedConfiguration, state: AuthorityState) -> None:
        """Say what is about to be written over."""
        known = {item.fingerprint for item in state.trusted}
        foreign = [
            entry.name
            for entry in observed.entries
            if not entry.readable
            or any(not item.ours and item.fingerprint not in known for item in entry.certificates)
        ]
        self._metrics.authority_bundle_writes.inc()
        if foreign:
            logger.warning(
                "caBundle of %s in %s holds what is not of this authority; it is replaced",
                ", ".join(foreign),
                self._configuration,
            )
        logger.info(
            "caBundle is written",
            extra={
                "configuration": self._configuration,
                "trusted": [item.short for item in state.trusted],
            },
        )

    def looked(
        self,
        decision: Decision,
        observed: ObservedConfiguration | None,
        *,
        waiting_seconds: float,
        ahead_seconds: float,
    ) -> None:
        """Tell what a look led to."""
        self.trouble(Trouble.API, "")
        self._told(decision)
        self.trouble(
            Trouble.NO_CONFIGURATION,
            ""
            if observed is not None
            else f"there is no MutatingWebhookConfiguration {self._configuration}: caBundle waits for it",
        )
        injector = observed.injector if observed is not None else ""
        self.trouble(
            Trouble.INJECTOR,
            f"{self._configuration} has the annotation {injector}: cert-manager writes caBundle there, so "
            "this authority does not; take the annotation away, or run without --webhook-authority"
            if injector
            else "",
        )
        self.trouble(
            Trouble.CLOCK,
            f"this machine's clock differs from the API server's by about {round(ahead_seconds, -1):.0f} s; "
            "certificates go by the API server's"
            if abs(ahead_seconds) > CLOCK_SECONDS
            else "",
        )
        self._gauges(decision.state, waiting_seconds)

    def ended(self) -> None:
        """This process keeps the authority no longer: what it showed is not its to show."""
        self._metrics.authority_not_after.clear()
        self._metrics.authority_waiting_seconds.set(0)
        for trouble in Trouble:
            self._metrics.authority_trouble.labels(trouble.value).set(0)
        self._troubles.clear()

    def _told(self, decision: Decision) -> None:
        if not decision.write:
            self.trouble(Trouble.SECRET, "; ".join(decision.problems))
            return
        if decision.problems:
            # What was wrong with what has just been written anew is over with the next look.
            self.trouble(Trouble.SECRET, f"{self._secret}: {'; '.join(decision.problems)}")
        for step in decision.steps:
            self._metrics.authority_steps.labels(step.value).inc()
            logger.info(
                "webhook authority: %s",
                _STEPS[step],
                extra={
                    "step": step.value,
                    "secret": self._secret,
                    "signing": _short(decision.state.signing and decision.state.signing.certificate.short),
                    "upcoming": _short(decision.state.upcoming and decision.state.upcoming.certificate.short),
                    "retired": [item.certificate.short for item in decision.state.retired],
                },
            )

    def _gauges(self, state: AuthorityState, waiting_seconds: float) -> None:
        gauge = self._metrics.authority_not_after
        for role, pair in (("signing", state.signing), ("upcoming", state.upcoming)):
            if pair is None:
                gauge.labels(role).set(0)
            else:
                gauge.labels(role).set(pair.certificate.not_after.timestamp())
        self._metrics.authority_trusted.set(len(state.trusted))
        self._metrics.authority_waiting_seconds.set(waiting_seconds if state.upcoming else 0)


def _short(name: str | None) -> str:
    return name or ""
