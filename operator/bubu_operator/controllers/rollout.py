"""Roll-outs one owner at a time: who may write a template that restarts pods, and when.

A config that changed could restart everything that uses it at once. `RolloutGate` lets one
owner of a config roll, waits until it is done, and lets the next one go, in the order of
namespace, kind and name. The unit is the config, not the namespace: what a bad change does
shows on the first owner, and for a cluster-wide config that must be one owner of the
cluster. Configs do not wait for each other; two starts are `START_INTERVAL_SECONDS` apart.

A roll-out that takes longer than the timeout no longer holds up the next one: it may wait
for a node. One that Kubernetes calls failed (its progress deadline passed) holds up all
further ones of the same revision of the config, until its owner is well again or gone; unless
that owner was broken before. An owner whose config changes all the time is rolled a few
times, and then rests.

The truth is in the cluster: each write carries a mark on its owner (`RolloutGate.mark`), and
a new process finds by the marks what is under way before it lets anybody go.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from bubu_operator.controllers.context import Context
from bubu_operator.controllers.rollout_mark import generation_of, read_mark, write_mark
from bubu_operator.controllers.rollout_state import RolloutState, rollout_done, rollout_state, waits_longer
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.kube.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    JsonObject,
    ObjectKey,
    Resource,
    key_of,
)

__all__ = [
    "ROLLING",
    "TOO_OFTEN",
    "RolloutGate",
    "RolloutState",
    "config_key",
    "rollout_done",
    "rollout_state",
]

logger = logging.getLogger(__name__)

ROLLING: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS)
"""Kinds whose pods are replaced when their template changes."""

SETTLE_SECONDS: Final = 1.0
"""A config's first owner waits this long for others to ask, so that the order does not depend on luck."""

START_INTERVAL_SECONDS: Final = 1.0
POLL_SECONDS: Final = 2.0
JUDGED_SECONDS: Final = 1.0
"""A roll-out is looked at once in this time, however many wait for it."""

HALTED_SECONDS: Final = 30.0
MAX_WAIT_SECONDS: Final = 300.0
GRANT_SECONDS: Final = 60.0
"""Who was let go and has not begun by now, will not."""

ABSENT_SECONDS: Final = 30.0
"""Who has not asked again this long after it should have, does not wait any more."""

GET_TIMEOUT_SECONDS: Final = 5.0

MAX_ROLLOUTS: Final = 3
REST_SECONDS: Final = 1800.0
"""In this time no owner is rolled more than `MAX_ROLLOUTS` times: two tools that fight over a config
must not restart its pods for ever."""

TOO_OFTEN: Final = (
    f"rolled out {MAX_ROLLOUTS} times within {REST_SECONDS / 60:.0f} minutes, "
    "and left alone until these are over"
)
MAX_REMEMBERED: Final = 10_000


def config_key(config: InjectionConfig) -> str:
    """Name a config for the gate: ``StorageConfig/team/main``."""
    return f"{config.kind}/{config.namespace}/{config.name}"


@dataclass(slots=True)
class _Rollout:
    """One that has been let go.

    Attributes:
        began: monotonic seconds; of the grant until `began` is called.
        granted_only: let go, and not yet written.
        failed: Kubernetes says so.
        broken: it had failed before this one, too; that it fails again says nothing of the config.
        judged: when it was looked at last, monotonic seconds.
    """

    resource: Resource
    key: ObjectKey
    revision: str
    began: float
    granted_only: bool = True
    failed: bool = False
    broken: bool = False
    judged: float = float("-inf")

    def is_of(self, resource: Resource, key: ObjectKey) -> bool:
        return self.resource is resource and self.key == key


_Waiter = tuple[str, str, str]
"""Namespace, kind, name: the order in which owners go."""


@dataclass(slots=True)
class _Scope:
    """One config: roll-outs under way, and who waits until when."""

    rollouts: list[_Rollout] = field(default_factory=list[_Rollout])
    waiting: dict[_Waiter, float] = field(default_factory=dict[_Waiter, float])
    since: float = 0.0


