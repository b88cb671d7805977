"""A pass that is due and may run now: all that running it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bubu_operator.controllers.pass_access import PassAccess
from bubu_operator.controllers.policy_kinds import AnyPolicy, PolicyKind
from bubu_operator.controllers.policy_owners import PolicyOwners
from bubu_operator.kube.resources import JsonObject, ObjectKey, key_of
from bubu_operator.retention.plan import PassPlan
from bubu_operator.retention.schedule import Due

__all__ = ["PassJob"]


@dataclass(frozen=True, slots=True)
class PassJob:
    """A pass that is due and may run now.

    Attributes:
        kind: of the policy.
        obj: the policy as read.
        policy: the same, parsed.
        plan: for the engine.
        store: its identity.
        scope: whose credentials its texts are cleaned of: the store's, see `scope_of`.
        access: to the store; closed by the runner.
        due: why now.
        owners: who knows the owners of runs.
        interrupted: asked often; why the pass must end, or None.
        missing: what it leaves undone although it runs, for people; "" for nothing.
    """

    kind: PolicyKind
    obj: JsonObject
    policy: AnyPolicy
    plan: PassPlan
    store: str
    scope: str
    access: PassAccess
    due: Due
    owners: PolicyOwners
    interrupted: Callable[[], str | None]
    missing: str = ""

    @property
    def key(self) -> ObjectKey:
        """Of the policy."""
        return key_of(self.obj)
