"""What the API server has of agents: their Jobs, pods and events; and the end of a Job.

Invariants: whatever a namespace's owner has made, a bounded part of it is read; only Jobs that the
config owns are ours; a Job is deleted by its uid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.pass_agent_job import AGENT_CONTAINER, PASS_LABEL
from bubu_operator.controllers.probe_job_state import JobState, Phase, read_job
from bubu_operator.errors import KubeApiError, KubeConflictError, KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import EVENTS, JOBS, PODS, JsonObject, metadata_of

__all__ = ["JobsOfPasses", "owners_of"]

logger = logging.getLogger(__name__)

MAX_LISTED: Final = 20
MAX_EVENTS: Final = 50
_NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"


class JobsOfPasses:
    """Looks up and deletes; thread-safe."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def jobs_of(self, config: StorageConfig) -> list[JsonObject]:
        """Return the Jobs of agents that a config owns.

        Raises:
            KubeApiError: the API server failed.
        """
        metadata = config.metadata
        page = self._client.list_page(
            JOBS, metadata.namespace, label_selector=f"{PASS_LABEL}={metadata.name}", limit=MAX_LISTED
        )
        return [job for job in page.items if metadata.uid in owners_of(job)]

    def pods_of(self, namespace: str, job_uid: str) -> tuple[JsonObject, ...]:
        """Return the pods that carry a Job's label; see `owners_of` for whose they are.

        Raises:
            KubeApiError: the API server failed.
        """
        selector = f"batch.kubernetes.io/controller-uid={job_uid}"
        return self._client.list_page(PODS, namespace, label_selector=selector, limit=MAX_LISTED).items

    def earlier_pod(self, config: StorageConfig) -> str:
        """Return the name of a pod of an agent of this config that has not ended; "" if there is none.

        Raises:
            KubeApiError: the API server failed.
        """
        metadata = config.metadata
        page = self._client.list_page(
            PODS,
            metadata.namespace,
            label_selector=f"{PASS_LABEL}={metadata.name}",
            field_selector=_NOT_ENDED,
            limit=MAX_LISTED,
        )
        return str(metadata_of(page.items[0]).get("name")) if page.items else ""

    def state_of(self, namespace: str, job: JsonObject, *, now: datetime, grace_seconds: float) -> JobState:
        """Return how far a Job has come; see `read_job`.

        Raises:
            KubeApiError: the API server failed.
        """
        pods = self.pods_of(namespace, str(metadata_of(job).get("uid")))

        def read(events: Sequence[JsonObject]) -> JobState:
            return read_job(
                job, pods, events, now=now, grace_seconds=grace_seconds, container=AGENT_CONTAINER
            )

        state = read(())
        return read(self.events(namespace, job, pods)) if state.phase is Phase.STUCK else state

    def events(self, namespace: str, job: JsonObject, pods: Sequence[JsonObject]) -> list[JsonObject]:
        """Return what is told of a Job and its pods.

        Raises:
            KubeApiError: the API server failed.
        """
        found: list[JsonObject] = []
        for about in (job, *pods):
            selector = f"regarding.uid={metadata_of(about).get('uid')}"
            found.extend(
                self._client.list_page(EVENTS, namespace, field_selector=selector, limit=MAX_EVENTS).items
            )
        return found

    def delete(self, job: JsonObject) -> None:
        """Delete a Job, if it is not going already."""
        metadata = metadata_of(job)
        if not metadata.get("deletionTimestamp"):
            self.delete_named(
                str(metadata.get("namespace")), str(metadata.get("name")), str(metadata.get("uid"))
            )

    def delete_named(self, namespace: str, name: str, uid: str) -> None:
        """Delete that very Job; where it fails, the Job goes by its own deadline."""
        try:
            self._client.delete(JOBS, name, namespace, uid=uid)
        except (KubeNotFoundError, KubeConflictError):
            return
        except KubeApiError as error:
            logger.info("Job %s/%s was not deleted, and goes by itself: %s", namespace, name, error)


def owners_of(obj: JsonObject) -> set[str]:
    """Return the uids of an object's owners."""
    references = cast("list[Any]", metadata_of(obj).get("ownerReferences") or [])
    return {str(cast("JsonObject", item).get("uid")) for item in references if isinstance(item, dict)}
