"""What is said of agents: how they run, why they ended; pure.

Invariant: what a pod's status says may be written by the namespace's owner; it becomes fixed words and
bounded text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.pass_agent_job import AGENT_CONTAINER
from bubu_operator.kube.conditions import condition_list
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.kube.scrub import scrub_patterns, shorten
from bubu_operator.probe.result import UnreadableResultError, parse_result

__all__ = ["account_of", "how_it_runs", "last_words", "pass_reason", "store_name"]

MAX_WORDS_CHARACTERS: Final = 300
MAX_READ_CHARACTERS: Final = 8192

_REASONS: Final = {
    Reason.PROBE_JOB_STUCK: Reason.PASS_JOB_STUCK,
    Reason.PROBE_RESULT_UNREADABLE: Reason.PASS_JOB_FAILED,
    Reason.PROBE_SUCCEEDED: Reason.PASS_JOB_FAILED,
    Reason.STORE_ERROR: Reason.PASS_JOB_FAILED,
}
"""What a probe's words are called of an agent; the others are of the store, and the same."""


def pass_reason(reason: Reason) -> Reason:
    """Return what a probe's reason is called of an agent."""
    return _REASONS.get(reason, reason)


def account_of(config: StorageConfig) -> str:
    """Return the account that pods of this config's Jobs run under."""
    s3 = config.spec.s3
    account = s3.authentication.service_account if s3 is not None else None
    return account.name if account is not None else "default"


def how_it_runs(config: StorageConfig) -> str:
    """Return what tells this config's agent from others, for people."""
    return f"under service account {account_of(config)}" if config.spec.s3 is not None else "with the claim"


def store_name(config: StorageConfig) -> str:
    """Return what the store is called in messages."""
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        return f"s3://{s3.bucket}"
    return f"claim {file.volume_claim_name}" if file is not None else "store"


def last_words(pods: Sequence[JsonObject]) -> str | None:
    """Return why the pod of an agent has ended; "" where nothing was wrong, None where it has not ended."""
    for pod in pods:
        status = section(pod, "status")
        if evicted := _text(status.get("reason")):
            return _line(f"its pod ended: {evicted}: {_text(status.get('message'))}")
        statuses: Any = status.get("containerStatuses")
        for container in condition_list(statuses):
            ended = section(section(container, "state"), "terminated")
            if container.get("name") == AGENT_CONTAINER and ended:
                return _end_of(ended)
    return None


def _end_of(ended: JsonObject) -> str:
    try:
        result = parse_result(str(ended.get("message") or ""))
    except UnreadableResultError:
        code, why = ended.get("exitCode"), _text(ended.get("reason"))
        number = str(code) if isinstance(code, int) else "?"
        return _line(f"its pod ended with exit code {number}{f' ({why})' if why else ''}")
    return "" if result.reason is Reason.PROBE_SUCCEEDED else _line(f"its last words: {result.message}")


def _line(text: str) -> str:
    # Scrubbed before it is cut: half a credential would not be known as one.
    return shorten(scrub_patterns(text[:MAX_READ_CHARACTERS]), MAX_WORDS_CHARACTERS)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
