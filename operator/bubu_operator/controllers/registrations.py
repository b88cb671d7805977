"""Leaves this cluster's registration in every store whose probe went well.

Another cluster that uses the store then knows that runs without an owner over there may have one here, also
where no policy of this cluster deletes, or where it has none. Invariants: nothing is written where no
probe has just written; a store is asked at most once an hour, and after a failure every few minutes; a
failure is said in the log, once for each text, and changes nothing of the config's status.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from bubu_operator.controllers.bounded import BoundedCalls, CallTimeoutError
from bubu_operator.controllers.cluster_identity import ClusterIdentity
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.store_access import AnyConfig, store_identity
from bubu_operator.defaults import OPERATOR_NAME
from bubu_operator.errors import KubeApiError
from bubu_storage.backend.factory import open_backend
from bubu_storage.errors import StorageError
from bubu_storage.retention.registration import REFRESH_SECONDS, register
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["StoreRegistrations"]

logger = logging.getLogger(__name__)

UNREGISTERED: Final = "other clusters may take this one's runs for orphans, as it cannot register in"
RETRY_SECONDS: Final = 300.0
LIMIT_SECONDS: Final = 10.0
MOST_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a store, or of a config's way to it: when to try again, and the last problem."""

    due: float
    problem: str


class StoreRegistrations:
    """Registers in stores; thread-safe.

    Args:
        context: of the process.
        identity: of the cluster.
    """

    def __init__(self, context: Context, identity: ClusterIdentity) -> None:
        self._context = context
        self._identity = identity
        self._calls = BoundedCalls()
        self._lock = threading.Lock()
        self._told = ""
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def cluster_uid(self) -> str:
        """Return the cluster's uid; "" where it cannot be read, which is said in the log."""
        try:
            return self._identity.uid()
        except KubeApiError as error:
            self._tell(f"{UNREGISTERED} any store: {error}")
            return ""

    def after_probe(self, config: AnyConfig, settings: FileSettings | S3Settings) -> None:
        """Register in a store that was probed just now, if that is due."""
        store = store_identity(config)
        # Who succeeds speaks for all configs on the store; who fails, as with narrow rights, for itself.
        own = f"{store} of {config.KIND} {config.key}"
        with self._lock:
            now = self._context.monotonic()
            known = self._known.get(own, _Known(float("-inf"), ""))
            if now < max(known.due, self._known.get(store, known).due):
                return
        uid = self.cluster_uid()
        problem = self._register(config, settings, uid) if uid else known.problem
        now = self._context.monotonic()
        with self._lock:
            if problem or not uid:
                self._note(own, _Known(now + RETRY_SECONDS, problem))
            else:
                self._known.pop(own, None)
                self._note(store, _Known(now + REFRESH_SECONDS, ""))
        if problem and problem != known.problem:
            logger.warning("%s %s: %s", UNREGISTERED, own, self._context.redactor.scrub(problem))

    def _register(self, config: AnyConfig, settings: FileSettings | S3Settings, uid: str) -> str:
        self._context.fence.check(f"registration in {store_identity(config)}")

        def write() -> None:
            with contextlib.closing(open_backend(settings)) as backend:
                register(backend, uid, name=OPERATOR_NAME)

        key = (config.key, config.metadata.uid, config.metadata.generation)
        try:
            self._calls.call(key, LIMIT_SECONDS, write, group=config.metadata.namespace)
        except (StorageError, OSError, CallTimeoutError) as error:
            return str(error) or type(error).__name__
        return ""

    def _tell(self, text: str) -> None:
        with self._lock:
            news, self._told = text != self._told, text
        if news:
            logger.warning("%s", text)

    def _note(self, key: str, known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
