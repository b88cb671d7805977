"""Why a pass that is under way must end: what it was started for has changed, or is gone.

The watch's cache may lag behind what was read, so only a newer spec, a deletion that was seen, an
object that was known and is known no more, or one of another uid than any known at the start counts.
Where a cluster-wide config is used, the namespaces are looked at again from time to time: one that is
offered the store no more is left alone at once. So it is with what others keep (`neighbour_changes`). A
list that may not be read any more ends the pass, and so does one that cannot be read three times in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.neighbour_changes import NeighbourChanges
from bubu_operator.controllers.policy_kinds import AnyPolicy, PolicyKind
from bubu_operator.controllers.policy_store import PolicyStore, is_offered, selected_namespaces
from bubu_operator.controllers.repeated_look import RepeatedLook
from bubu_operator.kube.resources import JsonObject, ObjectKey, metadata_of

__all__ = ["watch_for_changes"]


def watch_for_changes(
    context: Context,
    kind: PolicyKind,
    key: ObjectKey,
    policy: AnyPolicy,
    store: PolicyStore,
    *,
    neighbours: NeighbourChanges | None = None,
) -> Callable[[], str | None]:
    """Return a function that says why a pass of this policy on this store must end, or None.

    Args:
        context: of the controller.
        kind: of the policy.
        key: of the policy.
        policy: as the pass was planned by it.
        store: of the pass.
        neighbours: looks whether others keep more by now; None for without.
    """
    cache = context.cache
    watched = (
        (kind.resource, key, policy.metadata, "the policy"),
        (store.resource, store.key, store.config.metadata, "its storage config"),
    )
    known = [cache.get(resource, its_key) for resource, its_key, _, _ in watched]
    looks = list(_looks(context, policy, store, neighbours))

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
        return next(filter(None, (look() for look in looks)), None)

    return interrupted


def _is_another(metadata: JsonObject, uid: str, before: JsonObject | None) -> bool:
    """Tell whether an object of the name is another one than was read, and not only the one before that."""
    current = str(metadata.get("uid") or "")
    cached = str(metadata_of(before).get("uid") or "") if before is not None else ""
    return bool(current and uid) and current not in {uid, cached}


def _looks(
    context: Context, policy: AnyPolicy, store: PolicyStore, neighbours: NeighbourChanges | None
) -> Iterator[RepeatedLook]:
    config = store.config
    if isinstance(config, ClusterStorageConfig):
        which = f"which namespaces are offered ClusterStorageConfig {config.metadata.name}"
        is_wide = isinstance(policy, ClusterRetentionPolicy)
        yield RepeatedLook(
            context.monotonic, which, lambda: _taken_back(context, store, config, is_wide=is_wide)
        )
    if neighbours is not None:
        yield RepeatedLook(context.monotonic, "what other policies keep", neighbours.look)


def _taken_back(
    context: Context, store: PolicyStore, config: ClusterStorageConfig, *, is_wide: bool
) -> str | None:
    """Look whether every covered namespace is still offered the store."""
    if is_wide:
        gone = set(store.namespaces) - set(selected_namespaces(context.client, config))
    else:
        gone = {name for name in store.namespaces if not is_offered(context.client, config, name)}
    if not gone:
        return None
    return f"namespace {min(gone)} is not offered the store any more, or is gone"
