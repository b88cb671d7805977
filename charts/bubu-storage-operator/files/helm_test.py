"""What `helm test` runs in a pod: are both roles ready, does the webhook answer as the API server needs it.

Only the standard library; everything it must know is in its environment. It tries again until its time is
over, since a caBundle may not be written yet, and says what failed last.
"""
# ruff: noqa: INP001, T201 - a script whose prints are what people read

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from base64 import b64decode
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

SECONDS: Final = float(os.environ.get("TEST_SECONDS", "90"))
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
INJECTED: Final = "storage.bubustack.io/injected"


def ask(
    url: str, body: Any = None, context: ssl.SSLContext | None = None, token: str = ""
) -> tuple[Any, bytes]:
    """Return headers and content of an answer; anything but success raises."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - addresses of ours
    # No proxy of the environment: everything here is inside the cluster.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(request, timeout=15) as answer:
        return answer.headers, answer.read()


def trust(**authority: str) -> ssl.SSLContext:
    """Trust an authority, also one without key identifiers, which Python refuses from 3.13 on."""
    context = ssl.create_default_context(**authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def api(path: str, body: Any = None) -> tuple[Any, Any]:
    """Ask the API server as this pod's account."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text("ascii").strip()
    context = trust(cafile=str(ACCOUNT / "ca.crt"))
    headers, content = ask(f"https://{host}:{port}{path}", body, context, token)
    return headers, json.loads(content)


def pod(namespace: str) -> dict[str, Any]:
    """A pod that asks for storage."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "bubu-storage-helm-test",
            "namespace": namespace,
            "labels": {"storage.bubustack.io/inject": "true"},
        },
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": "helm-test",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


def both_are_ready() -> None:
    """Ask the replicas' own health pages."""
    for url in os.environ["READY_URLS"].split():
        try:
            ask(url)
        except urllib.error.HTTPError as error:
            # The page says what is missing.
            raise ValueError(f"{url} says: {error.read(500).decode(errors='replace').strip()}") from error
        except OSError as error:
            raise ValueError(f"{url}: {error}") from error
        print(f"ok: {url}")


def webhook_answers() -> None:
    """Ask the webhook at the address and with the authority that the API server uses."""
    name = os.environ["CONFIGURATION"]
    _, configuration = api(f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}")
    for entry in configuration["webhooks"]:
        client = entry["clientConfig"]
        if not client.get("caBundle"):
            raise ValueError(f"entry {entry['name']} of {name} has no caBundle: nobody has written it yet")
        service = client["service"]
        host = f"{service['name']}.{service['namespace']}.svc:{service.get('port', 443)}"
        url = f"https://{host}{service['path']}"
        context = trust(cadata=b64decode(client["caBundle"]).decode("ascii"))
        request = {
            "uid": "00000000-0000-0000-0000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": os.environ["REVIEW_NAMESPACE"],
            "object": pod(os.environ["REVIEW_NAMESPACE"]),
            "dryRun": True,
        }
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        _, content = ask(url, review, context)
        if json.loads(content)["response"]["uid"] != request["uid"]:
            raise ValueError(f"{url} does not answer what it was asked")
        print(f"ok: {entry['name']} at {url}")


def api_server_asks() -> None:
    """Create a pod by dry run: it comes back with storage, or with a warning of the webhook."""
    namespace = os.environ["TEST_NAMESPACE"]
    if not namespace:
        return
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    try:
        headers, created = api(path, pod(namespace))
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        # In a strict namespace without a config the webhook refuses, which proves the same.
        if error.code == HTTPStatus.FORBIDDEN and ".storage.bubustack.io" in text:
            print(f"ok: the webhook refuses a pod in {namespace}, a strict namespace without a config")
            return
        raise ValueError(f"a pod in {namespace} is refused: {text[:500]}") from error
    warnings = headers.get_all("Warning") or []
    if INJECTED in created["metadata"]["labels"]:
        print(f"ok: a pod in {namespace} gets its storage")
    elif any("storage" in warning for warning in warnings):
        print(f"ok: the API server asks the webhook, and it says: {warnings[0]}")
    else:
        raise ValueError(f"the API server created a pod in {namespace} without asking the webhook")


def main() -> int:
    """Run the checks until all succeed or the time is over."""
    until = time.monotonic() + SECONDS
    for check in (both_are_ready, webhook_answers, api_server_asks):
        while True:
            try:
                check()
                break
            except (OSError, ValueError, LookupError) as error:
                if time.monotonic() > until:
                    print(f"FAILED: {check.__doc__} {type(error).__name__}: {error}", file=sys.stderr)
                    return 1
                print(f"not yet: {error}")
                time.sleep(3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
