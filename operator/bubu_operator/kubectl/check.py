"""``kubectl bubu check``: the health of the whole installation, one line for each thing that matters.

Gather (here) → judge (`bubu_operator.kubectl.judge`, pure) → print. Nothing is written: the one
creation is a dry run on the server. What the present user may not look at becomes a warning
that names the right that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, cast

import click
import yaml

from bubu_operator.api.crds import render_crds
from bubu_operator.defaults import LEASE_NAME, OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_operator.errors import KubeApiError, KubeForbiddenError, KubeNotFoundError
from bubu_operator.injection.podspec import child
from bubu_operator.kube.client import DEFAULT_TIMEOUT_SECONDS, KubeClient
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    LEASES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    JsonObject,
    Resource,
    metadata_of,
)
from bubu_operator.kubectl.access import cluster_options, open_access
from bubu_operator.kubectl.dry_run import DryRun, ambiguous
from bubu_operator.kubectl.failures import one_line, reported
from bubu_operator.kubectl.findings import Finding, Status, exit_code_of, fail, ok, warn
from bubu_operator.kubectl.judge import (
    judge_conditions,
    judge_crds,
    judge_endpoints,
    judge_lease,
    judge_strict,
    judge_webhook,
    list_of,
)
from bubu_operator.kubectl.output import output_option, paragraph, print_documents

__all__ = ["Checker", "check"]

CRDS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")

_AREA_WIDTH: Final = 23
_STATUS_WIDTH: Final = 6
_COLOURS: Final = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@dataclass(frozen=True, slots=True)
class Checker:
    """Looks at one installation.

    Attributes:
        client: as the present user.
        namespace: where configs and policies are looked at; "" for everywhere.
        operator_namespace: where the operator runs.
        webhook: name of its MutatingWebhookConfiguration.
    """

    client: KubeClient
    namespace: str = ""
    operator_namespace: str = OPERATOR_NAMESPACE
    webhook: str = WEBHOOK_NAME

    def run(self) -> list[Finding]:
        """Look at everything.

        Raises:
            KubeApiError: the API server cannot be asked at all.
        """
        now, version = self._server()
        findings = [ok("api server", f"{self.client.server}, Kubernetes {version}")]
        findings += self._guarded("crds", "get customresourcedefinitions", self._crds)
        findings += self._guarded(
            "controller",
            f"get leases.coordination.k8s.io in {self.operator_namespace}",
            lambda: [self._lease(now)],
        )
        configuration: JsonObject | None = None
        serving = True
        try:
            configuration = self._optional(MUTATING_WEBHOOKS, self.webhook)
            findings += judge_webhook(configuration, self.webhook, now)
        except KubeForbiddenError:
            findings.append(_unseen("webhook", "get mutatingwebhookconfigurations"))
        else:
            if configuration is not None:
                seen = self._guarded(
                    "endpoints", "list endpointslices", lambda: self._endpoints(configuration)
                )
                serving = all(finding.status is not Status.FAIL for finding in seen)
                findings += seen
                findings += self._guarded(
                    "strict", "list namespaces", lambda: self._strict(configuration, serving=serving)
                )
        findings += self._guarded(
            "dry run",
            "create pods, and list storageconfigs and clusterstorageconfigs",
            lambda: self._dry_run(configuration),
        )
        for resource in (
            STORAGE_CONFIGS,
            CLUSTER_STORAGE_CONFIGS,
            RETENTION_POLICIES,
            CLUSTER_RETENTION_POLICIES,
        ):
            findings += self._guarded(
                resource.kind.lower(),
                f"list {resource.plural}",
                lambda resource=resource: judge_conditions(self._objects(resource), resource.kind),
            )
        return findings

    def _server(self) -> tuple[datetime, str]:
        """The server's clock, which Leases are written by, and its version."""
        response = self.client.send("GET", "/version", timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
        answer = json.loads(self.client.read(response, "/version"))
        try:
            now = parsedate_to_datetime(response.headers.get("Date", ""))
        except ValueError:
            now = datetime.now(UTC)
        return now, str(answer.get("gitVersion"))

    def _guarded(self, area: str, right: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
        """A look that may fail by itself: the others go on."""
        try:
            return list(look())
        except KubeForbiddenError:
            return [_unseen(area, right)]
        except KubeNotFoundError as error:
            return [fail(area, str(error), "install what is missing; see the lines above")]
        except KubeApiError as error:
            return [warn(area, str(error), "try again; the API server could not answer this")]

    def _optional(self, resource: Resource, name: str, namespace: str | None = None) -> JsonObject | None:
        try:
            return self.client.get(resource, name, namespace)
        except KubeNotFoundError:
            return None

    def _objects(self, resource: Resource) -> list[JsonObject]:
        place = self.namespace if resource.namespaced and self.namespace else None
        return list(self.client.list(resource, place).items)

    def _crds(self) -> list[Finding]:
        names = [
            str(metadata_of(cast("JsonObject", yaml.safe_load(text))).get("name"))
            for text in render_crds().values()
        ]
        return judge_crds({name: self._optional(CRDS, name) for name in names})

    def _lease(self, now: datetime) -> Finding:
        lease = self._optional(LEASES, LEASE_NAME, self.operator_namespace)
        return judge_lease(lease, now, f"{self.operator_namespace}/{LEASE_NAME}")

    def _endpoints(self, configuration: JsonObject) -> list[Finding]:
        """The Services that the entries name; usually it is one."""
        places: set[tuple[str, str]] = set()
        urls: set[str] = set()
        for entry in list_of(configuration, "webhooks"):
            config = child(entry, "clientConfig")
            service = child(config, "service")
            if service:
                places.add((str(service.get("namespace")), str(service.get("name"))))
            elif config.get("url"):
                urls.add(str(config["url"]))
        findings = [
            judge_endpoints(
                self.client.list(
                    ENDPOINT_SLICES, namespace, label_selector=f"kubernetes.io/service-name={name}"
                ).items,
                f"{namespace}/{name}",
            )
            for namespace, name in sorted(places)
        ]
        if urls:
            findings.append(ok("endpoints", f"called by URL, not by a Service: {', '.join(sorted(urls))}"))
        return findings

    def _strict(self, configuration: JsonObject, *, serving: bool) -> list[Finding]:
        finding = judge_strict(self.client.list(NAMESPACES).items, configuration, serving=serving)
        return [] if finding is None else [finding]

    def _dry_run(self, configuration: JsonObject | None) -> list[Finding]:
        """Create a pod where a config applies, without leaving one; name where none can be chosen."""
        trial = DryRun(self.client, self.namespace, self.operator_namespace, configuration)
        places = trial.places()
        tried = self._guarded("dry run", "create pods", lambda: [trial.try_one(places)])
        return [*tried, *ambiguous(places)]


def _unseen(area: str, right: str) -> Finding:
    return warn(area, "you may not look at it", f"ask for the right to {right}, or use another --context")


@click.command()
@click.option(
    "--operator-namespace", default=OPERATOR_NAMESPACE, show_default=True, help="Where the operator runs."
)
@click.option(
    "--webhook-configuration", default=WEBHOOK_NAME, show_default=True, help="Name of the webhook's object."
)
@cluster_options
@output_option
def check(
    *,
    operator_namespace: str,
    webhook_configuration: str,
    namespace: str,
    context: str,
    kubeconfig: str,
    output: str,
) -> None:
    """Say whether the whole installation is well: a line for each thing, and the way out where it is not.

    With -n only the configs and policies of that namespace are looked at. Nothing is changed: the
    pod of the last test is created as a dry run. Exit codes: 0 all is well, 1 something is broken,
    3 warnings only.
    """
    with reported():
        access = open_access(kubeconfig, context, namespace)
        with access.client as client:
            findings = Checker(client, namespace, operator_namespace, webhook_configuration).run()
    if output == "text":
        for finding in findings:
            click.echo(_line(finding))
    else:
        code = exit_code_of(findings)
        print_documents([{"healthy": code == 0, "findings": [_plain(item) for item in findings]}], output)
    raise SystemExit(exit_code_of(findings))


def _plain(finding: Finding) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(finding).items()}


def _line(finding: Finding) -> str:
    indent = _STATUS_WIDTH + _AREA_WIDTH
    text = paragraph(one_line(finding.text), indent, first=indent)[indent:]
    status = click.style(finding.status.value.ljust(_STATUS_WIDTH), fg=_COLOURS[finding.status])
    lines = f"{status}{finding.area.ljust(_AREA_WIDTH)}{text}"
    if finding.remedy:
        lines += "\n" + paragraph(f"-> {one_line(finding.remedy)}", indent + 3, first=indent)
    return lines
