"""ApplyEnv behaves exactly as the Go implementation, and never touches its input."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.apply_env import (
    AmbiguousProviderError,
    ApplyEnvConfig,
    FileEnvConfig,
    InvalidTimeoutError,
    S3EnvConfig,
    apply_env,
    storage_requirements,
    timeout_text,
    try_apply_env,
)
from bubu_storage.errors import ConfigurationError

VECTORS = Path(__file__).resolve().parents[2] / "golden" / "conformance" / "applyenv-vectors.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text("utf-8"))
ERRORS = {"ambiguous_provider": AmbiguousProviderError, "invalid_timeout": InvalidTimeoutError}


def normalized(value: Any) -> Any:
    """Drop null members and empty lists, as the vectors' README tells."""
    if isinstance(value, dict):
        return {k: normalized(v) for k, v in value.items() if v is not None and v != []}
    if isinstance(value, list):
        return [normalized(item) for item in value]
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_matches_the_vector(case: dict[str, Any]):
    """The pod afterwards, the verdict "changed" and the error's class are the peer's."""
    config = ApplyEnvConfig.from_peer(case["config"])
    pod = copy.deepcopy(case["pod"])
    containers = pod["initContainers"] if case["init_container"] else pod["containers"]
    container = None if case["container"] is None else containers[case["container"]]
    pod_spec = None if case["pod_nil"] else pod
    expected = case["expect"]
    before = copy.deepcopy((pod, container))

    if "error" in expected:
        with pytest.raises(ERRORS[expected["error"]["class"]]):
            apply_env(config, pod_spec, container, case["timeout"])
        swallowed = try_apply_env(config, pod_spec, container, case["timeout"])
        assert not swallowed.changed
        assert swallowed.pod_spec is pod_spec
        assert swallowed.container is container
        return
    result = apply_env(config, pod_spec, container, case["timeout"])

    after = result.pod_spec
    if case["pod_nil"]:
        after = {**pod, "containers": [result.container]}
    assert normalized(after) == normalized(expected["pod"])
    assert result.changed is expected["changed"]
    assert (pod, container) == before


def test_all_vectors_are_there():
    """The file holds the 35 cases that the peer was run on."""
    assert len(CASES) == 35


def test_errors_are_configuration_errors_and_name_the_way_out():
    """Callers catch one class; the text says what to write instead."""
    with pytest.raises(ConfigurationError, match="not both"):
        storage_requirements(ApplyEnvConfig(s3=S3EnvConfig(), file=FileEnvConfig()))
    with pytest.raises(ConfigurationError, match="write it like 300s"):
        storage_requirements(ApplyEnvConfig(s3=S3EnvConfig()), "1d")


def test_requirements_of_a_file_store():
    """Environment, volume and mount are listed in one place and agree on the path."""
    needs = storage_requirements(ApplyEnvConfig(file=FileEnvConfig(volume_claim_name="c")), "5s")

    assert [entry["name"] for entry in needs.env] == [
        "BUBU_STORAGE_PROVIDER",
        "BUBU_STORAGE_PATH",
        "BUBU_STORAGE_TIMEOUT",
    ]
    assert needs.volumes == ({"name": "bubu-storage", "persistentVolumeClaim": {"claimName": "c"}},)
    assert needs.mounts == ({"name": "bubu-storage", "mountPath": "/var/run/bubu/storage"},)


@pytest.mark.parametrize(
    ("seconds", "fallback", "text"),
    [(300, None, "300s"), (0, 60, "60s"), (-5, 60, "60s"), (None, None, ""), (None, 0, ""), (7, 60, "7s")],
)
def test_timeout_text(seconds: int | None, fallback: int | None, text: str):
    """The first positive number of seconds is written; none gives a blank text."""
    assert timeout_text(seconds, fallback) == text


NAMES = st.sampled_from(
    ["BUBU_STORAGE_PROVIDER", "BUBU_STORAGE_PATH", "AWS_ACCESS_KEY_ID", "BUBU_STORAGE_S3_BUCKET", "X", "Y"]
)
ENV = st.lists(st.builds(lambda n, v: {"name": n, "value": v}, NAMES, st.text(max_size=4)), max_size=6)
CONFIGS = st.one_of(
    st.builds(
        lambda b, r, s, p: ApplyEnvConfig(
            s3=S3EnvConfig(bucket=b, region=r, secret_name=s, use_path_style=p)
        ),
        st.text(max_size=4),
        st.text(max_size=4),
        st.sampled_from(["", "creds"]),
        st.booleans(),
    ),
    st.builds(
        lambda p, c: ApplyEnvConfig(file=FileEnvConfig(path=p, volume_claim_name=c)),
        st.sampled_from(["", "/a", " /b "]),
        st.sampled_from(["", "claim"]),
    ),
)


@given(config=CONFIGS, env=ENV, timeout=st.sampled_from(["", "5s", " 1m "]))
def test_applying_twice_is_applying_once(config: ApplyEnvConfig, env: list[dict[str, str]], timeout: str):
    """A second call with the same arguments changes nothing, and foreign variables stay."""
    pod = {"containers": [{"name": "c", "env": env}]}
    before = copy.deepcopy(pod)

    once = apply_env(config, pod, pod["containers"][0], timeout)
    assert once.pod_spec is not None
    twice = apply_env(config, once.pod_spec, once.container, timeout)

    assert pod == before
    assert twice.pod_spec == once.pod_spec
    assert not twice.changed
    foreign = [entry for entry in env if entry["name"] in ("X", "Y")]
    assert once.container is not None
    assert [entry for entry in once.container["env"] if entry["name"] in ("X", "Y")] == foreign
