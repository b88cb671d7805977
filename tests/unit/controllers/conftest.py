"""What all tests of controllers share."""

from __future__ import annotations

import pytest

from bubu_operator.controllers import repeated_look


@pytest.fixture(autouse=True)
def _answers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass does not wait long for what it asks on the way; a test means to see the answer."""
    monkeypatch.setattr(repeated_look, "PATIENCE_SECONDS", 60.0)
