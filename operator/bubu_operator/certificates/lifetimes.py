"""How long authorities and certificates live, and how long news takes; in one place.

Everything is measured by the API server's clock, because it is what verifies; see
`bubu_operator.kube.server_clock`. Tests shorten all of it by one option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Final

from bubu_operator.errors import OptionsError

__all__ = ["LEAF_SECONDS_MAX", "Lifetimes", "parse_lifetimes"]

_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEAF_SECONDS_MAX: Final = 398 * 86400
"""Nobody needs longer, and sums with it stay within what dates can hold."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Durations, in seconds.

    Attributes:
        ca_seconds: validity of an authority; the next one is made at two thirds of it.
        leaf_seconds: validity of a replica's certificate; renewed at two thirds of it.
        propagation_seconds: how long an API server may take to see a change of caBundle, and a
            replica to see a change of the Secret; a new authority signs only after it has been
            observed in caBundle for this long.
        slack_seconds: how long a replica that does not hear of a change may still sign with the
            authority before; added to how long that one stays in caBundle.
        backdate_seconds: certificates are valid from this long before now, for API servers whose
            clocks differ.
    """

    ca_seconds: int = 365 * 86400
    leaf_seconds: int = 7 * 86400
    propagation_seconds: int = 60
    slack_seconds: int = 600
    backdate_seconds: int = 3600

    @property
    def ca(self) -> timedelta:
        """Of an authority."""
        return timedelta(seconds=self.ca_seconds)

    @property
    def leaf(self) -> timedelta:
        """Of a replica's certificate."""
        return timedelta(seconds=self.leaf_seconds)

    @property
    def backdate(self) -> timedelta:
        """How long before now validity begins."""
        return timedelta(seconds=self.backdate_seconds)

    @property
    def kept(self) -> timedelta:
        """How long an authority that signs no longer stays in caBundle."""
        return timedelta(seconds=self.leaf_seconds + self.slack_seconds)


def parse_lifetimes(text: str) -> Lifetimes:
    """Read ``ca=365d,leaf=7d,propagation=60s,slack=10m,backdate=1h``; what is left out is as usual.

    Raises:
        OptionsError: it is not of that form, or the durations contradict each other.
    """
    names = {field.name.removesuffix("_seconds") for field in fields(Lifetimes)}
    given: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        match = _DURATION.fullmatch(value.strip())
        if name.strip() not in names or match is None:
            raise OptionsError(
                f"lifetimes: {part!r} is not understood; write NAME=DURATION with a name of "
                f"{', '.join(sorted(names))} and a duration such as 60s, 10m, 1h or 7d"
            )
        given[f"{name.strip()}_seconds"] = int(match[1]) * _UNIT_SECONDS[match[2]]
    lifetimes = Lifetimes(**given)
    if lifetimes.leaf_seconds > LEAF_SECONDS_MAX or lifetimes.ca_seconds > 10 * LEAF_SECONDS_MAX:
        raise OptionsError("lifetimes: a leaf lives for 398 days at most, an authority for ten times that")
    # In the last third of its life an authority is replaced, and what it signs must outlive that.
    if lifetimes.ca_seconds < 3 * lifetimes.propagation_seconds + lifetimes.leaf_seconds:
        raise OptionsError(
            "lifetimes: an authority must live longer than a leaf and three times the propagation together"
        )
    return lifetimes
