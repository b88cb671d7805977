"""What others do to a pod between two injections: additions, edits, damage, forgery."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_operator.injection import InjectionConfig, InjectionReason, inject_pod, remove_injection
from bubu_operator.injection.environment import INJECTABLE_VARIABLES, OUR_VOLUMES, canonical_json
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.podspec import all_containers
from tests.unit.injection.builders import config, container, env, pod
from tests.unit.injection.strategies import ADDITIONS, EDITS, Mutation, configs, forged_records, pods

Json = dict[str, Any]


def keeps(config: InjectionConfig) -> bool:
    """Whether the config leaves the user's variables alone."""
    return config.plan is not None and config.plan.conflict_policy == "Keep"


def mutated(pod: Json, mutations: list[Mutation]) -> Json:
    """The pod after all of them."""
    for mutate in mutations:
        pod = mutate(pod)
    return pod


def entries(pod: Json, name: str) -> Counter[str]:
    """A container's variables, as often as they stand there."""
    return Counter(
        canonical_json(entry)
        for item in all_containers(pod)
        if item["name"] == name
        for entry in item.get("env", [])
    )


@settings(max_examples=300)
@given(
    pod=pods(),
    first=configs().filter(keeps),
    second=configs(),
    additions=st.lists(ADDITIONS, min_size=1, max_size=3),
)
def test_additions_between_two_injections_are_as_if_made_before_both(
    pod: Json, first: InjectionConfig, second: InjectionConfig, additions: list[Mutation]
):
    """f_B(m(f_A(x))) = f_B(m(x)): another webhook's sidecar, a variable in front or behind, a volume."""
    between = inject_pod(mutated(inject_pod(pod, first).pod, additions), second).pod
    before = inject_pod(mutated(pod, additions), second).pod

    assert between == before


@settings(max_examples=400)
@given(
    pod=pods(),
    first=configs(),
    second=configs(),
    third=configs(),
    edits=st.lists(st.one_of(EDITS, ADDITIONS), max_size=4),
)
def test_whatever_was_edited_injection_still_converges(
    pod: Json,
    first: InjectionConfig,
    second: InjectionConfig,
    third: InjectionConfig,
    edits: list[Mutation],
):
    """On any pod: once more changes nothing, and one config after another is the last one alone."""
    edited = mutated(inject_pod(pod, first).pod, edits)

    once = inject_pod(edited, second)
    assert inject_pod(once.pod, second).pod == once.pod
    if once.reason not in (InjectionReason.INJECTED, InjectionReason.ALREADY_INJECTED):
        # Nothing of ours is left, so a volume that somebody else still mounts is theirs from now on.
        edited = remove_injection(edited).pod
    over, alone = inject_pod(once.pod, third).pod, inject_pod(edited, third).pod
    if RECORD_ANNOTATION in once.pod["metadata"].get("annotations", {}):
        # A record that is no record goes with the first injection; before, it stands.
        for result in (over, alone):
            if INJECTED_LABEL not in result["metadata"].get("labels", {}):
                result["metadata"].get("annotations", {}).pop(RECORD_ANNOTATION, None)
    assert _lean(over) == _lean(alone)


def _lean(pod: Json) -> Json:
    """Without our label and record, told apart above, and what another's mount holds on to.

    Which config's volume that is depends on who was there last.
    """
    metadata = {
        key: {k: v for k, v in value.items() if k not in (INJECTED_LABEL, RECORD_ANNOTATION)}
        if isinstance(value, dict)
        else value
        for key, value in pod["metadata"].items()
    }
    spec = dict(pod["spec"])
    if "/peek" in canonical_json(spec):
        spec["volumes"] = [v for v in spec.get("volumes", []) if v["name"] not in OUR_VOLUMES]
        if not spec["volumes"]:
            del spec["volumes"]
    return {**pod, "metadata": {key: value for key, value in metadata.items() if value}, "spec": spec}


@settings(max_examples=300)
@given(
    pod=pods(),
    first=configs().filter(keeps),
    second=configs().filter(keeps),
    edits=st.lists(EDITS, max_size=4),
)
def test_edits_of_our_part_cost_the_user_nothing(
    pod: Json, first: InjectionConfig, second: InjectionConfig, edits: list[Mutation]
):
    """What stands in the pod after the edits and was not written by us still stands after injection."""
    injected = inject_pod(pod, first).pod
    edited = mutated(injected, edits)

    result = inject_pod(edited, second).pod

    for item in all_containers(edited):
        ours = entries(injected, item["name"]) - entries(pod, item["name"])
        theirs = entries(edited, item["name"]) - ours
        assert not theirs - entries(result, item["name"])
    volumes = {volume["name"] for volume in result["spec"].get("volumes", [])}
    for item in all_containers(result):
        assert {mount["name"] for mount in item.get("volumeMounts", [])} <= volumes


