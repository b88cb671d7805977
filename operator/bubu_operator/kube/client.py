"""A thin, synchronous, thread-safe way to the API server: plain dicts in and out.

Wraps the transport of the official ``kubernetes`` package (its kubeconfig and in-cluster
loading, TLS, token refresh, proxies), and none of its generated models: objects stay the
JSON that the API sent, so unknown fields survive and nothing is parsed twice.

Invariants: every call has a timeout; every failure is a `KubeApiError`; no call retries by
itself (callers own back-off); text from the server never carries a credential of ours.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias, cast
from urllib.parse import quote, urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import incluster_config, kube_config
from kubernetes.config.config_exception import ConfigException
from yaml import YAMLError

from bubu_operator.errors import (
    KubeApiError,
    KubeConfigError,
    KubeNotFoundError,
    KubeTimeoutError,
    KubeUnreachableError,
    kube_error,
)
from bubu_operator.kube.resources import JsonObject, Resource
from bubu_operator.kube.watch import WatchStream

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "Connection", "JsonPatch", "KubeClient", "ObjectList", "PatchType"]

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
"""How long a request may go without an answer unless the caller says otherwise."""

CONNECT_TIMEOUT_SECONDS: Final = 5.0
DEFAULT_PAGE_SIZE: Final = 500
POOL_CONNECTIONS: Final = 32
LOWEST_ERROR_STATUS: Final = 400
USER_AGENT: Final = "bubu-operator"


JsonPatch: TypeAlias = list[JsonObject]
"""The operations of a JSON patch (RFC 6902)."""


class PatchType(StrEnum):
    """Ways to patch, named by their media type."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class ObjectList:
    """One page, or the whole, of a list.

    Attributes:
        items: the objects; list entries lack ``kind`` and ``apiVersion``, as the API sends them.
        resource_version: where a watch goes on from.
        continue_token: "" on the last page.
    """

    items: tuple[JsonObject, ...]
    resource_version: str
    continue_token: str = ""


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


