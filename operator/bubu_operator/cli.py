"""``bubu-operator``: one image, one command, a subcommand for each role.

Roles are imported only when they are asked for, so that the webhook does not load Kopf
and a plain library install can still say what is missing. This module parses options and
nothing else; each role's own module documents what it does.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from bubu_operator.defaults import AUTHORITY_SECRET, OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_storage import __version__

__all__ = ["cli", "main"]

INSTALL_LINE: Final = "pip install 'bubu-storage[operator]'"
REQUIRED_MODULES: Final = (
    "kopf",
    "kubernetes",
    "pydantic",
    "uvicorn",
    "uvloop",
    "structlog",
    "yaml",
    "cryptography",
)

Command = TypeVar("Command", bound=Callable[..., Any])


def _common_options(command: Command) -> Command:
    """Add what every long-running role takes."""
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
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar="KUBECONFIG",
            help="Cluster access; default: the pod's own service account.",
        ),
    ):
        command = option(command)
    return command


def _lifetimes(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse what cannot be read here, with the usage, not when the controller leads."""
    from bubu_operator.certificates.lifetimes import parse_lifetimes  # noqa: PLC0415 - not for every command

    try:
        parse_lifetimes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from bubu_operator.jobpass.addresses import split_address  # noqa: PLC0415 - not for every command

    try:
        if value:
            split_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _dns_names(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    from bubu_operator.certificates.issuing import check_name  # noqa: PLC0415 - not for every command

    try:
        return tuple(map(check_name, value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _one_way_to_certificates(options: dict[str, Any]) -> None:
    """Refuse a half of the files, and both ways at once."""
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


@click.group(name="bubu-operator", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bubu-operator")
def cli() -> None:
    """Kubernetes operator for the object storage of workflow pods."""


@cli.command()
@_common_options
@click.option(
    "--namespace", "namespaces", multiple=True, help="Watch only this namespace; repeatable. Default: all."
)
@click.option(
    "--allow-local-root",
    "allow_local_roots",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory below which local file stores may be used; repeatable. Default: none.",
)
@click.option(
    "--probe-interval-seconds",
    type=click.FloatRange(min=1.0),
    default=60.0,
    show_default=True,
    help="Time between two probes of a healthy store.",
)
@click.option("--health-host", default="0.0.0.0", show_default=True, help="Address of health and metrics.")  # noqa: S104 - the kubelet asks from outside the pod
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of /healthz, /readyz and /metrics; 0 picks a free one.",
)
@click.option(
    "--operator-namespace",
    envvar="POD_NAMESPACE",
    default=OPERATOR_NAMESPACE,
    show_default=True,
    help="Where the operator runs: its Lease and its authority's Secret are there.",
)
@click.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    show_default=True,
    help="Wait for the Lease before working, so that several replicas never act at once.",
)
@click.option(
    "--webhook-authority/--no-webhook-authority",
    default=False,
    show_default=True,
    help="Keep the authority of the webhook's certificates and its caBundle.",
)
@click.option(
    "--webhook-service",
    default=WEBHOOK_NAME,
    show_default=True,
    help="Service of the webhook, for its names.",
)
@click.option(
    "--webhook-configuration",
    default=WEBHOOK_NAME,
    show_default=True,
    help="MutatingWebhookConfiguration whose caBundle is kept.",
)
@click.option(
    "--authority-lifetimes",
    envvar="BUBU_AUTHORITY_LIFETIMES",
    default="",
    callback=_lifetimes,
    help="As ca=365d,leaf=7d,propagation=60s,slack=10m,backdate=1h, which are the usual ones; "
    "what is left out stays. Short ones are for tests.",
)
@click.option(
    "--job-image",
    envvar="BUBU_JOB_IMAGE",
    default="",
    help="Image for Jobs that probe, and serve retention passes, under a tenant's ServiceAccount. "
    "Default: no such Jobs.",
)
@click.option(
    "--job-pass-address",
    envvar="BUBU_JOB_PASS_ADDRESS",
    default="0.0.0.0:8444",
    show_default=True,
    callback=_address,
    help="Where the agents of retention passes call the controller; empty for no such passes.",
)
@click.option(
    "--job-pass-advertise",
    envvar="BUBU_JOB_PASS_ADVERTISE",
    default="",
    callback=_address,
    help="What agents call it by: HOST or HOST:PORT. Default: POD_IP; without it there are no such passes.",
)
@click.option(
    "--allow-loopback-endpoints/--no-allow-loopback-endpoints",
    default=False,
    show_default=True,
    help="Let configs name stores on the controller's own machine; for tests and single-node trials.",
)
@click.option(
    "--heal-interval-seconds",
    type=click.FloatRange(min=0.0),
    default=60.0,
    show_default=True,
    help="Time between two sweeps for pods that lack their storage; 0 for none.",
)
@click.option(
    "--rollout-timeout-seconds",
    type=click.FloatRange(min=1.0),
    default=600.0,
    show_default=True,
    help="A roll-out that is not done after this long does not hold up the next one.",
)
@click.option(
    "--max-parallel-passes",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Retention passes under way at once over all stores; each is a process of its own.",
)
@click.option(
    "--pause-retention/--no-pause-retention",
    default=False,
    show_default=True,
    help="Start no retention pass. At run time: the annotation storage.bubustack.io/pause-retention=true "
    "on the operator's namespace.",
)
@click.option(
    "--pause-annotation/--no-pause-annotation",
    default=True,
    show_default=True,
    help="Look for that annotation. Without the right to read the operator's namespace no pass starts; "
    "--no-pause-annotation says that this switch is not wanted.",
)
def controller(**options: Any) -> None:
    """Probe stores, run retention passes, inject labelled workloads."""
    _end_at_once_when_asked()
    from bubu_operator.controllers.main import ControllerOptions, run_controller  # noqa: PLC0415 - loads Kopf

    sys.exit(run_controller(ControllerOptions(**options)))


@cli.command()
@_common_options
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BUBU_TLS_CERT",
    help="PEM certificate chain, leaf first; may appear and change while the process runs. "
    "Default: the built-in authority.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BUBU_TLS_KEY",
    help="PEM private key of --tls-cert, not encrypted.",
)
@click.option(
    "--authority-secret",
    default=AUTHORITY_SECRET,
    show_default=True,
    help="Secret of the built-in authority, which a controller with --webhook-authority keeps.",
)
@click.option(
    "--operator-namespace",
    envvar="POD_NAMESPACE",
    default=OPERATOR_NAMESPACE,
    show_default=True,
    help="Where the operator runs: the authority's Secret and the webhook's Service are there.",
)
@click.option(
    "--webhook-service",
    default=WEBHOOK_NAME,
    show_default=True,
    help="Service of the webhook, for the names of its own certificate.",
)
@click.option(
    "--dns-name",
    "dns_names",
    multiple=True,
    callback=_dns_names,
    help="One more DNS name or IP address of its own certificate; repeatable.",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - the API server calls from outside the pod
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=10250,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--metrics-host",
    default="0.0.0.0",  # noqa: S104 - Prometheus and the kubelet ask from outside the pod
    show_default=True,
    help="Address of metrics and health.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=8081,
    show_default=True,
    help="Port of /metrics, /healthz and /readyz, plain HTTP; 0 picks a free one.",
)
@click.option(
    "--cert-poll-seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How often the certificate files are looked at.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0.0),
    default=5.0,
    show_default=True,
    help="How long requests are still answered after a stop signal.",
)
def webhook(**options: Any) -> None:
    """Serve the mutating admission webhook for pods.

    Certificates come from two files (--tls-cert and --tls-key), or from the built-in authority.
    """
    _one_way_to_certificates(options)
    _end_at_once_when_asked()
    from bubu_operator.webhook.main import WebhookOptions, run_webhook  # noqa: PLC0415 - loads uvicorn

    sys.exit(run_webhook(WebhookOptions(**options)))


@cli.command("retention-pass")
def retention_pass() -> None:
    """Run one retention pass: the job as JSON on stdin, progress as JSON lines on stdout.

    Started by the controller; it stops as soon as its stdin is closed.
    """
    from bubu_operator.retention.child import main as child_main  # noqa: PLC0415 - loads the engine

    sys.exit(child_main())


@cli.command()
@click.option(
    "--result",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the result; a kubelet reads it as the termination message.",
)
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="For everything; then the result says Timeout.",
)
@click.option(
    "--require-identity/--allow-anonymous",
    default=False,
    show_default=True,
    help="Whether a pod that got no identity is told so, rather than asking the store anonymously.",
)
@click.option(
    "--allow-loopback-endpoints/--no-allow-loopback-endpoints",
    default=False,
    show_default=True,
    help="As of the controller.",
)
@click.option(
    "--cluster-uid",
    default="",
    help="Of the cluster that the pod runs in; a store that works learns that this cluster uses it.",
)
def probe(**options: Any) -> None:
    """Probe the store of this pod's environment once, and write what it can do.

    Runs in the pod of a Job that the controller creates; needs no API server.
    """
    from bubu_operator.probe.run import ProbeOptions, run_probe  # noqa: PLC0415 - loads pydantic

    sys.exit(run_probe(ProbeOptions(**options)))


