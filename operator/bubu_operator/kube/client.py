"""A thin, synchronous, thread-safe way to the API server: plain dicts in and out.

None of the ``kubernetes`` package's generated models is used: objects stay the JSON that
the API sent, so unknown fields survive and nothing is parsed twice.

Invariants: every call has a timeout; every failure is a `KubeApiError`; no call retries by
itself (callers own back-off).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast
from urllib.parse import quote

from bubu_operator.errors import KubeApiError, KubeNotFoundError
from bubu_operator.kube.resources import JsonObject, Resource
from bubu_operator.kube.transport import Connection, JsonPatch, Transport
from bubu_operator.kube.watch import WatchStream

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "Connection", "JsonPatch", "KubeClient", "ObjectList", "PatchType"]

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
"""How long a request may go without an answer unless the caller says otherwise."""

DEFAULT_PAGE_SIZE: Final = 500

_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Asks the API server for metadata alone, which is a fraction of a pod."""


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


class KubeClient(Transport):
    """The verbs of the API, for plain objects; see `Transport` for what holds it together."""

    # -- objects -------------------------------------------------------------------------

    def get(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        metadata_only: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Read one object, or its metadata alone.

        Raises:
            KubeNotFoundError: there is none.
            KubeApiError: any other of the tree.
        """
        return self.request_json(
            "GET",
            _object_path(resource, name, namespace),
            accept=_METADATA if metadata_only else "application/json",
            timeout_seconds=timeout_seconds,
        )

    def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = DEFAULT_PAGE_SIZE,
        continue_token: str = "",
        metadata_only: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> ObjectList:
        """Read one page of a list, whole objects or their metadata alone.

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
        answer = self.request_json(
            "GET",
            resource.path(namespace),
            query=query,
            accept=_METADATA_LIST if metadata_only else "application/json",
            timeout_seconds=timeout_seconds,
        )
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
        """Create an object and return it as stored; ``kind`` and ``apiVersion`` are added where absent.

        Raises:
            KubeConflictError: one of that name exists.
            KubeInvalidError: the server refuses it; the message says why.
        """
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return self.request_json(
            "POST", resource.path(namespace), body=whole, timeout_seconds=timeout_seconds
        )

    def replace(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Put an object as read and changed; its own resourceVersion makes the write conditional.

        Raises:
            KubeConflictError: it has changed since it was read.
            KubeNotFoundError: it is gone.
        """
        metadata: JsonObject = body.get("metadata") or {}
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return self.request_json(
            "PUT",
            _object_path(resource, str(metadata.get("name") or ""), metadata.get("namespace")),
            body=whole,
            timeout_seconds=timeout_seconds,
        )

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
        return self.request_json(
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
        uid: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Delete an object; its dependants follow in the background.

        With ``uid`` it is deleted only if it is still that very object, and no other of its name.

        Raises:
            KubeConflictError: it is another one by now.
            KubeNotFoundError: there is none.
        """
        # Said in so many words: left to itself the API server leaves the pods of a Job behind.
        options: JsonObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid:
            options["preconditions"] = {"uid": uid}
        self.request_json(
            "DELETE", _object_path(resource, name, namespace), body=options, timeout_seconds=timeout_seconds
        )

    # -- streams -------------------------------------------------------------------------

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
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
            "fieldSelector": field_selector,
            "timeoutSeconds": str(max(1, int(timeout_seconds))),
        }
        path = resource.path(namespace)
        return WatchStream(self.send("GET", path, query=query, timeout_seconds=inactivity_seconds), what=path)

    def served(
        self, group: str, version: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> set[str]:
        """Return the plurals that the API server serves of a group's version; none if it does not know it."""
        try:
            answer = self.request_json("GET", f"/apis/{group}/{version}", timeout_seconds=timeout_seconds)
        except KubeNotFoundError:
            return set()
        return {str(item.get("name")) for item in cast("list[JsonObject]", answer.get("resources") or [])}

    def text(self, path: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> str:
        """Return the plain answer of a path such as ``/readyz``."""
        return self.read(self.send("GET", path, timeout_seconds=timeout_seconds), path).decode(
            "utf-8", errors="replace"
        )


def _object_path(resource: Resource, name: str, namespace: str | None) -> str:
    if not name:
        raise KubeApiError(f"a {resource.kind} without a name cannot be addressed")
    return f"{resource.path(namespace)}/{quote(name, safe='')}"
