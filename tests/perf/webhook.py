"""The webhook against its goals, beside a no-op handler measured in the same run.

``python -m tests.perf.webhook``. The server is bound to one core, the client to the others. The
goals are bare times, which depend on the machine; the ratios to the no-op do much less. Latency
is measured at 50 reviews a second, once alone and once while retention passes run one after
another on the server's core; throughput with a pod of 6 KiB; memory with 1,000 configs.
"""

from __future__ import annotations

import os
import ssl
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from tests.cluster.certs import write_serving_files
from tests.perf.harness import Goal, Report, parse_options
from tests.perf.lean_client import Connection, at_rate, flat_out, open_all
from tests.perf.webhook_servers import CONFIGS, Server, noop_server, passes_beside, reviews, webhook_server

PER_SECOND: Final = 50.0
REQUESTS_AT_RATE: Final = 250
REQUESTS_FLAT_OUT: Final = 3000
CONNECTIONS: Final = 4
POD_VARIANTS: Final = 128
P50_MS: Final = 1.0
P99_MS: Final = 10.0
P99_BESIDE_A_PASS_MS: Final = 25.0
LEAST_PER_SECOND: Final = 2000.0
MEMORY_MIB: Final = 80.0


class Contest:
    """Both servers and the connections to them."""

    def __init__(
        self,
        report: Report,
        servers: dict[str, Server],
        connections: dict[str, list[Connection]],
        server_cpus: set[int],
    ) -> None:
        self.report = report
        self._servers = servers
        self._connections = connections
        self._server_cpus = server_cpus

    def latency(self, case: str, goals: dict[float, float]) -> None:
        """Measure latency in turn; a goal is for a percentile of the webhook."""
        options = self.report.options
        count = options.count(REQUESTS_AT_RATE)
        seen: dict[str, list[list[float]]] = {name: [] for name in self._connections}
        for number in range(options.rounds):
            for name, connections in self._connections.items():
                taken = sorted(at_rate(connections, PER_SECOND, count))
                seen[name].append(taken)
                text = ", ".join(
                    f"p{share * 100:g} {percentile(taken, share):.2f} ms" for share in (0.5, 0.99)
                )
                print(f"  {case}, round {number + 1}: {name} {text}", file=sys.stderr, flush=True)
        for share in (0.5, 0.99):
            medians = {
                name: statistics.median(percentile(taken, share) for taken in rounds)
                for name, rounds in seen.items()
            }
            figures = {f"{name} p{share * 100:g}": f"{value:.2f} ms" for name, value in medians.items()}
            ours, title = medians["webhook"], f"p{share * 100:g}"
            if share in goals:
                goal = Goal.below(ours, goals[share])
                self.report.add(case, f"{title} in ms", ours, figures=figures, goal=goal)
            self.report.add(case, f"{title} webhook / no-op", ours / medians["no-op"], figures=figures)

    def throughput(self, case: str) -> None:
        """Measure answers a second in turn: by the clock, and by the server's own time on its core.

        The two agree where nobody else wants the core; the goal is held against the second.
        """
        options = self.report.options
        count = options.count(REQUESTS_FLAT_OUT)
        clock: dict[str, list[float]] = {name: [] for name in self._connections}
        core: dict[str, list[float]] = {name: [] for name in self._connections}
        for number in range(options.rounds):
            for name, connections in self._connections.items():
                server = self._servers[name]
                before = server.cpu_seconds
                rate = flat_out(connections, count)
                busy = count / (server.cpu_seconds - before)
                clock[name].append(rate)
                core[name].append(busy)
                text = f"{rate:.0f}/s, {busy:.0f} a core's second"
                print(f"  {case}, round {number + 1}: {name} {text}", file=sys.stderr, flush=True)
        by_clock = {name: statistics.median(rates) for name, rates in clock.items()}
        by_core = {name: statistics.median(rates) for name, rates in core.items()}
        ours = by_core["webhook"]
        figures = {name: f"{by_core[name]:.0f} ({by_clock[name]:.0f} by the clock)" for name in by_core}
        goal = Goal.at_least(ours, LEAST_PER_SECOND)
        self.report.add(case, "reviews in a second of the core", ours, figures=figures, goal=goal)
        self.report.add(case, "webhook / no-op", ours / by_core["no-op"], figures=figures)

    def memory(self, case: str) -> None:
        """Report memory as it is after all that went before."""
        figures = {name: f"{server.rss_mib:.1f} MiB" for name, server in self._servers.items()}
        ours = self._servers["webhook"].rss_mib
        self.report.add(case, "MiB", ours, figures=figures, goal=Goal.below(ours, MEMORY_MIB))

    def beside_a_pass(self, case: str) -> None:
        """Measure latency once more, with a neighbour."""
        with passes_beside(self._server_cpus):
            self.latency(case, {0.99: P99_BESIDE_A_PASS_MS})


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the requests lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def split_cpus() -> tuple[set[int], set[int]]:
    """One core for the server, the others for the client; the same one where there is no other."""
    cpus = sorted(os.sched_getaffinity(0))
    return {cpus[0]}, set(cpus[1:]) or {cpus[0]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    report = Report("Webhook", parse_options("Latency, throughput and memory of the webhook.", arguments))
    server_cpus, client_cpus = split_cpus()
    before = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        files = write_serving_files(Path(name), ["localhost"], ["127.0.0.1"])
        context = ssl.create_default_context(cafile=str(files.ca))
        running = (
            stack.enter_context(noop_server(files, server_cpus)),
            stack.enter_context(webhook_server(files, server_cpus)),
        )
        stack.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, client_cpus)
        servers = {server.name: server for server in running}
        connections = {
            server.name: open_all(server.port, context, reviews(POD_VARIANTS), b'"patch"', CONNECTIONS)
            for server in running
        }
        for opened in connections.values():
            for connection in opened:
                stack.enter_context(closing(connection))
        contest = Contest(report, servers, connections, server_cpus)
        wants = report.options.wants
        if wants(case := "50 reviews a second"):
            contest.latency(case, {0.5: P50_MS, 0.99: P99_MS})
        if wants(case := "as many as one core can, pods of 6 KiB"):
            contest.throughput(case)
        if wants(case := "50 reviews a second beside retention passes"):
            contest.beside_a_pass(case)
        if wants(case := f"memory with {CONFIGS} configs"):
            contest.memory(case)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