@settings(max_examples=300)
@given(data=st.data(), pod=pods(), config=configs().filter(keeps))
def test_a_forged_record_with_right_digests_takes_only_what_could_be_ours(
    data: st.DataObject, pod: Json, config: InjectionConfig
):
    """Variables, mounts and volumes of any other name stay, in their order, whatever a record claims."""
    forged = {**pod, "metadata": {**pod["metadata"]}}
    annotations = pod["metadata"].get("annotations", {})
    forged["metadata"]["annotations"] = {**annotations, RECORD_ANNOTATION: data.draw(forged_records(pod))}

    for result in (remove_injection(forged).pod, inject_pod(forged, config).pod):
        for before, after in zip(all_containers(pod), all_containers(result), strict=True):
            theirs = [e for e in before.get("env", []) if e["name"] not in INJECTABLE_VARIABLES]
            now = iter(after.get("env", []))
            assert all(entry in now for entry in theirs)
            mounts = [m for m in before.get("volumeMounts", []) if m["name"] not in OUR_VOLUMES]
            assert all(mount in after.get("volumeMounts", []) for mount in mounts)
        volumes = [v for v in pod["spec"].get("volumes", []) if v["name"] not in OUR_VOLUMES]
        assert all(volume in result["spec"].get("volumes", []) for volume in volumes)
        kept = {key: value for key, value in annotations.items() if key != RECORD_ANNOTATION}
        assert kept.items() <= result["metadata"].get("annotations", {}).items()


@given(pod=pods(), config=configs())
def test_all_that_is_written_is_in_the_vocabulary(pod: Json, config: InjectionConfig):
    """A name missing there could be injected and never taken out again."""
    assert config.plan is not None

    assert {item.name for item in config.plan.env} <= INJECTABLE_VARIABLES
    assert {volume["name"] for _, volume in config.plan.volumes} <= OUR_VOLUMES
    assert {mount["name"] for _, mount in config.plan.mounts} <= OUR_VOLUMES


@given(config=configs())
def test_no_reference_leaves_the_pods_namespace(config: InjectionConfig):
    """Secrets and ConfigMaps are named and never placed: a pod reads its own namespace's."""
    assert config.plan is not None

    for item in config.plan.env:
        for source in (item.entry.get("valueFrom") or {}).values():
            assert "namespace" not in source
    assert '"namespace"' not in canonical_json([volume for _, volume in config.plan.volumes])


def resolved(env: list[Json]) -> dict[str, str]:
    """Values as the kubelet makes them: in order, references to what stands before, ``$$`` for ``$``."""
    known: dict[str, str] = {}

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    for entry in env:
        if "valueFrom" in entry:
            known[entry["name"]] = "<source>"
        else:
            known[entry["name"]] = re.sub(r"\$\$|\$\(([^()]*)\)", one, entry.get("value") or "")
    return known


@given(pod=pods(), config=configs())
def test_references_to_ours_resolve_and_ours_are_literal(pod: Json, config: InjectionConfig):
    """A user's ``$(NAME)`` of any variable that we wrote is its value, wherever the user's stands."""
    assert config.plan is not None
    planned = {item.name: item for item in config.plan.env}
    asking = {
        **pod,
        "spec": {
            **pod["spec"],
            "containers": [
                {
                    **item,
                    "env": [{"name": f"ASK_{name}", "value": f"<$({name})>"} for name in sorted(planned)]
                    + item.get("env", []),
                }
                for item in pod["spec"]["containers"]
            ],
        },
    }

    result = inject_pod(asking, config)

    ours = {outcome.name: set(outcome.env) for outcome in result.containers}
    for item in result.pod["spec"]["containers"]:
        values = resolved(item["env"])
        for name in ours.get(item["name"], set()):
            literal = planned[name].entry.get("value")
            wanted = "<source>" if literal is None else literal.replace("$$", "$")
            assert values[f"ASK_{name}"] == f"<{wanted}>"


def test_a_sidecar_that_comes_after_us_is_injected_on_the_second_call():
    """Reinvocation: what another webhook added gets the same, and the first container is untouched."""
    first = inject_pod(pod(), config()).pod
    first["spec"]["initContainers"] = [container("proxy", restartPolicy="Always")]

    second = inject_pod(first, config()).pod

    assert second["spec"]["containers"] == first["spec"]["containers"]
    assert env(second)["BUBU_STORAGE_S3_BUCKET"] == "flows"
    assert [item["name"] for item in second["spec"]["initContainers"][0]["env"]] == list(env(second))


def test_a_volume_that_somebody_mounts_stays_ours():
    """It survives a config that needs none, and gives its name to the next one that does."""
    claim = config(file={"volumeClaimName": "old"})
    peeking = inject_pod(pod(container(), container("peek")), claim).pod
    peeking["spec"]["containers"][1]["volumeMounts"].append({"name": "bubu-storage", "mountPath": "/peek"})

    on_s3 = inject_pod(peeking, config()).pod
    on_new_claim = inject_pod(on_s3, config(file={"volumeClaimName": "new"}))

    assert on_s3["spec"]["volumes"] == [
        {"name": "bubu-storage", "persistentVolumeClaim": {"claimName": "old"}}
    ]
    assert on_new_claim.pod["spec"]["volumes"] == [
        {"name": "bubu-storage", "persistentVolumeClaim": {"claimName": "new"}}
    ]
    assert on_new_claim.warnings == ()
