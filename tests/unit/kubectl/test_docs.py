"""``docs/kubectl.md`` shows what the commands really print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from bubu_operator.injection import load_config
from bubu_operator.injection.explain import CarriedState, ExcludedReason
from bubu_operator.kubectl.failures import ExitCode
from bubu_operator.kubectl.main import COMMANDS, cli
from bubu_operator.kubectl.shell import render_exports

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "kubectl.md").read_text("utf-8")
SESSIONS = [
    block
    for block in re.findall(r"^```console\n\$ (.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    if block.startswith("kubectl bubu ")
]


def test_there_are_sessions():
    """Two, and both run without a cluster."""
    assert len(SESSIONS) == 2


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_prints_what_the_page_says(session: str, monkeypatch):
    """Word for word."""
    monkeypatch.chdir(ROOT)
    command, _, printed = session.partition("\n")

    done = CliRunner().invoke(cli, shlex.split(command)[2:])

    assert (0, "") == (done.exit_code, done.stderr)
    assert printed == done.stdout


def test_the_exports_are_as_shown():
    """The lines of the page are among those of the example's config, in their order."""
    text = (ROOT / "docs" / "examples" / "storageconfig-s3-secret.yaml").read_text("utf-8")
    config = load_config(next(iter(yaml.safe_load_all(text))))
    assert config.plan is not None
    shown = re.search(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert shown is not None

    lines = iter(render_exports(config.plan, namespace="flows", kubectl=("--context", "prod")).lines)

    assert [line for line in shown[1].splitlines() if line not in lines] == []


def test_every_command_code_and_state_is_on_the_page():
    """A word that no page explains is a riddle."""
    for name in COMMANDS:
        assert f"`kubectl bubu {name}" in PAGE
    for code in ExitCode:
        assert re.search(rf"^\| {code.value} \|", PAGE, re.MULTILINE)
    for state in set(CarriedState) - {CarriedState.NOTHING}:
        assert f"*{state}*" in PAGE
    for reason in ExcludedReason:
        assert f"`{reason}`" in PAGE
