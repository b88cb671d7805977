"""A process that is forked shares no connection with its parent, whoever opened the backend."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.factory import open_backend
from bubu_storage.settings import S3Settings
from tests.unit.backend.scripted_server import Answer, Request, scripted_server

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend

ROUNDS = 20
CHILD_SECONDS = 60


def echo(request: Request) -> Answer:
    """Answer with the path that was asked for."""
    return Answer(body=request.path.encode())


def own_answers(backend: ObjectBackend, who: str) -> bool:
    """Whether each get brings what was asked for."""
    for number in range(ROUNDS):
        key = f"{who}-{number}"
        with backend.get_object(key) as found:
            if found.read() != f"/bucket/{key}".encode():
                return False
    return True


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("engine", ["boto3", "auto"])
def test_parent_and_child_read_their_own_answers(engine: str) -> None:
    """The parent has an idle connection when it forks; neither side ever reads the other's object."""
    with scripted_server(echo) as server:
        settings = S3Settings(
            bucket="bucket",
            endpoint=server.endpoint,
            use_path_style=True,
            access_key_id="id",
            secret_access_key="key",
            engine=engine,
        )
        with closing(open_backend(settings)) as backend:
            assert own_answers(backend, "before")
            child = os.fork()
            if child == 0:
                signal.alarm(CHILD_SECONDS)
                os._exit(0 if own_answers(backend, "child") else 1)
            assert own_answers(backend, "parent")
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert own_answers(backend, "after")
