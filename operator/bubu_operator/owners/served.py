"""Which kinds of owners are there to be listed; the decisions are pure, the asking is `gather`'s.

Invariants: a kind that a policy names must be served; the usual two are served both or neither, and in a
version that is known here; a kind that was listed before and is not served any more stops everything
until that is approved.
"""

from __future__ import annotations

from collections.abc import Sequence

from bubu_operator.kube.resources import Resource
from bubu_operator.owners.census import Anomaly, Census, OwnersProblem, key_of_name, missing_kinds
from bubu_operator.owners.gather import Gatherer, NotServedError
from bubu_operator.owners.kinds import OwnerKind, wanted_kinds
from bubu_storage.errors import OwnersUnknownError

__all__ = ["OwnersAnomalyError", "find_served"]


class OwnersAnomalyError(OwnersUnknownError):
    """What the API server says of owners is complete, and not credible.

    Attributes:
        anomaly: what is odd about it, and the token that approves it.
    """

    def __init__(self, anomaly: Anomaly) -> None:
        super().__init__(anomaly.message, code=anomaly.problem.value)
        self.anomaly = anomaly


def find_served(
    gatherer: Gatherer, named: Sequence[OwnerKind], *, before: Census, acknowledged: str
) -> dict[OwnerKind, Resource]:
    """Find the kinds to list.

    Args:
        gatherer: asks.
        named: a policy's own kinds.
        before: the last census.
        acknowledged: token of the anomaly that was approved.

    Returns:
        The kinds; none where nobody owns runs here.

    Raises:
        OwnersAnomalyError: a kind has vanished, and nobody has approved that.
        OwnersUnknownError: the API server failed, or a kind must be served and is not.
    """
    must, may = wanted_kinds(named)
    served: dict[OwnerKind, Resource] = {}
    missing: dict[OwnerKind, NotServedError] = {}
    for kind in (*must, *may):
        try:
            served[kind] = gatherer.resource_of(kind)
        except NotServedError as error:
            missing[kind] = error
    anomaly = missing_kinds(before, served)
    if anomaly is not None and anomaly.token != acknowledged:
        raise OwnersAnomalyError(anomaly)
    listed_before = {key_of_name(name) for name in before.kinds}
    for kind, error in missing.items():
        if kind.key in listed_before:
            continue  # approved: see above
        if kind in must:
            raise error
        if others := gatherer.other_versions(kind):
            raise OwnersUnknownError(
                f"the API server serves {kind.key} in {', '.join(others)} and not in {kind.version}; nobody "
                "has said how to read it: name it in spec.owners with its version and phases",
                code=OwnersProblem.UNKNOWN.value,
            )
        if served.keys() & set(may):
            raise OwnersUnknownError(
                f"the API server serves {' and '.join(str(kind) for kind in served)}, and not {kind}; one "
                "without the other does not tell which runs are live: install both",
                code=OwnersProblem.UNKNOWN.value,
            ) from error
    return served
