"""One connection to an API server: configuration, identity, requests, and errors told apart.

A pod's account and plain kubeconfigs are read by `bubu_operator.kube.identity`; any other
kubeconfig (plugins, client certificates, proxies) by the official ``kubernetes`` package, which
is loaded for it only. `bubu_operator.kube.client` adds the verbs.

Invariants: every request has a timeout, and so has the reading of its answer; every failure is
a `KubeApiError`; nothing is retried (callers own back-off) but a GET on a pooled connection that
had been closed; no text carries a credential of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast
from urllib.parse import urlencode

import urllib3
from yaml import YAMLError

from bubu_operator.errors import (
    KubeApiError,
    KubeConfigError,
    KubeTimeoutError,
    KubeUnreachableError,
    kube_error,
)
from bubu_operator.kube.identity import PlainIdentity, in_cluster_identity, plain_kubeconfig
from bubu_operator.kube.pool import Guard, connection_pool, stand_guard
from bubu_operator.kube.resources import JsonObject
from bubu_operator.kube.trust import take_old_authorities, tls_reason

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

__all__ = ["Connection", "Guard", "JsonPatch", "Observer", "Transport"]

CONNECT_TIMEOUT_SECONDS: Final = 5.0
BODY_SECONDS: Final = 30.0
"""For the rest of an answer that has begun, however steadily it trickles."""

LOWEST_ERROR_STATUS: Final = 400
USER_AGENT: Final = "bubu-operator"

JsonPatch: TypeAlias = list[JsonObject]
"""The operations of a JSON patch (RFC 6902)."""

Observer: TypeAlias = Callable[[str, str], None]
"""Told of each request that was sent: its method, and "ok", or the word of the error that it came to."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server.

    Attributes:
        server: URL.
        ca_path: file of the certificate authority, None for the machine's own.
        insecure: the server's certificate is not verified.
        authorization: value of that header, "" for none.
        certificate_path, private_key_path: of a client certificate.
        proxy_url: None for a direct connection.
    """

    server: str
    ca_path: str | None
    insecure: bool
    authorization: str = field(repr=False)
    certificate_path: str | None
    private_key_path: str | None
    proxy_url: str | None


class Transport:
    """One API server, one identity. Share it between threads; close it once.

    Args:
        configuration: how to connect.
        user_agent: how the server's logs name us.
        guard: see `Guard`; None lets everything through.
        observe: see `Observer`.
    """

    def __init__(
        self,
        configuration: Configuration | PlainIdentity,
        *,
        user_agent: str = USER_AGENT,
        guard: Guard | None = None,
        observe: Observer | None = None,
    ) -> None:
        self._configuration: Any = configuration
        self._pool = connection_pool(configuration)
        take_old_authorities(self._pool)
        if guard is not None:
            stand_guard(self._pool, guard)
        self._user_agent = user_agent
        self._guard = guard
        self._observe = observe

    @classmethod
    def load(
        cls,
        kubeconfig: str | None = None,
        *,
        user_agent: str = USER_AGENT,
        guard: Guard | None = None,
        observe: Observer | None = None,
    ) -> Self:
        """Connect by a given file, else ``$KUBECONFIG``, else the pod's account, else ``~/.kube/config``.

        Raises:
            KubeConfigError: none of them is usable.
        """
        path = kubeconfig or os.environ.get("KUBECONFIG") or None
        try:
            if path is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
                configuration: Any = in_cluster_identity(os.environ)
            else:
                proxied = any(name.lower() == "https_proxy" for name in os.environ)
                plain = None if path is None or proxied else plain_kubeconfig(Path(path))
                configuration = plain or _library_configuration(path)
        except (KubeConfigError, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
            where = f"kubeconfig {path}" if path else "the pod's service account or ~/.kube/config"
            raise KubeConfigError(
                f"cannot configure a connection from {where}: {' '.join(str(error).split()).rstrip('.')}. "
                "Set KUBECONFIG, pass --kubeconfig, or run in a pod with a service account."
            ) from error
        return cls(configuration, user_agent=user_agent, guard=guard, observe=observe)

    @property
    def server(self) -> str:
        """URL of the API server, for messages."""
        return str(self._configuration.host)

    def connection(self) -> Connection:
        """Return how this client connects, with a current token, for a library that connects by itself."""
        config = self._configuration
        return Connection(
            server=self.server,
            ca_path=config.ssl_ca_cert or None,
            insecure=not config.verify_ssl,
            authorization=self._authorization().get("Authorization", ""),
            certificate_path=config.cert_file or None,
            private_key_path=config.key_file or None,
            proxy_url=config.proxy or None,
        )

    def close(self) -> None:
        """Release pooled connections; streams that are open must be closed by their owners."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def request_json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | JsonPatch | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_seconds: float,
    ) -> JsonObject:
        """Send a request and return its JSON answer.

        Raises:
            KubeApiError: any of the tree.
        """
        response = self.send(
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            accept=accept,
            timeout_seconds=timeout_seconds,
        )
        data = self.read(response, path)
        try:
            answer: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise KubeUnreachableError(
                f"{method} {path}: the answer of {self.server} is no JSON; is a proxy in between?"
            ) from error
        if not isinstance(answer, dict):
            raise KubeUnreachableError(
                f"{method} {path}: the answer of {self.server} is no JSON object; is a proxy in between?"
            )
        return cast("JsonObject", answer)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | JsonPatch | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_seconds: float,
    ) -> urllib3.HTTPResponse:
        """Send a request and return an answer below 400, its body unread.

        Raises:
            KubeApiError: any of the tree; the body has been read then.
        """
        parameters = {key: value for key, value in (query or {}).items() if value}
        url = self.server + path + (f"?{urlencode(parameters)}" if parameters else "")
        headers = {"Accept": accept, "User-Agent": self._user_agent, **self._authorization()}
        if body is not None:
            headers["Content-Type"] = content_type
        what = f"{method} {path}"
        if self._guard is not None and method != "GET":
            timeout_seconds = min(timeout_seconds, self._guard(what))
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), read=timeout_seconds)
        try:
            response = cast(
                "urllib3.HTTPResponse",
                self._pool.request(
                    method,
                    url,
                    headers=headers,
                    body=None if body is None else json.dumps(body).encode("ascii"),
                    timeout=timeout,
                    preload_content=False,
                ),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            unreachable = _unreachable(what, self.server, error)
            self._tell(method, unreachable)
            raise unreachable from error
        if response.status >= LOWEST_ERROR_STATUS:
            refused = _api_error(what, response, self.read(response, path))
            self._tell(method, refused)
            raise refused
        self._tell(method, None)
        return response

    def _tell(self, method: str, error: KubeApiError | None) -> None:
        if self._observe is not None:
            self._observe(method, "ok" if error is None else error.word)

    def read(self, response: urllib3.HTTPResponse, path: str) -> bytes:
        """Return the whole body and give the connection back.

        Raises:
            KubeApiError: the connection broke, or the end did not come in time.
        """
        over = threading.Event()

        def end() -> None:
            over.set()
            # Wakes the thread that reads; the pool notices that the connection is no good any more.
            with contextlib.suppress(ValueError, RuntimeError, OSError):
                response.shutdown()

        timer = threading.Timer(BODY_SECONDS, end)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread to be had: as good as it gets
            timer.start()
        failure: Exception | None = None
        data = b""
        try:
            data = response.data or b""
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: the socket was shut under the reading thread.
            failure = error
        finally:
            timer.cancel()
            response.release_conn()
        if over.is_set():
            # Where no length was announced, what was cut off looks whole.
            raise KubeTimeoutError(
                f"reading {path}: the answer of {self.server} did not end within {BODY_SECONDS:g} s"
            ) from failure
        if isinstance(failure, (urllib3.exceptions.HTTPError, OSError)):
            raise _unreachable(f"reading {path}", self.server, failure) from failure
        if failure is not None:
            raise failure
        return data

    def _authorization(self) -> dict[str, str]:
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:  # a kubeconfig's plugins raise what they like
            raise KubeUnreachableError(f"cannot read the token for {self.server}: {error}") from error
        if token:
            text = str(token)
            return {"Authorization": text if " " in text else f"Bearer {text}"}
        if self._configuration.username:
            return {"Authorization": str(self._configuration.get_basic_auth_token())}
        return {}


def _library_configuration(path: str | None) -> Configuration:
    """What the ``kubernetes`` package makes of a kubeconfig.

    Raises:
        KubeConfigError: it cannot use it.
    """
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415 - see the module
    from kubernetes.config import kube_config  # noqa: PLC0415
    from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415

    configuration = Configuration()
    try:
        cast("Any", kube_config).load_kube_config(
            config_file=path, client_configuration=configuration, persist_config=False
        )
    except ConfigException as error:
        raise KubeConfigError(str(error)) from error
    return configuration


def _unreachable(what: str, server: str, error: BaseException) -> KubeUnreachableError:
    cause: BaseException = error
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        cause = error.reason
    timed_out = isinstance(cause, (urllib3.exceptions.TimeoutError, TimeoutError)) and not isinstance(
        cause, urllib3.exceptions.NewConnectionError
    )
    if timed_out:
        return KubeTimeoutError(f"{what}: {server} did not answer in time")
    why = tls_reason(cause) or type(cause).__name__
    return KubeUnreachableError(f"{what}: cannot reach {server}: {why}")


def _api_error(what: str, response: urllib3.HTTPResponse, data: bytes) -> KubeApiError:
    message, reason = "", ""
    try:
        parsed: Any = json.loads(data)
    except ValueError:
        message = data.decode("utf-8", errors="replace").strip()[:500]
    else:
        if isinstance(parsed, dict):
            status = cast("JsonObject", parsed)
            message, reason = str(status.get("message") or ""), str(status.get("reason") or "")
    retry_after = response.headers.get("Retry-After", "")
    return kube_error(
        f"{what}: {message or response.reason or response.status}",
        status=response.status,
        reason=reason,
        retry_after_seconds=float(retry_after) if retry_after.isdigit() else None,
    )
