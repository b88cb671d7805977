"""``python -m tests.chart ensure``: build Helm and its companions if the cache lacks them."""

from __future__ import annotations

import sys

from tests.chart.programs import ensure_helm, ensure_helm_unittest, ensure_kubeconform
from tests.cluster.command_line import ensure_command

if __name__ == "__main__":
    sys.exit(
        ensure_command(
            "python -m tests.chart",
            __doc__,
            "build Helm, kubeconform and helm-unittest unless they are in the cache",
            ensure_helm,
            ensure_kubeconform,
            ensure_helm_unittest,
        )
    )
