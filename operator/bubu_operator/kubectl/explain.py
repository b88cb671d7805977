"""``kubectl bubu explain``: what a pod gets, from which config, and why (not).

The verdict is the webhook's own (`verdict_of`); the reasons come from
`bubu_operator.injection.explain`, which runs the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import click

from bubu_operator.defaults import OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_operator.injection.explain import ExcludedReason, Explanation, Unasked, explain_pod
from bubu_operator.injection.names import CONFIG_LABEL, INJECT_LABEL, STRICT_LABEL
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.injection.template import TEMPLATE_PATHS, select_for_template
from bubu_operator.kube.resources import (
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    JsonObject,
    Resource,
)
from bubu_operator.kubectl.access import cluster_options, open_access
from bubu_operator.kubectl.documents import read_documents
from bubu_operator.kubectl.explain_text import as_document, as_text
from bubu_operator.kubectl.facts import Facts, facts_of_cluster, facts_of_documents
from bubu_operator.kubectl.failures import BadInputError, ExitCode, one_line, reported
from bubu_operator.kubectl.output import output_option, print_documents
from bubu_operator.kubectl.registration import unasked_by
from bubu_operator.kubectl.verdict import verdict_of
from bubu_operator.webhook.mutate import denial_of

__all__ = ["Answer", "answer_for", "explain"]

_RESOURCES: Final = (PODS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, REPLICA_SETS, JOBS, CRON_JOBS)
_SHORT: Final = {
    "po": PODS,
    "deploy": DEPLOYMENTS,
    "sts": STATEFUL_SETS,
    "ds": DAEMON_SETS,
    "rs": REPLICA_SETS,
    "cj": CRON_JOBS,
}
_TEMPLATE: Final = ("spec", "template")
_EXCLUDED: Final = frozenset(reason.value for reason in ExcludedReason)
_NOT_SELECTED: Final = ExcludedReason.NOT_SELECTED.value
_LET_ALONE: Final = (
    "the controller does not write its pod template either: the chart tells it the same namespaces "
    "(--exclude-namespace, or --namespace)"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told about one object.

    Attributes:
        what: as ``pod/train-1``.
        explanation: see there.
        notes: what else one should know, one sentence each.
        gaps: what could not be looked at.
    """

    what: str
    explanation: Explanation
    notes: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Subject:
    """What of an object is judged.

    Attributes:
        pod: as it is decided about; the controller counts a workload's own labels as its pods'.
        seen: as the webhook sees it.
        notes: what the labels mean.
        by_controller: the workload asks by its own label: the controller writes its pod template.
    """

    pod: JsonObject
    seen: JsonObject
    notes: tuple[str, ...] = ()
    by_controller: bool = False


_EXAMPLES: Final = """\b
Examples:
  kubectl bubu explain pod/train-1 -n flows
  kubectl bubu explain -f pod.yaml
  kubectl bubu explain -f pod.yaml --config storageconfig.yaml --config namespace.yaml
"""


