"""The runbook has an entry for everything that somebody may look up there, and no other."""

from __future__ import annotations

import re

import pytest

from bubu_operator.api.v1alpha1.conditions import EventReason, Reason
from bubu_operator.controllers.authority_report import Trouble
from tests.monitoring.rules import ROOT, alerts

PAGE = (ROOT / "docs" / "runbook.md").read_text("utf-8")
ENTRIES = re.split(r"^### (\w+)\n", PAGE, flags=re.MULTILINE)[1:]
TEXTS = {
    name: text.partition("\n## ")[0].strip() for name, text in zip(ENTRIES[::2], ENTRIES[1::2], strict=True)
}
ALERTS = [alert.name for alert in alerts()]
REASONS = [reason.value for reason in Reason]


def test_there_is_an_entry_for_each_alert_and_each_reason_and_none_is_stale():
    """Each once, by its name, so that links by name work."""
    assert sorted(ENTRIES[::2]) == sorted([*ALERTS, *REASONS])


def test_the_tables_have_each_reason_of_an_event_and_each_trouble_of_the_authority():
    """And no other."""
    events = PAGE.partition("\n## Reasons of events\n")[2]
    listed = re.findall(r"^\| `(\w+)` \|", events, re.MULTILINE)
    assert sorted(listed) == sorted(EventReason)

    troubles = re.findall(r"^\| `(\w+)` \|", TEXTS["BubuCertificateTrouble"], re.MULTILINE)
    assert sorted(troubles) == sorted(Trouble)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_to_look(name: str):
    """By a command that can be copied."""
    assert "```sh\nkubectl " in TEXTS[name]
    assert len(TEXTS[name]) > 200


@pytest.mark.parametrize("name", REASONS)
def test_each_reason_says_something(name: str):
    """That all is well, or more than the one sentence of the reference."""
    text = TEXTS[name]
    assert text.startswith(("Good", "Ready.")) or len(text) > 60
