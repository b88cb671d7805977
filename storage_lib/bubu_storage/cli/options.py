"""The global options, accepted before and after the command's name.

``bubu-storage -o json ls`` and ``bubu-storage ls -o json`` mean the same; where an option is
given twice, the one after the command wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from bubu_storage.goduration import parse_go_duration_seconds

__all__ = ["GlobalOptions", "StoreCommand", "global_options", "options_of"]

_Any = TypeVar("_Any", bound=Callable[..., Any])


@dataclass(slots=True)
class GlobalOptions:
    """What was given for all commands.

    Attributes:
        store: as given, checked by `stores`; "" = from the environment.
        endpoint_url: of an S3 store; "" = from the environment.
        region: of an S3 store; "" = from the environment.
        profile: of the SDK's own configuration; "" = none.
        timeout_seconds: longest wait for one answer; None = the default.
        output: ``table`` or ``json``.
        quiet: nothing but errors on standard error.
        verbose: also the causes of errors.
    """

    store: str = ""
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    timeout_seconds: float | None = None
    output: str = "table"
    quiet: bool = False
    verbose: bool = False

    @property
    def as_json(self) -> bool:
        """Whether programs read the output."""
        return self.output == "json"


def options_of(context: click.Context) -> GlobalOptions:
    """Return the options of the running command."""
    return context.find_root().ensure_object(GlobalOptions)


class _Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - older versions have none
    """Seconds, or a text like ``1m30s``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return seconds, above 0."""
        if not isinstance(value, str):
            return value
        try:
            seconds = (
                float(value) if value.isascii() and value.isdigit() else parse_go_duration_seconds(value)
            )
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is no time above 0; write it as 30 (seconds), 30s or 1m30s", param, ctx)
        return seconds


def _remember(context: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep an option that was given; one that was not must not undo another place's."""
    options = options_of(context)
    name = param.name or ""
    if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
        setattr(options, name, value)


_DECORATORS: Final[Sequence[Callable[[Any], Any]]] = (
    click.option(
        "--store",
        metavar="URL",
        callback=_remember,
        expose_value=False,
        help="s3://BUCKET or file:///DIR. Default: BUBU_STORAGE_* variables, as in a pod.",
    ),
    click.option(
        "--endpoint-url",
        metavar="URL",
        callback=_remember,
        expose_value=False,
        help="Address of an S3 store that is not AWS, as https://minio.example:9000.",
    ),
    click.option(
        "--region", metavar="NAME", callback=_remember, expose_value=False, help="Region of an S3 store."
    ),
    click.option(
        "--profile",
        metavar="NAME",
        callback=_remember,
        expose_value=False,
        help="Credentials of this profile (~/.aws) instead of those of the environment.",
    ),
    click.option(
        "--timeout",
        "timeout_seconds",
        metavar="TIME",
        type=_Duration(),
        callback=_remember,
        expose_value=False,
        help="Longest wait for one answer of the store, as 30s or 2m. Default: 1m. "
        "What may be tried again is asked up to three times.",
    ),
    click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json"]),
        callback=_remember,
        expose_value=False,
        help="table for people (default), json for programs.",
    ),
    click.option(
        "--quiet",
        "-q",
        is_flag=True,
        default=None,
        callback=_remember,
        expose_value=False,
        help="No progress, no notes.",
    ),
    click.option(
        "--verbose",
        "-v",
        is_flag=True,
        default=None,
        callback=_remember,
        expose_value=False,
        help="Show the causes of an error.",
    ),
)


def global_options(function: _Any) -> _Any:
    """Add the global options to a command or group."""
    for decorate in reversed(_DECORATORS):
        function = decorate(function)
    return function


_NAMES: Final = frozenset(
    {"store", "endpoint_url", "region", "profile", "timeout_seconds", "output", "quiet", "verbose"}
)


class StoreCommand(click.Command):
    """A command that takes the global options too, and shows them apart from its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        @global_options
        def carrier() -> None:
            """Carry the options."""

        shared: list[click.Parameter] = list(reversed(getattr(carrier, "__click_params__", [])))
        self.params = [*self.params, *shared]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the global ones."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (shared if param.name in _NAMES else own).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
