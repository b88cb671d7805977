"""pytest plugin: one cluster per session, and a namespace of its own for each test.

Whatever must be built is built before the first test, with its progress visible and outside any
test's time limit.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.errors import ClusterError
from tests.cluster.leftovers import Leftovers
from tests.cluster.providers import choose_provider

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.cluster.cluster import Cluster

__all__ = ["cluster", "namespace", "prepare_before_tests"]

_TEST_SECONDS = 900
_LEFTOVERS = pytest.StashKey["Leftovers"]()


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end the session as Ctrl-C does, so that fixtures stop what they started."""

    def leave(number: int, _frame: Any) -> None:
        raise pytest.exit.Exception("terminated", returncode=128 + number)

    with contextlib.suppress(ValueError):  # not in the main thread
        previous = signal.signal(signal.SIGTERM, leave)

        def restore() -> None:
            signal.signal(signal.SIGTERM, previous)

        config.add_cleanup(restore)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses the cluster, so that ``-m "not cluster"`` deselects it.

    All tests on a cluster may take long: their own waits have deadlines, with messages that say more.
    """
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the cluster's programs if a selected test needs them."""
    if any(item.get_closest_marker("cluster") for item in session.items):
        prepare_before_tests(session, lambda: choose_provider().prepare())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Behind a module's last test, when its fixtures are gone, remove what it left on the cluster.

    Fixtures that fail when they end leave the most.
    """
    try:
        yield
    finally:
        leftovers = item.session.stash.get(_LEFTOVERS, None)
        if leftovers is not None and nextitem is not None and nextitem.path != item.path:
            leftovers.remove()


def prepare_before_tests(session: pytest.Session, prepare: Any) -> None:
    """Run a preparation with pytest's capturing off; if it fails, its message ends the session."""
    if session.config.option.collectonly:
        return
    capture: Any = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        try:
            prepare()
        except ClusterError as error:
            pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running Kubernetes API server; its logs are kept if any test failed."""
    failed_before = request.session.testsfailed
    running = choose_provider().start()
    try:
        leftovers = Leftovers(running)
        request.session.stash[_LEFTOVERS] = leftovers
        try:
            yield running
        finally:
            del request.session.stash[_LEFTOVERS]
            leftovers.close()
    finally:
        failed = request.session.testsfailed > failed_before
        running.stop(keep_logs=failed)
        if failed and running.logs.is_dir():
            print(f"\nlogs of the cluster are kept in {running.logs}")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh namespace in which pods can be created; deleted afterwards, without waiting."""
    name = cluster.create_namespace(f"t-{secrets.token_hex(5)}")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
