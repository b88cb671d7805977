"""``bubu-operator unregister``: takes the webhook's registration away, for whoever uninstalls it.

Entries with failurePolicy Fail refuse pods while nobody answers them. So the registration goes first,
and the webhook after it: API servers hear of the deletion within moments, and a webhook that is told
to stop answers for some seconds more.

Invariants: one object of one kind is deleted, by its name and uid, and only if its label says that it
is ours; one that is not there is as good as one that was deleted; it ends within the time it was given.
The controller may go on running: it patches caBundle of a configuration that is there, and never makes one.

Rights, in a ClusterRole, by the name of the configuration::

    - apiGroups: [admissionregistration.k8s.io]
      resources: [mutatingwebhookconfigurations]
      resourceNames: [bubu-storage-webhook]
      verbs: [get, delete]
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from bubu_operator.defaults import OPERATOR_NAME, WEBHOOK_NAME
from bubu_operator.errors import (
    KubeConflictError,
    KubeForbiddenError,
    KubeNotFoundError,
    KubeThrottledError,
    KubeUnreachableError,
    OperatorError,
)
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import MUTATING_WEBHOOKS, metadata_of, section
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.logging import setup_logging

__all__ = ["UnregisterOptions", "run_unregister", "unregister"]

logger = logging.getLogger(__name__)

NAME_LABEL: Final = "app.kubernetes.io/name"
REQUEST_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.2
NEW_RIGHTS_SECONDS: Final = 5.0
"""A hook's rights are made a moment before it runs; API servers hear of them by a watch."""


class _NotYetError(Exception):
    """It is not gone so far, and may be in a moment."""


@dataclass(frozen=True, slots=True)
class UnregisterOptions:
    """Options of the command.

    Attributes:
        kubeconfig: None for the pod's own service account.
        webhook_configuration: name of the MutatingWebhookConfiguration.
        timeout_seconds: for everything.
        log_format, log_level: see `setup_logging`.
    """

    kubeconfig: Path | None = None
    webhook_configuration: str = WEBHOOK_NAME
    timeout_seconds: float = 30.0
    log_format: str = "json"
    log_level: str = "info"


def run_unregister(options: UnregisterOptions) -> int:
    """Delete the registration; return the exit code: 0 it is gone, 1 it is not, and the log says why."""
    try:
        setup_logging(options.log_level, options.log_format, Redactor())
        with KubeClient.load(None if options.kubeconfig is None else str(options.kubeconfig)) as client:
            unregister(client, options.webhook_configuration, timeout_seconds=options.timeout_seconds)
    except OperatorError as error:
        logger.error("not unregistered: %s", error)  # noqa: TRY400 - the cause is in the line
        return 1
    return 0


def unregister(
    client: KubeClient,
    name: str,
    *,
    timeout_seconds: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Delete a MutatingWebhookConfiguration of ours and see that it is gone.

    Raises:
        OperatorError: it is not ours, may not be deleted, or is still there when the time is over.
    """
    began = monotonic()
    end = began + timeout_seconds
    while True:
        left = end - monotonic()
        try:
            if _is_gone(client, name, min(REQUEST_SECONDS, max(left, PAUSE_SECONDS))):
                logger.info("no API server asks the webhook any more", extra={"configuration": name})
                return
            problem: Exception = _NotYetError("its deletion was asked for a moment ago")
        except KubeForbiddenError as error:
            if monotonic() - began >= min(NEW_RIGHTS_SECONDS, timeout_seconds):
                raise OperatorError(
                    f"{error}. Grant the verbs get and delete on mutatingwebhookconfigurations, "
                    f"resourceName {name}, by a ClusterRole"
                ) from error
            problem = error
        except (_NotYetError, KubeConflictError, KubeThrottledError, KubeUnreachableError) as error:
            problem = error
        if monotonic() + PAUSE_SECONDS >= end:
            raise OperatorError(
                f"MutatingWebhookConfiguration {name} is not known to be gone after {timeout_seconds:g} s: "
                f"{problem}. By hand: kubectl delete mutatingwebhookconfiguration {name}"
            ) from problem
        logger.debug("trying again", extra={"cause": str(problem)})
        sleep(PAUSE_SECONDS)


def _is_gone(client: KubeClient, name: str, seconds: float) -> bool:
    """Look, and delete what is there where it is ours; the next look tells what came of it.

    Raises:
        OperatorError: it is not ours.
        KubeApiError: it could not be read or deleted.
        _NotYetError: it is being deleted.
    """
    try:
        found = client.get(MUTATING_WEBHOOKS, name, metadata_only=True, timeout_seconds=seconds)
    except KubeNotFoundError:
        return True
    metadata = metadata_of(found)
    owner = section(metadata, "labels").get(NAME_LABEL)
    if owner != OPERATOR_NAME:
        said = f"its label {NAME_LABEL} is {owner!r}" if owner else f"it has no label {NAME_LABEL}"
        raise OperatorError(
            f"MutatingWebhookConfiguration {name} is not deleted: {said}, not {OPERATOR_NAME!r}, so it "
            "is somebody else's. Name ours with --webhook-configuration"
        )
    if metadata.get("deletionTimestamp"):
        waits = ", ".join(map(str, cast("list[Any]", metadata.get("finalizers") or [])))
        raise _NotYetError(f"it is being deleted, and waits for its finalizers: {waits}")
    _delete(client, name, str(metadata.get("uid") or ""), seconds)
    return False


def _delete(client: KubeClient, name: str, uid: str, seconds: float) -> None:
    try:
        client.delete(MUTATING_WEBHOOKS, name, uid=uid, timeout_seconds=seconds)
    except KubeNotFoundError:
        return
    logger.info("deleted", extra={"kind": MUTATING_WEBHOOKS.kind, "configuration": name})