@click.command(epilog=_EXAMPLES)
@click.argument("targets", nargs=-1, metavar="[KIND/NAME]")
@click.option("-f", "--filename", default="", help="Explain the pods and workloads of a file; - for stdin.")
@click.option(
    "--config",
    "config_files",
    multiple=True,
    help="With -f: take configs and namespaces from this file and ask no cluster; repeatable.",
)
@click.option(
    "--operator-namespace",
    default=OPERATOR_NAMESPACE,
    show_default=True,
    help="Where the operator runs; nothing is injected there.",
)
@click.option(
    "--webhook-configuration",
    default=WEBHOOK_NAME,
    show_default=True,
    help="Name of the webhook's object, which says what pods it is asked about.",
)
@cluster_options
@output_option
def explain(
    *,
    targets: tuple[str, ...],
    filename: str,
    config_files: tuple[str, ...],
    operator_namespace: str,
    webhook_configuration: str,
    namespace: str,
    context: str,
    kubeconfig: str,
    output: str,
) -> None:
    """Say what storage a pod gets, from which config, and why, or why not.

    KIND is pod or a workload, whose pod template is explained: deployment, statefulset, daemonset,
    replicaset, job, cronjob. Values of the pod's own variables and of Secrets are never shown.
    """
    if bool(targets) == bool(filename):
        raise click.UsageError("name one object as KIND/NAME, or a file by -f")
    if config_files and not filename:
        raise click.UsageError("--config goes with -f: an object of the cluster has the cluster's configs")
    if config_files:
        judged = _of_files(filename, config_files, namespace)
    else:
        looked_up = None if filename else _parse_target(targets)
        given = _subjects_of(filename) if filename else []
        with reported():
            access = open_access(kubeconfig, context, namespace)
            with access.client as client:
                if looked_up is not None:
                    resource, name = looked_up
                    obj = client.get(resource, name, access.namespace)
                    given = [({**obj, "kind": resource.kind})]
                places = [_namespace_of(item, namespace, access.namespace) for item in given]
                facts = {
                    place: facts_of_cluster(client, place, webhook_configuration) for place in set(places)
                }
        judged = [(item, facts[place]) for item, place in zip(given, places, strict=True)]
    answers = [answer_for(obj, facts, operator_namespace=operator_namespace) for obj, facts in judged]
    if output == "text":
        click.echo("\n\n".join(as_text(answer) for answer in answers))
    else:
        print_documents([as_document(answer) for answer in answers], output)
    if any(answer.gaps for answer in answers):
        raise SystemExit(ExitCode.PARTIAL)


def answer_for(obj: JsonObject, facts: Facts, *, operator_namespace: str = OPERATOR_NAMESPACE) -> Answer:
    """Explain a pod or a workload's pod template with what is known of its namespace; pure.

    Args:
        obj: with its ``kind``.
        facts: of the namespace in which it is, or would be.
        operator_namespace: where the operator runs; nothing is injected there.

    Raises:
        BadInputError: it is neither, or malformed.
    """
    kind = str(obj.get("kind"))
    what = f"{kind.lower()}/{_name_of(obj)}"
    subject = _Subject(obj, obj) if kind == PODS.kind else _template_of(obj, what)
    known = (facts.namespace, facts.labels, facts.configs, facts.cluster_configs)
    unasked = _unasked(subject.seen, facts)
    # What the controller writes does not depend on the webhook, but for namespaces that both let alone.
    decisive = None if subject.by_controller and unasked and not unasked.by_name else unasked
    try:
        explanation = explain_pod(
            subject.pod, *known, operator_namespace=operator_namespace, unasked=decisive
        )
        verdict = verdict_of(subject.pod, facts)
        admitted = verdict_of(subject.seen, facts) if subject.by_controller else verdict
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInputError(f"{what}: {one_line(str(error))}") from error
    if explanation.candidates:
        # Sizes and other limits of a request are the webhook's to judge.
        explanation = replace(
            explanation,
            outcome=str(verdict.reason),
            warnings=verdict.warnings,
            injected=explanation.injected and not verdict.unserved,
        )
    if explanation.outcome in _EXCLUDED:
        # Neither the webhook nor the controller looks at it: there is nothing to say about its labels.
        alone = (_LET_ALONE,) if subject.by_controller and explanation.outcome == _NOT_SELECTED else ()
        return Answer(what, explanation, (*alone, *facts.notes), facts.gaps)
    notes = subject.notes
    if unasked is not None and admitted.wanted:
        notes += (f"its pods keep what the pod template holds: {unasked.text}",)
    if unasked is None and subject.by_controller:
        admission = select_for_template(obj, *known).admission
        notes += (admission,) if admission else ()
    denial = denial_of(admitted) if admitted.wanted and unasked is None else None
    if facts.labels.get(STRICT_LABEL) == "true" and denial is not None:
        notes += (f"the pod is refused: {denial.message}",)
    return Answer(what, explanation, (*notes, *facts.notes), facts.gaps)


def _unasked(pod: JsonObject, facts: Facts) -> Unasked | None:
    """Why the API server does not ask about pods with these labels, as far as its registration is known."""
    if facts.registration is None:
        return None
    labels = texts_of(child(pod, "metadata"), "labels")
    return unasked_by(facts.registration, labels, facts.namespace, facts.labels)


