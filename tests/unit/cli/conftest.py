"""The command line in this process, on a directory, with nothing of the caller's environment."""

from __future__ import annotations

import logging
import os

import pytest
from click.testing import CliRunner

from bubu_storage.backend.file import FileBackend
from bubu_storage.cli import cli


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """Neither a store nor credentials come from outside, and ``~/.aws`` is empty."""
    for name in os.environ:
        if name.startswith(("BUBU_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _library_log_level():
    """A command silences the library's log; give the level back to other tests."""
    logger = logging.getLogger("bubu_storage")
    before = logger.level, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    assert before[1] == logger.handlers


@pytest.fixture
def run():
    """Run the command line in this process."""
    runner = CliRunner()

    def invoke(*arguments, stdin=None):
        return runner.invoke(cli, [str(argument) for argument in arguments], input=stdin)

    return invoke


@pytest.fixture
def store(tmp_path):
    """A file store with a few objects; ``store.url`` is for ``--store``."""
    backend = FileBackend(tmp_path / "store", fsync=False)
    backend.url = f"file://{tmp_path / 'store'}"
    for key, body in (
        ("a.txt", b"hello"),
        ("data-old/x", b"old"),
        ("data/1.bin", bytes(range(256))),
        ("data/deep/2.bin", b"two"),
        ("data/deep/er/3.bin", b"three"),
        (".bubu/claim", b"ours"),
        ("zoo", b""),
    ):
        backend.put_object(key, body)
    return backend


@pytest.fixture
def on(run, store):
    """Run a command on `store`."""
    return lambda command, *arguments, **more: run("--store", store.url, command, *arguments, **more)


@pytest.fixture
def keys(store):
    """Return the keys in the store, all of them."""
    return lambda: [item.key for page in store.list_objects() for item in page.objects]
