"""The objects that the demo fills a store with, and the policy that is to clean them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MAX_DELETE", "MAX_SCAN", "RULES", "DemoObject", "build_objects"]

MAX_SCAN: Final = 2000
MAX_DELETE: Final = 1000
RULES: Final[list[dict[str, Any]]] = [{"prefix": "outputs/", "keep": {"within": "30d"}}]

DAY_SECONDS: Final = 86_400
OBJECTS_PER_RUN: Final = 20
OLD_RUNS: Final = 140
YOUNG_RUNS: Final = 95
MIXED_RUNS: Final = 10
FOREIGN_RUNS: Final = 5


@dataclass(frozen=True, slots=True)
class DemoObject:
    """One object to write; ``due`` says whether the policy must delete it."""

    key: str
    body: bytes
    modified: float
    due: bool


def build_objects(namespace: str, *, now: float) -> list[DemoObject]:
    """Return 5,000 objects in 250 runs.

    Old runs are 31 days to a year old; young ones up to 29 days. A mixed run is old but for
    one object of yesterday, which keeps all of it. Another namespace's old runs are none of
    this policy's business.
    """
    objects: list[DemoObject] = []

    def add(owner: str, run: str, ages_days: list[float], *, due: bool) -> None:
        for index, age in enumerate(ages_days):
            key = f"outputs/{owner}/{run}/step-{index:02d}.json"
            body = b'{"contentType":"json","data":{"run":"%s","step":%d}}' % (run.encode(), index)
            objects.append(DemoObject(key, body, now - age * DAY_SECONDS, due))

    for number in range(OLD_RUNS):
        add(
            namespace, f"story-{number % 7}-old-{number:03d}", [31 + number * 2.3] * OBJECTS_PER_RUN, due=True
        )
    for number in range(YOUNG_RUNS):
        add(
            namespace,
            f"story-{number % 7}-new-{number:03d}",
            [0.1 + number * 0.3] * OBJECTS_PER_RUN,
            due=False,
        )
    for number in range(MIXED_RUNS):
        ages = [200.0] * (OBJECTS_PER_RUN - 1) + [1.5]
        add(namespace, f"story-{number % 7}-mixed-{number:03d}", ages, due=False)
    for number in range(FOREIGN_RUNS):
        add("other-team", f"story-{number}", [400.0] * OBJECTS_PER_RUN, due=False)
    return objects
