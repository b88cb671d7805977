"""What the leading controller asks before it works: a server that has just fallen silent holds nobody up."""

from __future__ import annotations

import pytest

from bubu_operator.controllers import main
from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.controllers.main import CRD_TIMEOUT_SECONDS, RIGHT_LOOKS
from bubu_operator.errors import KubeForbiddenError, KubeTimeoutError
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, RETENTION_POLICIES, STORAGE_CONFIGS
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.controller_metrics import ControllerMetrics


class Server:
    """Answers whether ClusterStorageConfigs may be read, an error each, then that they may be."""

    server = "https://api"

    def __init__(self, *answers: Exception):
        self.answers = list(answers)
        self.waits: list[float] = []

    def list_page(self, resource, *, limit, timeout_seconds=10.0):
        """Answer."""
        assert (resource, limit) == (CLUSTER_STORAGE_CONFIGS, 1)
        self.waits.append(timeout_seconds)
        if self.answers:
            raise self.answers.pop(0)


def controller(server: Server) -> main._Controller:
    """A controller of one namespace that leads."""
    options = ControllerOptions(namespaces=("team-a",), leader_elect=False)
    fence = LeadershipFence.always_open()
    return main._Controller(options, server, server, fence, Redactor(), metrics=ControllerMetrics())


def test_a_signal_is_heard_after_one_short_look():
    """It comes while the server is silent: nothing more is asked, and what was asked ends soon."""
    server = Server(*[KubeTimeoutError("silence")] * RIGHT_LOOKS)
    made = controller(server)
    made._stopping.set()

    made._watched()

    assert server.waits == [CRD_TIMEOUT_SECONDS]


@pytest.mark.parametrize("silent_looks", range(RIGHT_LOOKS))
def test_a_server_that_is_slow_is_asked_again(silent_looks):
    """A right that is missing is found out about all the same."""
    server = Server(*[KubeTimeoutError("slow")] * silent_looks, KubeForbiddenError("no", status=403))

    assert controller(server)._watched() == [STORAGE_CONFIGS, RETENTION_POLICIES]


@pytest.mark.parametrize("silent_looks", [0, 1, RIGHT_LOOKS])
def test_what_is_not_known_is_watched(silent_looks):
    """The watch says so if it must not be; kinds that others may mind are left to them."""
    server = Server(*[KubeTimeoutError("slow")] * silent_looks)

    assert controller(server)._watched() == [STORAGE_CONFIGS, CLUSTER_STORAGE_CONFIGS, RETENTION_POLICIES]
    assert len(server.waits) == min(silent_looks + 1, RIGHT_LOOKS)
