"""How answers are printed: text for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import yaml

from bubu_operator.kubectl.failures import one_line

__all__ = ["output_option", "paragraph", "print_documents", "row"]

WIDTH: Final = 100
LABEL_WIDTH: Final = 10

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(command: Command) -> Command:
    """Add ``-o text|json|yaml``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json", "yaml"]),
        default="text",
        show_default=True,
        help="How the answer is printed.",
    )(command)


def print_documents(documents: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print one object as it is, several as a list."""
    content: Any = documents[0] if len(documents) == 1 else list(documents)
    if output == "json":
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(yaml.safe_dump(content, sort_keys=False, width=WIDTH), nl=False)


def paragraph(text: str, indent: int, *, first: int = 0) -> str:
    """Wrap a sentence; the first line is indented by ``first``, the others by ``indent``.

    Names and options are full of hyphens, and are copied: no word is ever broken.
    """
    return textwrap.fill(
        text,
        width=WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def row(title: str, text: str) -> list[str]:
    """A label and what belongs to it, wrapped beside it; the text may be foreign."""
    wrapped = paragraph(one_line(text), LABEL_WIDTH, first=LABEL_WIDTH)
    return (title.ljust(LABEL_WIDTH) + wrapped[LABEL_WIDTH:]).split("\n")
