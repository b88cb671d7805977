"""Pods of the chart: restricted, spread, and started with options that the operator knows."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.core import Context

from bubu_operator.cli import cli
from tests.chart.matrix import MATRIX, NODE_AFFINITY, TENANT
from tests.chart.rendering import Rendered, render

Object = dict[str, Any]


@pytest.fixture(scope="module")
def all_cases() -> dict[str, Rendered]:
    """Every case of the matrix, rendered once."""
    return {case: render(values) for case, values in MATRIX.items()}


def pods_of(rendered: Rendered) -> dict[str, Object]:
    """Every pod template by the kind and name of what makes it."""
    found: dict[str, Object] = {}
    for obj in rendered.objects:
        label = f"{obj['kind']}/{obj['metadata']['name']}"
        if obj["kind"] == "Pod":
            found[label] = obj
        elif obj["kind"] in {"Deployment", "Job"}:
            found[label] = obj["spec"]["template"]
    return found


@pytest.mark.parametrize("case", MATRIX)
def test_pods_pass_the_restricted_level(all_cases: dict[str, Rendered], case: str):
    """And more: no root file system that can be written, a numeric user, a limit of memory."""
    pods = pods_of(all_cases[case])
    assert {"Deployment/bubu-storage-controller", "Deployment/bubu-storage-webhook"} <= set(pods) or (
        MATRIX[case].get("namePrefix")
    )
    for label, pod in pods.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, label
        assert 65532 == spec["securityContext"]["runAsUser"], label
        assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"], label
        assert bool(spec.get("hostNetwork")) == (case == "host-network" and "webhook" in label), label
        assert {"emptyDir", "secret", "persistentVolumeClaim"} >= {
            kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"
        }, label
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, label
            assert context["readOnlyRootFilesystem"] is True, label
            assert {"drop": ["ALL"]} == context["capabilities"], label
            assert "memory" in container["resources"]["limits"], label
            assert all("hostPort" not in port for port in container.get("ports", [])), label


@pytest.mark.parametrize("case", MATRIX)
def test_the_operator_knows_every_option(all_cases: dict[str, Rendered], case: str):
    """Each container's arguments are parsed by the real command line; an unknown option fails."""
    for pod in pods_of(all_cases[case]).values():
        for container in pod["spec"]["containers"]:
            if "command" in container:
                continue
            name, *arguments = container["args"]
            command = cli.get_command(Context(cli), name)
            assert command is not None, name
            with command.make_context(name, list(arguments)) as context:
                assert isinstance(context, click.Context)


