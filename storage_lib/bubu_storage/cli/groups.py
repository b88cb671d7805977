"""Commands with commands of their own, such as ``retention plan``."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["CommandGroup"]


class CommandGroup(click.Group):
    """A group that shows its help when no command follows, and leaves all else to the root."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, no_args_is_help=True, **kwargs)