class KubeClient:
    """One API server, one identity. Share it between threads; close it once."""

    def __init__(self, configuration: Configuration, *, user_agent: str = USER_AGENT) -> None:
        config: Any = configuration
        # A connection that cannot be made must show at once: callers have their own back-off.
        config.retries = urllib3.Retry(
            total=1,
            connect=0,
            read=1,
            redirect=0,
            status=0,
            other=0,
            allowed_methods=frozenset({"GET"}),
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        config.connection_pool_maxsize = POOL_CONNECTIONS
        config.keep_alive = True
        self._configuration = config
        self._api: Any = ApiClient(configuration)
        self._user_agent = user_agent

    @classmethod
    def load(cls, kubeconfig: str | None = None, *, user_agent: str = USER_AGENT) -> Self:
        """Connect by a given file, else ``$KUBECONFIG``, else the pod's account, else ``~/.kube/config``.

        Raises:
            KubeConfigError: none of them is usable.
        """
        configuration = Configuration()
        path = kubeconfig or os.environ.get("KUBECONFIG") or None
        try:
            if path is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
                cast("Any", incluster_config).load_incluster_config(client_configuration=configuration)
            else:
                cast("Any", kube_config).load_kube_config(
                    config_file=path, client_configuration=configuration, persist_config=False
                )
        except (ConfigException, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
            where = f"kubeconfig {path}" if path else "the pod's service account or ~/.kube/config"
            raise KubeConfigError(
                f"cannot configure a connection from {where}: {' '.join(str(error).split())}. "
                "Set KUBECONFIG, pass --kubeconfig, or run in a pod with a service account."
            ) from error
        return cls(configuration, user_agent=user_agent)

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
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- objects -------------------------------------------------------------------------

    def get(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Read one object.

        Raises:
            KubeNotFoundError: there is none.
            KubeApiError: any other of the tree.
        """
        return self._json("GET", _object_path(resource, name, namespace), timeout_seconds=timeout_seconds)

    def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = DEFAULT_PAGE_SIZE,
        continue_token: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> ObjectList:
        """Read one page of a list.

        Raises:
            KubeGoneError: the continue token has expired; begin again.
            KubeApiError: any other of the tree.
        """
        query = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": str(limit),
            "continue": continue_token,
        }
        answer = self._json("GET", resource.path(namespace), query=query, timeout_seconds=timeout_seconds)
        metadata: JsonObject = answer.get("metadata") or {}
        return ObjectList(
            items=tuple(cast("list[JsonObject]", answer.get("items") or [])),
            resource_version=str(metadata.get("resourceVersion") or ""),
            continue_token=str(metadata.get("continue") or ""),
        )

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        page_size: int = DEFAULT_PAGE_SIZE,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> ObjectList:
        """Read a whole list, page by page, all pages of one snapshot.

        Raises:
            KubeGoneError: the snapshot expired between two pages; call again.
            KubeApiError: any other of the tree.
        """
        items: list[JsonObject] = []
        token = ""
        while True:
            page = self.list_page(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                limit=page_size,
                continue_token=token,
                timeout_seconds=timeout_seconds,
            )
            items.extend(page.items)
            token = page.continue_token
            if not token:
                return ObjectList(items=tuple(items), resource_version=page.resource_version)

    def create(
        self,
        resource: Resource,
        body: JsonObject,
        namespace: str | None = None,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Create an object and return it as stored.

        Raises:
            KubeConflictError: one of that name exists.
            KubeInvalidError: the server refuses it; the message says why.
        """
        return self._json("POST", resource.path(namespace), body=body, timeout_seconds=timeout_seconds)

    def patch(
        self,
        resource: Resource,
        name: str,
        body: JsonObject | JsonPatch,
        namespace: str | None = None,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Patch an object and return it as stored.

        Args:
            resource: which kind.
            name: which object.
            body: an object for merge and apply, a list of operations for `PatchType.JSON`.
            namespace: of a namespaced object.
            patch_type: see `PatchType`.
            subresource: as ``status``.
            field_manager: needed for apply.
            force: apply takes over fields of other managers.
            timeout_seconds: longest wait for the answer.

        Raises:
            KubeConflictError: a resourceVersion in the body is not the current one, or field ownership.
            KubeInvalidError: refused; a failed ``test`` operation of a JSON patch is one, too.
        """
        path = _object_path(resource, name, namespace)
        if subresource:
            path += f"/{subresource}"
        query = {"fieldManager": field_manager, "force": "true" if force else ""}
        return self._json(
            "PATCH",
            path,
            query=query,
            body=body,
            content_type=patch_type.value,
            timeout_seconds=timeout_seconds,
        )

    def patch_status(
        self,
        resource: Resource,
        name: str,
        status: JsonObject,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Merge ``status`` into an object's status and return the object as stored.

        With ``resource_version`` the write happens only if the object is still that version.

        Raises:
            KubeConflictError: it is not.
            KubeNotFoundError: the object is gone.
        """
        body: JsonObject = {"status": status}
        if resource_version:
            body["metadata"] = {"resourceVersion": resource_version}
        return self.patch(
            resource, name, body, namespace, subresource="status", timeout_seconds=timeout_seconds
        )

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Delete an object, its dependants in the background.

        Raises:
            KubeNotFoundError: there is none.
        """
        self._json("DELETE", _object_path(resource, name, namespace), timeout_seconds=timeout_seconds)

    # -- streams -------------------------------------------------------------------------

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        timeout_seconds: float = 300.0,
        inactivity_seconds: float = 90.0,
    ) -> WatchStream:
        """Open a watch with bookmarks, from just after ``resource_version``.

        The server ends it after ``timeout_seconds``; silence of ``inactivity_seconds`` (the
        server bookmarks about once a minute) ends it with `KubeTimeoutError`.

        Raises:
            KubeGoneError: the version is too old; list again.
            KubeApiError: any other of the tree.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "timeoutSeconds": str(max(1, int(timeout_seconds))),
        }
        path = resource.path(namespace)
        return WatchStream(
            self._send("GET", path, query=query, timeout_seconds=inactivity_seconds), what=path
        )

    def served(
        self, group: str, version: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> set[str]:
        """Return the plurals that the API server serves of a group's version; none if it does not know it."""
        try:
            answer = self._json("GET", f"/apis/{group}/{version}", timeout_seconds=timeout_seconds)
        except KubeNotFoundError:
            return set()
        return {str(item.get("name")) for item in cast("list[JsonObject]", answer.get("resources") or [])}

    def text(self, path: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> str:
        """Return the plain answer of a path such as ``/readyz``."""
        return self._read(self._send("GET", path, timeout_seconds=timeout_seconds), path).decode(
            "utf-8", errors="replace"
        )

    # -- transport -----------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | JsonPatch | None = None,
        content_type: str = "application/json",
        timeout_seconds: float,
    ) -> JsonObject:
        response = self._send(
            method, path, query=query, body=body, content_type=content_type, timeout_seconds=timeout_seconds
        )
        data = self._read(response, path)
        try:
            return cast("JsonObject", json.loads(data))
        except ValueError as error:
            raise KubeUnreachableError(
                f"{method} {path}: the answer of {self.server} is no JSON; is a proxy in between?"
            ) from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | JsonPatch | None = None,
        content_type: str = "application/json",
        timeout_seconds: float,
    ) -> urllib3.HTTPResponse:
        """Send a request; return an answer below 400 with its body unread, else raise."""
        parameters = {key: value for key, value in (query or {}).items() if value}
        url = self.server + path + (f"?{urlencode(parameters)}" if parameters else "")
        headers = {"Accept": "application/json", "User-Agent": self._user_agent, **self._authorization()}
        if body is not None:
            headers["Content-Type"] = content_type
        timeout = (min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), timeout_seconds)
        what = f"{method} {path}"
        try:
            answer: Any = self._api.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
        except (urllib3.exceptions.HTTPError, ApiException, OSError, ssl.SSLError) as error:
            raise _unreachable(what, self.server, error) from error
        response = cast("urllib3.HTTPResponse", answer.response)
        if response.status >= LOWEST_ERROR_STATUS:
            raise _api_error(what, response, self._read(response, path))
        return response

    def _read(self, response: urllib3.HTTPResponse, path: str) -> bytes:
        try:
            return response.data or b""
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(f"reading {path}", self.server, error) from error
        finally:
            response.release_conn()

    def _authorization(self) -> dict[str, str]:
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken")
        except (ConfigException, OSError) as error:
            raise KubeUnreachableError(f"cannot read the token for {self.server}: {error}") from error
        if token:
            text = str(token)
            return {"Authorization": text if " " in text else f"Bearer {text}"}
        if self._configuration.username:
            return {"Authorization": str(self._configuration.get_basic_auth_token())}
        return {}


def _object_path(resource: Resource, name: str, namespace: str | None) -> str:
    if not name:
        raise KubeApiError(f"a {resource.kind} without a name cannot be addressed")
    return f"{resource.path(namespace)}/{quote(name, safe='')}"


def _unreachable(what: str, server: str, error: BaseException) -> KubeUnreachableError:
    cause: BaseException = error
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        cause = error.reason
    timed_out = isinstance(cause, (urllib3.exceptions.TimeoutError, TimeoutError)) and not isinstance(
        cause, urllib3.exceptions.NewConnectionError
    )
    if timed_out:
        return KubeTimeoutError(f"{what}: {server} did not answer in time")
    return KubeUnreachableError(f"{what}: cannot reach {server}: {type(cause).__name__}")


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
