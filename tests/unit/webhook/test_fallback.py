"""Live reads: what is asked of the API server, how reviews share it, and that nobody waits too long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError, KubeTimeoutError
from bubu_operator.injection import load_config
from bubu_operator.kube.client import ObjectList
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook import fallback as fallback_module
from bubu_operator.webhook.fallback import MAX_READS, Fallback, LiveReader, LiveView
from tests.unit.injection.builders import config_object

Json = dict[str, Any]


class Api:
    """A scripted API server; ``asked`` tells what was read."""

    def __init__(self, *objects: Json, namespaces: dict[str, dict[str, str]] | None = None) -> None:
        self.objects = objects
        self.namespaces = {"flows": {}} if namespaces is None else namespaces
        self.asked: list[tuple[str, str | None, str]] = []
        self.seconds: list[float] = []

    def get(self, resource: Any, name: str, namespace: str | None = None, *, timeout_seconds: float) -> Json:
        """One object."""
        self.asked.append((resource.plural, namespace, name))
        self.seconds.append(timeout_seconds)
        if resource.plural == "namespaces" and name in self.namespaces:
            return {"metadata": {"name": name, "labels": self.namespaces[name]}}
        for item in self._of(resource, namespace):
            if item["metadata"]["name"] == name:
                return item
        raise KubeNotFoundError(name, status=404)

    def list_page(
        self,
        resource: Any,
        namespace: str | None = None,
        *,
        limit: int,
        continue_token: str,
        timeout_seconds: float,
    ) -> ObjectList:
        """Pages of one object; items lack their kind, as the API sends them."""
        assert limit > 0
        self.asked.append((resource.plural, namespace, "*"))
        self.seconds.append(timeout_seconds)
        found = self._of(resource, namespace)
        index = int(continue_token or 0)
        items = tuple({k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in found)
        more = str(index + 1) if index + 1 < len(items) else ""
        return ObjectList(items[index : index + 1], "1", more)

    def _of(self, resource: Any, namespace: str | None) -> list[Json]:
        return [
            item
            for item in self.objects
            if item["kind"] == resource.kind and item["metadata"].get("namespace") == namespace
        ]


def reader(api: Api, monotonic: Callable[[], float] = lambda: 0.0) -> LiveReader:
    """A reader of it."""
    return LiveReader(api, load_config, monotonic=monotonic)  # type: ignore[arg-type]


def names(view: LiveView) -> tuple[list[str], list[str]]:
    """Names of own and shared configs."""
    return [item.name for item in view.own], [item.name for item in view.shared]


def test_configs_of_the_namespace_come_first():
    """Cluster-wide ones are not read where the namespace has its own; all pages are."""
    api = Api(config_object("a"), config_object("b"), config_object("s", ""))

    view = reader(api)("flows", "")

    assert names(view) == (["a", "b"], [])
    assert [name for name, _, _ in api.asked] == ["namespaces", "storageconfigs", "storageconfigs"]


def test_cluster_wide_configs_are_read_where_there_is_none_of_the_namespace():
    """One that is being deleted does not count."""
    gone = config_object("a", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    api = Api(gone, config_object("s", "", namespaceSelector={}))

    view = reader(api)("flows", "")

    assert names(view) == (["a"], ["s"])
    assert view.shared[0].kind == "ClusterStorageConfig"


@pytest.mark.parametrize("place", ["pod", "namespace"])
def test_a_config_that_is_named_is_read_by_its_name(place: str):
    """Nothing is listed; the cluster-wide one is asked for only when there is none of the namespace."""
    labels = {"storage.bubustack.io/config": "b"} if place == "namespace" else {}
    api = Api(config_object("a"), config_object("b", ""), namespaces={"flows": labels})

    view = reader(api)("flows", "b" if place == "pod" else "")

    assert names(view) == ([], ["b"])
    assert api.asked == [
        ("namespaces", None, "flows"),
        ("storageconfigs", "flows", "b"),
        ("clusterstorageconfigs", None, "b"),
    ]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "A", "-a", "x" * 300, "a%2fb", "flows\n"])
def test_what_is_no_name_is_not_asked_for(name: str):
    """It comes from whoever reaches the port, and would become part of a path."""
    api = Api(config_object("a"))

    assert reader(api)(name, "").labels is None
    assert api.asked == []
    if name:
        assert names(reader(api)("flows", name)) == ([], [])
        assert [kind for kind, _, _ in api.asked] == ["namespaces"]


def test_all_requests_of_a_read_share_its_time():
    """Each gets what is left; when nothing is, it is over."""
    times = iter([0.0, 0.3, 0.6, 0.9])
    api = Api()

    with pytest.raises(KubeTimeoutError):
        reader(api, lambda: next(times))("flows", "")
    assert api.seconds == [pytest.approx(0.5), pytest.approx(0.2)]


class Gate:
    """A read that waits until the test lets it go; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self, namespace: str, name: str) -> LiveView:
        """Wait for the test."""
        self.calls.append((namespace, name))
        self.begun.release()
        assert self.let_go.acquire(timeout=60)
        return LiveView({"call": str(len(self.calls))})


