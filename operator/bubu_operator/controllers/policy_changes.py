"""Why a pass that is under way must end: what it was started for has changed, or is gone.

The watch's cache may lag behind what was read, so only a newer spec, a deletion that was seen, an
object that was known and is known no more, or one of another uid than any known at the start counts.
For a cluster-wide policy the namespaces are listed again from time to time: one that is offered the
store no more is left alone at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.policy_kinds import AnyPolicy, PolicyKind
from bubu_operator.controllers.policy_store import PolicyStore, selected_namespaces
from bubu_operator.errors import OperatorError
from bubu_operator.kube.resources import JsonObject, ObjectKey, metadata_of

__all__ = ["watch_for_changes"]

logger = logging.getLogger(__name__)

NAMESPACES_SECONDS: Final = 10.0


def watch_for_changes(
    context: Context, kind: PolicyKind, key: ObjectKey, policy: AnyPolicy, store: PolicyStore
) -> Callable[[], str | None]:
    """Return a function that says why a pass of this policy on this store must end, or None."""
    cache = context.cache
    watched = (
        (kind.resource, key, policy.metadata, "the policy"),
        (store.resource, store.key, store.config.metadata, "its storage config"),
    )
    known = [cache.get(resource, its_key) for resource, its_key, _, _ in watched]
    namespaces = _Namespaces(context, store) if isinstance(policy, ClusterRetentionPolicy) else None

    def interrupted() -> str | None:
        for before, (resource, its_key, read, what) in zip(known, watched, strict=True):
            current = cache.get(resource, its_key)
            if current is None:
                if before is not None:
                    return f"{what} was deleted"
                continue
            metadata = metadata_of(current)
            if _is_another(metadata, read.uid, before):
                return f"{what} was deleted and created again"
            if metadata.get("deletionTimestamp"):
                return f"{what} is being deleted"
            # The cache may lag behind what we have read: only a newer spec counts.
            if int(metadata.get("generation") or 0) > read.generation:
                return f"{what} has changed"
        return namespaces.changed() if namespaces is not None else None

    return interrupted


def _is_another(metadata: JsonObject, uid: str, before: JsonObject | None) -> bool:
    """Tell whether an object of the name is another one than was read, and not only the one before that."""
    current = str(metadata.get("uid") or "")
    cached = str(metadata_of(before).get("uid") or "") if before is not None else ""
    return bool(current and uid) and current not in {uid, cached}


class _Namespaces:
    """Looks now and then whether every covered namespace is still offered the store."""

    def __init__(self, context: Context, store: PolicyStore) -> None:
        self._context = context
        self._config = store.config
        self._covered = frozenset(store.namespaces)
        self._looked_at = context.monotonic()

    def changed(self) -> str | None:
        config = self._config
        now = self._context.monotonic()
        if not isinstance(config, ClusterStorageConfig) or now - self._looked_at < NAMESPACES_SECONDS:
            return None
        self._looked_at = now
        try:
            gone = self._covered - set(selected_namespaces(self._context.client, config))
        except OperatorError as error:
            logger.warning("which namespaces are offered %s is not known: %s", config.metadata.name, error)
            return None
        if not gone:
            return None
        return f"namespace {min(gone)} is not offered the store any more, or is gone"
