"""How long nobody acts after the leading controller was killed.

In each trial two controllers, real processes under the shipped rights, share a Lease of their own on
a real API server. The leader gets SIGKILL at a random moment; a StorageConfig is created in the same
moment, and the trial ends when its status is there: somebody has opened the store, probed it and
written what it found. The peer is what Kopf's own peering gave on a machine like this one: 51 s.

    python -m tests.perf.failover [--trials 20] [--parallel 2] [--json] [--check]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bubu_operator.defaults import LEASE_NAME
from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.lease import lease_record
from bubu_operator.kube.resources import LEASES, STORAGE_CONFIGS, section
from tests.cluster import start_cluster
from tests.cluster.arena import Arena
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import allow_election, install

GOAL_SECONDS = 15.0
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Trial:
    """One failover.

    Attributes:
        acquired_seconds: from SIGKILL until the Lease names the other one.
        acted_seconds: from SIGKILL until the other one's first action shows.
    """

    acquired_seconds: float
    acted_seconds: float


def run_trial(cluster: Cluster, client: KubeClient, workdir: Path, number: int) -> Trial:
    """Kill a leader and wait for the other one's first action.

    Raises:
        TimeoutError: nobody acted.
    """
    operator_namespace = cluster.create_namespace(f"op-{secrets.token_hex(4)}")
    namespace = cluster.create_namespace(f"t-{secrets.token_hex(4)}")
    allow_election(cluster, operator_namespace)
    folder = workdir / str(number)
    folder.mkdir()
    with Arena(cluster, namespace, operator_namespace, folder) as arena, _telling_logs(folder):
        leader = arena.leader()
        arena.standby()
        name = lease_record(client.get(LEASES, LEASE_NAME, operator_namespace)).holder
        time.sleep(random.uniform(0.0, 2.0))
        leader.kill()
        killed_at = time.monotonic()
        store = arena.root / "main"
        store.mkdir()
        body = {
            "metadata": {"name": "main", "namespace": namespace},
            "spec": {"file": {"path": str(store)}},
        }
        client.create(STORAGE_CONFIGS, body, namespace)
        acquired = 0.0
        while True:
            elapsed = time.monotonic() - killed_at
            if not acquired:
                record = lease_record(client.get(LEASES, LEASE_NAME, operator_namespace))
                acquired = elapsed if record.holder != name else 0.0
            elif section(client.get(STORAGE_CONFIGS, "main", namespace), "status").get("conditions"):
                return Trial(acquired, elapsed)
            if elapsed > PATIENCE_SECONDS:
                raise TimeoutError(f"trial {number}: nobody acted within {elapsed:.0f} s")
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _telling_logs(folder: Path) -> Generator[None]:
    """Show what the controllers said when a trial fails: their logs go with the folder."""
    try:
        yield
    except (KubeApiError, TimeoutError, AssertionError):
        for log in folder.glob("*.log"):
            print(f"{log.name}:\n{log.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
        raise


def main() -> int:
    """Run the trials and print their distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=2, help="trials at once, each with its own Lease")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a trial misses the goal")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bubu-failover-") as folder,
        start_cluster() as cluster,
        KubeClient.load(str(cluster.kubeconfig)) as client,
        ThreadPoolExecutor(options.parallel) as pool,
    ):
        install(cluster)

        def trial(number: int) -> Trial | None:
            try:
                done = run_trial(cluster, client, Path(folder), number)
            except (KubeApiError, TimeoutError, AssertionError) as error:
                print(f"trial {number}: {error}", file=sys.stderr, flush=True)
                return None
            print(
                f"  trial {number}: new leader {done.acquired_seconds:.2f} s, "
                f"first action {done.acted_seconds:.2f} s",
                file=sys.stderr,
                flush=True,
            )
            return done

        results = list(pool.map(trial, range(1, options.trials + 1)))
    done = [result for result in results if result is not None]
    good = sum(result.acted_seconds < GOAL_SECONDS for result in done)
    if options.json:
        print(
            json.dumps(
                {
                    "goal_seconds": GOAL_SECONDS,
                    "good": good,
                    "trials": [None if result is None else asdict(result) for result in results],
                },
                indent=2,
            )
        )
    elif done:
        acted = sorted(result.acted_seconds for result in done)
        acquired = sorted(result.acquired_seconds for result in done)
        print(f"\nfailover after SIGKILL, {options.trials} trials, {options.parallel} at once")
        for what, values in (("new leader", acquired), ("first action", acted)):
            print(
                f"  {what}: fastest {values[0]:.2f} s, median {statistics.median(values):.2f} s, "
                f"slowest {values[-1]:.2f} s"
            )
        print(f"  first action within {GOAL_SECONDS:g} s: {good} of {options.trials}")
    return 1 if options.check and good < options.trials else 0


if __name__ == "__main__":
    raise SystemExit(main())
