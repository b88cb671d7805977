"""The ASGI application: ``POST /mutate``, ``POST /mutate/strict``, ``GET /readyz``, ``GET /healthz``.

The two paths are the two kinds of entries. ``/mutate`` (failurePolicy Ignore) lets every pod
through, with a warning where something is missing. ``/mutate/strict`` (Fail) refuses a pod that
asks for storage and cannot get it, whatever the cause, and says why.

Invariants: one event loop, nothing blocking in it; a request that can be answered is always
answered, within `BUDGET_SECONDS` of its arrival as far as waiting goes; what cannot be answered
with a review gets an HTTP error, to which the API server applies the entry's failurePolicy;
each is counted once; the log never holds a pod's content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

from bubu_operator.injection import Demand, InjectionConfig, InjectionReason, SelectionReason
from bubu_operator.injection.names import CONFIG_LABEL
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.observability.webhook_metrics import Result, WebhookMetrics
from bubu_operator.webhook.body import BodyReader, Receive, Scope
from bubu_operator.webhook.cache import ClusterView
from bubu_operator.webhook.configuration import MUTATE_PATH, STRICT_PATH
from bubu_operator.webhook.mutate import (
    Policy,
    SkipReason,
    Verdict,
    decide,
    denial_of,
    internal_error,
    not_ready,
    skip_reason,
    unknown_namespace,
)
from bubu_operator.webhook.review import (
    Denial,
    RejectReason,
    ReviewRejectedError,
    ReviewRequest,
    parse_review,
    render_answer,
)

__all__ = ["BUDGET_SECONDS", "WebhookApp"]

logger = logging.getLogger(__name__)

BUDGET_SECONDS: Final = 1.0
"""Longest time from a review's arrival to the end of all waiting for it."""

LAG_SECONDS: Final = 0.25
"""How long a pod may wait for the watch to deliver what was created just before it."""

LAG_POLL_SECONDS: Final = 0.01

MAX_WAITING_BYTES: Final = 256 * 1024
"""Larger reviews do not wait: many of them, parsed, would be too much memory."""

MAX_ALL_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Of all reviews that wait at once; parsed, they take up to twenty times as much."""

MAX_NAME_CHARACTERS: Final = 253
"""Of a name: the longest that Kubernetes allows. A pod is reviewed before it is validated."""

MAX_DELETIONS_TOLD: Final = 3

Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_MAY_BE_LAG: Final = frozenset(
    {
        SelectionReason.NO_CONFIG,
        SelectionReason.CONFIG_NOT_FOUND,
        SkipReason.UNKNOWN_NAMESPACE,
        # The API server asks about pods that ask only: it has seen a label that we have not.
        Demand.NOT_ASKED,
        Demand.NAMESPACE_OPTED_OUT,
    }
)
_MAY_HAVE_VANISHED: Final = frozenset({SelectionReason.NO_CONFIG, SelectionReason.CONFIG_NOT_FOUND})
_OUR_FAULT: Final = frozenset({SkipReason.INTERNAL_ERROR, SkipReason.NOT_READY})
_POLICIES: Final = {MUTATE_PATH: Policy.IGNORE, STRICT_PATH: Policy.FAIL}
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"


class Knowledge(Protocol):
    """What a decision needs: a `ClusterView` that is there, or one live look."""

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Labels of a namespace; None when it is not known."""
        ...

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """StorageConfigs of a namespace."""
        ...

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """All ClusterStorageConfigs."""
        ...


Look: TypeAlias = Callable[[str, str, float], Awaitable[Knowledge | None]]
"""A live look at a namespace (name, the config that a pod names, deadline in loop time)."""