class RolloutGate:
    """Lets one owner of a config roll at a time; thread-safe, asked by polling."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._scopes: dict[str, _Scope] = {}
        self._recovered = False
        self._last_start = float("-inf")
        self._begun: OrderedDict[_Waiter, tuple[float, ...]] = OrderedDict()

    # -- asking --------------------------------------------------------------------------

    def request(self, config: str, resource: Resource, key: ObjectKey, *, revision: str = "") -> float:
        """Ask to roll an owner; 0.0 is "go now", else seconds after which to ask again.

        Who is let go writes at once, with `mark` in the same write, and says so by `began`;
        who does not need to any more says so by `withdraw`.

        Args:
            config: see `config_key`.
            resource: kind of the owner.
            key: the owner.
            revision: which state of the config is rolled out (a plan's hash); a failure of one
                revision does not hold up another.

        Raises:
            KubeApiError: what is under way could not be read; nothing is guessed.
        """
        if resource not in ROLLING:
            return 0.0
        with self._lock:
            self._recover()
            now = self._context.monotonic()
            scope = self._scopes.setdefault(config, _Scope())
            me = _waiter(resource, key)
            rest = self._rest(me, now)
            if rest > 0:
                # It does not queue: others must not wait for its rest.
                scope.waiting.pop(me, None)
                self._count()
                return min(MAX_WAIT_SECONDS, rest)
            wait = self._wait(scope, resource, key, revision, now)
            if wait > 0:
                scope.waiting[me] = now + wait + ABSENT_SECONDS
            else:
                scope.waiting.pop(me, None)
                scope.rollouts = [item for item in scope.rollouts if not item.is_of(resource, key)]
                scope.rollouts.append(_Rollout(resource, key, revision, now))
                self._last_start = now
            self._count()
            return wait

    def rests(self, resource: Resource, key: ObjectKey) -> bool:
        """Tell whether the owner was rolled so often lately that it is left alone for a while."""
        with self._lock:
            return self._rest(_waiter(resource, key), self._context.monotonic()) > 0

    def _rest(self, me: _Waiter, now: float) -> float:
        begun = self._begun.get(me, ())
        return begun[0] + REST_SECONDS - now if len(begun) == MAX_ROLLOUTS else 0.0

    def _wait(self, scope: _Scope, resource: Resource, key: ObjectKey, revision: str, now: float) -> float:
        self._judge(scope, now)
        for item in scope.rollouts:
            if item.is_of(resource, key) and (item.granted_only or item.revision != revision):
                # Its template is to change once more: no reason to wait for itself.
                return 0.0
        scope.waiting = {waiter: until for waiter, until in scope.waiting.items() if until > now}
        me = _waiter(resource, key)
        if not scope.waiting:
            scope.since = now
        scope.waiting.setdefault(me, now + ABSENT_SECONDS)
        if any(item.failed and item.revision == revision for item in scope.rollouts):
            return HALTED_SECONDS
        place = sorted(scope.waiting).index(me)
        if any(not item.failed for item in scope.rollouts):
            return min(MAX_WAIT_SECONDS, POLL_SECONDS * (place + 1))
        if place > 0:
            return min(MAX_WAIT_SECONDS, POLL_SECONDS * place)
        settled = scope.since + SETTLE_SECONDS - now
        return max(0.0, settled, self._last_start + START_INTERVAL_SECONDS - now)

    def began(self, config: str, resource: Resource, key: ObjectKey, workload: JsonObject) -> None:
        """Note that the owner has been written; its timeout runs from now.

        Args:
            config: see `config_key`.
            resource: kind of the owner.
            key: the owner.
            workload: as it was written, with its mark.
        """
        mark = read_mark(workload)
        me = _waiter(resource, key)
        with self._lock:
            self._begun[me] = (*self._begun.get(me, ()), self._context.monotonic())[-MAX_ROLLOUTS:]
            self._begun.move_to_end(me)
            while len(self._begun) > MAX_REMEMBERED:
                self._begun.popitem(last=False)
            scope = self._scopes.setdefault(config, _Scope())
            # Another part may have withdrawn the same owner meanwhile; what is written rolls all the same.
            others = [item for item in scope.rollouts if not item.is_of(resource, key)]
            scope.rollouts = [
                *others,
                _Rollout(
                    resource,
                    key,
                    revision=mark.revision if mark else "",
                    began=self._context.monotonic(),
                    granted_only=False,
                    broken=mark is not None and mark.broken,
                ),
            ]

    def withdraw(self, resource: Resource, key: ObjectKey) -> None:
        """Note that the owner needs no roll-out: it leaves every queue, and gives back an unused grant."""
        me = _waiter(resource, key)
        with self._lock:
            for scope in self._scopes.values():
                scope.waiting.pop(me, None)
                scope.rollouts = [
                    item for item in scope.rollouts if not (item.granted_only and item.is_of(resource, key))
                ]
            self._count()

    def halted_by(self, config: str, revision: str = "") -> str:
        """Name the owner whose failed roll-out holds up this revision of a config; "" for none."""
        with self._lock:
            scope = self._scopes.get(config, _Scope())
            for item in scope.rollouts:
                if item.failed and item.revision == revision:
                    return f"{item.resource.kind} {item.key}"
        return ""

    def mark(self, config: str, workload: JsonObject, *, revision: str = "") -> dict[str, str]:
        """Return the annotation that the owner's metadata gets in the very write that rolls it.

        Args:
            config: see `config_key`.
            workload: as read, before the write.
            revision: as given to `request`.
        """
        return write_mark(config, workload, revision=revision, now=self._context.clock())

    # -- judging -------------------------------------------------------------------------

    def _judge(self, scope: _Scope, now: float) -> None:
        """Drop what is done, gone or overdue; remember what has failed."""
        kept: list[_Rollout] = []
        for item in scope.rollouts:
            if item.granted_only:
                if now - item.began < GRANT_SECONDS:
                    kept.append(item)
                continue
            if now - item.judged < JUDGED_SECONDS or self._holds_up(item, now):
                kept.append(item)
        scope.rollouts = kept

    def _holds_up(self, item: _Rollout, now: float) -> bool:
        item.judged = now
        try:
            workload = self._context.client.get(
                item.resource, item.key.name, item.key.namespace, timeout_seconds=GET_TIMEOUT_SECONDS
            )
        except KubeNotFoundError:
            return False
        state = rollout_state(workload, kind=item.resource.kind)
        metrics = self._context.metrics
        if state is RolloutState.FAILED:
            if item.broken:
                return False
            if not item.failed:
                item.failed = True
                metrics.rollouts_failed.inc()
                logger.warning("%s %s: its roll-out failed; no further owner of its config is rolled",
                               item.resource.kind, item.key)  # fmt: skip
            return True
        if state is not RolloutState.PROGRESSING:
            return False
        timeout = self._context.options.rollout_timeout_seconds
        if now - item.began < timeout + waits_longer(workload, timeout):
            return True
        metrics.rollout_timeouts.inc()
        logger.warning("%s %s: its roll-out is not done after %g s and no longer waited for",
                       item.resource.kind, item.key, now - item.began)  # fmt: skip
        return False

    def _count(self) -> None:
        self._context.metrics.rollouts_waiting.set(sum(len(scope.waiting) for scope in self._scopes.values()))

    # -- after a restart -----------------------------------------------------------------

    def _recover(self) -> None:
        """Find by their marks what another process, or an earlier one, has begun; once."""
        if self._recovered:
            return
        found: dict[str, _Scope] = {}
        for resource in ROLLING:
            for namespace in self._context.options.namespaces or (None,):
                token = ""
                while True:
                    page = self._context.client.list_page(resource, namespace, continue_token=token)
                    for workload in page.items:
                        self._take_up(found, resource, workload)
                    token = page.continue_token
                    if not token:
                        break
        self._scopes = found
        self._recovered = True

    def _take_up(self, scopes: dict[str, _Scope], resource: Resource, workload: JsonObject) -> None:
        mark = read_mark(workload)
        if mark is None:
            return
        state = rollout_state(workload, kind=resource.kind)
        age = max(0.0, (self._context.clock() - mark.began).total_seconds())
        recent = age < self._context.options.rollout_timeout_seconds
        # An old mark says nothing of a roll-out that somebody else has begun since.
        failed = (
            not mark.broken
            and state is RolloutState.FAILED
            and (recent or mark.generation == generation_of(workload))
        )
        if not failed and not (recent and state is RolloutState.PROGRESSING):
            return
        scopes.setdefault(mark.config, _Scope()).rollouts.append(
            _Rollout(
                resource,
                key_of(workload),
                mark.revision,
                self._context.monotonic() - age,
                granted_only=False,
                failed=failed,
            )
        )
        logger.info("%s %s: a roll-out of %s is under way", resource.kind, key_of(workload), mark.config)


def _waiter(resource: Resource, key: ObjectKey) -> _Waiter:
    return key.namespace, resource.kind, key.name
