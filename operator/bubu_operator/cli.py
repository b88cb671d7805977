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
from pathlib import Path
from typing import Any, Final

import click

from bubu_operator.cli_options import (
    check_address,
    check_dns_names,
    check_lifetimes,
    check_one_way_to_certificates,
    common_options,
    file_option,
    job_pod_options,
    port_option,
    seconds_option,
    shown_option,
    switch_option,
)
from bubu_operator.defaults import (
    AUTHORITY_SECRET,
    EVERYWHERE,
    OPERATOR_NAMESPACE,
    PROBER_ROLE,
    SECRET_READER_ROLE,
    WEBHOOK_NAME,
)
from bubu_operator.process import begin_process
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


@click.group(name="bubu-operator", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bubu-operator")
def cli() -> None:
    """Kubernetes operator for the object storage of workflow pods."""


@cli.command()
@common_options
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
@seconds_option("--probe-interval-seconds", 60.0, "Time between two probes of a healthy store.", least=1.0)
@shown_option("--health-host", EVERYWHERE, "Address of health and metrics; * is every one, IPv4 and IPv6.")
@port_option("--health-port", 8080, "Port of /healthz, /readyz and /metrics; 0 picks a free one.")
@shown_option(
    "--operator-namespace",
    OPERATOR_NAMESPACE,
    "Where the operator runs: its Lease and its authority's Secret are there.",
    envvar="POD_NAMESPACE",
)
@switch_option(
    "--leader-elect/--no-leader-elect",
    "Wait for the Lease before working, so that several replicas never act at once.",
    default=True,
)
@switch_option(
    "--webhook-authority/--no-webhook-authority",
    "Keep the authority of the webhook's certificates and its caBundle.",
)
@shown_option("--webhook-service", WEBHOOK_NAME, "Service of the webhook, for its names.")
@shown_option("--webhook-configuration", WEBHOOK_NAME, "MutatingWebhookConfiguration whose caBundle is kept.")
@click.option(
    "--authority-lifetimes",
    envvar="BUBU_AUTHORITY_LIFETIMES",
    default="",
    callback=check_lifetimes,
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
@shown_option(
    "--job-pass-address",
    f"{EVERYWHERE}:8444",
    "Where the agents of retention passes call the controller; empty for no such passes.",
    envvar="BUBU_JOB_PASS_ADDRESS",
    callback=check_address,
)
@click.option(
    "--job-pass-advertise",
    envvar="BUBU_JOB_PASS_ADVERTISE",
    default="",
    callback=check_address,
    help="What agents call it by: HOST or HOST:PORT. Default: POD_IP; without it there are no such passes.",
)
@click.option(
    "--exclude-namespace",
    "exclude_namespaces",
    multiple=True,
    help="Leave the workloads of this namespace alone, as the webhook is told to; repeatable. Default: none "
    "but the system's and the operator's own.",
)
@shown_option(
    "--secret-reader-role", SECRET_READER_ROLE, "Role that messages name for the right to read Secrets."
)
@shown_option("--prober-role", PROBER_ROLE, "Role that messages name for the right to start Jobs.")
@switch_option(
    "--allow-loopback-endpoints/--no-allow-loopback-endpoints",
    "Let configs name stores on the controller's own machine; for tests and single-node trials.",
)
@seconds_option(
    "--heal-interval-seconds",
    60.0,
    "Time between two sweeps for pods that lack their storage; 0 for none.",
    least=0.0,
)
@seconds_option(
    "--rollout-timeout-seconds",
    600.0,
    "A roll-out that is not done after this long does not hold up the next one.",
    least=1.0,
)
@click.option(
    "--max-parallel-passes",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Retention passes under way at once over all stores; each is a process of its own.",
)
@switch_option(
    "--pause-retention/--no-pause-retention",
    "Start no retention pass. At run time: the annotation storage.bubustack.io/pause-retention=true "
    "on the operator's namespace.",
)
@switch_option(
    "--pause-annotation/--no-pause-annotation",
    "Look for that annotation. Without the right to read the operator's namespace no pass starts; "
    "--no-pause-annotation says that this switch is not wanted.",
    default=True,
)
def controller(**options: Any) -> None:
    """Probe stores, run retention passes, inject labelled workloads."""
    _end_at_once_when_asked()
    from bubu_operator.controllers.main import ControllerOptions, run_controller  # noqa: PLC0415 - loads Kopf

    sys.exit(run_controller(ControllerOptions(**options)))


@cli.command()
@common_options
@file_option(
    "--tls-cert",
    "PEM certificate chain, leaf first; may appear and change while the process runs. "
    "Default: the built-in authority.",
    envvar="BUBU_TLS_CERT",
)
@file_option("--tls-key", "PEM private key of --tls-cert, not encrypted.", envvar="BUBU_TLS_KEY")
@shown_option(
    "--authority-secret",
    AUTHORITY_SECRET,
    "Secret of the built-in authority, which a controller with --webhook-authority keeps.",
)
@shown_option(
    "--operator-namespace",
    OPERATOR_NAMESPACE,
    "Where the operator runs: the authority's Secret and the webhook's Service are there.",
    envvar="POD_NAMESPACE",
)
@shown_option(
    "--webhook-service", WEBHOOK_NAME, "Service of the webhook, for the names of its own certificate."
)
@click.option(
    "--dns-name",
    "dns_names",
    multiple=True,
    callback=check_dns_names,
    help="One more DNS name or IP address of its own certificate; repeatable.",
)
@shown_option("--host", EVERYWHERE, "Address to listen on; * is every one, IPv4 and IPv6.")
@port_option("--port", 10250, "Port to listen on; 0 picks a free one.")
@shown_option("--metrics-host", EVERYWHERE, "Address of metrics and health; * as above.")
@port_option(
    "--metrics-port", 8081, "Port of /metrics, /healthz and /readyz, plain HTTP; 0 picks a free one."
)
@seconds_option("--cert-poll-seconds", 10.0, "How often the certificate files are looked at.")
@seconds_option(
    "--drain-seconds", 5.0, "How long requests are still answered after a stop signal.", least=0.0
)
@click.option(
    "--namespace",
    default="",
    help="Inject pods of this namespace only, and read nothing beyond it: no ClusterStorageConfigs. "
    "Default: all.",
)
def webhook(**options: Any) -> None:
    """Serve the mutating admission webhook for pods.

    Certificates come from two files (--tls-cert and --tls-key), or from the built-in authority.
    """
    check_one_way_to_certificates(options)
    _end_at_once_when_asked()
    from bubu_operator.webhook.main import WebhookOptions, run_webhook  # noqa: PLC0415 - loads uvicorn

    sys.exit(run_webhook(WebhookOptions(**options)))


@cli.command()
@common_options
@shown_option(
    "--webhook-configuration", WEBHOOK_NAME, "MutatingWebhookConfiguration that is deleted, if it is ours."
)
@seconds_option("--timeout-seconds", 30.0, "For everything; then it ends with code 1.", least=1.0)
def unregister(**options: Any) -> None:
    """Delete the webhook's registration, so that no API server asks a webhook that is about to go.

    For whoever uninstalls; one that is not there is as good. Exit codes: 0 it is gone, 1 it is not.
    """
    _end_at_once_when_asked(signalled=True)
    from bubu_operator.webhook.unregister import UnregisterOptions, run_unregister  # noqa: PLC0415 - loads urllib3

    sys.exit(run_unregister(UnregisterOptions(**options)))


@cli.command("retention-pass")
def retention_pass() -> None:
    """Run one retention pass: the job as JSON on stdin, progress as JSON lines on stdout.

    Started by the controller; it stops as soon as its stdin is closed.
    """
    from bubu_operator.retention.child import main as child_main  # noqa: PLC0415 - loads the engine

    sys.exit(child_main())


@cli.command()
@job_pod_options(deadline_seconds=60.0)
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
@file_option("--token-file", "This pod's token for the controller.", required=True)
@job_pod_options(deadline_seconds=3600.0, idle_seconds=300.0)
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


def _end_at_once_when_asked(*, signalled: bool = False) -> None:
    """Until a role has handlers of its own, end on SIGTERM and SIGINT: nothing has begun yet.

    Loading a role takes a second or two, and the first process of a container ignores
    SIGTERM unless it says otherwise.

    Args:
        signalled: end with a signal's code and not with 0, which would say that the work is done.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: os._exit(128 + number if signalled else 0))


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
    begin_process()
    cli()
