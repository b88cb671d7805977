"""What obstore must be told so that it does exactly what the reference engine does, or why it cannot.

obstore reads ``AWS_*`` variables by itself wherever an option is not given. Every option that
could change a request is therefore given here, also where it is the default; a variable that
cannot be overruled that way keeps obstore from being used.

Nothing here imports obstore or contacts anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from bubu_storage._version import __version__
from bubu_storage.settings import S3Settings

__all__ = ["Options", "options_for", "sdk_reason", "why_not"]

_PLAIN_BUCKET: Final = re.compile(r"(?!xn--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""A name that is one label of a host name, in both engines' eyes."""

_SPECIAL_BUCKETS: Final = ("-s3alias", "--ol-s3", "--x-s3", "--table-s3")
"""Endings of names that AWS addresses in ways of their own."""

_AWS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn")

_FOREIGN_VARIABLES: Final = (
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_DEFAULT_CONTENT_TYPE",
    "AWS_HTTP1_",
    "AWS_HTTP2_",
    "AWS_PROXY_",
    "AWS_RANDOMIZE_ADDRESSES",
    "AWS_ROOT_CERTIFICATE",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_",
)
"""Beginnings of variables that only obstore obeys, and that no explicit option takes back."""

_NO_PROXY_AT_ALL: Final = "http://redirects-are-not-followed.invalid"
"""Where requests go that do not go to the store: nowhere. obstore follows redirects and has no
option against it; the reference engine follows none. Left are those of a host to itself."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of obstore's ``S3Store``, credentials excepted.

    Attributes:
        config: of the store.
        client: of its HTTP client.
    """

    config: dict[str, Any]
    client: dict[str, Any]


def why_not(settings: S3Settings, env: Mapping[str, str]) -> str:
    """Return why obstore cannot serve these settings as the reference engine would; "" if it can.

    Args:
        settings: of the bucket.
        env: the process's variables.
    """
    if not _PLAIN_BUCKET.fullmatch(settings.bucket) or settings.bucket.endswith(_SPECIAL_BUCKETS):
        return "the bucket's name needs the SDK's rules of addressing"
    if settings.address_policy != "any":
        return f"the address policy is {settings.address_policy}, and obstore connects where it likes"
    foreign = sorted(name for name in env if name.upper().startswith(_FOREIGN_VARIABLES))
    if foreign:
        return f"{foreign[0]} is set, which only obstore would obey"
    if settings.endpoint.startswith("http:"):
        return "" if _is_direct(settings.endpoint) else "a proxy is configured for the endpoint"
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        if env.get(name):
            return f"{name} is set, which obstore does not read"
    if not _is_direct(settings.endpoint or "https://s3.amazonaws.com"):
        return "a proxy is configured for the endpoint"
    return ""


def options_for(settings: S3Settings, *, base_url: str, region: str) -> Options:
    """Return what to tell obstore.

    Args:
        settings: of the bucket.
        base_url: endpoint that the SDK chose, without the bucket.
        region: that the SDK chose.
    """
    url = urlsplit(base_url)
    # The SDK puts the bucket into the host on AWS only; an endpoint of one's own has it in the path.
    virtual = not settings.use_path_style and not settings.endpoint and _host(url).endswith(_AWS_HOSTS)
    if virtual:
        url = url._replace(netloc=f"{settings.bucket}.{url.netloc}")
    endpoint = url.geturl().rstrip("/")
    is_tls = url.scheme == "https"
    unsigned = is_tls if settings.unsigned_payload is None else settings.unsigned_payload
    config: dict[str, Any] = {
        "bucket": settings.bucket,
        "region": region,
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,  # else AWS_ENDPOINT_URL_S3 would win
        "virtual_hosted_style_request": virtual,
        "unsigned_payload": unsigned,
        "skip_signature": settings.anonymous,
        "disable_bulk_delete": True,
        "disable_tagging": False,
        "request_payer": False,
        "s3_express": False,
    }
    if settings.checksums:
        config["checksum_algorithm"] = "SHA256"
    if settings.sse:
        config["server_side_encryption"] = settings.sse
    if settings.sse_kms_key_id:
        config["sse_kms_key_id"] = settings.sse_kms_key_id
    client: dict[str, Any] = {
        "allow_http": not is_tls,
        "allow_invalid_certificates": False,
        "connect_timeout": timedelta(seconds=settings.connect_timeout_seconds),
        "timeout": timedelta(seconds=settings.timeout_seconds),
        "read_timeout": timedelta(seconds=settings.response_timeout_seconds or settings.timeout_seconds),
        "http1_only": True,
        "pool_max_idle_per_host": str(settings.max_connections),
        "pool_idle_timeout": timedelta(seconds=60),
        "proxy_url": _NO_PROXY_AT_ALL,
        "proxy_excludes": _host(url),
        "user_agent": f"bubu-storage/{__version__}",
    }
    if is_tls and settings.ca_bundle_pem:
        client["root_certificate"] = settings.ca_bundle_pem
    return Options(config, client)


def _host(url: SplitResult) -> str:
    return url.hostname or ""


def _is_direct(url: str) -> bool:
    """Tell whether the environment wants no proxy for a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # refused elsewhere, with all its faults
    proxies = getproxies()
    return not (proxies.get(parts.scheme) or proxies.get("all")) or bool(proxy_bypass(_host(parts)))


def sdk_reason(config: Any) -> str:
    """Return which setting of the SDK's own obstore would not follow; "" if none.

    Args:
        config: of a client of the SDK.
    """
    special: dict[str, Any] = config.s3 or {}
    names = ("use_accelerate_endpoint", "use_dualstack_endpoint", "use_fips_endpoint")
    for name in names:
        if special.get(name) or getattr(config, name, None):
            return f"the SDK is configured with {name}"
    if config.proxies:
        return "the SDK is configured with a proxy"
    return ""
