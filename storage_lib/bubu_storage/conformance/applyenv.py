"""ApplyEnv cases: what the recorded implementation writes into a pod's container."""

from __future__ import annotations

import copy
from typing import Any, Final, cast

from bubu_storage.apply_env import (
    AmbiguousProviderError,
    ApplyEnvConfig,
    InvalidTimeoutError,
    apply_env,
)
from bubu_storage.conformance.cases import Case, difference
from bubu_storage.errors import ConfigurationError

__all__ = ["compare_apply_env"]

_ERROR_CLASSES: Final[dict[str, type[ConfigurationError]]] = {
    "ambiguous_provider": AmbiguousProviderError,
    "invalid_timeout": InvalidTimeoutError,
}


def compare_apply_env(case: Case) -> list[str]:
    """Run a case and return how it differs from the recording, one line each."""
    expected = case["expect"]
    pod: dict[str, Any] = copy.deepcopy(case["pod"])
    field = "initContainers" if case.get("init_container") else "containers"
    index = case.get("container")
    container: dict[str, Any] | None = None if index is None else pod[field][index]
    pod_spec = None if case.get("pod_nil") else pod
    wanted_error = expected.get("error")
    try:
        done = apply_env(ApplyEnvConfig.from_peer(case["config"]), pod_spec, container, case["timeout"])
    except ConfigurationError as error:
        if wanted_error is None:
            return [f"error: expected none, got {type(error).__name__}: {error}"]
        known = _ERROR_CLASSES.get(wanted_error["class"])
        if known is None or not isinstance(error, known):
            return [difference("error", f"class {wanted_error['class']}", f"{type(error).__name__}: {error}")]
        return []
    if wanted_error is not None:
        return [f"error: expected class {wanted_error['class']}, got none"]
    after = pod if done.pod_spec is None else done.pod_spec
    if done.pod_spec is None and index is not None:
        after = {**pod, field: [*pod[field][:index], done.container, *pod[field][index + 1 :]]}
    found: list[str] = []
    wanted_pod, actual_pod = _comparable(expected["pod"]), _comparable(after)
    if wanted_pod != actual_pod:
        found.append(difference("pod", wanted_pod, actual_pod))
    if done.changed is not expected["changed"]:
        found.append(difference("changed", expected["changed"], done.changed))
    return found


def _comparable(value: Any) -> Any:
    """Drop null members and empty lists, which the API's JSON form does not tell from absent ones."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: _comparable(item) for key, item in fields.items() if item is not None and item != []}
    if isinstance(value, list):
        return [_comparable(item) for item in cast("list[Any]", value)]
    return value
