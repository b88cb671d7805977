"""Fixtures of the tests of the test infrastructure itself."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def fake_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A PATH that holds nothing but the programs a test writes: ``fake_path(go="#!…")``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**programs: str) -> Path:
        for name, source in programs.items():
            path = folder / name
            path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{source}\n", encoding="utf-8")
            path.chmod(0o755)
        return folder

    return write


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own settings and cache out of these tests."""
    for name in list(os.environ):
        if name.startswith(("BUBU_", "KUBE", "XDG_", "GO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BUBU_CACHE_DIR", str(tmp_path / "cache"))
