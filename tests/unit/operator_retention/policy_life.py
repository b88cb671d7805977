"""A policy that lives: decide, plan, run the engine over a memory store, write the status, again.

What a controller does between these pure steps is left out, so that many passes take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.cycle import Stage, decide_stage, staged_plan
from bubu_operator.retention.pass_start import PassStart
from bubu_operator.retention.plan import PassPlan, plan_cluster_pass, plan_pass, resume_cursor
from bubu_operator.retention.schedule import Due, decide_due
from bubu_operator.retention.status import finished_status, judge_report, started_status
from bubu_storage.retention.report import PassReport
from bubu_storage.retention.runner import run_pass
from tests.unit.retention.world import World

__all__ = ["Life", "Step"]


def lost(written: Any, read: Any, path: str = "status") -> list[str]:
    """Name what the schema would prune from a status, or read back as something else."""
    if isinstance(written, dict):
        return [item for key in written for item in lost(written[key], read.get(key), f"{path}.{key}")]
    if isinstance(written, list):
        return [item for pair in zip(written, read, strict=True) for item in lost(*pair, path)]
    return [] if written == read else [f"{path}: {written!r} became {read!r}"]


@dataclass(frozen=True)
class Step:
    """What one look at the policy came to; no report where no pass may run.

    Attributes:
        stored: objects in the store before it.
    """

    stage: Stage
    due: Due
    report: PassReport | None = None
    plan: PassPlan | None = None
    stored: int = 0


@dataclass
class Life:
    """One policy on one store.

    Attributes:
        spec: of the policy, as its author writes it.
        namespaces: of a cluster-wide policy; None for a policy of namespace ``a``.
    """

    spec: dict[str, Any]
    namespaces: list[str] | None = None
    world: World = field(default_factory=World)
    status: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    generation: int = 1
    owner_kinds: tuple[str, ...] = ()
    store: str = "s"

    @property
    def policy(self) -> RetentionPolicy | ClusterRetentionPolicy:
        """The policy as it is read now."""
        model = RetentionPolicy if self.namespaces is None else ClusterRetentionPolicy
        metadata = {
            "name": "p",
            "namespace": "a" if self.namespaces is None else "",
            "generation": self.generation,
            "annotations": self.annotations,
        }
        return model.model_validate({"metadata": metadata, "spec": self.spec, "status": self.status})

    def plan(self) -> PassPlan:
        """The plan of the present spec."""
        about = {"output_prefix": "outputs", "input_prefix": "inputs", "store": self.store}
        if self.namespaces is None:
            made = plan_pass(self.policy.spec, namespace="a", owner_kinds=self.owner_kinds, **about)
        else:
            made = plan_cluster_pass(
                self.policy.spec, namespaces=self.namespaces, owner_kinds=self.owner_kinds, **about
            )
        assert isinstance(made, PassPlan), made
        return made

    def change(self, **spec: Any) -> None:
        """Edit the spec."""
        self.spec = self.spec | spec
        self.generation += 1

    def look(self, *, run: bool = True) -> Step:
        """Look at the policy once, whether it is time or not, and run the pass that may run."""
        policy, plan = self.policy, self.plan()
        stage = decide_stage(policy, plan)
        due = decide_due(policy, self.world.time.now(), stage)
        if stage.is_blocked or not run:
            return Step(stage, due)
        plan = staged_plan(plan, stage)
        started, stored_objects = self.world.time.now(), len(self.world.all_keys())
        start = PassStart.of(policy, plan, started=started)
        stored = policy.status.dry_run_cursor if plan.spec.dry_run else policy.status.cursor
        report = run_pass(
            self.world.backend,
            plan.spec,
            resume_cursor(stored, plan.fingerprint),
            monotonic=self.world.time.monotonic,
            sleep=self.world.time.sleep,
            wall_clock=self.world.time.now,
        )
        self.world.time.advance(1)
        self.status = finished_status(
            started_status(self.status, start),
            start,
            report,
            judge_report(report),
            now=self.world.time.now(),
            interval_seconds=policy.spec.interval_seconds,
            redactor=Redactor(),
        )
        assert not lost(self.status, self.policy.status.to_api())
        return Step(stage, due, report, plan, stored_objects)

    def wait(self, seconds: float = 120) -> None:
        """Let time pass."""
        self.world.time.advance(seconds)

    def until_quiet(self, most_looks: int = 200) -> list[Step]:
        """Look until a cycle that deletes ends with nothing due, or somebody has to approve."""
        steps: list[Step] = []
        while len(steps) < most_looks:
            steps.append(self.look())
            last = steps[-1]
            if last.report is None:
                return steps
            if last.stage.kind == "Enforce" and last.report.complete_cycle and not last.report.cycle.due:
                return steps
            self.wait(timedelta(minutes=2).total_seconds())
        raise AssertionError(f"no end after {most_looks} looks: {self.status}")
