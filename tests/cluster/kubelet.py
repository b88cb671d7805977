"""A very small kubelet for tests: pods of one namespace become real processes, their images ignored.

The control plane of the tests has a real Job controller and no node. This plays the node: it
takes pods that nobody runs, resolves what a container is given (variables, references to Secrets
and ConfigMaps, volumes), runs the command of each as a process with exactly that environment,
and writes the pod's status with the exit code and the termination message.

Where it is not a kubelet: paths are not mounted but replaced (a volume's mount path and the
termination message's path, in variables and arguments, become folders and files below a
temporary one); init containers, probes and restarts are not played; pods are not bound to a node,
so that deleting one takes no second party.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from bubu_operator.errors import KubeApiError, KubeNotFoundError, KubeTimeoutError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import CONFIG_MAPS, PODS, SECRETS, SERVICE_ACCOUNTS, JsonObject, section

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

__all__ = ["Ended", "MiniKubelet"]

POLL_SECONDS = 0.1
MESSAGE_BYTES = 4096
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")

Webhook: TypeAlias = Callable[[JsonObject], Mapping[str, str]]
"""What a cloud's webhook adds to a pod's environment, given the pod's ServiceAccount."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended, for tests that play a pod which its owner has changed."""

    exit_code: int
    message: str


@dataclass(slots=True)
class _Running:
    pod: JsonObject
    container: str
    process: subprocess.Popen[bytes]
    message_file: Path
    started: str


