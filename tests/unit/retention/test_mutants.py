"""``scripts/mutants.py``: every set names a module that is there and tests that are, and breaks something."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _load():
    """Load the script as a module."""
    spec = importlib.util.spec_from_file_location("mutants_script", ROOT / "scripts" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _load()


@pytest.mark.parametrize("name", list(script.SETS))
def test_a_set_is_whole(name):
    """A module or a test that was renamed does not drop out unseen."""
    module, tests = script.SETS[name]

    assert script.source_of(module).is_file()
    assert [one for one in tests if not (ROOT / one).is_file()] == []


def test_mutants_that_are_called_equivalent_are_there():
    """A line that was changed since has to be looked at anew; and each has a reason."""
    for module in script.tomllib.loads(script.EQUIVALENT.read_text(encoding="utf-8")):
        known = script.equivalents(module)
        there = {(one.text, one.change) for one in script.mutants(script.source_of(module).read_text())}
        assert known.keys() - there == set()
        assert all(known.values())


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("x = a <= b", {"x = a < b", "x = a > b"}),
        ("x = a and b", {"x = a or b", "x = a", "x = b"}),
        ("def f():\n    return 3", {"def f():\n    return None", "def f():\n    return 4"}),
        ("x = y if z else w", {"x = w if z else y"}),
        ("__all__ = ['a' < 'b']", set()),
    ],
)
def test_a_mutant_is_one_change(source, changes):
    """Each place is changed in each of its ways, one at a time."""
    found = {ast.unparse(mutant.tree) for mutant in script.mutants(source)}

    assert found == {ast.unparse(ast.parse(change)) for change in changes}


def test_a_set_that_does_not_exist_is_named(capsys, monkeypatch):
    """And so are those that do."""
    monkeypatch.setattr(sys, "argv", ["mutants.py", "nonsense"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        script.main()

    assert "no set nonsense; there are rules, spec," in capsys.readouterr().err
