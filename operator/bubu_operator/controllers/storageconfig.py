"""StorageConfig and ClusterStorageConfig: is the store there, and what can it do.

gather (object, Secret, a real probe, or a Job's) → decide (pure: a `Verdict`) → act (one status
patch, events on transitions, a registration in a store that works) → report (when to look again). An
endpoint that hangs costs ten seconds of one worker, or twenty; it cannot hold up anything else. Jobs are
looked at in passing.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.bounded import BoundedCalls, CallTimeoutError
from bubu_operator.controllers.cluster_identity import ClusterIdentity
from bubu_operator.controllers.config_status import (
    Probed,
    Verdict,
    config_status,
    is_stale,
    judge,
    only_wording,
)
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.endpoint import check_endpoint
from bubu_operator.controllers.parsing import parse_object
from bubu_operator.controllers.probe_job import wants_job
from bubu_operator.controllers.probe_jobs import ProbeJobs
from bubu_operator.controllers.registrations import StoreRegistrations
from bubu_operator.controllers.store_access import (
    AnyConfig,
    Refusal,
    bucket_text,
    for_probe,
    resolve_store,
)
from bubu_operator.errors import EndpointRefusedError, KubeNotFoundError
from bubu_operator.kube.conditions import ConditionStatus, find_condition
from bubu_operator.kube.events import EventType
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.resources import (
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
    Resource,
    key_of,
    metadata_of,
    section,
)
from bubu_operator.kube.scrub import credential_scope, shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
from bubu_operator.observability.store_metrics import ConfigLabels
from bubu_operator.retention.annotations import RUN_NOW_ANNOTATION
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.probe import probe_backend
from bubu_storage.errors import StorageError
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["ConfigReconciler"]

logger = logging.getLogger(__name__)

PROBE_LIMIT_SECONDS: Final = 10.0
RETRY_BASE_SECONDS: Final = 5.0
RETRY_MAX_SECONDS: Final = 60.0
MAX_MESSAGE_CHARACTERS: Final = 1000


class ConfigReconciler:
    """Looks at one config at a time; one instance a kind."""

    def __init__(
        self,
        context: Context,
        resource: Resource,
        *,
        on_ready_change: Callable[[ObjectKey], None] = lambda _key: None,
        on_new_reason: Callable[[ObjectKey], None] = lambda _key: None,
        rng: random.Random | None = None,
    ) -> None:
        self._context = context
        self._resource = resource
        self._model: type[AnyConfig] = (
            StorageConfig if resource.plural == STORAGE_CONFIGS.plural else ClusterStorageConfig
        )
        self._on_ready_change = on_ready_change
        self._on_new_reason = on_new_reason
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._calls = BoundedCalls()
        self._registrations = StoreRegistrations(
            context, ClusterIdentity(context.client, context.options.namespaces)
        )
        self._jobs = ProbeJobs(context, rng=rng, cluster_uid=self._registrations.cluster_uid)
        self._lock = threading.Lock()
        self._failures: dict[ObjectKey, int] = {}
        self._asked: dict[ObjectKey, str] = {}

    def __call__(self, key: ObjectKey) -> float | None:
        """Probe the store and write the status; see `Reconcile`."""
        try:
            obj = self._context.client.get(self._resource, key.name, key.namespace or None)
        except KubeNotFoundError:
            self._gone(key)
            return None
        if metadata_of(obj).get("deletionTimestamp"):
            # Somebody's finalizer may keep it like that for ever.
            self._gone(key)
            return None
        try:
            config = parse_object(self._model, obj)
        except ValidationError as error:
            verdict = Verdict(
                ready=ConditionStatus.FALSE,
                reason=Reason.INVALID_SPEC,
                message=describe_validation_error(error),
                reconciled=False,
            )
            self._forget(key)
            self._write(obj, None, verdict)
            return None
        if isinstance(config, StorageConfig):
            if wants_job(config):
                look = self._jobs.look(obj, config)
                if look.verdict is not None:
                    self._write(obj, config, look.verdict)
                look.finish()
                return look.again_seconds
            self._jobs.discard(config)
        verdict = self._look(config)
        self._write(obj, config, verdict)
        return self._next(key, verdict)

    # -- gather --------------------------------------------------------------------------

    def _look(self, config: AnyConfig) -> Verdict:
        access = resolve_store(self._context, config)
        is_file = config.spec.file is not None
        if isinstance(access, Refusal):
            return judge(access, None, is_file=is_file, names=access.about_secrets)
        settings = for_probe(access.settings)
        outcome: Probed | BaseException
        # A probe writes into the store, where no client of ours stands before it.
        self._context.fence.check(f"probe of {_name(config)}")
        try:
            outcome = self._calls.call(
                # A spec that was corrected does not wait for what the one before it left hanging.
                (config.key, config.metadata.uid, config.metadata.generation),
                PROBE_LIMIT_SECONDS,
                lambda: _probe(settings, self._context.monotonic),
                group=config.metadata.namespace,
            )
        except CallTimeoutError as error:
            outcome = CallTimeoutError(f"{_name(config)} did not answer in time: {error}")
        except (StorageError, OSError, EndpointRefusedError) as error:
            outcome = error
        if isinstance(outcome, Probed):
            self._registrations.after_probe(config, settings)
        return judge(access, outcome, is_file=is_file, names=access.names_secrets)

    # -- act -----------------------------------------------------------------------------

    def _write(self, obj: JsonObject, config: AnyConfig | None, verdict: Verdict) -> None:
        now = self._context.clock()
        key = key_of(obj)
        own = self._context.redactor.of(credential_scope(self._resource.kind, key.namespace, key.name))
        message = shorten(own.scrub(verdict.message), MAX_MESSAGE_CHARACTERS)
        clean = replace(verdict, message=message)
        generation = metadata_of(obj).get("generation")
        asked = self._newly_asked(obj)
        self._show(obj, verdict)

        def make(current: JsonObject) -> JsonObject | None:
            if metadata_of(current).get("generation") != generation:
                return None
            old = section(current, "status")
            new = config_status(old, config, clean, generation=int(generation or 0), now=now)
            # Who asked for this look waits for its time and its words, even if they are all that is new.
            return old if only_wording(old, new) and not asked and not is_stale(old, now) else new

        before = find_condition(section(obj, "status").get("conditions"), ConditionType.READY)
        try:
            write_status(self._context.client, self._resource, obj, make)
        except (StatusRefusedError, KubeNotFoundError):
            return  # changed or gone: the watch brings it back
        was = ((before or {}).get("status"), (before or {}).get("reason"))
        if was != (verdict.ready.value, verdict.reason.value):
            logger.log(
                logging.WARNING if verdict.ready is ConditionStatus.FALSE else logging.INFO,
                "%s %s: Ready is %s (%s): %s",
                self._resource.kind,
                config.key if config is not None else metadata_of(obj).get("name"),
                verdict.ready.value,
                verdict.reason.value,
                message,
            )
            self._context.events.emit(
                self._resource,
                obj,
                type_=EventType.WARNING if verdict.ready is ConditionStatus.FALSE else EventType.NORMAL,
                reason=verdict.reason.value,
                note=message,
                action="Probe",
            )
            if config is not None:
                changed = self._on_ready_change if was[0] != verdict.ready.value else self._on_new_reason
                changed(ObjectKey(config.metadata.namespace, config.metadata.name))

    def _newly_asked(self, obj: JsonObject) -> bool:
        """Tell whether somebody has asked for this look by an annotation since this process's last one."""
        key, value = key_of(obj), str(section(metadata_of(obj), "annotations").get(RUN_NOW_ANNOTATION, ""))
        with self._lock:
            before = self._asked.get(key, value)
            self._asked[key] = value
        return value != before

    def _next(self, key: ObjectKey, verdict: Verdict) -> float | None:
        with self._lock:
            if verdict.ready is not ConditionStatus.FALSE:
                self._failures.pop(key, None)
                return self._context.options.probe_interval_seconds if verdict.probed else None
            failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = max(RETRY_MAX_SECONDS, self._context.options.probe_interval_seconds)
        base = min(RETRY_BASE_SECONDS, self._context.options.probe_interval_seconds)
        return backoff_seconds(failures, self._rng, base=base, maximum=longest)

    def _show(self, obj: JsonObject, verdict: Verdict) -> None:
        known = {ConditionStatus.TRUE: True, ConditionStatus.FALSE: False}
        self._context.metrics.stores.looked(
            self._labels(key_of(obj)),
            ready=known.get(verdict.ready),
            reason=verdict.reason.value,
            seconds=verdict.probe.seconds if verdict.probe is not None else None,
        )

    def _labels(self, key: ObjectKey) -> ConfigLabels:
        return self._resource.kind, key.namespace, key.name

    def _gone(self, key: ObjectKey) -> None:
        self._context.metrics.stores.forget(self._labels(key))
        self._forget(key)

    def _forget(self, key: ObjectKey) -> None:
        self._jobs.forget(key)
        with self._lock:
            self._failures.pop(key, None)
            self._asked.pop(key, None)


def _probe(settings: FileSettings | S3Settings, monotonic: Callable[[], float]) -> Probed:
    if isinstance(settings, S3Settings):
        check_endpoint(settings.endpoint, settings.address_policy)
    began = monotonic()
    with contextlib.closing(open_backend(settings)) as backend:
        report = probe_backend(backend)
    return Probed(report, monotonic() - began)


def _name(config: AnyConfig) -> str:
    s3 = config.spec.s3
    if s3 is None:
        return bucket_text(config)
    return f"bucket {s3.bucket} at {s3.endpoint or 'AWS'}"
