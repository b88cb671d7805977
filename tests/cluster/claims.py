"""Claim ``flows`` and a volume for it that many nodes may mount: objects only, nothing is behind them."""

from __future__ import annotations

from typing import Any

__all__ = ["claim_of", "volume_of"]

_SHARED = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}


def claim_of(namespace: str, volume: str) -> dict[str, Any]:
    """Make the claim, for a volume of that name, which need not be there."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "flows", "namespace": namespace},
        "spec": {**_SHARED, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
    }


def volume_of(name: str) -> dict[str, Any]:
    """Make the volume; the claim is bound once both are there."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **_SHARED,
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "nfs": {"server": "nfs.test", "path": "/flows"},
        },
    }
