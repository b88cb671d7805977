"""The webhook's own decision on a pod, asked in its own words: an AdmissionReview.

An explanation tells why; what happens is decided by this, so that the two cannot differ.
"""

from __future__ import annotations

import json
from typing import Final

from bubu_operator.injection.podspec import child
from bubu_operator.kubectl.facts import Facts
from bubu_operator.webhook.mutate import Verdict, decide, skip_reason
from bubu_operator.webhook.review import dry_run_review, parse_review
from bubu_storage.apply_env import Json

__all__ = ["verdict_of"]

_SERVER_FIELDS: Final = ("managedFields", "selfLink")


def verdict_of(pod: Json, facts: Facts) -> Verdict:
    """What the webhook would answer if this pod were created now.

    Raises:
        ValueError, TypeError: the pod is nothing that JSON can say.
    """
    created = {key: value for key, value in pod.items() if key != "status"}
    metadata = child(pod, "metadata")
    if metadata:
        created["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_FIELDS}
    review = dry_run_review(created, facts.namespace, "explain")
    request = parse_review(json.dumps(review).encode())
    return skip_reason(request) or decide(request, facts.labels, facts.configs, facts.cluster_configs)
