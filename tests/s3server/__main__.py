"""``python -m tests.s3server ensure``: build the S3 server if the cache lacks it."""

from __future__ import annotations

import sys

from tests.cluster.command_line import ensure_command
from tests.s3server.gateway import ensure_versitygw

if __name__ == "__main__":
    sys.exit(
        ensure_command(
            "python -m tests.s3server",
            __doc__,
            "build versitygw unless it is in the cache",
            lambda: f"S3 server: {ensure_versitygw()}",
        )
    )
