"""Opens the store of a pass, in the pass's own process: by itself, or by an agent on a descriptor."""

from __future__ import annotations

import socket

from bubu_operator.jobpass.agent_channel import AgentChannel
from bubu_operator.jobpass.remote_backend import RemoteBackend
from bubu_operator.jobpass.settings import AgentSettings
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["open_store"]


def open_store(settings: FileSettings | S3Settings | AgentSettings) -> ObjectBackend:
    """Open the store; the caller closes it.

    Raises:
        ConfigurationError: the settings make no sense, or the descriptor was not inherited.
        StorageError: the agent does not answer.
    """
    if not isinstance(settings, AgentSettings):
        return open_backend(settings)
    try:
        channel = socket.socket(fileno=settings.descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"descriptor {settings.descriptor} is no channel to the agent of {settings.name}"
        ) from error
    return RemoteBackend(AgentChannel(channel, settings.name))
