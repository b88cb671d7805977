"""Which clusters' operators use a store: small objects that enforcing operators write into it.

Runs that have no owner in this cluster may have one in another that uses the same store, so rules about
orphans are off while another cluster's registration is fresh. Invariants: freshness is reckoned by the
store's own dates; what a registration holds decides nothing (its key and its date do), so that one that is
forged or damaged can only keep data; at most `MOST_LOOKED_AT` are looked at, and too many of them count as
another cluster.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from bubu_storage.backend.types import EPOCH, ObjectBackend
from bubu_storage.errors import ConfigurationError, ObjectNotFoundError, StorageError
from bubu_storage.retention.claim_document import shown
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "FRESH_SECONDS",
    "MOST_LOOKED_AT",
    "REFRESH_SECONDS",
    "REGISTRATION_PREFIX",
    "Registration",
    "foreign_clusters",
    "list_registrations",
    "register",
    "unregister",
]

REGISTRATION_PREFIX: Final = RESERVED_PREFIX + "retention/clusters/"
"""Where registrations are."""

FRESH_SECONDS: Final = 7 * 86_400.0
"""A cluster that has not swept the store for so long counts no more."""

REFRESH_SECONDS: Final = 3_600.0
"""A registration younger than this is left as it is."""

MOST_LOOKED_AT: Final = 100
"""Registrations that are looked at; the store may hold any number that somebody put there."""

_SUFFIX: Final = ".json"
_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Registration:
    """One cluster that uses the store.

    Attributes:
        cluster: its uid, from the object's key.
        renewed_at: the date that the store gave the object.
        name: what the registration says the operator is, "" where it was not read or says nothing.
    """

    cluster: str
    renewed_at: datetime
    name: str = ""


def register(
    backend: ObjectBackend, cluster_uid: str, *, name: str = "", now: datetime | None = None
) -> bool:
    """Write or refresh this cluster's registration; at most once an hour.

    Args:
        backend: the store.
        cluster_uid: of this cluster.
        name: the operator and its version, for people.
        now: the store's clock; asked for when None.

    Returns:
        Whether something was written.

    Raises:
        ConfigurationError: a uid that is no name of an object.
        StorageError: the store failed or refused.
    """
    key = _key(cluster_uid)
    now = backend.server_time() if now is None else now
    try:
        renewed_at = backend.head_object(key).last_modified
    except ObjectNotFoundError:
        pass
    else:
        # Either way: the dates of answers and those of objects may be a second apart.
        if renewed_at > EPOCH and abs(now - renewed_at) < timedelta(seconds=REFRESH_SECONDS):
            return False
    content = {
        "version": 1,
        "cluster": cluster_uid,
        "name": shown(name) if name else "",
        "renewedAt": now.isoformat(),
    }
    data = json.dumps(content).encode() + b"\n"
    backend.put_object(key, data, size_bytes=len(data), content_type="application/json")
    return True


def unregister(backend: ObjectBackend, cluster_uid: str) -> None:
    """Remove this cluster's registration; a missing one is fine.

    Raises:
        ConfigurationError: a uid that is no name of an object.
        StorageError: the store failed or refused.
    """
    backend.delete_object(_key(cluster_uid))


def foreign_clusters(
    backend: ObjectBackend, own_uid: str, now: datetime | None = None
) -> tuple[Registration, ...]:
    """Return the other clusters that have used the store lately; not empty means it is shared.

    Where there are more registrations than are looked at, nobody knows what the others are: one called
    ``…`` stands for them.

    Args:
        backend: the store.
        own_uid: of this cluster.
        now: the store's clock; asked for when None.

    Raises:
        StorageError: the store failed or refused; nobody knows then.
    """
    now = backend.server_time() if now is None else now
    found, more = list_registrations(backend)
    foreign = tuple(one for one in found if one.cluster != own_uid and _is_fresh(one, now))
    if foreign or not more:
        return foreign
    return (Registration("…", now, f"more than {MOST_LOOKED_AT} registrations"),)


def list_registrations(
    backend: ObjectBackend, *, read_names: bool = False
) -> tuple[tuple[Registration, ...], bool]:
    """Return up to `MOST_LOOKED_AT` registrations of any age, and whether there are more.

    Args:
        backend: the store.
        read_names: also read what they say, one request each.

    Raises:
        StorageError: the store failed or refused.
    """
    pages = backend.list_objects(REGISTRATION_PREFIX, page_size=MOST_LOOKED_AT + 1)
    page = next(pages, None)
    if page is None:
        return (), False
    found = tuple(
        Registration(
            _cluster(entry.key),
            entry.last_modified,
            _name(backend, entry.key, entry.size_bytes) if read_names else "",
        )
        for entry in page.objects[:MOST_LOOKED_AT]
    )
    # A store may give shorter pages than it was asked for.
    return found, len(page.objects) > MOST_LOOKED_AT or next(pages, None) is not None


def _is_fresh(registration: Registration, now: datetime) -> bool:
    """Tell whether a registration counts; one without a date, or of the future, does."""
    renewed_at = registration.renewed_at
    return renewed_at <= EPOCH or now - renewed_at < timedelta(seconds=FRESH_SECONDS)


def _key(cluster_uid: str) -> str:
    if not _UID.fullmatch(cluster_uid):
        raise ConfigurationError(
            f"cluster uid {shown(cluster_uid)!r} cannot name a registration; it is 1 to 128 letters, digits, "
            "'.', '_' and '-', as the uid of the namespace kube-system"
        )
    return REGISTRATION_PREFIX + cluster_uid + _SUFFIX


def _cluster(key: str) -> str:
    return key.removeprefix(REGISTRATION_PREFIX).removesuffix(_SUFFIX)


def _name(backend: ObjectBackend, key: str, size_bytes: int) -> str:
    if size_bytes > _MAX_BYTES:
        return ""
    try:
        with backend.get_object(key) as stored:
            content = cast("dict[str, Any]", json.loads(stored.read(_MAX_BYTES)))
        name = content["name"]
    except (ObjectNotFoundError, KeyError, TypeError, ValueError, RecursionError):
        return ""
    except StorageError:
        return ""
    return shown(name) if isinstance(name, str) and name else ""
