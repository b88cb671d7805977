"""The dry run of ``kubectl bubu check``: where a pod can be tried, and what came of it.

Which config a pod would get is answered by the webhook's own function (`select_config`), so what is
said here is what a real pod meets. The one creation is a dry run on the server: nothing is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bubu_operator.errors import KubeApiError, KubeForbiddenError, KubeInvalidError, KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.names import CONFIG_LABEL, INJECT_LABEL, SYSTEM_NAMESPACES
from bubu_operator.injection.podspec import items_of, texts_of
from bubu_operator.injection.select import Selection, SelectionReason, select_config
from bubu_operator.kube.client import DEFAULT_TIMEOUT_SECONDS, KubeClient
from bubu_operator.kube.configs import list_configs
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    PODS,
    STORAGE_CONFIGS,
    JsonObject,
    metadata_of,
    section,
)
from bubu_operator.kubectl.findings import Finding, fail, warn
from bubu_operator.kubectl.judge import judge_probe
from bubu_operator.webhook.configuration import NAME_LABEL
from bubu_operator.webhook.entries import entry_for

__all__ = ["DryRun", "Place", "ambiguous"]

_AREA: Final = "dry run"
_ASKS: Final = {INJECT_LABEL: "true"}
_OTHER_NAMESPACE: Final = "name another namespace by -n"
_NOT_FOUND: Final = frozenset({SelectionReason.NO_CONFIG, SelectionReason.CONFIG_NOT_FOUND})
_CALL_FAILED: Final = re.compile(r'failed calling webhook "([^"]+)": (.+)', re.DOTALL)
_NOT_TRUSTED: Final = (
    "the API server does not trust the webhook's certificate: is caBundle of the authority that signed it? "
    "See the lines above; the controller (--webhook-authority) or cert-manager writes caBundle"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace that the webhook is asked about.

    Attributes:
        namespace: its name.
        selection: which config a pod gets that asks for storage and names none.
        named: the config that a pod has to name for the dry run; "" where it need not, or cannot.
    """

    namespace: str
    selection: Selection
    named: str = ""

    @property
    def usable(self) -> bool:
        """True where a pod can get storage."""
        return self.selection.config is not None or bool(self.named)


