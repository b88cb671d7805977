"""The story that the demo tells, step by step, each with the checks that make it true."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import Cluster, start_cluster
from tests.cluster.controller_harness import KINDS, wait_served
from tests.demo.console import Narrator
from tests.demo.follow import Watch
from tests.demo.pods import copy_of, deployment, engram_pod, environment_of, run_engram, show_environment
from tests.demo.processes import OperatorProcesses
from tests.demo.stores import DemoStore, FileDemoStore, S3DemoStore, listing
from tests.demo.workload import MAX_DELETE, MAX_SCAN, RULES, build_objects

__all__ = ["Demo"]

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "demo"


class Demo:
    """One run of the demo; `run` returns only if every promise held."""

    def __init__(self, narrator: Narrator, *, store: str, keep: bool) -> None:
        self._narrator = narrator
        self._store_name = store
        self._keep = keep
        self._workdir = Path(tempfile.mkdtemp(prefix="bubu-demo-"))

    def run(self) -> None:
        """Tell the story from the first step to the last; stop everything in any case.

        Raises:
            DemoFailedError: a promise does not hold.
        """
        narrator = self._narrator
        completed = False
        store: DemoStore | None = None
        operator: OperatorProcesses | None = None
        try:
            with narrator.step("A Kubernetes API server"):
                cluster = start_cluster()
                narrator.done(f"{cluster.server} answers, {cluster.server_version()} ({cluster.provider})")
            try:
                with narrator.step(
                    "Custom resources, and the operator's two processes with their own rights"
                ):
                    self._install_crds(cluster)
                    store = (S3DemoStore if self._store_name == "s3" else FileDemoStore)(self._workdir)
                    operator = OperatorProcesses(cluster, self._workdir, allow_local_root=store.root)
                    operator.start(narrator)
                self._story(cluster, store, operator)
                completed = True
            finally:
                if operator is not None:
                    operator.stop()
                if store is not None:
                    store.stop()
                cluster.stop(keep_logs=self._keep)
        finally:
            if operator is None or (completed and not self._keep):
                shutil.rmtree(self._workdir, ignore_errors=True)
            else:
                narrator.console.print(f"\nLogs of the operator: {self._workdir}", markup=False)
        narrator.console.print(
            f"\n[bold green]Every promise held.[/bold green] {narrator.elapsed_seconds:.0f} s in all."
        )

    def _install_crds(self, cluster: Cluster) -> None:
        done = cluster.kubectl("apply", "-f", ROOT / "crds")
        self._narrator.output("kubectl apply -f crds/", done.stdout)
        wait_served(cluster, *KINDS)

    def _story(self, cluster: Cluster, store: DemoStore, operator: OperatorProcesses) -> None:
        narrator = self._narrator
        with narrator.step(f"A StorageConfig: {store.title}"):
            self._configure(cluster, store)
        with narrator.step("An engram pod and a labelled Deployment get their environment"):
            pod_env, deployment_env = self._inject(cluster)
        with narrator.step("A pod that was created while the webhook was away is found, and explained"):
            self._heal(cluster, operator)
        with narrator.step("That environment, and nothing else, moves a real payload"):
            self._payload(store, pod_env, deployment_env)
        with narrator.step("5,000 objects of mixed age, and a RetentionPolicy that only reports"):
            due, kept = self._fill(store)
            self._policy(cluster)
            self._dry_run(cluster, store, due, kept)
        with narrator.step("Enforce: capped passes that resume where the last one stopped"):
            self._enforce(cluster, store, due, kept)
        with narrator.step("What an administrator sees"):
            shown = cluster.kubectl("get", "bsc,brp", "-n", NAMESPACE).stdout
            narrator.output(f"kubectl get bsc,brp -n {NAMESPACE}", shown)

    # --- the steps ------------------------------------------------------------------------------

    def _configure(self, cluster: Cluster, store: DemoStore) -> None:
        narrator = self._narrator
        cluster.create_namespace(NAMESPACE)
        if store.needs_secret:
            # What a platform team does once per tenant: let the controller read this namespace's Secrets.
            cluster.kubectl(
                "create", "rolebinding", "bubu-storage-secrets", "-n", NAMESPACE,
                "--clusterrole=bubu-storage-secret-reader",
                f"--serviceaccount={OperatorProcesses.namespace}:{OperatorProcesses.controller_account}",
            )  # fmt: skip
        cluster.apply(*store.manifests(NAMESPACE))
        narrator.wait(
            "StorageConfig main becoming Ready",
            lambda: condition(cluster.get("bsc", "main", "-n", NAMESPACE), "Ready").get("status") == "True",
            deadline_seconds=30,
            describe=lambda: str(condition(cluster.get("bsc", "main", "-n", NAMESPACE), "Ready")),
        )
        narrator.output(
            f"kubectl get bsc -n {NAMESPACE}", cluster.kubectl("get", "bsc", "-n", NAMESPACE).stdout
        )
        status = cluster.get("bsc", "main", "-n", NAMESPACE)["status"]
        narrator.done(f"probed for real: {condition({'status': status}, 'Ready')['message']}")

    def _inject(self, cluster: Cluster) -> tuple[dict[str, str], dict[str, str]]:
        narrator = self._narrator
        cluster.apply(engram_pod(NAMESPACE), deployment(NAMESPACE))
        whole_pod = cluster.get("pod", "engram", "-n", NAMESPACE)
        pod = whole_pod["spec"]
        narrator.say("The pod's container, changed by the webhook before the API server stored it:")
        show_environment(narrator, pod)

        def template() -> dict[str, Any]:
            return cluster.get("deployment", "worker", "-n", NAMESPACE)["spec"]["template"]["spec"]

        narrator.wait(
            "the Deployment's template being injected",
            lambda: "BUBU_STORAGE_PROVIDER" in json.dumps(template()),
            deadline_seconds=20,
        )
        pod_env = environment_of(cluster, NAMESPACE, pod)
        deployment_env = environment_of(cluster, NAMESPACE, template())
        ours = {name for name in pod_env if name.startswith(("BUBU_STORAGE_", "AWS_", "BUBU_S3_"))}
        narrator.check(
            bool(ours) and all(pod_env[name] == deployment_env.get(name) for name in ours),
            f"the Deployment's template carries the same {len(ours)} variables, written by the controller",
            f"pod: {sorted(pod_env)}, template: {sorted(deployment_env)}",
        )
        again = json.loads(
            cluster.kubectl(
                "create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(copy_of(whole_pod))
            ).stdout
        )
        narrator.check(
            again["spec"]["containers"] == pod["containers"],
            "a pod that is injected already passes the webhook unchanged",
            json.dumps(again["spec"]["containers"]),
        )
        return pod_env, deployment_env

    def _heal(self, cluster: Cluster, operator: OperatorProcesses) -> None:
        narrator = self._narrator
        operator.stop_webhook()
        missed = engram_pod(NAMESPACE)
        missed["metadata"]["name"] = "missed"
        cluster.apply(missed)
        narrator.check(
            "BUBU_STORAGE_PROVIDER" not in json.dumps(cluster.get("pod", "missed", "-n", NAMESPACE)["spec"]),
            "with the webhook away the cluster still starts pods, without their storage",
        )

        def drift() -> dict[str, Any]:
            return condition(cluster.get("bsc", "main", "-n", NAMESPACE), "InjectionDrift")

        narrator.wait(
            "the controller finding it", lambda: drift().get("status") == "True", deadline_seconds=30
        )
        narrator.done(f"InjectionDrift: {drift()['message']}")
        operator.start_webhook(narrator)
        narrator.output(
            f"kubectl bubu explain pod/missed -n {NAMESPACE}", self._bubu(cluster, "explain", "pod/missed")
        )
        cluster.kubectl("delete", "pod", "missed", "-n", NAMESPACE, "--now")
        narrator.wait(
            "the condition following", lambda: drift().get("status") == "False", deadline_seconds=30
        )
        narrator.done("the pod is gone, and so is the drift")

    def _bubu(self, cluster: Cluster, *arguments: str) -> str:
        """Return what the plugin says: the program that ``kubectl bubu`` finds on PATH."""
        plugin = Path(sys.executable).with_name("kubectl-bubu")
        options = ("-n", NAMESPACE, "--kubeconfig", str(cluster.kubeconfig))
        done = subprocess.run(
            [plugin, *arguments, *options], capture_output=True, text=True, check=False, timeout=120
        )
        self._narrator.require(done.returncode == 0 and bool(done.stdout), f"{plugin} failed: {done.stderr}")
        return done.stdout

    def _payload(self, store: DemoStore, pod_env: dict[str, str], deployment_env: dict[str, str]) -> None:
        narrator = self._narrator
        made = run_engram("produce", pod_env)
        references = json.dumps(made["travelling"]).count("$bubuStorageRef")
        narrator.say(
            f"the pod's process:        {made['document_bytes']:>9,} bytes of JSON and "
            f"{made['blob_bytes']:,} of a binary offloaded; {made['travelling_bytes']:,} bytes "
            f"with {references} references travel on"
        )
        narrator.check(
            made["travelling_bytes"] < made["document_bytes"] / 10 and references > 0,
            "what travels is small: the rest is in the store",
        )
        stored = listing(store.root, "outputs/demo/invoices-2291")
        narrator.check(
            bool(stored), f"the store holds {len(stored)} objects below outputs/demo/invoices-2291/"
        )

        taken = run_engram("consume", deployment_env, json.dumps(made["travelling"]))
        narrator.say(f"the Deployment's process: {taken['document_bytes']:>9,} bytes of JSON hydrated back")
        narrator.check(
            taken["equal"] and taken["document_sha256"] == made["document_sha256"],
            f"equal, sha256 {taken['document_sha256'][:16]}…",
            f"sent {made['document_sha256']}, got {taken['document_sha256']}",
        )
        narrator.check(taken["blob_sha256"] == made["blob_sha256"], "and so is the binary")

    def _fill(self, store: DemoStore) -> tuple[set[str], set[str]]:
        narrator = self._narrator
        began = time.monotonic()
        objects = build_objects(NAMESPACE, now=time.time())
        store.write([(entry.key, entry.body, entry.modified) for entry in objects])
        due = {entry.key for entry in objects if entry.due}
        kept = {entry.key for entry in objects if not entry.due}
        narrator.say(
            f"{len(objects):,} objects written in {time.monotonic() - began:.1f} s: {len(due):,} in runs "
            f"older than 30 days; {len(kept):,} to keep (young runs, old runs with one young object, "
            "and those of another namespace)"
        )
        return due, kept | listing(store.root, "outputs/demo/invoices-2291")

    def _policy(self, cluster: Cluster) -> None:
        cluster.apply(
            {
                "apiVersion": "storage.bubustack.io/v1alpha1",
                "kind": "RetentionPolicy",
                "metadata": {"name": "thirty-days", "namespace": NAMESPACE},
                "spec": {
                    "storageRef": {"kind": "StorageConfig", "name": "main"},
                    "mode": "DryRun",
                    "interval": "1s",
                    # Until somebody watches: each pass is to be seen.
                    "suspend": True,
                    "limits": {"maxScan": MAX_SCAN, "maxDelete": MAX_DELETE},
                    "rules": RULES,
                },
            }
        )
        self._narrator.say(
            f"RetentionPolicy thirty-days: keep what is younger than 30 days; at most {MAX_SCAN:,} objects "
            f"scanned and {MAX_DELETE:,} deleted a pass"
        )

    def _dry_run(self, cluster: Cluster, store: DemoStore, due: set[str], kept: set[str]) -> None:
        narrator = self._narrator
        passes = self._follow(
            cluster, {"suspend": False}, mode="DryRun", until=lambda last, _passes: last["completeCycle"]
        )
        found = sum(one["due"] for one in passes)
        narrator.check(
            found == len(due),
            f"DryRun found {found:,} objects due in {len(passes)} passes",
            f"expected {len(due)}",
        )
        narrator.check(
            listing(store.root, "outputs") >= due | kept, "and deleted nothing: every object is still there"
        )

    def _enforce(self, cluster: Cluster, store: DemoStore, due: set[str], kept: set[str]) -> None:
        narrator = self._narrator
        passes = self._follow(
            cluster,
            {"mode": "Enforce"},
            mode="Enforce",
            until=lambda last, seen: (
                last["completeCycle"] and sum(one["deleted"] for one in seen) >= len(due)
            ),
        )
        deleted = sum(one["deleted"] for one in passes)
        narrator.check(
            deleted == len(due),
            f"{deleted:,} objects deleted in {len(passes)} passes",
            f"expected {len(due)}",
        )
        narrator.check(
            all(one["scanned"] <= MAX_SCAN and one["deleted"] <= MAX_DELETE for one in passes),
            f"no pass scanned more than {MAX_SCAN:,} or deleted more than {MAX_DELETE:,}",
            str(passes),
        )
        left = listing(store.root, "outputs")
        narrator.check(not left & due, "everything due is gone", f"{len(left & due)} left")
        narrator.check(
            left >= kept, f"all {len(kept):,} objects to keep are still there", f"{len(kept - left)} gone!"
        )

    def _follow(
        self,
        cluster: Cluster,
        change: dict[str, Any],
        *,
        mode: str,
        until: Callable[[dict[str, Any], list[dict[str, Any]]], bool],
    ) -> list[dict[str, Any]]:
        """Change the policy and collect the finished passes of a mode, until ``until(last, all)`` holds."""
        passes: dict[str, dict[str, Any]] = {}
        with Watch(cluster, "brp", "thirty-days", NAMESPACE) as watch:
            states = watch.states(deadline_seconds=60)
            # The first state says that the watch is open: from now on no pass is missed.
            next(states)
            patch = json.dumps({"spec": change})
            cluster.kubectl("patch", "brp", "thirty-days", "-n", NAMESPACE, "--type=merge", "-p", patch)
            for state in states:
                status = state.get("status", {})
                last = {"completeCycle": False, "scanned": 0, "due": 0, "deleted": 0, "failed": 0}
                last |= status.get("lastPass") or {}
                if last.get("mode") != mode or not last.get("finishTime") or last["startTime"] in passes:
                    continue
                passes[last["startTime"]] = last
                self._report(
                    len(passes), last, status.get("dryRunCursor" if mode == "DryRun" else "cursor") or {}
                )
                if until(last, list(passes.values())):
                    break
        return list(passes.values())

    def _report(self, number: int, last: dict[str, Any], cursor: dict[str, Any]) -> None:
        reasons = ", ".join(
            f"{name} {count['objects']:,}" for name, count in sorted(last["byReason"].items())
        )
        self._narrator.say(
            f"pass {number}: scanned {last['scanned']:>5,}  due {last['due']:>5,}  deleted "
            f"{last['deleted']:>5,}  stopped by {last.get('stoppedBy')}; {reasons}"
        )
        self._narrator.say(f"        the next resumes after {cursor.get('after') or 'the beginning'}")


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return one condition of a resource; empty while it has none."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})