class WebhookApp:
    """The application; one per process.

    Args:
        view: the cache.
        certificate_problem: why no handshake can succeed; "" when one can.
        health: why the process should be restarted; "" when it is alive.
        look: asks the API server what the cache does not know; None to go without.
        on_unserved: told of each pod that asked and goes without; must not block.
        lately_deleted: sentences about configs that went from a namespace a short while ago.
        metrics: where reviews are counted.
        only_namespace: pods elsewhere are let through unseen; "" for all of the cluster.
        lag_seconds: how long the watch is waited for.
        budget_seconds: end of all waiting, from a review's arrival.

    Attributes:
        draining: readiness is off and connections are being given up; set on shutdown.
        in_flight: reviews being answered.
    """

    def __init__(
        self,
        view: ClusterView,
        certificate_problem: Callable[[], str] = lambda: "",
        *,
        health: Callable[[], str] = lambda: "",
        look: Look | None = None,
        on_unserved: Callable[[ReviewRequest, Verdict], None] | None = None,
        lately_deleted: Callable[[str], tuple[str, ...]] = lambda _namespace: (),
        metrics: WebhookMetrics | None = None,
        only_namespace: str = "",
        lag_seconds: float = LAG_SECONDS,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._view = view
        self._certificate_problem = certificate_problem
        self._health = health
        self._look = look
        self._on_unserved = on_unserved
        self._lately_deleted = lately_deleted
        self._metrics = metrics or WebhookMetrics()
        self._only_namespace = only_namespace
        self._lag_seconds = lag_seconds
        self._budget_seconds = budget_seconds
        self._bodies = BodyReader()
        self._waiting_bytes = 0
        self.draining = False
        self.in_flight = 0
        self._metrics.in_flight.set_function(lambda: self.in_flight)
        self._metrics.ready.set_function(lambda: float(not self.not_ready_because()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        policy = _POLICIES.get(path)
        if policy is not None:
            if method != "POST":
                await self._reply(send, HTTPStatus.METHOD_NOT_ALLOWED, "use POST", allow="POST")
                return
            self.in_flight += 1
            try:
                await self._mutate(policy, scope, receive, send)
            finally:
                self.in_flight -= 1
        elif path in ("/readyz", "/healthz"):
            if method not in ("GET", "HEAD"):
                await self._reply(send, HTTPStatus.METHOD_NOT_ALLOWED, "use GET", allow="GET, HEAD")
                return
            missing = self.not_ready_because() if path == "/readyz" else self._health()
            status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
            await self._reply(send, status, missing or "ok")
        else:
            await self._reply(
                send, HTTPStatus.NOT_FOUND, "there are /mutate, /mutate/strict, /readyz and /healthz"
            )

    def not_ready_because(self) -> str:
        """Why this replica must not be sent requests; "" when it may."""
        if self.draining:
            return "shutting down"
        problem = self._certificate_problem()
        if problem:
            return problem
        waiting = self._view.waiting_for()
        return f"not listed yet: {', '.join(waiting)}" if waiting else ""

    async def _mutate(self, policy: Policy, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        try:
            request = parse_review(await self._bodies.read(scope, receive))
        except ReviewRejectedError as error:
            logger.warning("review rejected", extra={"status": int(error.status), "cause": error.message})
            self._metrics.count_review(policy, Result.ERROR, error.reason, loop.time() - arrived)
            await self._reply(send, error.status, error.message, close=error.status != HTTPStatus.BAD_REQUEST)
            return
        except Exception:
            logger.exception("a review could not be read")
            self._metrics.count_review(
                policy, Result.ERROR, RejectReason.INTERNAL_ERROR, loop.time() - arrived
            )
            text = "internal error of the webhook; its log has the details"
            await self._reply(send, HTTPStatus.INTERNAL_SERVER_ERROR, text, close=True)
            return
        verdict, denial, answer = await self._answer(policy, request, arrived)
        try:
            await self._send(send, HTTPStatus.OK, answer, _JSON)
        finally:
            # The creator of the pod need not wait for our count and log: the answer goes out first.
            # A server writes it at the end of this round of the event loop.
            seconds = loop.time() - arrived
            loop.call_soon(self._tell, policy, request, verdict, denial, seconds)

    def _tell(
        self, policy: Policy, request: ReviewRequest, verdict: Verdict, denial: Denial | None, seconds: float
    ) -> None:
        self._metrics.count_review(policy, _result(verdict, denial), verdict.reason, seconds)
        _log(request, verdict, denial)

    async def _answer(
        self, policy: Policy, request: ReviewRequest, arrived: float
    ) -> tuple[Verdict, Denial | None, bytes]:
        """Decide and write the answer; whatever goes wrong, there is one."""
        try:
            verdict = await self._verdict(request, arrived)
            if verdict.unserved:
                verdict = self._explained(request, verdict)
                if self._on_unserved is not None:
                    self._on_unserved(request, verdict)
            denial, answer = _render(policy, request, verdict)
        except Exception:
            logger.exception("a review failed; the entry's policy decides (%s)", policy, extra=_who(request))
            verdict = internal_error(request)
            denial, answer = _render(policy, request, verdict)
        return verdict, denial, answer

    async def _verdict(self, request: ReviewRequest, arrived: float) -> Verdict:
        skipped = skip_reason(request, self._only_namespace)
        if skipped is not None:
            return skipped
        is_cold = bool(self._view.waiting_for())
        verdict = _cold() if is_cold else _decide(request, self._view)
        if verdict.patch or not (is_cold or verdict.reason in _MAY_BE_LAG):
            return verdict
        size = request.size_bytes
        if size > MAX_WAITING_BYTES or self._waiting_bytes + size > MAX_ALL_WAITING_BYTES:
            return verdict
        self._waiting_bytes += size
        try:
            if is_cold:
                return await self._decide_cold(request, arrived)
            return await self._decide_late(request, verdict, arrived)
        finally:
            self._waiting_bytes -= size

    async def _decide_cold(self, request: ReviewRequest, arrived: float) -> Verdict:
        """Decide before the first lists are there: by one live look."""
        live = await self._live(request, arrived)
        if live is not None:
            return _decide(request, live, is_live=True)
        return _cold() if self._view.waiting_for() else _decide(request, self._view)

    async def _decide_late(self, request: ReviewRequest, verdict: Verdict, arrived: float) -> Verdict:
        """Decide again while the watch may just not have delivered it; at last by a live look."""
        loop = asyncio.get_running_loop()
        patience = min(loop.time() + self._lag_seconds, arrived + self._budget_seconds)
        while loop.time() < patience:
            await asyncio.sleep(LAG_POLL_SECONDS)
            verdict = _decide(request, self._view)
            if verdict.reason not in _MAY_BE_LAG:
                return verdict
        live = await self._live(request, arrived)
        return verdict if live is None else _decide(request, live, is_live=True)

    async def _live(self, request: ReviewRequest, arrived: float) -> Knowledge | None:
        deadline = arrived + self._budget_seconds
        if self._look is None or asyncio.get_running_loop().time() >= deadline:
            return None
        named = texts_of(child(request.pod, "metadata"), "labels").get(CONFIG_LABEL, "")
        # What is too long for a name is looked up, and not found, without being kept whole.
        return await self._look(
            request.namespace[: MAX_NAME_CHARACTERS + 1], named[: MAX_NAME_CHARACTERS + 1], deadline
        )

    def _explained(self, request: ReviewRequest, verdict: Verdict) -> Verdict:
        """Say of a missing config that it was there a moment ago."""
        if verdict.reason not in _MAY_HAVE_VANISHED or not verdict.warnings:
            return verdict
        deleted = self._lately_deleted(request.namespace)[:MAX_DELETIONS_TOLD]
        if not deleted:
            return verdict
        first, *rest = verdict.warnings
        return replace(verdict, warnings=(f"{first} ({'; '.join(deleted)})", *rest))

    async def _reply(
        self, send: Send, status: HTTPStatus, text: str, *, allow: str = "", close: bool = False
    ) -> None:
        headers = [(b"allow", allow.encode("ascii"))] if allow else []
        if close:
            headers.append((b"connection", b"close"))
        await self._send(send, status, f"{text}\n".encode(), _TEXT, headers)

    async def _send(
        self,
        send: Send,
        status: HTTPStatus,
        body: bytes,
        content_type: bytes,
        more_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode("ascii")),
            *(more_headers or ()),
        ]
        # A caller with a kept-alive connection would otherwise stay until the very end.
        if self.draining and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _cold() -> Verdict:
    return not_ready("the webhook has just started and knows no configs yet")


def _decide(request: ReviewRequest, known: Knowledge, *, is_live: bool = False) -> Verdict:
    labels = known.namespace_labels(request.namespace)
    if labels is None:
        return unknown_namespace(request, absent=is_live)
    return decide(request, labels, known.storage_configs(request.namespace), known.cluster_storage_configs())


def _render(policy: Policy, request: ReviewRequest, verdict: Verdict) -> tuple[Denial | None, bytes]:
    """What the entry's policy makes of a verdict, and the answer that says so."""
    denial = denial_of(verdict) if policy is Policy.FAIL else None
    audit = {"reason": str(verdict.reason)}
    if verdict.config:
        audit["config"] = verdict.config
    # The first warning is in the refusal.
    warnings = verdict.warnings if denial is None else verdict.warnings[1:]
    return denial, render_answer(
        request.uid, patch=verdict.patch, warnings=warnings, audit=audit, denial=denial
    )


def _result(verdict: Verdict, denial: Denial | None) -> Result:
    if denial is not None:
        return Result.DENIED
    if verdict.patch:
        return Result.INJECTED
    if verdict.reason == InjectionReason.ALREADY_INJECTED:
        return Result.UNCHANGED
    return Result.ERROR if verdict.reason in _OUR_FAULT else Result.SKIPPED


def _log(request: ReviewRequest, verdict: Verdict, denial: Denial | None) -> None:
    """One line a request; at info only where the pod asked for something."""
    level = logging.INFO if verdict.wanted or verdict.warnings else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "pod reviewed" if denial is None else "pod refused",
        extra={
            **_who(request),
            "reason": str(verdict.reason),
            "config": verdict.config,
            "patched": bool(verdict.patch),
            "warnings": len(verdict.warnings),
            "dry_run": request.dry_run,
        },
    )


def _who(request: ReviewRequest) -> dict[str, str]:
    """Fields of a log line; a caller writes them, so their length is bounded."""
    return {
        "uid": request.uid,
        "namespace": request.namespace[:MAX_NAME_CHARACTERS],
        "pod": request.name[:MAX_NAME_CHARACTERS],
    }
