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
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.endpoint import check_endpoint
from bubu_operator.controllers.store_access import AnyConfig, Refusal, for_pass, resolve_store
from bubu_operator.errors import EndpointRefusedError
from bubu_operator.jobpass.seam import AgentSettings, JobStoreAccess, NotYet, PassChannel, PassOrder
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["DirectStores", "JobStores", "NotYet", "PassAccess", "PassOrder", "PassSettings", "PassStores"]

PassSettings: TypeAlias = FileSettings | S3Settings | AgentSettings
"""What goes into the pass's document; credentials inside."""


class PassAccess(Protocol):
    """A store that one pass may use until it is closed."""

    @property
    def settings(self) -> PassSettings:
        """Return what the engine opens the store with."""
        ...

    def started(self) -> None:
        """Take note that the pass's process has been started, and has inherited what it needs."""
        ...

    def last_words(self) -> str:
        """Return why the way to the store broke off in the middle of the pass; "" where nothing is known."""
        ...

    def close(self, *, good: bool) -> None:
        """Release whatever was needed to reach the store; called once, whatever became of the pass."""
        ...


class PassStores(Protocol):
    """Opens stores for passes; thread-safe."""

    def open(self, order: PassOrder, config: AnyConfig) -> PassAccess | NotYet | Refusal:
        """Open a store for one pass, or say why not. Never waits long.

        Raises:
            KubeApiError: the API server failed, other than by "not found" and "forbidden".
        """
        ...


@dataclass(frozen=True, slots=True)
class _Direct:
    settings: FileSettings | S3Settings

    def started(self) -> None:
        """Nothing was inherited."""

    def last_words(self) -> str:
        """Nobody stands in between."""
        return ""

    def close(self, *, good: bool) -> None:
        """Nothing is held."""


class DirectStores:
    """Stores that the pass's own process reaches by itself."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, order: PassOrder, config: AnyConfig) -> PassAccess | NotYet | Refusal:  # noqa: ARG002 - of the protocol
        """See `PassStores`."""
        access = resolve_store(self._context, config)
        if isinstance(access, Refusal):
            return Refusal(Reason.STORAGE_NOT_READY, access.message)
        if isinstance(access.settings, S3Settings):
            try:
                # The name may lead elsewhere than at the probe.
                check_endpoint(access.settings.endpoint, access.settings.address_policy)
            except EndpointRefusedError as error:
                return Refusal(Reason.ENDPOINT_NOT_ALLOWED, str(error))
        return _Direct(for_pass(config, access.settings))


@dataclass(frozen=True, slots=True)
class _Channel:
    channel: PassChannel
    jobs: JobStoreAccess
    config: StorageConfig

    @property
    def settings(self) -> AgentSettings:
        return self.channel.settings

    def started(self) -> None:
        self.channel.handed_over()

    def last_words(self) -> str:
        return self.jobs.last_words(self.config)

    def close(self, *, good: bool) -> None:
        try:
            self.jobs.finished(self.config, good=good)
        finally:
            self.channel.handed_over()


class JobStores:
    """Stores that only a tenant's own pods reach by an agent in a Job, all others directly."""

    def __init__(self, direct: PassStores, jobs: JobStoreAccess) -> None:
        self._direct = direct
        self._jobs = jobs

    def open(self, order: PassOrder, config: AnyConfig) -> PassAccess | NotYet | Refusal:
        """See `PassStores`."""
        if not isinstance(config, StorageConfig) or not self._jobs.wants(config):
            return self._direct.open(order, config)
        channel = self._jobs.open(order, config)
        return channel if isinstance(channel, NotYet) else _Channel(channel, self._jobs, config)
