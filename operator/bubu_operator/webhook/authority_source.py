"""The serving certificate of the built-in authority: each replica signs its own, in memory.

A watch of the one Secret wakes a loop that also looks each minute, for machines that were
frozen. What is decided on (`bubu_operator.certificates.leaf`) is read anew each time. The
API server may be away, the Secret deleted or damaged: what is being served stays until it
expires, and the log says once what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bubu_operator.certificates.issuing import IssuedLeaf, UnusableAuthorityError, issue_leaf
from bubu_operator.certificates.leaf import HeldLeaf, KnownAuthorities, LeafDecision, LeafReason, decide_leaf
from bubu_operator.certificates.lifetimes import Lifetimes
from bubu_operator.certificates.stored import AuthorityState, Stored, decode
from bubu_operator.errors import KubeApiError, KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.informer import Change, Informer, backoff_seconds
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.resources import SECRETS, JsonObject, ObjectKey
from bubu_operator.kube.server_clock import ServerClock
from bubu_operator.webhook.certs import LiveCertificate, LoadOutcome, ServingCertificate

__all__ = ["AuthoritySource"]

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
"""Between two looks when nothing is heard: time may have stood still for us."""

BUSY_SECONDS: Final = 0.1
"""At least, between two looks: a Secret that changes all the time must not keep the loop busy."""

BACKOFF_BASE_SECONDS: Final = 0.5
BACKOFF_MAX_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Read:
    """The outcome of reading the Secret: what it holds, or why that is not known."""

    stored: Stored | None = None
    problem: str = ""


class AuthoritySource:
    """A `CertificateSource` on the authority's Secret.

    Args:
        client: may get, list and watch that Secret.
        context: of the listener.
        namespace, secret: where it is.
        names: DNS names and IP addresses of the certificate.
        clock: the API server's.
        elapsed: seconds by a clock that nobody sets.
        look_seconds: between two looks when nothing is heard.
    """

    def __init__(
        self,
        client: KubeClient,
        context: ssl.SSLContext,
        *,
        namespace: str,
        secret: str,
        names: Sequence[str],
        clock: ServerClock | None = None,
        elapsed: Callable[[], float] = boot_seconds,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._names = tuple(names)
        self._clock = clock or ServerClock(client, elapsed=elapsed)
        self._elapsed = elapsed
        self._look_seconds = look_seconds
        self._live = LiveCertificate(context, now=self._clock.now)
        self._known = KnownAuthorities()
        self._state = AuthorityState()
        self._held: HeldLeaf | None = None
        self._failures = 0
        self._rng = random.Random()  # noqa: S311 - spreads retries, protects nothing

    @property
    def current(self) -> ServingCertificate | None:
        """See `CertificateSource`."""
        return self._live.current

    @property
    def last_problem(self) -> str:
        """See `CertificateSource`."""
        return self._live.last_problem

    @property
    def loads(self) -> int:
        """See `CertificateSource`."""
        return self._live.loads

    @property
    def refusals(self) -> int:
        """See `CertificateSource`."""
        return self._live.refusals

    def problem(self) -> str:
        """See `CertificateSource`."""
        return self._live.problem()

    async def follow(self) -> None:
        """See `CertificateSource`."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()

        def changed(_change: Change, _key: ObjectKey) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(wake.set)

        watch = Informer(
            self._client,
            SECRETS,
            _nothing,
            namespace=self._namespace,
            field_selector=f"metadata.name={self._secret}",
            on_change=changed,
        ).start()
        try:
            while True:
                try:
                    pause = await self.look()
                except Exception:
                    logger.exception("looking at the authority failed; the certificate in use stays")
                    pause = self._pause()
                await asyncio.sleep(BUSY_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), pause)
                wake.clear()
        finally:
            watch.stop(0.0)

    async def look(self) -> float:
        """Read, decide, sign; return in how many seconds to look again at the latest."""
        read = await asyncio.to_thread(self._gather)
        elapsed = self._elapsed()
        if read.stored is not None:
            self._state = read.stored.state
            if not read.stored.problems:
                self._known.note((item.fingerprint for item in self._state.trusted), elapsed)
        signing = self._state.signing
        decision = decide_leaf(
            self._held,
            self._state,
            self._clock.now(),
            known_seconds=self._known.seconds(signing.certificate.fingerprint, elapsed) if signing else 0.0,
            fresh=read.stored is not None,
        )
        problem = self._why(read, decision)
        if decision.sign:
            problem = await self._sign(decision) or problem
        if problem:
            self._live.refuse(problem)
            return self._pause()
        self._live.last_problem = ""
        self._failures = 0
        return self._until(decision)

    def _gather(self) -> _Read:
        """Ask for the time and read the Secret; blocking."""
        if self._clock.stale:
            self._clock.ask()
        what = f"{self._namespace}/{self._secret}"
        try:
            secret = self._client.get(SECRETS, self._secret, self._namespace, timeout_seconds=REQUEST_SECONDS)
        except KubeNotFoundError:
            return _Read(
                problem=f"the authority's Secret {what} is not there; a controller that runs with "
                "--webhook-authority makes it"
            )
        except KubeForbiddenError:
            return _Read(
                problem=f"the authority's Secret {what} may not be read; apply webhook-authority-rbac.yaml"
            )
        except KubeApiError as error:
            return _Read(problem=f"the authority's Secret {what} cannot be read: {error}")
        return _Read(decode(secret.get("data")))

    def _why(self, read: _Read, decision: LeafDecision) -> str:
        """What is wrong, for people; "" when nothing is."""
        if read.problem:
            return read.problem
        if decision.reason is not LeafReason.NO_AUTHORITY:
            return ""
        what = f"the authority's Secret {self._namespace}/{self._secret}"
        if read.stored is not None and read.stored.problems:
            return f"{what} cannot be used: {'; '.join(read.stored.problems)}"
        if self._state.signing is not None:
            return f"{what} holds an authority that is out of its time"
        seconds = self._state.propagation_seconds
        return f"{what} has no signing authority yet; a new one is made known first, for {seconds} s"

    async def _sign(self, decision: LeafDecision) -> str:
        """Sign and load; return what went wrong, or ""."""
        signing, now = self._state.signing, self._clock.now()
        if signing is None:
            return "there is no signing authority"
        usual = Lifetimes()
        lifetimes = Lifetimes(leaf_seconds=self._state.leaf_seconds)
        try:
            leaf: IssuedLeaf = await asyncio.to_thread(
                issue_leaf, signing, self._names, now, lifetime=lifetimes.leaf, backdate=usual.backdate
            )
        except UnusableAuthorityError as error:
            return str(error)
        pair = (leaf.certificate_pem, leaf.key_pem)
        if self._live.load(pair, "a certificate of the built-in authority") is not LoadOutcome.LOADED:
            return self._live.last_problem
        self._held = HeldLeaf(leaf.issuer, now, leaf.not_before, leaf.not_after)
        logger.info(
            "own certificate signed",
            extra={"reason": decision.reason.value, "authority": signing.certificate.short},
        )
        return ""

    def _until(self, decision: LeafDecision) -> float:
        """Seconds to the next look."""
        if decision.sign or decision.look_again_at is None:
            held = self._held
            at = held.renew_at if held is not None else None
        else:
            at = decision.look_again_at
        if at is None:
            return self._look_seconds
        return min(self._look_seconds, max(BUSY_SECONDS, (at - self._clock.now()).total_seconds()))

    def _pause(self) -> float:
        self._failures += 1
        return backoff_seconds(
            self._failures, self._rng, base=BACKOFF_BASE_SECONDS, maximum=BACKOFF_MAX_SECONDS
        )


def _nothing(_obj: JsonObject) -> bool:
    """Keep nothing of what is watched: keys have no place in a second copy."""
    return True
