"""Proof that new pods would be injected, before anything is restarted for it.

Restarting a workload while the webhook is away gives pods that lack their storage as the
old ones did. A dry-run creation of a pod would be the plainest proof, and needs the right
to create pods everywhere: far too much for a controller. Instead the webhook is asked as
the API server would ask it: at the address, with the authority and by the selectors of the
MutatingWebhookConfiguration, with a review of a pod made from the very template that would
be restarted. Its patch must hold the config exactly as it is now, which also shows that its
cache is not behind. What this cannot show is the API server's own way to the webhook; the
limit of restarts (see `heal_restart`) covers that.
"""

from __future__ import annotations

import base64
import json
import ssl
import uuid
from collections.abc import Mapping
from typing import Any, Final, cast

import urllib3

from bubu_operator.controllers.context import Context
from bubu_operator.errors import KubeApiError, KubeNotFoundError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.ownership import read_record
from bubu_operator.injection.patch import apply_patch
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.kube.resources import MUTATING_WEBHOOKS, JsonObject
from bubu_operator.kube.trust import accept_old_authorities, tls_reason
from bubu_operator.webhook.entries import entry_for
from bubu_operator.webhook.review import dry_run_review

__all__ = ["WebhookProof", "proof_problem", "review_for"]

TIMEOUT_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
HTTP_OK: Final = 200


class WebhookProof:
    """Asks the webhook as the API server would."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def problem(
        self,
        template: JsonObject,
        namespace: str,
        namespace_labels: Mapping[str, str],
        config: InjectionConfig,
    ) -> str:
        """Say why a new pod of this template would not be injected; "" when it would."""
        name = self._context.options.webhook_configuration
        try:
            configuration = self._context.client.get(MUTATING_WEBHOOKS, name)
        except KubeNotFoundError:
            return f"there is no MutatingWebhookConfiguration {name}"
        except KubeApiError as error:
            return f"MutatingWebhookConfiguration {name} cannot be read: {error}"
        labels = texts_of(child(template, "metadata"), "labels")
        entry = entry_for(configuration, labels, namespace_labels)
        if entry is None:
            return f"no entry of MutatingWebhookConfiguration {name} matches its pods"
        review = review_for(template, namespace)
        try:
            status, answer = _post(child(entry, "clientConfig"), json.dumps(review).encode())
        except (urllib3.exceptions.HTTPError, ssl.SSLError, OSError, ValueError) as error:
            cause = getattr(error, "reason", None) or error
            return f"the webhook cannot be asked: {tls_reason(cause) or type(cause).__name__}"
        return proof_problem(review, status, answer, config)


def review_for(template: JsonObject, namespace: str) -> JsonObject:
    """Return the dry-run review of a pod made from a template."""
    metadata = child(template, "metadata")
    pod: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bubu-storage-proof-",
            "namespace": namespace,
            "labels": texts_of(metadata, "labels"),
            "annotations": texts_of(metadata, "annotations"),
        },
        "spec": template.get("spec"),
    }
    return dry_run_review(pod, namespace, str(uuid.uuid4()))


def proof_problem(review: JsonObject, status: int, answer: bytes, config: InjectionConfig) -> str:
    """Judge the webhook's answer; pure. "" when it injects the config as it is now."""
    if status != HTTP_OK:
        return f"the webhook answers with status {status}"
    try:
        response = child(cast("JsonObject", json.loads(answer)), "response")
        if response.get("allowed") is not True:
            return "the webhook refuses its pods"
        operations = json.loads(base64.b64decode(response.get("patch") or "W10="))
        pod = apply_patch(review["request"]["object"], operations)
        record, _ = read_record(pod)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError, RecursionError):
        return "the webhook's answer cannot be understood"
    if record is None:
        return "the webhook does not inject its pods"
    plan = config.plan
    if plan is None or record.config_name != config.config_name or record.hash != plan.hash:
        return "the webhook does not know the config as it is now"
    return ""


def _post(client: JsonObject, body: bytes) -> tuple[int, bytes]:
    service = child(client, "service")
    url = str(client.get("url") or "")
    if not url:
        host = f"{service.get('name')}.{service.get('namespace')}.svc"
        url = f"https://{host}:{service.get('port') or 443}{service.get('path') or '/'}"
    if not url.startswith("https://"):
        raise ValueError("the webhook's address is no https URL")
    bundle = client.get("caBundle")
    authority = base64.b64decode(bundle).decode("ascii") if isinstance(bundle, str) and bundle else None
    context = accept_old_authorities(ssl.create_default_context(cadata=authority))
    with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
        response: Any = pool.request(
            "POST",
            url,
            body=body,
            headers={"Content-Type": "application/json"},
            timeout=urllib3.Timeout(total=TIMEOUT_SECONDS),
            redirect=False,
            preload_content=False,
        )
        try:
            return int(response.status), cast("bytes", response.read(MAX_ANSWER_BYTES))
        finally:
            response.release_conn()