@cli.command("retention-agent")
@click.option("--controller", required=True, help="https://HOST:PORT of the controller to call.")
@click.option("--pin", required=True, help="sha256: and the fingerprint of the controller's certificate.")
@click.option("--pass", "pass_id", required=True, help="The pass that this Job was made for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="Prefix that may be listed and deleted in, ending in /; repeatable.",
)
@click.option(
    "--token-file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="This pod's token for the controller.",
)
@click.option(
    "--result",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the result; a kubelet reads it as the termination message.",
)
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(min=0.1),
    default=3600.0,
    show_default=True,
    help="For everything; then the result says Timeout.",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    help="Without a request for so long, it ends.",
)
@click.option(
    "--require-identity/--allow-anonymous",
    default=False,
    show_default=True,
    help="Whether a pod that got no identity is told so, rather than asking the store anonymously.",
)
@click.option(
    "--allow-loopback-endpoints/--no-allow-loopback-endpoints",
    default=False,
    show_default=True,
    help="As of the controller.",
)
def retention_agent(**options: Any) -> None:
    """Serve the store of this pod's environment to the controller, for one retention pass.

    Runs in the pod of a Job that the controller creates; decides nothing, and needs no API server.
    """
    from bubu_operator.jobpass.agent import AgentOptions, run_agent  # noqa: PLC0415 - loads pydantic

    sys.exit(run_agent(AgentOptions(**options)))