@dataclass(eq=False)
class MiniKubelet(AbstractContextManager["MiniKubelet"]):
    """Runs the pods of a namespace from ``with`` to its end.

    Attributes:
        cluster: where the pods are.
        namespace: whose pods are run.
        workdir: for volumes and logs.
        cloud: see `Webhook`; nothing is added by default.
        claims: folders of PersistentVolumeClaims, by name.
        missing_images: pods with one of these wait with ErrImagePull.
        play: given a pod, how its container shall have ended, instead of running it; None runs it.
        environments: what each pod's process was given, by pod name, for assertions.
        logs: what each pod's process wrote, by pod name.
        tokens: those that pods were given, for assertions.
    """

    cluster: Cluster
    namespace: str
    workdir: Path
    cloud: Webhook = lambda _account: {}
    claims: dict[str, Path] = field(default_factory=dict[str, Path])
    missing_images: set[str] = field(default_factory=set[str])
    play: Callable[[JsonObject], Ended | None] = lambda _pod: None
    environments: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    logs: dict[str, Path] = field(default_factory=dict[str, Path])
    tokens: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    _running: dict[str, _Running] = field(default_factory=dict[str, _Running])
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._client = KubeClient.load(str(self.cluster.kubeconfig))
        self._thread = threading.Thread(target=self._work, name="kubelet", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(20)
        for running in self._running.values():
            running.process.kill()
            running.process.wait()
        self._client.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return self.pids_of("")

    def pids_of(self, owner: str) -> list[int]:
        """Return those of the pods whose name begins with their owner's, a Job's for example."""
        return [
            running.process.pid
            for running in list(self._running.values())
            if running.pod["metadata"]["name"].startswith(owner)
        ]

    # -- the loop ------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._turn()
            except KubeTimeoutError:
                continue  # a busy machine: asked again in the next turn
            except KubeApiError as error:
                self.errors.append(str(error))

    def _turn(self) -> None:
        pods = {pod["metadata"]["uid"]: pod for pod in self._client.list(PODS, self.namespace).items}
        for uid in self._running.keys() - pods.keys():
            self._end(uid)
        for uid, pod in pods.items():
            try:
                if uid in self._running:
                    self._watch(uid, pod)
                elif pod.get("status", {}).get("phase", "Pending") == "Pending":
                    self._start(uid, pod)
            except KubeNotFoundError:
                self._end(uid)  # deleted in between

    def _end(self, uid: str) -> None:
        running = self._running.pop(uid, None)
        if running is not None:
            running.process.kill()
            running.process.wait()

    def _watch(self, uid: str, pod: JsonObject) -> None:
        running = self._running[uid]
        code = running.process.poll()
        if code is None:
            if pod["metadata"].get("deletionTimestamp"):
                self._end(uid)
            return
        message = running.message_file.read_bytes()[:MESSAGE_BYTES].decode("utf-8", errors="replace")
        self._ended(pod, running.container, code, message, running.started)
        # Only now: an answer that did not come is asked for again in the next turn.
        del self._running[uid]

    def _start(self, uid: str, pod: JsonObject) -> None:
        container: JsonObject = pod["spec"]["containers"][0]
        name = str(container["name"])
        if container.get("image") in self.missing_images:
            waiting = {"reason": "ErrImagePull", "message": f"{container['image']}: not found"}
            self._write(pod, "Pending", name, {"waiting": waiting})
            return
        played = self.play(pod)
        if played is not None:
            self._ended(pod, name, played.exit_code, played.message, _now())
            return
        folder = self.workdir / uid
        folder.mkdir(parents=True, exist_ok=True)
        try:
            paths = self._mount(pod, container, folder)
            environment = self._environment(pod, container, paths)
        except (KubeNotFoundError, LookupError) as error:
            waiting = {"reason": "CreateContainerConfigError", "message": str(error)}
            self._write(pod, "Pending", name, {"waiting": waiting})
            return
        message_file = paths[container.get("terminationMessagePath", "/dev/termination-log")]
        words = [*container.get("command", []), *container.get("args", [])]
        words = [_replaced(_expanded(word, environment), paths) for word in words]
        log = folder / "log"
        self.environments[pod["metadata"]["name"]] = environment
        self.logs[pod["metadata"]["name"]] = log
        with log.open("ab") as out:
            process = subprocess.Popen(
                words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._running[uid] = _Running(pod, name, process, message_file, _now())
        self._write(pod, "Running", name, {"running": {"startedAt": _now()}})

    # -- what a container is given -----------------------------------------------------------

    def _mount(self, pod: JsonObject, container: JsonObject, folder: Path) -> dict[str, Path]:
        """Make the volumes and return where each path of the container really is."""
        volumes: dict[str, JsonObject] = {item["name"]: item for item in pod["spec"].get("volumes", [])}
        paths: dict[str, Path] = {}
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            place = folder / "volumes" / mount["name"]
            if "persistentVolumeClaim" in volume:
                place = self.claims[volume["persistentVolumeClaim"]["claimName"]]
            place.mkdir(parents=True, exist_ok=True)
            if "configMap" in volume:
                source = self._client.get(CONFIG_MAPS, volume["configMap"]["name"], self.namespace)
                for item in volume["configMap"].get("items", []):
                    (place / item["path"]).write_text(source["data"][item["key"]], encoding="utf-8")
            for source in volume.get("projected", {}).get("sources", []):
                wanted = source["serviceAccountToken"]
                (place / wanted["path"]).write_text(self._token(pod, wanted), encoding="utf-8")
            paths[mount["mountPath"]] = place
        message_file = folder / "termination-log"
        message_file.touch()
        paths[container.get("terminationMessagePath", "/dev/termination-log")] = message_file
        return paths

    def _token(self, pod: JsonObject, wanted: JsonObject) -> str:
        """Ask the API server for a token that is bound to the pod, as a kubelet does."""
        metadata = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec = {
            "audiences": [wanted["audience"]],
            "expirationSeconds": wanted["expirationSeconds"],
            "boundObjectRef": bound,
        }
        account = pod["spec"].get("serviceAccountName", "default")
        answer = self._client.request_json(
            "POST",
            f"{SERVICE_ACCOUNTS.path(self.namespace)}/{account}/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
            timeout_seconds=10,
        )
        token = str(answer["status"]["token"])
        self.tokens.append(token)
        return token

    def _environment(
        self, pod: JsonObject, container: JsonObject, paths: Mapping[str, Path]
    ) -> dict[str, str]:
        # As the image has it: where its command is, and nothing else of this machine.
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "LANG": "C.UTF-8"}
        for entry in container.get("env", []):
            value = self._value(pod, entry, environment)
            if value is not None:
                environment[entry["name"]] = _replaced(value, paths)
        account = self._client.get(
            SERVICE_ACCOUNTS, pod["spec"].get("serviceAccountName", "default"), self.namespace
        )
        return environment | dict(self.cloud(account))

    def _value(self, pod: JsonObject, entry: JsonObject, environment: Mapping[str, str]) -> str | None:
        source: JsonObject = entry.get("valueFrom") or {}
        if not source:
            return _expanded(entry.get("value", ""), environment)
        if "fieldRef" in source:
            value: Any = pod
            for part in source["fieldRef"]["fieldPath"].split("."):
                value = value[part]
            return str(value)
        kind, resource = next(
            (kind, resource)
            for kind, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS))
            if kind in source
        )
        reference: JsonObject = source[kind]
        try:
            data = section(self._client.get(resource, reference["name"], self.namespace), "data")
            text = str(data[reference["key"]])
        except (KubeNotFoundError, KeyError):
            if reference.get("optional"):
                return None
            raise
        return base64.b64decode(text).decode() if resource is SECRETS else text

    # -- the pod's status ----------------------------------------------------------------

    def _ended(self, pod: JsonObject, container: str, code: int, message: str, started: str) -> None:
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": message,
            "startedAt": started,
            "finishedAt": _now(),
        }
        self._write(pod, "Succeeded" if code == 0 else "Failed", container, {"terminated": ended})

    def _write(self, pod: JsonObject, phase: str, container: str, state: JsonObject) -> None:
        image = str(pod["spec"]["containers"][0].get("image", ""))
        status = {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()},
                {
                    "type": "Ready",
                    "status": "True" if phase == "Running" else "False",
                    "lastTransitionTime": _now(),
                },
            ],
            "containerStatuses": [
                {
                    "name": container,
                    "state": state,
                    "ready": phase == "Running",
                    "restartCount": 0,
                    "image": image,
                    "imageID": "",
                }
            ],
        }
        name = str(pod["metadata"]["name"])
        self._client.patch_status(PODS, name, status, self.namespace)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """Resolve ``$(NAME)`` as Kubernetes does: what is unknown stays, ``$$`` is one ``$``."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], match[0])

    return _REFERENCE.sub(one, text)


def _replaced(text: str, paths: Mapping[str, Path]) -> str:
    """Return a path inside the container as it is on this machine; other texts stay."""
    for inside, outside in paths.items():
        if text == inside or text.startswith(inside + "/"):
            return str(outside) + text[len(inside) :]
    return text
