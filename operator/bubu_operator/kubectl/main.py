"""Entry point of ``kubectl-bubu``, the plugin that ``kubectl bubu`` runs: options, commands, exit codes."""

from __future__ import annotations

import click

from bubu_storage import __version__

__all__ = ["cli", "main"]


@click.group(name="kubectl-bubu", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubectl-bubu")
def cli() -> None:
    """Ask about the object storage of pods: who gets it, from where, and whether all is well."""


def main() -> None:
    """Entry point of the command."""
    cli()
