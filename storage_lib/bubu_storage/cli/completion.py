"""``completion``: what a shell needs to complete commands, options and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bubu_storage.cli.failures import PROGRAM
from bubu_storage.cli.show import Out

__all__ = ["completion_command"]

_VARIABLE = "_" + PROGRAM.upper().replace("-", "_") + "_COMPLETE"


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(bubu-storage completion bash)"      in ~/.bashrc
    zsh:   eval "$(bubu-storage completion zsh)"       in ~/.zshrc
    fish:  bubu-storage completion fish > ~/.config/fish/completions/bubu-storage.fish

    Keys are completed too, from the store of --store or of the environment.
    """  # noqa: D301 - click's mark for lines to be left alone
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has these three
    Out().line(found(context.find_root().command, {}, PROGRAM, _VARIABLE).source())
