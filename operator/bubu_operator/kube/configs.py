"""Storage configs from the API server, read as injection sees them."""

from __future__ import annotations

from bubu_operator.injection.config import InjectionConfig, load_config
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import Resource

__all__ = ["list_configs"]


def list_configs(client: KubeClient, resource: Resource, namespace: str | None) -> list[InjectionConfig]:
    """List the configs of a kind; entries of a list say neither kind nor version, so both are added.

    Raises:
        KubeApiError: the list could not be read whole.
    """
    return [
        load_config({**item, "kind": resource.kind, "apiVersion": resource.api_version})
        for item in client.list(resource, namespace).items
    ]
