"""What every test shares: the server fixtures and the switch that rewrites golden files."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy machine takes longer than 200 ms for an example now and then, and seconds to make some: no property
# is about time.
settings.register_profile(
    "unhurried", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")

pytest_plugins = ["tests.cluster.fixtures", "tests.s3server.fixtures", "tests.node.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our own options."""
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        default=False,
        help="rewrite the expected halves of golden files instead of comparing (review the diff)",
    )


@pytest.fixture(scope="session")
def regenerate_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden tests rewrite their expected files instead of comparing them."""
    return bool(request.config.getoption("--regenerate-golden"))
