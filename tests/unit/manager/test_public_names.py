"""``import bubu_storage``: exact names, loaded when used, and nothing heavy before."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bubu_storage
from bubu_storage import errors, wire

SOURCE = Path(bubu_storage.__file__).read_text("utf-8")


def in_a_fresh_process(code):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy():
    """Neither boto3 nor Kubernetes, and none of our own modules either."""
    loaded = in_a_fresh_process(
        "import sys, bubu_storage\n"
        "names = ('bubu_', 'boto', 'kube', 'kopf')\n"
        "print(sorted(m for m in sys.modules if m.startswith(names)))"
    )
    assert loaded == "['bubu_storage', 'bubu_storage._version']"


def test_a_manager_on_files_loads_no_sdk(tmp_path):
    """A pod with a file store, or with none, never pays for boto3."""
    code = (
        "import sys\nfrom bubu_storage import *\n"
        f"env = {{'BUBU_STORAGE_PROVIDER': 'file', 'BUBU_STORAGE_PATH': {str(tmp_path)!r}}}\n"
        "with StorageManager.from_env(env) as m:\n"
        "    assert m.hydrate(m.dehydrate('x' * 2000, run_id='r')) == 'x' * 2000\n"
        "heavy = {'boto3', 'botocore', 'obstore', 'kubernetes', 'pydantic', 'click'}\n"
        "print([m for m in sys.modules if m.partition('.')[0] in heavy])"
    )
    assert in_a_fresh_process(code) == "[]"


@pytest.mark.parametrize("name", bubu_storage.__all__)
def test_every_public_name_exists(name):
    """And is what its module says."""
    assert getattr(bubu_storage, name) is not None
    assert name in dir(bubu_storage)


def test_the_three_lists_of_names_agree():
    """Those for type checkers, for loading and for ``import *``."""
    for_checkers = {
        alias.asname
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert for_checkers | {"__version__"} == set(bubu_storage.__all__)
    assert set(bubu_storage._HOME) | {"__version__"} == set(bubu_storage.__all__)
    assert len(bubu_storage.__all__) == len(set(bubu_storage.__all__))


def test_all_errors_are_public():
    """A caller can name whatever the library raises."""
    assert set(errors.__all__) <= set(bubu_storage.__all__)


def test_constants_are_those_of_the_wire():
    """Names of the Go SDK's constants, with our units."""
    assert bubu_storage.DEFAULT_MAX_INLINE_SIZE == wire.DEFAULT_MAX_INLINE_SIZE == 1024
    assert bubu_storage.DEFAULT_MAX_RECURSION_DEPTH == 10
    assert bubu_storage.DEFAULT_STORAGE_TIMEOUT_SECONDS == 300.0
    assert bubu_storage.STORAGE_REF_KEY == "$bubuStorageRef"


def test_unknown_names():
    """Are an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bubu_storage.nothing
