"""Another mutating webhook: it adds a container to every pod, as service meshes and their like do."""

from __future__ import annotations

import base64
import json
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from typing import Self

    from tests.cluster.certs import ServingFiles

__all__ = ["LateWebhook"]


class LateWebhook:
    """Serves on loopback; adds ``container`` to pods that lack it.

    Attributes:
        calls: how many reviews it was asked.
    """

    def __init__(self, files: ServingFiles, container: str = "late") -> None:
        self.calls = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.calls += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = outer.answer(json.loads(body), container)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
                """Say nothing."""

        self._files = files
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @staticmethod
    def answer(review: dict[str, Any], container: str) -> bytes:
        """The review's answer: a patch where the container is missing."""
        request = review["request"]
        response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        names = [item["name"] for item in cast("list[Any]", request["object"]["spec"]["containers"])]
        if container not in names:
            patch = [{"op": "add", "path": "/spec/containers/-", "value": {"name": container, "image": "i"}}]
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        kind = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        return json.dumps({**kind, "response": response}).encode()

    def configuration(self, name: str, namespace: str) -> dict[str, Any]:
        """What registers it for the pods of one namespace; the name decides when it is called."""
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        bundle = base64.b64encode(self._files.ca.read_bytes()).decode()
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "late.example.com",
                    "admissionReviewVersions": ["v1"],
                    "clientConfig": {
                        "url": f"https://127.0.0.1:{self._server.server_port}/",
                        "caBundle": bundle,
                    },
                    "rules": [rule],
                    "namespaceSelector": selector,
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "timeoutSeconds": 5,
                }
            ],
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
