"""Every command line of our programs that a page shows is one that they would take."""

from __future__ import annotations

from typing import Any

import click
import pytest

from bubu_operator.cli import cli as operator_cli
from bubu_operator.kubectl.main import cli as kubectl_cli
from bubu_storage.cli import cli as storage_cli
from tests.unit.docs.pages import PAGES, Command, commands_of

PROGRAMS: dict[str, click.Command] = {
    "kubectl bubu": kubectl_cli,
    "kubectl-bubu": kubectl_cli,
    "bubu-operator": operator_cli,
    "bubu-storage": storage_cli,
}
COMMANDS = [
    command
    for page in PAGES
    if page.name != "CHANGELOG.md"  # which tells of the past
    for command in commands_of(page, *PROGRAMS)
]


def complaint_about(command: Command) -> str:
    """Return what the program would say to such words; "" if it takes them.

    Nothing runs. Options, their choices and the number of arguments are judged; whether files and
    objects of those names exist is not.
    """
    parsed: click.Command = PROGRAMS[command.words[0]]
    # With the command's own settings: click remembers the names of --help from the first context that asks.
    context = click.Context(parsed, info_name=command.words[0], **parsed.context_settings)
    words = list(command.words[1:])
    try:
        while True:
            values, words, _ = parsed.make_parser(context).parse_args(words)
            _judge_values(parsed, context, values)
            if values.get("help") or values.get("version") or not isinstance(parsed, click.Group):
                break
            if not words:
                return ""
            inner = parsed.get_command(context, words[0])
            if inner is None:
                return f"no such command: {words[0]}"
            context = click.Context(inner, info_name=words[0], parent=context, **inner.context_settings)
            parsed, words = inner, words[1:]
    except click.UsageError as error:
        return error.format_message()
    return f"too many arguments: {words}" if words else ""


def _judge_values(command: click.Command, context: click.Context, values: dict[str, Any]) -> None:
    for option in command.get_params(context):
        value = values.get(option.name or "")
        if isinstance(option.type, click.Choice) and isinstance(value, str) and not value.isupper():
            option.type.convert(value, option, context)


def test_there_are_commands_of_every_program():
    """So that a changed fence does not make the next test empty."""
    assert {"kubectl bubu", "bubu-operator", "bubu-storage"} <= {command.words[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_line_is_taken(command: Command):
    """No page shows an option that was renamed, or a command that never came."""
    assert "" == complaint_about(command)


@pytest.mark.parametrize(
    "words",
    [
        ("kubectl bubu", "explain", "--no-such-option"),
        ("kubectl bubu", "retention", "forget", "NAME"),
        ("kubectl bubu", "explain", "pod/x", "-o", "toml"),
        ("bubu-storage", "ls", "a", "b", "c"),
        ("bubu-operator", "webhook", "--tls-cert"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_noticed(words: tuple[str, ...]):
    """The judge of these tests is one."""
    assert complaint_about(Command("here", words))
