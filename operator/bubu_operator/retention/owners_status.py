"""What a policy's status remembers of the owners of runs; pure.

The last list that was believed stays until a newer one is: what is wrong with the newer one
stands beside it, under a hash that is of this one occurrence.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Final

from bubu_operator.api.v1alpha1.retention_facts import OwnersStatus
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.resources import JsonObject
from bubu_operator.kube.scrub import shorten
from bubu_operator.owners.census import NO_CENSUS, Anomaly, Census

__all__ = ["census_of", "owners_status"]

MAX_PROBLEM_CHARACTERS: Final = 2000
_PROBLEM_FIELDS: Final = ("problem", "reason", "problemHash", "problemToken")


def census_of(owners: OwnersStatus | None) -> Census:
    """Return the last list that was believed, as it is compared with the next."""
    if owners is None:
        return NO_CENSUS
    return Census(owners.live, owners.existing, frozenset(owners.kinds))


def owners_status(
    old: JsonObject, census: Census | None, anomaly: Anomaly | None, *, now: datetime
) -> JsonObject:
    """Return ``status.owners`` after owners were looked at.

    Args:
        old: as it was; empty at first.
        census: of the list that was believed last; None where there was none.
        anomaly: what is wrong with a newer list; None if it was believed.
        now: wall clock.
    """
    kept: JsonObject = {key: value for key, value in old.items() if key not in _PROBLEM_FIELDS}
    if anomaly is not None:
        occurrence = json.dumps([anomaly.token, kept.get("observedTime")])
        return kept | {
            "problem": shorten(anomaly.message, MAX_PROBLEM_CHARACTERS),
            "reason": anomaly.problem.value,
            "problemHash": hashlib.sha256(occurrence.encode()).hexdigest()[:16],
            "problemToken": anomaly.token,
        }
    if census is None:
        return kept
    return {
        "observedTime": format_time(now),
        "live": census.live,
        "existing": census.existing,
        "kinds": sorted(census.kinds),
    }
