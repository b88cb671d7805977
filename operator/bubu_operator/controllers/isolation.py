"""Keeps this process's own cloud identity out of every store it is asked to look at.

A store named by a tenant must be reached with that tenant's credentials or with none. The
AWS SDK would otherwise help itself: variables, profiles, the metadata service of the node,
a web identity token. All of these are shut before the SDK is loaded, in the controller and
in the processes it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Final

__all__ = ["child_environment", "isolate_environment"]

SHUT: Final = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""What the SDK must find so that it looks nowhere else."""

PASSED_ON: Final = frozenset(
    {
        "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ",
        "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    }
)  # fmt: skip
"""All that a child gets from our environment: where programs are, how the network is reached."""


def isolate_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Remove every AWS and BUBU_S3 variable and shut the SDK's other sources; return what was removed."""
    removed = [name for name in environ if name.upper().startswith(("AWS_", "BOTO_", "BUBU_S3_"))]
    for name in removed:
        del environ[name]
    environ.update(SHUT)
    return sorted(removed)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a pass's process: nothing secret, nothing of the SDK's."""
    return {name: value for name, value in environ.items() if name in PASSED_ON} | SHUT
