"""What a policy's status says of others on its store: who holds the claim, which clusters use it; pure."""

from __future__ import annotations

from datetime import datetime

from bubu_operator.api.v1alpha1.retention_facts import MAX_SHARED_WITH
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.resources import JsonObject
from bubu_operator.retention.store_facts import StoreFacts

__all__ = ["with_store_facts"]

MAX_NAME_CHARACTERS = 253


def with_store_facts(status: JsonObject, facts: StoreFacts | None, *, now: datetime) -> JsonObject:
    """Return a status with what a pass has learnt of its store; unchanged where it learnt nothing."""
    if facts is None:
        return status
    claim: JsonObject = {"ours": facts.ours, "observedTime": format_time(now)}
    if facts.holder:
        claim["holder"] = facts.holder[:MAX_NAME_CHARACTERS]
    if facts.expires_at is not None:
        claim["expireTime"] = format_time(facts.expires_at)
    new = {**status, "claim": claim}
    new.pop("sharedWith", None)
    if facts.shared_with:
        latest_first = sorted(facts.shared_with, key=lambda one: one.seen_at, reverse=True)
        new["sharedWith"] = [
            {"cluster": one.cluster[:MAX_NAME_CHARACTERS], "lastSeenTime": format_time(one.seen_at)}
            for one in latest_first[:MAX_SHARED_WITH]
        ]
    return new