@dataclass(frozen=True, slots=True)
class DryRun:
    """Looks for a namespace, and creates a pod there that is not kept.

    Attributes:
        client: as the present user.
        namespace: the only one that may be used; "" for any.
        operator_namespace: where the operator runs: nothing is injected there.
        configuration: the webhook's registration, whose selectors may leave namespaces out; None
            where it is unknown.
    """

    client: KubeClient
    namespace: str
    operator_namespace: str
    configuration: JsonObject | None

    def places(self) -> list[Place]:
        """The namespace that was asked for; else the first where pods get storage, and all ambiguous ones.

        Raises:
            KubeApiError: namespaces or configs cannot be looked at.
        """
        own = list_configs(self.client, STORAGE_CONFIGS, self.namespace or None)
        shared: list[InjectionConfig] = []
        denied: KubeForbiddenError | None = None
        try:
            shared = list_configs(self.client, CLUSTER_STORAGE_CONFIGS, None)
        except KubeForbiddenError as error:
            denied = error
        found: list[Place] = []
        for name in [self.namespace] if self.namespace else sorted({config.namespace for config in own}):
            here = [config for config in own if config.namespace == name]
            # A namespace's labels cost a request each: they are read where they can matter.
            unlabelled = select_config({}, name, {}, here, ()).reason
            if any(place.selection.config for place in found) and unlabelled != SelectionReason.AMBIGUOUS:
                continue
            labels = self._asked_labels(name)
            if labels is not None:
                found.append(_place(name, labels, here, shared))
        # The namespace's own configs come first: without the others most answers are the same.
        if denied is not None and any(place.selection.reason in _NOT_FOUND for place in found):
            raise denied
        return found

    def try_one(self, places: Sequence[Place]) -> Finding:
        """Create a pod in the best of these places.

        Raises:
            KubeForbiddenError: the present user may not create pods.
            KubeApiError: the API server could not answer.
        """
        usable = sorted(
            (place for place in places if place.usable),
            key=lambda place: (bool(place.named), place.namespace),
        )
        if not usable:
            return self._not_tried(places)
        place = usable[0]
        path = PODS.path(place.namespace)
        try:
            response = self.client.send(
                "POST",
                path,
                query={"dryRun": "All"},
                body=_pod(place),
                timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
            )
        except KubeApiError as error:
            return self._refused(error, place.namespace)
        warnings = [text.partition('"')[2].rpartition('"')[0] for text in response.headers.getlist("Warning")]
        made = json.loads(self.client.read(response, path))
        return judge_probe(made, warnings, place.namespace, named=place.named)

    def _not_tried(self, places: Sequence[Place]) -> Finding:
        if not self.namespace:
            return warn(
                _AREA,
                "not tried: no namespace that the webhook is asked about has a StorageConfig that a pod "
                "would get",
                "create one (docs/examples), or name a namespace by -n",
            )
        if not places:
            return warn(
                _AREA,
                f"not tried: there is no namespace {self.namespace} that the webhook is asked about",
                f"{_OTHER_NAMESPACE}; kubectl bubu explain tells why a namespace is left out",
            )
        selection = places[0].selection
        return warn(
            _AREA,
            f"not tried: a pod in {self.namespace} would get no storage ({selection.reason}): "
            f"{selection.message}",
            f"put that right (docs/examples has configs), or {_OTHER_NAMESPACE}",
        )

    def _refused(self, error: KubeApiError, namespace: str) -> Finding:
        """Say why no pod came back.

        Raises:
            KubeApiError: it was not about the pod.
        """
        called = _CALL_FAILED.search(str(error))
        if called is not None:
            name, cause = called.groups()
            ours = {str(entry.get("name")) for entry in items_of(self.configuration or {}, "webhooks")}
            if name not in ours:
                remedy = "it is not this operator's webhook: ask who installed it"
            elif "x509" in cause or "certificate" in cause:
                remedy = _NOT_TRUSTED
            else:
                remedy = "see the lines above; the webhook's log says more"
            text = f"a pod in {namespace} is refused: the API server cannot call webhook {name}: {cause}"
            return fail(_AREA, text, remedy)
        # Quotas, pod security and a strict webhook refuse with the same code as missing rights.
        if isinstance(error, KubeForbiddenError) and "cannot create resource" not in str(error):
            return fail(_AREA, f"a pod in {namespace} is refused: {error}", "see the message")
        if isinstance(error, KubeInvalidError):
            return warn(_AREA, f"a pod in {namespace} is refused: {error}", "see the message")
        raise error

    def _asked_labels(self, namespace: str) -> dict[str, str] | None:
        """Its labels, None where no pod can be tried; of one that may not be read, its name alone."""
        if namespace in (*SYSTEM_NAMESPACES, self.operator_namespace):
            return None
        labels = {NAME_LABEL: namespace}
        try:
            found = self.client.get(NAMESPACES, namespace)
        except KubeNotFoundError:
            return None
        except KubeForbiddenError:
            pass
        else:
            if section(found, "status").get("phase") != "Active":
                return None
            labels = texts_of(metadata_of(found), "labels") | labels
        if self.configuration is not None and entry_for(self.configuration, _ASKS, labels) is None:
            return None
        return labels


def ambiguous(places: Sequence[Place]) -> list[Finding]:
    """Name the namespaces in which a pod must name its config, and what ends that."""
    findings: list[Finding] = []
    for place in places:
        if place.selection.reason != SelectionReason.AMBIGUOUS:
            continue
        what, _, remedy = place.selection.message.rpartition("; ")
        if remedy.endswith(CONFIG_LABEL):
            remedy += " of the pod, or of its namespace"
        findings.append(
            warn(
                "selection",
                f"pods in {place.namespace} that name no config are refused storage "
                f"({place.selection.reason}): {what}",
                remedy,
            )
        )
    return findings


def _place(
    namespace: str,
    labels: Mapping[str, str],
    own: Sequence[InjectionConfig],
    shared: Sequence[InjectionConfig],
) -> Place:
    selection = select_config({}, namespace, labels, own, shared)
    if selection.reason != SelectionReason.AMBIGUOUS:
        return Place(namespace, selection)
    for name in sorted({config.name for config in (*own, *shared)}):
        if select_config({CONFIG_LABEL: name}, namespace, labels, own, shared).config is not None:
            return Place(namespace, selection, name)
    return Place(namespace, selection)


def _pod(place: Place) -> JsonObject:
    """A pod that the strictest pod security lets pass; it is never run.

    Without a user's id: clusters that give each namespace a range of ids refuse any other.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bubu-check-",
            "namespace": place.namespace,
            "labels": _ASKS | ({CONFIG_LABEL: place.named} if place.named else {}),
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "check",
                    "image": "registry.k8s.io/pause:3.10",
                    "resources": {
                        "requests": {"cpu": "1m", "memory": "1Mi"},
                        "limits": {"cpu": "1m", "memory": "8Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
