"""``docs/cli.md`` says what the commands really say and do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bubu_storage.cli import cli
from bubu_storage.cli.failures import ExitCode
from bubu_storage.cli.root import COMMANDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
MARK = "<!-- generated from the commands by `make golden`; do not edit below -->\n"
WIDTH = 100


def help_of(command: click.Command, *path: str, hide_global: bool = False) -> str:
    """Return a command's help as in a terminal of a hundred columns."""
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, info_name=path[0], **settings)
    for name in path[1:]:
        command = command.get_command(context, name)
        context = click.Context(command, info_name=name, parent=context)
    text = command.get_help(context)
    if hide_global:
        text = re.sub(r"\n\nGlobal options:\n.*", "", text, flags=re.DOTALL)
    return text


def rendered() -> str:
    """Return the generated part of the page."""
    parts = [f"\n```text\n{help_of(cli, 'bubu-storage')}\n```\n"]
    for name in COMMANDS:
        text = help_of(cli, "bubu-storage", name, hide_global=True)
        parts.append(f"\n### `bubu-storage {name}`\n\n```text\n{text}\n```\n")
        group = cli.get_command(click.Context(cli), name)
        for inner in getattr(group, "commands", {}):
            text = help_of(cli, "bubu-storage", name, inner, hide_global=True)
            parts.append(f"\n### `bubu-storage {name} {inner}`\n\n```text\n{text}\n```\n")
    return "".join(parts)


def test_golden_reference(regenerate_golden):
    """The generated part is what ``--help`` says today; `make golden` rewrites it."""
    head, mark, tail = PAGE.read_text("utf-8").partition(MARK)
    assert mark
    if regenerate_golden:
        PAGE.write_text(head + mark + rendered(), "utf-8")
        return

    assert rendered() == tail


def test_the_session_runs_as_printed(tmp_path):
    """Each line of the five minutes is run by a shell and prints what the page says."""
    session = re.search(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL).group(1)
    commands = [line[2:] for line in session.splitlines() if line.startswith("$ ")]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
    }
    script = "\n".join(["set -e", *(f"echo {_quoted('$ ' + one)}\n{one}" for one in commands)])

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ("", 0) == (done.stderr, done.returncode)
    assert session.splitlines() == done.stdout.splitlines()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_explained(code):
    """A code that no page explains is a riddle."""
    table = PAGE.read_text("utf-8").partition("| exit code |")[2].partition("\n\n")[0]

    assert re.search(rf"\b{code.value}\b", table)
