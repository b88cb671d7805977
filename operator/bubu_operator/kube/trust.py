"""How the certificates of a cluster are checked: its API server's, and its webhook's.

From Python 3.13 on, contexts are made with ``VERIFY_X509_STRICT``, which refuses certificates without key
identifiers. Authorities of real clusters (EKS, old GKE, microk8s) have none, and every other client takes
them. So that one flag is taken off here; signature, name and time are checked as ever.
"""

from __future__ import annotations

import ssl
from typing import Any

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

__all__ = ["accept_old_authorities", "take_old_authorities", "tls_reason"]


def accept_old_authorities(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context take authorities that have no key identifiers; return it."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def take_old_authorities(pool: urllib3.PoolManager) -> None:
    """Let the connections that a pool makes from now on take authorities that have no key identifiers.

    Each connection has a context of its own, as in urllib3 itself: files that were replaced are read again.
    """
    kinds: dict[str, Any] = dict(pool.pool_classes_by_scheme)
    kind = kinds["https"]
    connection = type(f"Trusting{kind.ConnectionCls.__name__}", (_TrustingConnection, kind.ConnectionCls), {})
    kinds["https"] = type(f"Trusting{kind.__name__}", (kind,), {"ConnectionCls": connection})
    pool.pool_classes_by_scheme = kinds


class _TrustingConnection(HTTPSConnection):
    """Makes its context itself, where urllib3 would make one that may be strict."""

    def connect(self) -> None:
        """Connect."""
        required = ssl.CERT_REQUIRED if self.cert_reqs is None else int(self.cert_reqs)
        context = accept_old_authorities(create_urllib3_context(cert_reqs=required))
        if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
            context.load_default_certs()
        self.ssl_context = context
        super().connect()


def tls_reason(error: BaseException) -> str:
    """Say why a handshake failed, where an error of urllib3's or of a socket's is about that; else ""."""
    causes = (error, *error.args)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message or cause.reason}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
    return ""
