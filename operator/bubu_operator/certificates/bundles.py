"""``caBundle`` in every entry of the webhook's configuration: read, judged, patched. Pure.

Invariants: a patch is tied to the resourceVersion that was read, and touches nothing but
``caBundle``; an entry that holds the right certificates in another form is left alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_operator.certificates.issuing import TrustedCertificate, UnusableAuthorityError, load_trusted

__all__ = ["EntryBundle", "ObservedConfiguration", "bundle_patch", "observe_configuration"]

_INJECTOR_ANNOTATION_PREFIX: Final = "cert-manager.io/inject-"


@dataclass(frozen=True, slots=True)
class EntryBundle:
    """caBundle of one entry.

    Attributes:
        index: which entry.
        name: of the entry.
        certificates: those in it; empty also where it cannot be read.
        readable: False when there is something that is no bundle.
    """

    index: int
    name: str
    certificates: tuple[TrustedCertificate, ...]
    readable: bool = True

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of what it trusts."""
        return frozenset(item.fingerprint for item in self.certificates)


@dataclass(frozen=True, slots=True)
class ObservedConfiguration:
    """The webhook's configuration as read.

    Attributes:
        identity: changes with every change of an entry, and when the object is made anew.
        resource_version: a write is tied to it.
        entries: one for each webhook.
        injector: annotation by which cert-manager writes caBundle, too; "" for none.
    """

    identity: str
    resource_version: str
    entries: tuple[EntryBundle, ...]
    injector: str = ""

    def all_trust(self, fingerprint: str) -> bool:
        """Tell whether every entry trusts an authority."""
        return all(fingerprint in entry.fingerprints for entry in self.entries)

    @property
    def certificates(self) -> tuple[TrustedCertificate, ...]:
        """All that any entry trusts, each once."""
        return tuple(
            {item.fingerprint: item for entry in self.entries for item in entry.certificates}.values()
        )


def observe_configuration(obj: dict[str, Any]) -> ObservedConfiguration:
    """Read a MutatingWebhookConfiguration."""
    metadata = cast("dict[str, Any]", obj.get("metadata") or {})
    annotations = cast("dict[str, Any]", metadata.get("annotations") or {})
    webhooks = cast("list[dict[str, Any]]", obj.get("webhooks") or [])
    return ObservedConfiguration(
        identity=f"{metadata.get('uid', '')}/{metadata.get('generation', '')}",
        resource_version=str(metadata.get("resourceVersion") or ""),
        entries=tuple(_entry(index, webhook) for index, webhook in enumerate(webhooks)),
        injector=next((name for name in annotations if name.startswith(_INJECTOR_ANNOTATION_PREFIX)), ""),
    )


def bundle_patch(
    observed: ObservedConfiguration, trusted: Sequence[TrustedCertificate]
) -> list[dict[str, Any]]:
    """Return the JSON patch that makes every entry trust exactly ``trusted``; empty when all do."""
    wanted = frozenset(item.fingerprint for item in trusted)
    value = base64.b64encode("".join(item.pem for item in trusted).encode("ascii")).decode("ascii")
    operations: list[dict[str, Any]] = [
        {"op": "add", "path": f"/webhooks/{entry.index}/clientConfig/caBundle", "value": value}
        for entry in observed.entries
        if entry.fingerprints != wanted
    ]
    if not operations:
        return []
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": observed.resource_version}
    return [test, *operations]


def _entry(index: int, webhook: dict[str, Any]) -> EntryBundle:
    name = str(webhook.get("name") or index)
    client = cast("dict[str, Any]", webhook.get("clientConfig") or {})
    value = client.get("caBundle")
    if not value:
        return EntryBundle(index, name, ())
    try:
        pem = base64.b64decode(str(value), validate=True).decode("ascii", errors="replace")
        return EntryBundle(index, name, load_trusted(pem))
    except (binascii.Error, ValueError, UnusableAuthorityError):
        return EntryBundle(index, name, (), readable=False)
