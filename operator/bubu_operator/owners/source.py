"""The owners of runs as the API server tells them, always fresh enough to delete by.

For a controller::

    source = open_owners(client, kinds, namespace="team-a", before=census, acknowledged=token)

* ``kinds``: `OwnerKind.named(...)` for each of a policy's ``spec.owners``; None for the default
  (StoryRun and StepRun);
* ``namespace``: of a namespaced policy; None for all of them;
* ``before``: the `Census` of the policy's last pass from its status (``Census.from_dict``), None for none;
* ``acknowledged``: the approved token; releases exactly the `Anomaly` of that token.

Returns None where nobody owns runs here (the default kinds are not served and never were): the
engine is then given no owners at all. Raises `OwnersUnknownError` where that cannot be told: no pass must
start. The error's ``code`` is an `OwnersProblem`. After a pass ``source.census`` is what to
keep in the status, and ``source.anomaly`` what waits for an approval (or None).

`PassProcess(document, environment=…, owners=source)` answers its process from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bubu_operator.kube.client import KubeClient
from bubu_operator.owners.census import Anomaly, Census
from bubu_operator.owners.kinds import OwnerKind
from bubu_storage.retention.owners import OwnerView

__all__ = ["ApiOwnerSource", "open_owners"]


def open_owners(
    client: KubeClient,
    kinds: Sequence[OwnerKind] | None = None,
    *,
    namespace: str | None,
    before: Census | None = None,
    acknowledged: str = "",
) -> ApiOwnerSource | None:
    """Find the kinds of owners; see the module.

    Args:
        client: of the API server.
        kinds: a policy's own; None for the default.
        namespace: list only there; None for everywhere.
        before: counts of the last complete list, of the last pass.
        acknowledged: token of the anomaly that somebody approved.

    Raises:
        OwnersUnknownError: it cannot be told who owns runs.
    """
    raise NotImplementedError


class ApiOwnerSource:
    """An `OwnerSource` over the API server; shared by threads, and by callers that come at once.

    Attributes:
        census: counts of the last complete list; those given at first.
        anomaly: why the last list is not believed; None if it is, or there is none.
    """

    census: Census | None
    anomaly: Anomaly | None

    def observe(self, not_before: float) -> OwnerView:
        """Return a view whose observation began at ``not_before`` (boot seconds) or later.

        Raises:
            OwnersUnknownError: there is none; its ``code`` is an `OwnersProblem`.
        """
        raise NotImplementedError
