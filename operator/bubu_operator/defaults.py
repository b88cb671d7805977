"""Names that an installation has unless told otherwise; loads nothing else, so any module may use them."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AUTHORITY_SECRET",
    "EVERYWHERE",
    "LEASE_NAME",
    "OPERATOR_NAME",
    "OPERATOR_NAMESPACE",
    "PROBER_ROLE",
    "SECRET_READER_ROLE",
    "WEBHOOK_NAME",
]

EVERYWHERE: Final = "*"
"""In place of an address to listen on: every one of the machine, IPv4 and IPv6."""

OPERATOR_NAME: Final = "bubu-storage-operator"
"""What registrations in stores say for people."""

OPERATOR_NAMESPACE: Final = "bubu-storage-system"
"""Where the operator itself runs."""

WEBHOOK_NAME: Final = "bubu-storage-webhook"
"""Of the webhook's Service and of its MutatingWebhookConfiguration."""

AUTHORITY_SECRET: Final = "bubu-storage-webhook-ca"  # noqa: S105 - a name, not a secret
"""Secret with the built-in authority's certificates and keys, in the operator's namespace."""

LEASE_NAME: Final = "bubu-storage-controller"
"""Lease that says which controller works, in the operator's namespace."""

SECRET_READER_ROLE: Final = "bubu-storage-secret-reader"  # noqa: S105 - a name, not a secret
"""Role that lets the controller read the Secrets and ConfigMaps of the namespaces where it is bound."""

PROBER_ROLE: Final = "bubu-storage-prober"
"""Role that lets the controller start Jobs in the namespaces where it is bound."""