async def begun(gate: Gate) -> None:
    """Wait until a read has begun."""
    assert await asyncio.to_thread(gate.begun.acquire, timeout=60)


def soon() -> float:
    """A deadline that is not reached."""
    return asyncio.get_running_loop().time() + 60


def outcomes(metrics: WebhookMetrics) -> dict[str, float]:
    """Counted reads that happened."""
    return {
        sample.labels["outcome"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "bubu_webhook_fallback_reads_total" and sample.value
    }


def test_reviews_share_reads_but_never_one_that_began_before_them():
    """Of many that come during a read, all get the next one: two reads in all."""

    async def run() -> None:
        gate, metrics = Gate(), WebhookMetrics()
        shared = Fallback(gate, metrics)
        first = asyncio.create_task(shared.look("flows", "", soon()))
        await begun(gate)
        later = [asyncio.create_task(shared.look("flows", "", soon())) for _ in range(20)]
        await asyncio.sleep(0)
        gate.let_go.release()
        assert (await first).labels == {"call": "1"}  # type: ignore[union-attr]
        await begun(gate)
        gate.let_go.release()
        assert {str(view and view.labels) for view in await asyncio.gather(*later)} == {"{'call': '2'}"}
        assert outcomes(metrics) == {"found": 2}
        shared.close()

    asyncio.run(run())


def test_reads_at_once_are_bounded():
    """More namespaces than places: the rest waits, and joins nobody else's."""

    async def run() -> None:
        gate = Gate()
        shared = Fallback(gate, WebhookMetrics())
        looks = [asyncio.create_task(shared.look(f"n{n}", "", soon())) for n in range(MAX_READS + 3)]
        for _ in range(MAX_READS):
            await begun(gate)
        assert len(gate.calls) == MAX_READS
        for _ in looks:
            gate.let_go.release()
        assert all(await asyncio.gather(*looks))
        assert len(set(gate.calls)) == len(looks)
        shared.close()

    asyncio.run(run())


def test_too_many_waiting_reads_are_not_begun(monkeypatch: pytest.MonkeyPatch):
    """The review is answered from what is known, at once."""
    monkeypatch.setattr(fallback_module, "MAX_PENDING", 0)

    async def run() -> None:
        gate, metrics = Gate(), WebhookMetrics()
        shared = Fallback(gate, metrics)
        assert await shared.look("flows", "", soon()) is None
        assert (gate.calls, outcomes(metrics)) == ([], {"timeout": 1})
        shared.close()

    asyncio.run(run())


def test_nobody_waits_longer_than_their_deadline():
    """The read goes on for others."""

    async def run() -> None:
        gate = Gate()
        shared = Fallback(gate, WebhookMetrics())
        patient = asyncio.create_task(shared.look("flows", "", soon()))
        hasty = asyncio.create_task(shared.look("flows", "", asyncio.get_running_loop().time()))
        assert await asyncio.wait_for(hasty, 60) is None
        gate.let_go.release()
        assert await patient is not None
        assert len(gate.calls) == 1
        shared.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KubeTimeoutError("slow"), "timeout"),
        (KubeForbiddenError("no", status=403), "failed"),
        (RuntimeError("planted fault"), "failed"),
    ],
)
def test_a_read_that_fails_is_no_answer(error: Exception, outcome: str):
    """None, counted, and the next one is tried."""

    def read(_namespace: str, _name: str) -> LiveView:
        raise error

    async def run() -> None:
        metrics = WebhookMetrics()
        shared = Fallback(read, metrics)
        for _ in range(2):
            assert await shared.look("flows", "", soon()) is None
        assert outcomes(metrics) == {outcome: 2}
        shared.close()

    asyncio.run(run())


@pytest.mark.parametrize("named", ["", "shared"])
def test_without_a_right_to_cluster_wide_configs_none_is_asked_for(named: str):
    """Neither by its name nor all of them: the look ends with what the namespace has."""
    api = Api(config_object("shared", ""))
    look = LiveReader(api, load_config, shared=False, monotonic=lambda: 0.0)  # type: ignore[arg-type]

    view = look("flows", named)

    assert names(view) == ([], [])
    assert {plural for plural, _, _ in api.asked} == {"namespaces", "storageconfigs"}
