"""The image, built once a session before the first test, with its progress visible."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cluster.fixtures import prepare_before_tests
from tests.image.built_image import ensure_image
from tests.image.container import ImageFiles
from tests.node.packages import ensure_packages, why_no_node

HERE = Path(__file__).parent


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _selected(session: pytest.Session) -> bool:
    return any(item.path.parent == HERE and item.get_closest_marker("node") for item in session.items)


def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the image where one of our tests was selected and can run."""

    def prepare() -> None:
        if os.environ.get("BUBU_REQUIRE_NODE"):
            ensure_packages(_report)
        if not why_no_node():
            ensure_image(_report)

    if _selected(session):
        prepare_before_tests(session, prepare)


@pytest.fixture(scope="session")
def image() -> ImageFiles:
    """The image of this clone."""
    why = why_no_node()
    if why:
        (pytest.fail if os.environ.get("BUBU_REQUIRE_NODE") else pytest.skip)(why)
    return ImageFiles(ensure_image(_report).archive)


@pytest.fixture(scope="session")
def root(image: ImageFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files, unpacked."""
    folder = tmp_path_factory.mktemp("root")
    image.unpack(folder)
    return folder
