"""How a pass gets at its store: the one seam between "which config" and "what the engine opens".

`DirectStores` reads the config's Secret and hands its settings to the pass's own process. A store
that this process cannot reach (a tenant's ServiceAccount, a claim) can be opened in another way by
another `PassStores` in front of it; nothing else of the controller needs to know.

Invariants: what is opened belongs to one pass and is closed when that has ended, however it ends;
credentials are read anew for every pass, and only while the store's place in the queue is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.endpoint import check_endpoint
from bubu_operator.controllers.store_access import AnyConfig, Refusal, for_pass, resolve_store
from bubu_operator.errors import EndpointRefusedError
from bubu_operator.kube.resources import ObjectKey
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["AccessRequest", "DirectStores", "NotYet", "PassAccess", "PassSettings", "PassStores"]

PassSettings: TypeAlias = FileSettings | S3Settings
"""What goes into the pass's document; credentials inside."""


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Who wants which store, and for how long.

    Attributes:
        config: parsed; its Ready condition is True.
        policy: key of the policy; its namespace is "" for a cluster-wide one.
        budget_seconds: of the pass.
    """

    config: AnyConfig
    policy: ObjectKey
    budget_seconds: float


@dataclass(frozen=True, slots=True)
class NotYet:
    """The store is being opened: look again.

    Attributes:
        message: for people.
        again_seconds: when.
    """

    message: str
    again_seconds: float


class PassAccess(Protocol):
    """A store that one pass may use until it is closed."""

    @property
    def settings(self) -> PassSettings:
        """Return what the engine opens the store with."""
        ...

    def close(self) -> None:
        """Release whatever was needed to reach the store; called once, when the pass has ended."""
        ...


class PassStores(Protocol):
    """Opens stores for passes; thread-safe."""

    def open(self, request: AccessRequest) -> PassAccess | NotYet | Refusal:
        """Open a store for one pass, or say why not.

        Raises:
            KubeApiError: the API server failed, other than by "not found" and "forbidden".
        """
        ...


@dataclass(frozen=True, slots=True)
class _Direct:
    settings: PassSettings

    def close(self) -> None:
        """Nothing is held."""


class DirectStores:
    """Stores that the pass's own process reaches by itself."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, request: AccessRequest) -> PassAccess | NotYet | Refusal:
        """See `PassStores`."""
        access = resolve_store(self._context, request.config)
        if isinstance(access, Refusal):
            return Refusal(Reason.STORAGE_NOT_READY, access.message)
        if isinstance(access.settings, S3Settings):
            try:
                # The name may lead elsewhere than at the probe.
                check_endpoint(access.settings.endpoint, access.settings.address_policy)
            except EndpointRefusedError as error:
                return Refusal(Reason.ENDPOINT_NOT_ALLOWED, str(error))
        return _Direct(for_pass(request.config, access.settings))