def options_of(rendered: Rendered, component: str) -> dict[str, Any]:
    """What the operator understands of the options that a role is started with."""
    (pod,) = (
        obj["spec"]["template"]
        for obj in rendered.of("Deployment")
        if obj["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    name, *arguments = pod["spec"]["containers"][0]["args"]
    command = cli.get_command(Context(cli), name)
    assert command is not None
    with command.make_context(name, list(arguments)) as context:
        return dict(context.params)


def test_the_values_reach_the_controller(all_cases: dict[str, Rendered]):
    """Each value of its own is an option of the process."""
    options = options_of(all_cases["everything"], "controller")

    expected = {
        "probe_interval_seconds": 1.5,
        "heal_interval_seconds": 30.0,
        "max_parallel_passes": 8,
        "pause_retention": True,
        "job_image": "registry.example/other:1",
        "webhook_authority": True,
        "webhook_service": "second-webhook",
        "webhook_configuration": "second-webhook",
        "rollout_timeout_seconds": 300.0,
        "exclude_namespaces": ("observability", "kube-system"),
        "secret_reader_role": "second-secret-reader",
        "prober_role": "second-prober",
        "log_level": "debug",
        "log_format": "console",
    }
    assert expected == {key: options[key] for key in expected}
    assert ["/stores"] == [str(root) for root in options["allow_local_roots"]]


@pytest.mark.parametrize("case", [case for case in MATRIX if case != "smallest"])
def test_messages_name_roles_that_are_there(all_cases: dict[str, Rendered], case: str):
    """The controller says which role to bind; one that is not made by the values is no way out."""
    options = options_of(all_cases[case], "controller")
    rendered = all_cases[case]
    roles = {obj["metadata"]["name"] for obj in rendered.of("Role") + rendered.of("ClusterRole")}

    assert options["secret_reader_role"] in roles
    assert options["prober_role"] in roles


def test_empty_maps_may_be_null():
    """A values file that takes a map away takes nothing else with it."""
    knobs = {"affinity": None, "podAnnotations": None, "podLabels": None, "nodeSelector": None}
    rendered = render({"commonLabels": None, "controller": knobs, "webhook": knobs})

    for label, pod in pods_of(rendered).items():
        assert {"affinity", "nodeSelector"}.isdisjoint(pod["spec"]), label


def test_the_values_reach_the_webhook(all_cases: dict[str, Rendered]):
    """Each value of its own is an option of the process."""
    options = options_of(all_cases["everything"], "webhook")

    expected = {
        "port": 9443,
        "metrics_port": 9090,
        "drain_seconds": 2.5,
        "webhook_service": "second-webhook",
        "dns_names": ("webhook.example",),
    }
    assert expected == {key: options[key] for key in expected}


def test_without_jobs_the_port_of_agents_is_closed(all_cases: dict[str, Rendered]):
    """Nobody listens, and no image is named."""
    options = options_of(all_cases["smallest"], "controller")

    assert ("", "") == (options["job_image"], options["job_pass_address"])


def test_a_scoped_installation_says_so_to_both_roles(all_cases: dict[str, Rendered]):
    """Neither asks for what it may not read."""
    assert (TENANT,) == options_of(all_cases["scoped"], "controller")["namespaces"]
    assert TENANT == options_of(all_cases["scoped"], "webhook")["namespace"]


@pytest.mark.parametrize("case", ["cert-manager", "cert-manager-issuer", "own-secret"])
def test_files_serve_where_the_authority_is_not_built_in(all_cases: dict[str, Rendered], case: str):
    """The webhook gets the files, and the controller keeps its hands off caBundle."""
    assert not options_of(all_cases[case], "controller")["webhook_authority"]
    options = options_of(all_cases[case], "webhook")
    assert ("/tls/tls.crt", "/tls/tls.key") == (str(options["tls_cert"]), str(options["tls_key"]))


@pytest.mark.parametrize("case", MATRIX)
def test_names_of_ports_and_selectors_fit(all_cases: dict[str, Rendered], case: str):
    """Each Service selects exactly one Deployment's pods and names a port that these have."""
    rendered = all_cases[case]
    templates = [obj["spec"]["template"] for obj in rendered.of("Deployment")]
    for service in rendered.of("Service"):
        selector = service["spec"]["selector"].items()
        (chosen,) = [one for one in templates if selector <= one["metadata"]["labels"].items()]
        ports = {port["name"] for port in chosen["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("case", MATRIX)
def test_pods_run_on_linux_nodes(all_cases: dict[str, Rendered], case: str):
    """Also those of hooks: a cluster may have nodes that cannot run the image."""
    for label, pod in pods_of(all_cases[case]).items():
        assert "linux" == pod["spec"]["nodeSelector"]["kubernetes.io/os"], label


def test_hooks_run_where_the_controller_does(all_cases: dict[str, Rendered]):
    """On the same nodes and as urgent; rules about other pods would keep a hook from full nodes."""
    pods = pods_of(all_cases["everything"])

    assert {"nodeAffinity", "podAntiAffinity"} == set(
        pods["Deployment/second-controller"]["spec"]["affinity"]
    )
    for label in ("Job/second-unregister", "Pod/second-test"):
        spec = pods[label]["spec"]
        assert {"kubernetes.io/os": "linux", "pool": "infra"} == spec["nodeSelector"]
        assert [{"operator": "Exists"}] == spec["tolerations"]
        assert "system-cluster-critical" == spec["priorityClassName"]
        assert {"nodeAffinity": NODE_AFFINITY} == spec["affinity"]
    for label in ("Job/bubu-storage-unregister", "Pod/bubu-storage-test"):
        spec = pods_of(all_cases["default"])[label]["spec"]
        assert {"affinity", "priorityClassName", "tolerations"}.isdisjoint(spec)


def test_a_hook_that_failed_is_removed_at_last(all_cases: dict[str, Rendered]):
    """Helm keeps its Job, and forgets it with the release."""
    (job,) = all_cases["default"].of("Job")

    assert 3600 == job["spec"]["ttlSecondsAfterFinished"]


def test_the_nearest_label_wins(all_cases: dict[str, Rendered]):
    """A label said for everything and again for one thing is there once, as it was said for that thing."""
    everything, monitoring = all_cases["everything"], all_cases["monitoring"]

    for deployment in everything.of("Deployment"):
        assert "platform" == deployment["metadata"]["labels"]["team"]
        assert "storage" == deployment["spec"]["template"]["metadata"]["labels"]["team"]
    assert {"sidecar", "webhook"} == {
        one["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]
        for one in everything.of("Deployment")
    }
    monitors = [*monitoring.of("PodMonitor"), *monitoring.of("PrometheusRule")]
    monitors += all_cases["service-monitor"].of("ServiceMonitor")
    assert ["prometheus"] * 5 == [one["metadata"]["labels"]["release"] for one in monitors]
    dashboard = monitoring.one("ConfigMap", "bubu-storage-dashboard")
    assert "1" == dashboard["metadata"]["labels"]["grafana_dashboard"]


def test_a_new_chart_alone_restarts_nothing(all_cases: dict[str, Rendered]):
    """Pods do not carry the chart's version."""
    for label, pod in pods_of(all_cases["default"]).items():
        if label.startswith("Deployment/"):
            assert "helm.sh/chart" not in pod["metadata"]["labels"]
