"""Entry point of ``kubectl-bubu``, the plugin that ``kubectl bubu`` runs: options, commands, exit codes.

Each command is a module of its own, loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from bubu_operator.kubectl.failures import CommandFailedError
from bubu_storage import __version__

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: Final = {
    "check": "Say whether the whole installation is well, line by line.",
    "env": "Print shell exports with which a laptop reaches a config's store.",
    "explain": "Say what storage a pod gets, from which config, and why, or why not.",
    "retention": "See what a retention policy will delete, ask for a pass, approve a plan.",
}


class _Commands(click.Group):
    """Knows the commands by name; the modules behind them load Kubernetes' client."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in order."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one; None for an unknown name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"bubu_operator.kubectl.{cmd_name}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("bubu_"):
                raise
            raise CommandFailedError(
                f"needs a package that is not installed ({error.name}); "
                "install it with: pip install 'bubu-storage[operator]'"
            ) from error
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for the help without loading any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(name="kubectl-bubu", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubectl-bubu")
def cli() -> None:
    """Ask about the object storage of pods: who gets it, from where, and whether all is well."""


def main() -> None:
    """Entry point of the command."""
    cli(prog_name="kubectl bubu")
