"""``bubu-operator``: one image, one command, a subcommand for each role.

Roles are imported only when they are asked for, so that the webhook does not load Kopf
and a plain library install can still say what is missing. This module parses options and
nothing else; each role's own module documents what it does.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "main"]

INSTALL_LINE = "pip install 'bubu-storage[operator]'"

app = typer.Typer(
    name="bubu-operator",
    help="Kubernetes operator for the object storage of workflow pods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        envvar="KUBECONFIG",
        help="Cluster access; default: the pod's own service account.",
        dir_okay=False,
    ),
]
LogFormat = Annotated[str, typer.Option("--log-format", help="json | console", envvar="BUBU_LOG_FORMAT")]
LogLevel = Annotated[
    str, typer.Option("--log-level", help="debug | info | warning | error", envvar="BUBU_LOG_LEVEL")
]


@app.command()
def controller(
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", help="Watch only this namespace; repeatable. Default: all."),
    ] = None,
    allow_local_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow-local-root",
            help="Directory below which local file stores may be used; repeatable. Default: none.",
        ),
    ] = None,
    probe_interval_seconds: Annotated[
        float, typer.Option(min=1.0, help="Time between two probes of a healthy store.")
    ] = 60.0,
    health_host: Annotated[str, typer.Option(help="Address of /healthz and /readyz.")] = "0.0.0.0",  # noqa: S104 - the kubelet asks from outside the pod
    health_port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Probe stores, run retention passes, inject labelled workloads."""
    from bubu_operator.controllers.main import ControllerOptions, run_controller  # noqa: PLC0415 - loads Kopf

    raise typer.Exit(
        run_controller(
            ControllerOptions(
                kubeconfig=kubeconfig,
                namespaces=tuple(namespace or ()),
                allow_local_roots=tuple(allow_local_root or ()),
                probe_interval_seconds=probe_interval_seconds,
                health_host=health_host,
                health_port=health_port,
                log_format=log_format,
                log_level=log_level,
            )
        )
    )


@app.command()
def webhook(
    *,
    tls_cert: Annotated[
        Path,
        typer.Option("--tls-cert", help="PEM certificate chain.", envvar="BUBU_TLS_CERT", dir_okay=False),
    ],
    tls_key: Annotated[
        Path, typer.Option("--tls-key", help="PEM private key.", envvar="BUBU_TLS_KEY", dir_okay=False)
    ],
    kubeconfig: Kubeconfig = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - the API server calls from outside the pod
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 10250,
    cert_poll_seconds: Annotated[
        float, typer.Option(min=0.1, help="How often the certificate files are looked at.")
    ] = 10.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long requests are still answered after a stop signal.")
    ] = 5.0,
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Serve the mutating admission webhook for pods."""
    from bubu_operator.webhook.main import WebhookOptions, run_webhook  # noqa: PLC0415 - loads uvicorn

    raise typer.Exit(
        run_webhook(
            WebhookOptions(
                tls_cert=tls_cert,
                tls_key=tls_key,
                kubeconfig=kubeconfig,
                host=host,
                port=port,
                cert_poll_seconds=cert_poll_seconds,
                drain_seconds=drain_seconds,
                log_format=log_format,
                log_level=log_level,
            )
        )
    )


@app.command("retention-pass")
def retention_pass() -> None:
    """Run one retention pass: the job as JSON on stdin, progress as JSON lines on stdout.

    Started by the controller; it stops as soon as its stdin is closed.
    """
    from bubu_operator.retention.child import main as child_main  # noqa: PLC0415

    raise typer.Exit(child_main())


@app.command()
def crds(
    *,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write the files into this directory.", file_okay=False)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Fail if the files there are not up to date.", file_okay=False),
    ] = None,
) -> None:
    """Print the CustomResourceDefinitions, generated from the models."""
    from bubu_operator.api.crds import check_crds, render_crds, write_crds  # noqa: PLC0415

    if write is not None and check is not None:
        raise typer.BadParameter("give --write or --check, not both")
    if write is not None:
        write_crds(write)
    elif check is not None:
        drift = check_crds(check)
        for line in drift:
            typer.echo(line, err=True)
        if drift:
            typer.echo("run `make generate` and commit the result", err=True)
            raise typer.Exit(1)
    else:
        for text in render_crds().values():
            typer.echo(text.rstrip() if text.startswith("---") else f"---\n{text.rstrip()}")


@app.command()
def version() -> None:
    """Print the version."""
    from bubu_storage import __version__  # noqa: PLC0415

    typer.echo(__version__)


def _missing_extra() -> str | None:
    for name in ("kopf", "kubernetes", "pydantic", "uvicorn", "structlog", "yaml", "cryptography"):
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            return name
    return None


def main() -> None:
    """Entry point of ``bubu-operator``; without the extra it says how to get it."""
    missing = _missing_extra()
    if missing is not None:
        sys.stderr.write(
            f"bubu-operator needs packages that are not installed ({missing}). Install them with:\n"
            f"    {INSTALL_LINE}\n"
        )
        raise SystemExit(1)
    app()
