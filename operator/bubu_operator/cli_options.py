"""Options of ``bubu-operator`` that several commands share, and the checks of single ones.

Nothing that takes time to load is imported with this module; a check loads what it needs when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

__all__ = [
    "check_address",
    "check_dns_names",
    "check_lifetimes",
    "check_one_way_to_certificates",
    "common_options",
    "file_option",
    "job_pod_options",
    "port_option",
    "seconds_option",
    "shown_option",
    "switch_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

# -- shapes of options -------------------------------------------------------------------


def shown_option(name: str, default: str, description: str, **more: Any) -> Decorator[Any]:
    """A text whose default is shown."""
    return click.option(name, default=default, show_default=True, help=description, **more)


def seconds_option(name: str, default: float, description: str, *, least: float = 0.1) -> Decorator[Any]:
    """A time in seconds, of at least ``least``."""
    return click.option(
        name, type=click.FloatRange(min=least), default=default, show_default=True, help=description
    )


def port_option(name: str, default: int, description: str) -> Decorator[Any]:
    """A port to listen on; 0 is one, too."""
    return click.option(
        name, type=click.IntRange(0, 65535), default=default, show_default=True, help=description
    )


def switch_option(names: str, description: str, *, default: bool = False) -> Decorator[Any]:
    """A pair of names, ``--on/--off``."""
    return click.option(names, default=default, show_default=True, help=description)


def file_option(name: str, description: str, **more: Any) -> Decorator[Any]:
    """The path of a file, which need not be there."""
    return click.option(name, type=click.Path(dir_okay=False, path_type=Path), help=description, **more)


# -- options of several commands ---------------------------------------------------------


def common_options(command: Command) -> Command:
    """Add what every command takes that asks an API server: logs, and the way there."""
    for option in (
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            envvar="BUBU_LOG_LEVEL",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["json", "console"]),
            default="json",
            show_default=True,
            envvar="BUBU_LOG_FORMAT",
        ),
        file_option(
            "--kubeconfig", "Cluster access; default: the pod's own service account.", envvar="KUBECONFIG"
        ),
    ):
        command = option(command)
    return command


def job_pod_options(*, deadline_seconds: float, idle_seconds: float | None = None) -> Decorator[Any]:
    """Add what the commands take that run in the pods of Jobs: where to answer, when to end, what to allow.

    Args:
        deadline_seconds: unless told otherwise.
        idle_seconds: the same; None for a command that waits for nobody.
    """
    idle: list[Decorator[Any]] = []
    if idle_seconds is not None:
        idle.append(seconds_option("--idle-seconds", idle_seconds, "Without a request for so long, it ends."))

    def add(command: Command) -> Command:
        for option in (
            switch_option(
                "--allow-loopback-endpoints/--no-allow-loopback-endpoints", "As of the controller."
            ),
            switch_option(
                "--require-identity/--allow-anonymous",
                "Whether a pod that got no identity is told so, rather than asking the store anonymously.",
            ),
            *idle,
            seconds_option(
                "--deadline-seconds", deadline_seconds, "For everything; then the result says Timeout."
            ),
            file_option(
                "--result",
                "File for the result; a kubelet reads it as the termination message.",
                required=True,
            ),
        ):
            command = option(command)
        return command

    return add


# -- checks: what cannot be read is refused here, with the usage, not when a role has begun --


def check_lifetimes(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse lifetimes of certificates that cannot be read."""
    from bubu_operator.certificates.lifetimes import parse_lifetimes  # noqa: PLC0415 - not for every command

    try:
        parse_lifetimes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def check_address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse what is no HOST:PORT; "" is fine."""
    from bubu_operator.jobpass.addresses import split_address  # noqa: PLC0415 - not for every command

    try:
        if value:
            split_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def check_dns_names(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse what cannot stand in a certificate."""
    from bubu_operator.certificates.issuing import check_name  # noqa: PLC0415 - not for every command

    try:
        return tuple(map(check_name, value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def check_one_way_to_certificates(options: dict[str, Any]) -> None:
    """Refuse a half of the certificate's files, and both ways at once."""
    given = [name for name in ("tls_cert", "tls_key") if options[name] is not None]
    if len(given) == 1:
        raise click.UsageError("--tls-cert and --tls-key belong together: give both files, or neither")
    source = click.get_current_context().get_parameter_source
    usual = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    for name, option in (("authority_secret", "--authority-secret"), ("dns_names", "--dns-name")):
        if given and source(name) not in usual:
            raise click.UsageError(
                f"{option} is for the built-in authority, and --tls-cert and --tls-key are for files: "
                "give one or the other"
            )
