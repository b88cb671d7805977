"""The ASGI application: ``POST /mutate``, ``GET /readyz``, ``GET /healthz``.

Invariants: one event loop, nothing blocking in it; a request that can be answered is
always answered, and always allowed (on a fault of ours with a warning and a log line);
the log never holds a pod's content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from bubu_operator.injection import Demand, SelectionReason
from bubu_operator.webhook.body import BodyReader, Receive, Scope
from bubu_operator.webhook.cache import ClusterView
from bubu_operator.webhook.mutate import SkipReason, Verdict, decide, skip_reason, unknown_namespace
from bubu_operator.webhook.review import ReviewRejectedError, ReviewRequest, parse_review, render_answer

__all__ = ["WebhookApp"]

logger = logging.getLogger(__name__)

LAG_SECONDS: Final = 0.25
"""How long a pod may wait for the watch to deliver what was created just before it."""

LAG_POLL_SECONDS: Final = 0.01

MAX_WAITING_BYTES: Final = 256 * 1024
"""Larger reviews do not wait: many of them, parsed, would be too much memory."""

MAX_LOGGED_CHARACTERS: Final = 253
"""Of a name in the log: the longest that Kubernetes allows. A pod is reviewed before it is validated."""

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
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


class WebhookApp:
    """The application; one per process.

    Attributes:
        draining: readiness is off and connections are being given up; set on shutdown.
    """

    def __init__(
        self,
        view: ClusterView,
        certificate_problem: Callable[[], str] = lambda: "",
        *,
        lag_seconds: float = LAG_SECONDS,
    ) -> None:
        self._view = view
        self._certificate_problem = certificate_problem
        self._lag_seconds = lag_seconds
        self._bodies = BodyReader()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if path == "/mutate":
            if method != "POST":
                await self._reply(send, HTTPStatus.METHOD_NOT_ALLOWED, "use POST", allow="POST")
                return
            await self._mutate(scope, receive, send)
        elif path in ("/readyz", "/healthz"):
            if method not in ("GET", "HEAD"):
                await self._reply(send, HTTPStatus.METHOD_NOT_ALLOWED, "use GET", allow="GET, HEAD")
                return
            missing = self.not_ready_because() if path == "/readyz" else ""
            status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
            await self._reply(send, status, missing or "ok")
        else:
            await self._reply(send, HTTPStatus.NOT_FOUND, "there are /mutate, /readyz and /healthz")

    def not_ready_because(self) -> str:
        """Why this replica must not be sent requests; "" when it may."""
        if self.draining:
            return "shutting down"
        problem = self._certificate_problem()
        if problem:
            return problem
        waiting = self._view.waiting_for()
        return f"not listed yet: {', '.join(waiting)}" if waiting else ""

    async def _mutate(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = parse_review(await self._bodies.read(scope, receive))
        except ReviewRejectedError as error:
            logger.warning("review rejected", extra={"status": int(error.status), "cause": error.message})
            await self._reply(send, error.status, error.message, close=error.status != HTTPStatus.BAD_REQUEST)
            return
        verdict = await self._verdict(request)
        audit = {"reason": verdict.reason}
        if verdict.config:
            audit["config"] = verdict.config
        answer = render_answer(request.uid, patch=verdict.patch, warnings=verdict.warnings, audit=audit)
        _log(request, verdict)
        await self._send(send, HTTPStatus.OK, answer, _JSON)

    async def _verdict(self, request: ReviewRequest) -> Verdict:
        try:
            skipped = skip_reason(request)
            if skipped is not None:
                return skipped
            if self._view.waiting_for():
                warning = (
                    "no storage was injected: the webhook has just started and knows no configs yet; retry"
                )
                return Verdict(SkipReason.NOT_READY, [], (warning,))
            return await self._decide(request)
        except Exception:
            logger.exception(
                "a review failed; the pod was let through unchanged",
                extra=_who(request),
            )
            warning = "no storage was injected: internal error of the webhook; its log has the details"
            return Verdict(SkipReason.INTERNAL_ERROR, [], (warning,))

    async def _decide(self, request: ReviewRequest) -> Verdict:
        """Decide, and once more while what is missing may just not have arrived from the watch."""
        loop = asyncio.get_running_loop()
        patience = self._lag_seconds if request.size_bytes <= MAX_WAITING_BYTES else 0.0
        deadline = loop.time() + patience
        view = self._view
        while True:
            labels = view.namespace_labels(request.namespace)
            if labels is None:
                verdict = unknown_namespace(request)
            else:
                verdict = decide(
                    request, labels, view.storage_configs(request.namespace), view.cluster_storage_configs()
                )
            if verdict.reason not in _MAY_BE_LAG or loop.time() >= deadline:
                return verdict
            await asyncio.sleep(LAG_POLL_SECONDS)

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
        content_type: str,
        more_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        headers = [
            (b"content-type", content_type.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
            *(more_headers or ()),
        ]
        # A caller with a kept-alive connection would otherwise stay until the very end.
        if self.draining and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _log(request: ReviewRequest, verdict: Verdict) -> None:
    """One line a request; at info only where the pod asked for something."""
    level = logging.INFO if verdict.wanted or verdict.warnings else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "pod reviewed",
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
        "namespace": request.namespace[:MAX_LOGGED_CHARACTERS],
        "pod": request.name[:MAX_LOGGED_CHARACTERS],
    }
