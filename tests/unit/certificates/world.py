"""A small world for the authority: an API server in memory, a clock, and what API servers may remember.

The parts under test are the real ones; only the API server and time are made up. Before and
after every request something else may happen, as the test says: a crash, a pause, the other
controller acting.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from bubu_operator.certificates.bundles import observe_configuration
from bubu_operator.certificates.lifetimes import Lifetimes
from bubu_operator.controllers.authority import AuthorityService
from bubu_operator.errors import KubeConflictError, KubeInvalidError, KubeNotFoundError, KubeUnreachableError
from bubu_operator.kube.resources import SECRETS
from bubu_operator.observability.controller_metrics import ControllerMetrics
from bubu_operator.webhook.authority_source import AuthoritySource
from bubu_operator.webhook.certs import server_context

START = datetime(2030, 1, 1, tzinfo=UTC)
LIFETIMES = Lifetimes(
    ca_seconds=10_800, leaf_seconds=1_800, propagation_seconds=60, slack_seconds=120, backdate_seconds=3_600
)
SECRET = "bubu-storage-webhook-ca"
NAMESPACE = "ns"


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Clock:
    """One time for all: the API server's."""

    seconds: float = 0.0
    known: bool = True
    stale: bool = False
    ahead_seconds: float = 0.0

    def now(self) -> datetime:
        """The time."""
        return START + timedelta(seconds=self.seconds)

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.seconds

    def ask(self) -> bool:
        """Nothing to ask for."""
        return True


@dataclass
class Api:
    """Two objects with resourceVersions; `before` and `after` are called around each request."""

    clock: Clock
    secret: dict[str, Any] | None = None
    configuration: dict[str, Any] | None = None
    version: int = 0
    hook: Callable[[str], None] = lambda _moment: None
    history: list[tuple[float, frozenset[str]]] = field(default_factory=list)

    def configure(self, entries: int = 2) -> None:
        """Register the webhook, without caBundle."""
        self.version += 1
        webhooks = [{"name": f"e{number}", "clientConfig": {"url": "https://x"}} for number in range(entries)]
        metadata = {
            "name": "w",
            "uid": str(self.version),
            "generation": 1,
            "resourceVersion": str(self.version),
        }
        self.configuration = {"metadata": metadata, "webhooks": webhooks}

    def trusted(self) -> list[frozenset[str]]:
        """What each entry trusts now."""
        if self.configuration is None:
            return []
        return [entry.fingerprints for entry in observe_configuration(self.configuration).entries]

    def may_be_held(self, seconds: float) -> set[frozenset[str]]:
        """Every bundle that an API server may still go by, if it hears of changes that late."""
        held = set(self.trusted())
        oldest = self.clock.seconds - seconds
        for at, until in zip(self.history, [*self.history[1:], (float("inf"), frozenset())], strict=True):
            if until[0] >= oldest:
                held.add(at[1])
        return {bundle for bundle in held if bundle}

    # -- the client's face ---------------------------------------------------------------

    def get(self, resource: Any, _name: str, _namespace: Any = None, **_: Any) -> dict[str, Any]:
        """As the API server."""
        self.hook("read")
        found = self.secret if resource is SECRETS else self.configuration
        if found is None:
            raise KubeNotFoundError("not there")
        answer = copy.deepcopy(found)
        self.hook("read done")
        return answer

    def create(self, _resource: Any, body: dict[str, Any], _namespace: Any = None, **_: Any) -> None:
        """As the API server."""
        self.hook("write")
        if self.secret is not None:
            raise KubeConflictError("exists")
        self._store(body)
        self.hook("write done")

    def replace(self, _resource: Any, body: dict[str, Any], **_: Any) -> None:
        """As the API server."""
        self.hook("write")
        if self.secret is None:
            raise KubeNotFoundError("gone")
        if body["metadata"]["resourceVersion"] != self.secret["metadata"]["resourceVersion"]:
            raise KubeConflictError("changed")
        self._store(body)
        self.hook("write done")

    def patch(self, _resource: Any, _name: str, operations: list[dict[str, Any]], **_: Any) -> None:
        """As the API server."""
        self.hook("write")
        if self.configuration is None:
            raise KubeNotFoundError("gone")
        metadata = self.configuration["metadata"]
        test, *rest = operations
        assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": test["value"]}
        if test["value"] != metadata["resourceVersion"]:
            raise KubeInvalidError("the test failed")
        for operation in rest:
            index = int(operation["path"].split("/")[2])
            self.configuration["webhooks"][index]["clientConfig"]["caBundle"] = operation["value"]
        self.version += 1
        metadata.update(resourceVersion=str(self.version), generation=metadata["generation"] + 1)
        self.history.extend((self.clock.seconds, bundle) for bundle in self.trusted())
        self.hook("write done")

    def send(self, *_: Any, **__: Any) -> None:
        """Refuse: the time is not asked for over the wire here."""
        raise KubeUnreachableError("there is no such thing here")

    def _store(self, body: dict[str, Any]) -> None:
        self.version += 1
        stored = copy.deepcopy(body)
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.secret = stored

    # -- outsiders -----------------------------------------------------------------------

    def edit(self, key: str, value: bytes | None) -> None:
        """Somebody edits the Secret."""
        if self.secret is None:
            return
        if value is None:
            self.secret["data"].pop(key, None)
        else:
            self.secret["data"][key] = base64.b64encode(value).decode()
        self._store(self.secret)


def leader_of(api: Api, clock: Clock, lifetimes: Lifetimes = LIFETIMES) -> AuthorityService:
    """A leader that has just begun."""
    context = SimpleNamespace(
        client=api,
        options=SimpleNamespace(operator_namespace=NAMESPACE, webhook_configuration="w"),
        metrics=ControllerMetrics(),
    )
    service = AuthorityService(context, lifetimes, secret=SECRET, elapsed=clock.elapsed)  # type: ignore[arg-type]
    service._clock = clock  # type: ignore[assignment]
    return service


class Replica:
    """A webhook replica: the real source, looked after by hand."""

    def __init__(self, api: Api, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.context: ssl.SSLContext = server_context()
        self.cut_off = False
        self._loop = loop
        self._api = api
        self.source = AuthoritySource(
            self,  # type: ignore[arg-type]
            self.context,
            namespace=NAMESPACE,
            secret=SECRET,
            names=["x.ns.svc"],
            clock=clock,  # type: ignore[arg-type]
            elapsed=clock.elapsed,
        )

    def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        """As the API server."""
        if self.cut_off:
            raise KubeUnreachableError("cut off")
        if self._api.secret is None:
            raise KubeNotFoundError("not there")
        return copy.deepcopy(self._api.secret)

    def look(self) -> float:
        """Let it look once."""
        return self._loop.run_until_complete(self.source.look())

    @property
    def issuer(self) -> str:
        """Who signed what it serves; "" for nothing."""
        held = self.source._held
        return "" if held is None else held.issuer
