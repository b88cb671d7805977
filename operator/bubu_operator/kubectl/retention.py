"""``kubectl bubu retention``: look at a policy's plan, ask for a pass, approve what waits for approval.

``plan`` only reads. ``run`` and ``approve`` write one annotation each, which the controller acts on; they
delete nothing themselves, and what is approved is named by its hash, so a plan that changes in
between is not approved by accident.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import describe_validation_error
from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.common import find_condition
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import CLUSTER_RETENTION_POLICIES, RETENTION_POLICIES, Resource
from bubu_operator.kubectl.access import cluster_options, open_access
from bubu_operator.kubectl.failures import PROGRAM, CommandFailedError, one_line, reported
from bubu_operator.kubectl.output import output_option, print_documents
from bubu_operator.kubectl.retention_text import AnyPolicy, as_document, as_text, pending_approval
from bubu_operator.retention.annotations import APPROVE_ANNOTATION, RUN_NOW_ANNOTATION

__all__ = ["retention"]

POLL_SECONDS: Final = 0.5

_KINDS: Final[dict[str, tuple[Resource, type[RetentionPolicy | ClusterRetentionPolicy]]]] = {
    **dict.fromkeys(("retentionpolicy", "retentionpolicies", "brp"), (RETENTION_POLICIES, RetentionPolicy)),
    **dict.fromkeys(
        ("clusterretentionpolicy", "clusterretentionpolicies", "cbrp"),
        (CLUSTER_RETENTION_POLICIES, ClusterRetentionPolicy),
    ),
}

Command = TypeVar("Command", bound=Callable[..., Any])


def _policy_command(command: Command) -> Command:
    """Add the argument and the options that all commands here have."""
    return click.argument("target", metavar="[KIND/]NAME")(cluster_options(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def retention() -> None:
    """See what a retention policy will delete, ask for a pass, approve a plan.

    KIND is retentionpolicy (brp, the default) or clusterretentionpolicy (cbrp).
    """


@retention.command()
@_policy_command
@output_option
def plan(*, target: str, output: str, namespace: str, context: str, kubeconfig: str) -> None:
    """Say what a policy keeps, what is due, and what stands in the way of deleting it."""
    resource, model, name = _parse_target(target)
    with reported():
        access = open_access(kubeconfig, context, namespace)
        with access.client as client:
            policy = _read(client, resource, model, name, access.namespace)
    if output == "text":
        _show(policy)
    else:
        print_documents([as_document(policy)], output)


@retention.command()
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the pass to end.")
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Longest wait.",
)
@_policy_command
def run(
    *, target: str, wait: bool, timeout_seconds: float, namespace: str, context: str, kubeconfig: str
) -> None:
    """Ask for a pass now, and say how it went.

    The policy's mode and limits hold as always: this only spares the wait for the next interval.
    """
    resource, model, name = _parse_target(target)
    with reported():
        access = open_access(kubeconfig, context, namespace)
        with access.client as client:
            policy = _read(client, resource, model, name, access.namespace)
            if policy.spec.suspend:
                raise CommandFailedError(f"{_name(policy)} is suspended: set spec.suspend to false first")
            # Never a value that was there before: only a new one asks for a pass.
            asked = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}-{secrets.token_hex(3)}"
            _annotate(client, resource, policy, RUN_NOW_ANNOTATION, asked)
            if not wait:
                click.echo(f"{_name(policy)}: asked for a pass", err=True)
                return
            policy = _wait_for_pass(
                lambda: _read(client, resource, model, name, access.namespace), asked, timeout_seconds
            )
    _show(policy)
    reconciled = find_condition(policy.status.conditions, "Reconciled")
    if reconciled is not None and reconciled.status == "False":
        raise CommandFailedError(f"{_name(policy)}: {reconciled.reason}: {reconciled.message}")


@retention.command()
@click.option("--hash", "wanted", default="", help="Approve only this; without it, what waits now.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_policy_command
def approve(*, target: str, wanted: str, yes: bool, namespace: str, context: str, kubeconfig: str) -> None:
    """Approve what waits for approval: a plan above maxDuePercent, or a list of owners that shrank.

    What is approved is said first. If it changes before the controller looks, nothing is approved.
    """
    resource, model, name = _parse_target(target)
    with reported():
        access = open_access(kubeconfig, context, namespace)
        with access.client as client:
            policy = _read(client, resource, model, name, access.namespace)
            pending = pending_approval(policy)
            if pending is None:
                raise CommandFailedError(
                    f"nothing waits for approval in {_name(policy)}; see: "
                    f"{PROGRAM} retention plan {_where(policy)}"
                )
            if wanted and wanted != pending.hash:
                raise CommandFailedError(
                    f"{_name(policy)} waits for the approval of {pending.hash}, not of {one_line(wanted)}: "
                    f"it has changed; look again with: {PROGRAM} retention plan {_where(policy)}"
                )
            click.echo(f"{_name(policy)}: approving means that {one_line(pending.text)}", err=True)
            if not yes and not click.confirm("Approve?", err=True):
                raise CommandFailedError("nothing was approved")
            _annotate(client, resource, policy, APPROVE_ANNOTATION, pending.hash)
    click.echo(f"{_name(policy)}: {pending.hash} is approved; the controller acts on it at its next look")


def _parse_target(
    target: str,
) -> tuple[Resource, type[RetentionPolicy | ClusterRetentionPolicy], str]:
    kind, slash, name = target.rpartition("/")
    found = _KINDS.get((kind if slash else "retentionpolicy").lower().partition(".")[0])
    if found is None or not name or "/" in kind:
        raise click.UsageError(
            f"{one_line(target)!r} names no policy; say NAME, retentionpolicy/NAME or "
            "clusterretentionpolicy/NAME"
        )
    return *found, name


def _read(
    client: KubeClient,
    resource: Resource,
    model: type[RetentionPolicy | ClusterRetentionPolicy],
    name: str,
    namespace: str,
) -> AnyPolicy:
    try:
        obj = client.get(resource, name, namespace if resource.namespaced else None)
    except KubeNotFoundError as error:
        raise CommandFailedError(_missing(resource, name, namespace, error)) from error
    try:
        return model.model_validate(obj)
    except ValidationError as error:
        raise CommandFailedError(
            f"{resource.kind} {name} cannot be read: {one_line(describe_validation_error(error))}; "
            "is this plugin as new as the CRDs?"
        ) from error


def _missing(resource: Resource, name: str, namespace: str, error: KubeNotFoundError) -> str:
    kinds = f"{resource.plural}.{resource.group}"
    # Where the kind itself is unknown the API server answers without a word of its own.
    if error.reason != "NotFound":
        return (
            f"the cluster does not know {kinds}: install the CRDs "
            "(bubu-operator crds | kubectl apply --server-side -f -)"
        )
    if not resource.namespaced:
        return f"there is no {resource.kind} {name}; see which there are: kubectl get {kinds}"
    return (
        f"there is no {resource.kind} {name} in namespace {namespace}; name another namespace by -n, or see "
        f"which there are: kubectl get {kinds} -n {namespace}"
    )


def _annotate(client: KubeClient, resource: Resource, policy: AnyPolicy, name: str, value: str) -> None:
    metadata = policy.metadata
    # The uid: a policy that was made anew under the same name is another one.
    body = {"metadata": {"uid": metadata.uid, "annotations": {name: value}}}
    client.patch(resource, metadata.name, body, metadata.namespace or None)


def _wait_for_pass(read: Callable[[], AnyPolicy], asked: str, timeout_seconds: float) -> AnyPolicy:
    """Return the policy once the pass that was asked for has ended.

    Raises:
        CommandFailedError: it cannot start, or did not end in time.
    """
    deadline = time.monotonic() + timeout_seconds
    told = -1
    while True:
        policy = read()
        status, last = policy.status, policy.status.last_pass
        if status.last_run_now == asked and last is not None:
            if last.finish_time is not None:
                return policy
            if last.scanned != told:
                told = last.scanned
                click.echo(f"{_name(policy)}: {last.scanned:,} scanned, {last.deleted:,} deleted", err=True)
        ready = find_condition(status.conditions, "Ready")
        if (
            ready is not None
            and ready.status == "False"
            # What waits for approval is looked at anew when somebody asks for a pass.
            and ready.reason != Reason.APPROVAL_REQUIRED.value
            and ready.observed_generation == policy.metadata.generation
        ):
            raise CommandFailedError(
                f"{_name(policy)} cannot run a pass: {ready.reason}: {one_line(ready.message or '')}"
            )
        if time.monotonic() >= deadline:
            raise CommandFailedError(
                f"{_name(policy)}: no pass ended within {timeout_seconds:g} s; is the controller well? "
                f"See: {PROGRAM} check"
            )
        time.sleep(POLL_SECONDS)


def _show(policy: AnyPolicy) -> None:
    click.echo(as_text(policy, datetime.now(UTC)))
    if pending_approval(policy) is not None:
        click.echo(f"\nto approve: {PROGRAM} retention approve {_where(policy)}")


def _name(policy: AnyPolicy) -> str:
    return f"{policy.KIND.lower()}/{policy.metadata.name}"


def _where(policy: AnyPolicy) -> str:
    namespace = policy.metadata.namespace
    return _name(policy) + (f" -n {namespace}" if namespace else "")
