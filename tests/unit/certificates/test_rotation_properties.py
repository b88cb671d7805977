"""Whatever happens in whatever order, what is served is trusted by all who may still go by what they know."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bubu_operator.certificates.stored import decode
from bubu_operator.errors import KubeApiError
from tests.unit.certificates.world import LIFETIMES, Api, Clock, Crash, Replica, leader_of

WINDOW_SECONDS = LIFETIMES.propagation_seconds - 1
"""How late an API server may hear of a change."""

STEP_SECONDS = 20
ABSENCE_SECONDS = 200
CUT_SECONDS = 300
CALM_SECONDS = 900
"""Together less than the last third of a leaf's life: what is left when it is to be renewed."""


class AuthorityWorld(RuleBasedStateMachine):
    """Two controllers that may both believe that they lead, two replicas, one API server."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("bubu_operator").setLevel(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.api = Api(self.clock)
        self.api.configure()
        self.leaders = [leader_of(self.api, self.clock) for _ in range(2)]
        self.replicas = [Replica(self.api, self.clock, self.loop) for _ in range(2)]
        self.cut_at = [0.0, 0.0]
        self.looked_at = 0.0
        self.damaged_at = -float(CALM_SECONDS)
        self.script: list[str] = []
        self.nested = False
        self.requests = 0
        self.api.hook = self.happen

    def teardown(self) -> None:
        """Close the loop."""
        self.loop.close()
        logging.getLogger("bubu_operator").setLevel(logging.NOTSET)

    # -- what happens around a request -----------------------------------------------------

    def happen(self, moment: str) -> None:
        """Do what the script says next."""
        if self.nested or not self.script:
            return
        what = self.script.pop(0)
        if what == "crash":
            raise Crash
        self.nested = True
        try:
            if what == "other":
                self.look_once(self.leaders[self.other])
            elif what == "pause":
                self.pass_time(90, leaders=[self.leaders[self.other]])
            elif what == "fail" and moment == "write":
                raise KubeApiError("no answer")
        finally:
            self.nested = False

    def look_once(self, leader: Any) -> None:
        """A look that may fail for want of an answer."""
        try:
            leader.look()
        except KubeApiError:
            return
        self.looked_at = self.clock.seconds

    def pass_time(self, seconds: int, leaders: list[Any]) -> None:
        """Step by step, everybody at work."""
        for _ in range(0, seconds, STEP_SECONDS):
            self.clock.seconds += STEP_SECONDS
            for leader in leaders:
                self.look_once(leader)
            self.everybody_looks()
            self.all_is_trusted()

    def everybody_looks(self) -> None:
        """Each replica looks once."""
        for number, replica in enumerate(self.replicas):
            if replica.cut_off and self.clock.seconds - self.cut_at[number] > CUT_SECONDS:
                replica.cut_off = False
            replica.look()

    # -- rules -----------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """An installation that has come up."""
        for _ in range(3):
            self.look_once(self.leaders[0])
        self.everybody_looks()
        self.clock.seconds += LIFETIMES.propagation_seconds
        assert all(replica.issuer for replica in self.replicas)

    @rule(
        number=st.integers(0, 1),
        script=st.lists(st.sampled_from(["go", "go", "other", "pause", "crash", "fail"]), max_size=6),
    )
    def look(self, number: int, script: list[str]) -> None:
        """A leader looks, and is interrupted."""
        self.script, self.other = list(script), 1 - number
        try:
            self.leaders[number].look()
        except Crash:
            self.leaders[number] = leader_of(self.api, self.clock)
        except KubeApiError:
            pass
        finally:
            self.script = []
        self.everybody_looks()

    @rule(seconds=st.integers(20, 3_600), number=st.integers(0, 2))
    def wait(self, seconds: int, number: int) -> None:
        """Time passes while one controller works, or both."""
        self.pass_time(seconds, leaders=self.leaders if number == 2 else [self.leaders[number]])

    @precondition(lambda self: self.clock.seconds - self.looked_at < ABSENCE_SECONDS)
    @rule(seconds=st.integers(20, ABSENCE_SECONDS // 2))
    def nobody_leads(self, seconds: int) -> None:
        """Time passes while no controller works."""
        self.pass_time(seconds, leaders=[])

    @rule(number=st.integers(0, 1))
    def restart_leader(self, number: int) -> None:
        """What it remembered is gone."""
        self.leaders[number] = leader_of(self.api, self.clock)

    @rule(number=st.integers(0, 1))
    def restart_replica(self, number: int) -> None:
        """It begins without a certificate."""
        self.replicas[number] = Replica(self.api, self.clock, self.loop)
        self.everybody_looks()

    @rule(number=st.integers(0, 1))
    def cut_replica_off(self, number: int) -> None:
        """It hears nothing for a while."""
        if not self.replicas[number].cut_off:
            self.replicas[number].cut_off = True
            self.cut_at[number] = self.clock.seconds

    @rule()
    def ask_for_a_rotation(self) -> None:
        """A person annotates the Secret."""
        if self.api.secret is not None:
            self.requests += 1
            annotations = self.api.secret["metadata"].setdefault("annotations", {})
            annotations["storage.bubustack.io/rotate-authority"] = str(self.requests)
            self.api.edit("ca.crt.unused", None)

    @precondition(lambda self: self.clock.seconds - self.damaged_at >= CALM_SECONDS)
    @rule(
        keys=st.sets(
            st.sampled_from(
                ["signing.crt", "signing.key", "upcoming.crt", "upcoming.key", "ca.crt", "state.json"]
            )
        ),
        value=st.sampled_from([None, b"", b"garbage", b"\xff"]),
    )
    def damage(self, keys: set[str], value: bytes | None) -> None:
        """Somebody deletes the Secret (no keys), or damages parts of it."""
        if self.api.secret is None or self.signing() is None:
            return
        self.damaged_at = self.clock.seconds
        if not keys:
            self.api.secret = None
        for key in keys:
            self.api.edit(key, value)
        self.everybody_looks()

    def signing(self) -> Any:
        """Who signs, by the Secret."""
        return None if self.api.secret is None else decode(self.api.secret.get("data")).state.signing

    # -- what always holds -------------------------------------------------------------------

    @invariant()
    def all_is_trusted(self) -> None:
        """Every leaf that is served verifies against every bundle that may still be held."""
        now = self.clock.now()
        for number, replica in enumerate(self.replicas):
            held = replica.source._held
            if held is None:
                continue
            assert held.valid_at(now), f"replica {number} serves what is out of its time"
            for bundle in self.api.may_be_held(WINDOW_SECONDS):
                assert held.issuer in bundle, f"replica {number} serves what is not trusted"

    @invariant()
    def the_bundle_stays_small(self) -> None:
        """Nothing piles up in caBundle."""
        assert all(len(bundle) <= 24 for bundle in self.api.trusted())


TestAuthorityWorld = AuthorityWorld.TestCase
TestAuthorityWorld.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