@cli.command()
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files into this directory.",
)
@click.option(
    "--check",
    type=click.Path(file_okay=False, path_type=Path),
    help="Fail if the files there are not up to date.",
)
def crds(write: Path | None, check: Path | None) -> None:
    """Print the CustomResourceDefinitions, generated from the models."""
    from bubu_operator.api.crds import check_crds, render_crds, write_crds  # noqa: PLC0415 - loads pydantic

    if write is not None and check is not None:
        raise click.UsageError("give --write or --check, not both")
    if write is not None:
        write_crds(write)
    elif check is not None:
        drift = check_crds(check)
        for line in drift:
            click.echo(line, err=True)
        if drift:
            click.echo("run `make generate` and commit the result", err=True)
            sys.exit(1)
    else:
        for text in render_crds().values():
            click.echo(text.rstrip() if text.startswith("---") else f"---\n{text.rstrip()}")


def _end_at_once_when_asked() -> None:
    """Until a role has handlers of its own, end with code 0 on SIGTERM and SIGINT: nothing has begun yet.

    Loading a role takes a second or two, and the first process of a container ignores
    SIGTERM unless it says otherwise.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))


def _first_missing() -> str | None:
    for name in REQUIRED_MODULES:
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            return name
    return None


def main() -> None:
    """Entry point of ``bubu-operator``; without the extra it says how to get it."""
    missing = _first_missing()
    if missing is not None:
        sys.stderr.write(
            f"bubu-operator needs packages that are not installed ({missing}). Install them with:\n"
            f"    {INSTALL_LINE}\n"
        )
        raise SystemExit(1)
    cli()
