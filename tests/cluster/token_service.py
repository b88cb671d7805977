"""A cloud's token service for tests: a projected token in, keys of the S3 server out.

Plays what a workload identity needs besides the cloud's webhook: the exchange of a pod's token for
the keys of a role (AWS calls it ``AssumeRoleWithWebIdentity``).
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

__all__ = ["TokenService"]

_ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>
<SecretAccessKey>{secret}</SecretAccessKey><SessionToken></SessionToken><Expiration>{until}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""

_REFUSAL = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>
</ErrorResponse>"""


class TokenService(AbstractContextManager["TokenService"]):
    """Gives the keys of a role to those who show its token.

    Attributes:
        grants: role and token, and the access key and secret key that they are worth.
        asked: the roles that were asked for.
    """

    def __init__(self) -> None:
        self.grants: dict[tuple[str, str], tuple[str, str]] = {}
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                form = parse_qs(self.rfile.read(length).decode())
                status, text = service.answer(form["RoleArn"][0], form["WebIdentityToken"][0])
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        """Its URL, for ``AWS_ENDPOINT_URL_STS``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, role: str, token: str) -> tuple[int, str]:
        """Return status and body."""
        self.asked.append(role)
        keys = self.grants.get((role, token))
        if keys is None:
            return 403, _REFUSAL
        until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 200, _ANSWER.format(access=keys[0], secret=keys[1], until=until)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
