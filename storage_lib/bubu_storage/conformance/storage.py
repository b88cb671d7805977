"""Storage cases: run one operation on a store and compare with the recording.

The recording was made on files, and that is the default; any other backend can stand in.
`observe` runs the case, `compare` judges; tests of our own better outcomes use `observe`
alone. Error texts of the recording are never compared, only classes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.conformance.cases import Case, content_bytes, difference, expand
from bubu_storage.errors import (
    ConfigurationError,
    CorruptObjectError,
    DepthError,
    InvalidKeyError,
    KubeRefError,
    ObjectNotFoundError,
    PayloadError,
    SelectorError,
    StorageDisabledError,
    StorageError,
    is_not_found,
)
from bubu_storage.manager import StorageManager
from bubu_storage.payload.codec import encode
from bubu_storage.payload.context import max_recursion_depth, storage_schema
from bubu_storage.payload.paths import namespaced_key
from bubu_storage.settings import ManagerSettings, RetentionPolicy
from bubu_storage.shared import reset_shared_managers, shared_manager

__all__ = ["Observation", "compare", "observe"]

_NOTHING: Final = object()
_BASE_MARK: Final = "<BASE>"


@dataclass(slots=True)
class Observation:
    """What one case did.

    Attributes:
        result: returned value, or `NOTHING` when an error was raised.
        error: the error, if any.
        dehydrated: the value in the middle of a round trip.
        files: every file afterwards, relative path to bytes.
    """

    result: Any = _NOTHING
    error: StorageError | None = None
    dehydrated: Any = _NOTHING
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def has_result(self) -> bool:
        """Whether the operation returned."""
        return self.result is not _NOTHING


def observe(case: Case, base: Path, backend: ObjectBackend | None = None) -> Observation:
    """Run a case in an empty directory.

    Args:
        case: as loaded.
        base: the directory.
        backend: an empty store to use instead, where the case uses a store; the directory
            then stays empty. Without it, the directory is the store.

    Raises:
        ValueError: the case itself is malformed, or its operation unknown.
    """
    operation = _OPERATIONS.get(case["op"])
    if operation is None:
        raise ValueError(f"unknown operation {case['op']!r}")
    for name, content in expand(case.get("preload") or {}).items():
        if backend is not None:
            backend.put_object(name, content_bytes(content))
            continue
        target = base / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content_bytes(content))
    env: dict[str, str] = {
        "BUBU_STORAGE_PROVIDER": "file",
        "BUBU_STORAGE_PATH": str(base),
        **(case.get("env") or {}),
    }
    seen = Observation()
    try:
        seen.result = operation(_Run(case, env, base, seen, backend))
    except StorageError as error:
        seen.error = error
    seen.files = _objects(backend) if backend is not None else _files(base)
    return seen


def _objects(backend: ObjectBackend) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for page in backend.list_objects():
        for item in page.objects:
            with backend.get_object(item.key) as stored:
                found[item.key] = stored.read()
    return found


def _files(base: Path) -> dict[str, bytes]:
    return {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file()
    }


def compare(case: Case, seen: Observation) -> list[str]:
    """Return how an observation differs from the recording, one line each."""
    expected = case["expect"]
    if expected.get("unstable"):
        variants = [_differences(case, variant, seen) for variant in expected["variants"]]
        return [] if any(not found for found in variants) else min(variants, key=len)
    return _differences(case, expected, seen)


@dataclass(frozen=True, slots=True)
class _Run:
    """What an operation needs."""

    case: Case
    env: dict[str, str]
    base: Path
    seen: Observation
    backend: ObjectBackend | None

    @property
    def options(self) -> Mapping[str, Any]:
        return self.case.get("options") or {}

    @property
    def value(self) -> Any:
        return expand(self.case.get("input"))

    @property
    def run_id(self) -> str:
        return self.options.get("id", "ns/run-1")

    def with_manager(self, action: Callable[[StorageManager], Any]) -> Any:
        """Run something on a manager in the context that the case asks for."""
        with ExitStack() as stack:
            if "max_recursion_depth" in self.options:
                stack.enter_context(max_recursion_depth(self.options["max_recursion_depth"]))
            if "schema" in self.options:
                stack.enter_context(storage_schema(*self.options["schema"]))
            settings = ManagerSettings.from_env(self.env)
            # A case about disabled storage must not get a store by the back door.
            backend = self.backend if settings.backend is not None else None
            return action(stack.enter_context(StorageManager(settings, backend)))


def _dehydrate(run: _Run) -> Any:
    return run.with_manager(lambda manager: manager.dehydrate(run.value, run_id=run.run_id))


def _dehydrate_inputs(run: _Run) -> Any:
    limit = run.options.get("max_inline_size") if run.case["op"] == "dehydrate_inputs_max" else None
    return run.with_manager(
        lambda manager: manager.dehydrate_inputs(run.value, run_id=run.run_id, max_inline_size=limit)
    )


def _hydrate(run: _Run) -> Any:
    return run.with_manager(lambda manager: manager.hydrate(run.value))


def _hydrate_storage_refs_only(run: _Run) -> Any:
    return run.with_manager(lambda manager: manager.hydrate_storage_refs_only(run.value))


def _round_trip(run: _Run) -> Any:
    def both(manager: StorageManager) -> Any:
        offload = manager.dehydrate_inputs if run.case["op"] == "round_trip_inputs" else manager.dehydrate
        run.seen.dehydrated = offload(run.value, run_id=run.run_id)
        return manager.hydrate(run.seen.dehydrated)

    return run.with_manager(both)


def _list(run: _Run) -> Any:
    return run.with_manager(lambda manager: [item.key for item in manager.list_objects(run.value)])


def _delete(run: _Run) -> Any:
    return run.with_manager(lambda manager: manager.delete(run.value))


def _read_blob(run: _Run) -> Any:
    return run.with_manager(lambda manager: manager.read_blob(run.value).decode("utf-8"))


def _write_blob(run: _Run) -> Any:
    data = content_bytes(run.options["data"])
    run.with_manager(lambda manager: manager.write_blob(run.value, data))


def _new_manager(run: _Run) -> Any:
    return run.with_manager(lambda manager: {"store": manager.enabled})


def _shared_manager_same(run: _Run) -> Any:
    reset_shared_managers()
    try:
        managers = [
            shared_manager({name: text.replace(_BASE_MARK, str(run.base)) for name, text in env.items()})
            for env in run.value
        ]
        return managers[0] is managers[1]
    finally:
        reset_shared_managers()


def _namespaced_key(run: _Run) -> Any:
    return namespaced_key(*run.value)


def _is_not_found(run: _Run) -> Any:
    return is_not_found(Exception(run.value))


def _retention_policy(run: _Run) -> Any:
    policy = RetentionPolicy.from_env(run.env)
    return {
        "gc_interval_ns": round(policy.gc_interval_seconds * 1e9),
        "max_scan": policy.max_scan,
        "max_delete": policy.max_delete,
    }


_OPERATIONS: Final[dict[str, Callable[[_Run], Any]]] = {
    "dehydrate": _dehydrate,
    "dehydrate_inputs": _dehydrate_inputs,
    "dehydrate_inputs_max": _dehydrate_inputs,
    "hydrate": _hydrate,
    "hydrate_storage_refs_only": _hydrate_storage_refs_only,
    "round_trip": _round_trip,
    "round_trip_inputs": _round_trip,
    "list": _list,
    "delete": _delete,
    "read_blob": _read_blob,
    "write_blob": _write_blob,
    "new_manager": _new_manager,
    "shared_manager_same": _shared_manager_same,
    "namespaced_key": _namespaced_key,
    "is_not_found": _is_not_found,
    "retention_policy": _retention_policy,
}


def _differences(case: Case, expected: Mapping[str, Any], seen: Observation) -> list[str]:
    found: list[str] = []
    if "error" in expected:
        found += _error_differences(expected["error"], seen)
    elif seen.error is not None:
        found.append(f"error: expected none, got {_describe(seen.error)}")
    else:
        found += _result_differences(case, expected, seen.result)
    if "dehydrated" in expected:
        wanted = _text(expand(expected["dehydrated"]))
        actual = _text(seen.dehydrated) if seen.dehydrated is not _NOTHING else "nothing"
        if wanted != actual:
            found.append(difference("dehydrated value", wanted, actual))
    if "round_trip_equal" in expected:
        equal = seen.has_result and _text(seen.result) == _text(expand(case["input"]))
        if equal is not expected["round_trip_equal"]:
            found.append(difference("round trip equal", expected["round_trip_equal"], equal))
    if "files" in expected:
        found += _file_differences(expected["files"], seen.files)
    return found


def _result_differences(case: Case, expected: Mapping[str, Any], result: Any) -> list[str]:
    if case["op"] == "list":
        # The order is each implementation's own.
        wanted, listed = sorted(expected.get("result") or []), sorted(result)
        return [] if wanted == listed else [difference("listing", wanted, listed)]
    if "result_sha256" in expected:
        data = encode(result)
        size, digest = len(data), hashlib.sha256(data).hexdigest()
        if (size, digest) == (expected["result_size"], expected["result_sha256"]):
            return []
        wanted = f"{expected['result_size']} bytes of SHA-256 {expected['result_sha256']}"
        return [difference("result", wanted, f"{size} bytes of SHA-256 {digest}")]
    wanted_text = expected.get("result_json")
    if wanted_text is None:
        wanted_text = _text(expand(expected.get("result")))
    actual_text = _text(result)
    return [] if wanted_text == actual_text else [difference("result", wanted_text, actual_text)]


def _error_differences(expected: Mapping[str, Any], seen: Observation) -> list[str]:
    name = expected["class"]
    if seen.error is None:
        return [difference("error", f"one of class {name}", f"the result {_text(seen.result)}")]
    found: list[str] = []
    matches = _ERROR_CLASSES.get(name)
    if matches is None:
        return [f"error class {name!r} is unknown to this runner"]
    if not matches(seen.error):
        found.append(f"error: expected class {name}, got {_describe(seen.error)}")
    # The peer's verdict on a Kubernetes error only says that its machine had no kubeconfig file.
    verdict = is_not_found(seen.error)
    if name != "kube" and verdict is not expected["is_not_found"]:
        found.append(difference("is_not_found", expected["is_not_found"], verdict))
    return found


def _is_content_type_error(error: StorageError) -> bool:
    return isinstance(error, CorruptObjectError) and "unknown content type" in error.message


def _is_file_system_error(error: StorageError) -> bool:
    """The store refused: its own error, or a key that no store of ours takes."""
    return not isinstance(error, (PayloadError, ObjectNotFoundError, StorageDisabledError))


_ERROR_CLASSES: Final[dict[str, Callable[[StorageError], bool]]] = {
    "depth": lambda error: isinstance(error, DepthError),
    "path": lambda error: isinstance(error, InvalidKeyError),
    "not_found": lambda error: isinstance(error, ObjectNotFoundError),
    "filesystem": _is_file_system_error,
    "malformed": lambda error: isinstance(error, CorruptObjectError) and not _is_content_type_error(error),
    "content_type": _is_content_type_error,
    "selector": lambda error: isinstance(error, SelectorError),
    "disabled": lambda error: isinstance(error, StorageDisabledError),
    "config": lambda error: isinstance(error, ConfigurationError),
    "kube": lambda error: isinstance(error, KubeRefError),
}


def _file_differences(expected: Mapping[str, Any], files: Mapping[str, bytes]) -> list[str]:
    found = [f"file {name}: not written" for name in sorted(expected.keys() - files.keys())]
    found += [f"file {name}: not expected" for name in sorted(files.keys() - expected.keys())]
    for name in sorted(expected.keys() & files.keys()):
        wanted, data = expected[name], files[name]
        if isinstance(wanted, dict) and "sha256" in wanted:
            digest = hashlib.sha256(data).hexdigest()
            if (len(data), digest) != (wanted["size"], wanted["sha256"]):
                found.append(f"file {name}: other bytes ({len(data)} of them, {wanted['size']} expected)")
        elif content_bytes(wanted) != data:
            found.append(difference(f"file {name}", _readable(content_bytes(wanted)), _readable(data)))
    return found


def _readable(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"base64 {base64.b64encode(data).decode('ascii')}"


def _text(value: Any) -> str:
    return encode(value).decode("utf-8")


def _describe(error: StorageError) -> str:
    return f"{type(error).__name__}: {error}"
