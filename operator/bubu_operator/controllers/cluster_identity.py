"""Which cluster this is, for claims on stores and registrations in them: the uid of ``kube-system``.

That namespace exists in every cluster, nobody can delete it, and a restored cluster has another
uid. A controller with rights in some namespaces only cannot read it; it takes the uid of the
first of them instead, so that it counts as a cluster of its own: that keeps data, and loses none.
"""

from __future__ import annotations

import logging
import threading

from bubu_operator.errors import KubeApiError, KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import NAMESPACES, metadata_of

__all__ = ["ClusterIdentity"]

logger = logging.getLogger(__name__)

_NAMESPACE = "kube-system"


class ClusterIdentity:
    """Reads the uid once; thread-safe."""

    def __init__(self, client: KubeClient, namespaces: tuple[str, ...]) -> None:
        self._client = client
        self._namespaces = namespaces
        self._lock = threading.Lock()
        self._uid = ""

    def uid(self) -> str:
        """Return the cluster's uid.

        Raises:
            KubeApiError: it could not be read; nothing may be claimed.
        """
        with self._lock:
            if not self._uid:
                self._uid = self._read()
            return self._uid

    def _read(self) -> str:
        try:
            return self._uid_of(_NAMESPACE)
        except KubeForbiddenError:
            if not self._namespaces:
                raise
            uid = self._uid_of(self._namespaces[0])
            logger.info(
                "namespace %s may not be read: in claims and registrations of stores this installation is a "
                "cluster of its own, by the uid of namespace %s",
                _NAMESPACE,
                self._namespaces[0],
            )
            return uid

    def _uid_of(self, namespace: str) -> str:
        try:
            uid = str(
                metadata_of(self._client.get(NAMESPACES, namespace, metadata_only=True)).get("uid") or ""
            )
        except KubeNotFoundError as error:
            # Not passed on as it is: to callers "not found" means that their policy is gone.
            raise KubeApiError(f"which cluster this is cannot be told: {error}") from error
        if not uid:
            raise KubeApiError(f"which cluster this is cannot be told: namespace {namespace} has no uid")
        return uid