def _subjects_of(filename: str) -> list[JsonObject]:
    """The pods and workloads of a file.

    Raises:
        BadInputError: there are none.
    """
    documents = read_documents(filename)
    kinds = {resource.kind for resource in _RESOURCES}
    wanted = [document for document in documents if document["kind"] in kinds]
    if not wanted:
        found = ", ".join(sorted({str(document["kind"]) for document in documents}))
        raise BadInputError(f"{filename} holds no pod and no workload, only: {one_line(found)}")
    return wanted


def _of_files(filename: str, config_files: Sequence[str], namespace: str) -> list[tuple[JsonObject, Facts]]:
    """What a file asks about, with what other files know; no cluster is asked."""
    wanted = _subjects_of(filename)
    given = [document for name in config_files for document in read_documents(name)]
    return [(item, facts_of_documents(given, _namespace_of(item, namespace, "default"))) for item in wanted]


def _parse_target(targets: tuple[str, ...]) -> tuple[Resource, str]:
    """``pod/NAME``, ``pod NAME`` or ``NAME``.

    Raises:
        UsageError: it is none of them, or of a kind that has no pods.
    """
    words = targets[0].split("/") if len(targets) == 1 else list(targets)
    if len(words) == 1:
        words = ["pod", *words]
    if len(words) != 2 or not all(words):  # noqa: PLR2004 - kind and name
        raise click.UsageError("name one object as KIND/NAME, as in pod/train-1")
    kind, name = words[0].lower().partition(".")[0], words[1]
    for resource in _RESOURCES:
        if kind in (resource.plural, resource.kind.lower()) or _SHORT.get(kind) is resource:
            return resource, name
    known = ", ".join(resource.kind.lower() for resource in _RESOURCES)
    raise click.UsageError(f"kind {one_line(words[0])!r} cannot be explained; known: {known}")


def _template_of(obj: JsonObject, what: str) -> _Subject:
    """A workload's pod template as a pod, and what its own labels mean.

    The controller writes the templates of workloads that ask by their own label; for those the
    workload's config label counts, unless the template has one.
    """
    kind = str(obj.get("kind"))
    template = obj
    for key in TEMPLATE_PATHS.get(kind, _TEMPLATE):
        template = child(template, key)
    if not template:
        raise BadInputError(f"{what} has no pod template")
    metadata = child(template, "metadata")
    labels, own = texts_of(metadata, "labels"), texts_of(child(obj, "metadata"), "labels")
    seen: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "generateName": f"{_name_of(obj)}-", "labels": labels},
        "spec": template.get("spec"),
    }
    if kind in TEMPLATE_PATHS and own.get(INJECT_LABEL) == "true" and labels.get(INJECT_LABEL) != "false":
        note = (
            f"the {kind}'s own label {INJECT_LABEL} asks: the controller writes its pod template, "
            "with or without the webhook"
        )
        labels = {**{key: own[key] for key in (CONFIG_LABEL, INJECT_LABEL) if key in own}, **labels}
        pod = {**seen, "metadata": {**seen["metadata"], "labels": labels}}
        return _Subject(pod, seen, (note,), by_controller=True)
    notes = tuple(
        f"the label {key} stands on the {kind} itself, where the webhook does not see it: "
        "put it on the pod template (spec.template.metadata.labels)"
        for key in (INJECT_LABEL, CONFIG_LABEL)
        if key in own and key not in labels
    )
    return _Subject(seen, seen, notes)


def _name_of(obj: JsonObject) -> str:
    metadata = child(obj, "metadata")
    return one_line(str(metadata.get("name") or metadata.get("generateName") or "(unnamed)"))


def _namespace_of(obj: JsonObject, given: str, default: str) -> str:
    """The object's own, unless it has none.

    Raises:
        BadInputError: it has one, and another was given.
    """
    own = child(obj, "metadata").get("namespace")
    if own is not None and not isinstance(own, str):
        raise BadInputError(f"{_name_of(obj)}: metadata.namespace is no text")
    if own and given and own != given:
        raise BadInputError(f"{_name_of(obj)} is of namespace {one_line(own)}, and -n says {given}")
    return own or given or default
