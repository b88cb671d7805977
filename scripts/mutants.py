"""Break a module in many small ways and see whether its tests notice.

``python scripts/mutants.py --module bubu_storage.retention.rules tests/unit/retention/test_rules.py``
makes one mutant after the other: a comparison turned round or moved by one, ``and`` for ``or``, a
constant changed, a returned value dropped, a statement left out. Each is loaded instead of the module,
in a process of its own, and the given tests run against it. A mutant that no test fails on survives
and is printed with the line that was changed; what survives is either equivalent or not tested.

Without ``--module`` the modules of `SETS` are broken one after the other, each against its own tests;
names select some of them, and ``--every 4`` takes each fourth mutant alone, for a look that ends soon.

``scripts/mutants.toml`` names the mutants that change nothing that anybody could notice, each with the
reason; they are left out.

Nothing is written: the mutant exists only in the process that tests it. Exits with 1 if one survives.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Final

import hypothesis
import pytest
from hypothesis import Phase

SECONDS_EACH: Final = 20.0
"""A mutant that keeps its tests busy for so much longer than they are without one counts as noticed."""

SLOWER: Final = 4
"""And it may take so many times as long: others use the machine, too."""

SURVIVED: Final = 0
"""Exit status of the tests of a mutant that none of them noticed."""

COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
ROOT: Final = Path(__file__).resolve().parents[1]
EQUIVALENT: Final = Path(__file__).with_suffix(".toml")
SOURCES: Final = (ROOT / "storage_lib", ROOT / "operator")
OWN: Final = frozenset({"bubu_storage", "bubu_operator", "tests"})
"""Packages of this repository."""


def _files(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/{folder}/test_{name}.py" for name in names)


_MARKS: Final = ("mark_keys", "marks_in_dry_runs", "void_marks", "owned_passes")
_GATHERED: Final = ("gather", "list_edges", "discovery", "reading", "source")
_NEIGHBOURS: Final = _files("controllers", "neighbour_owners")
_PLAN: Final = _files("operator_retention", "plan_and_schedule")
SETS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "rules": ("bubu_storage.retention.rules", _files("retention", "rules", "owner_rules")),
    "spec": ("bubu_storage.retention.spec", _files("retention", "spec")),
    "tally": ("bubu_storage.retention.tally", _files("retention", "tally")),
    "cursor": ("bubu_storage.retention.cursor", _files("retention", "cursor_and_report", "tally")),
    "judge": ("bubu_storage.retention.judge", _files("retention", "judge", "late_knowledge", "void_marks")),
    "references": ("bubu_storage.retention.references", _files("retention", "references")),
    "marks": ("bubu_storage.retention.marks", _files("retention", *_MARKS)),
    "approval": ("bubu_storage.retention.approval", _files("retention", "tally", "owned_passes")),
    "scan": ("bubu_storage.retention.scan", _files("retention", "scan", "scan_budget", "prefetch", "runner")),
    "owners": ("bubu_storage.retention.owners", _files("retention", "judge", "late_knowledge")),
    "belief": ("bubu_operator.owners.belief", _files("operator_owners", "belief", "source")),
    "census": ("bubu_operator.owners.census", _files("operator_owners", "census", "belief", "source")),
    "extract": ("bubu_operator.owners.extract", _files("operator_owners", "extract", "kin_and_texts")),
    "relations": ("bubu_operator.owners.relations", _files("operator_owners", "relations")),
    "joined": ("bubu_operator.owners.joined", (*_files("operator_owners", "joined"), *_NEIGHBOURS)),
    "kinds": (
        "bubu_operator.owners.kinds",
        _files("operator_owners", "census", "ended", "joined", "extract"),
    ),
    "gather": ("bubu_operator.owners.gather", _files("operator_owners", *_GATHERED)),
    "reading": (
        "bubu_operator.owners.reading",
        (*_files("operator_owners", "reading", "source"), *_NEIGHBOURS),
    ),
    "served": ("bubu_operator.owners.served", _files("operator_owners", "source")),
    "source": (
        "bubu_operator.owners.source",
        (*_files("operator_owners", "observing", "source"), *_NEIGHBOURS),
    ),
    "cycle": ("bubu_operator.retention.cycle", _files("operator_retention", "cycle", "cycle_status")),
    "overlap": ("bubu_operator.retention.overlap", (*_files("operator_retention", "overlap"), *_NEIGHBOURS)),
    "plan": ("bubu_operator.retention.plan", _PLAN),
    "schedule": ("bubu_operator.retention.schedule", _PLAN),
}
"""Modules that decide, and those that list what they decide by, each with the tests that are to notice."""

NAMES: Final = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break a module.

    Attributes:
        line: number of the line that is changed.
        text: that line.
        change: what is changed, and how.
        original: the module before that.
        place: number of the changed place, as `places` yields them.
        other: what stands there instead.
    """

    line: int
    text: str
    change: str
    original: ast.Module
    place: int
    other: ast.AST

    @property
    def tree(self) -> ast.Module:
        """The module after the change."""
        changed = copy.deepcopy(self.original)
        spot, name, index = next(islice(places(changed), self.place, None))
        if index is None:
            setattr(spot, name, self.other)
        else:
            getattr(spot, name)[index] = self.other
        return ast.fix_missing_locations(changed)


def equivalents(module: str) -> dict[tuple[str, str], str]:
    """Return the mutants of a module that nobody could notice, by line and change, and why."""
    known = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    return {(one["line"], one["change"]): one["why"] for one in known.get(module, ())}


def alternatives(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Return what could stand in the place of a node, each with a description."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=comparators):
            for other in COMPARISONS.get(type(operator), ()):
                yield (
                    f"{type(operator).__name__} -> {other.__name__}",
                    ast.Compare(left, [other()], comparators),
                )
        case ast.Compare(left=left, ops=[first, second], comparators=comparators):
            for other in COMPARISONS.get(type(first), ()):
                yield f"first -> {other.__name__}", ast.Compare(left, [other(), second], comparators)
            for other in COMPARISONS.get(type(second), ()):
                yield f"second -> {other.__name__}", ast.Compare(left, [first, other()], comparators)
        case ast.BoolOp(op=operator, values=values):
            other = ast.Or if isinstance(operator, ast.And) else ast.And
            yield f"{type(operator).__name__} -> {other.__name__}", ast.BoolOp(other(), values)
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield (
                    f"without operand {index + 1}",
                    rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest),
                )
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "without not", operand
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            other_operator = OPERATORS[type(operator)]
            yield (
                f"{type(operator).__name__} -> {other_operator.__name__}",
                ast.BinOp(left, other_operator(), right),
            )
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "branches swapped", ast.IfExp(test, orelse, body)
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Name(id=name) if name in NAMES:
            yield f"{name} -> {NAMES[name]}", ast.Name(NAMES[name], ast.Load())
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield "returns None", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
            yield f"without {type(node).__name__.lower()}", ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Yield()):
            yield "without this statement", ast.Pass()
        case _:
            return


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Return every place in a tree that may be changed: parent, field and index in it.

    Annotations, decorators, texts for people, ``__all__`` and imports say nothing that a test could
    notice.
    """
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        if isinstance(tree, ast.Raise) and name == "exc":
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or isinstance(
                child, (ast.JoinedStr, ast.Import, ast.ImportFrom)
            ):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            yield tree, name, index if isinstance(value, list) else None
            yield from places(child)


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a module's source."""
    tree = ast.parse(source)
    lines = source.splitlines()
    found: list[Mutant] = []
    for place, (parent, name, index) in enumerate(places(tree)):
        value = getattr(parent, name)
        node = value if index is None else value[index]
        for change, other in alternatives(node):
            line = getattr(node, "lineno", 1)
            what = ast.unparse(node).partition("\n")[0]
            found.append(Mutant(line, lines[line - 1].strip(), f"{change} in {what}", tree, place, other))
    return found


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads a changed tree instead of one module.

    Args:
        name: of the module.
        path: of its source.
        tree: what is loaded.
    """

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name = name
        self._path = path
        self._tree = tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return this loader for the one module."""
        del path, target
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed tree as the module."""
        module.__file__ = str(self._path)
        code = compile(self._tree, str(self._path), "exec")
        exec(code, module.__dict__)  # noqa: S102 - this is what loading a module means


OPTIONS: Final = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
    # The other method takes the alarm clock that ends a mutant which never does.
    *("--assert=plain", "--hypothesis-seed=1", "--no-header", "--timeout-method=thread"),
)


def preload(tests: Sequence[str]) -> None:
    """Load what the tests load, once, and forget what is of this repository: mutants load that anew."""
    with Path(os.devnull).open("w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
        pytest.main([*OPTIONS, "--collect-only", *tests])
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    # Whether a test fails is all that is asked, not what the simplest way to that is.
    hypothesis.settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate])
    hypothesis.settings.load_profile("mutants")


def run_tests(loader: Loader | None, arguments: Sequence[str], seconds: float = 600.0) -> int:
    """Run the tests in a child process, against the mutant if one is given; return its status."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_WRONLY)
        if loader is not None:
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            sys.meta_path.insert(0, loader)
        signal.alarm(ceil(seconds))
        status = 1
        try:
            status = int(pytest.main([*OPTIONS, *arguments]))
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(result)


def run_all(work: Callable[[Mutant], int], candidates: Sequence[Mutant], processes: int) -> Iterator[Mutant]:
    """Test mutants, a few at a time, and yield those that survive."""
    running: dict[int, Mutant] = {}
    queue = list(reversed(candidates))
    while queue or running:
        while queue and len(running) < processes:
            mutant = queue.pop()
            child = os.fork()
            if child == 0:
                os._exit(0 if work(mutant) == SURVIVED else 1)
            running[child] = mutant
        child, result = os.wait()
        mutant = running.pop(child)
        if os.waitstatus_to_exitcode(result) == SURVIVED:
            yield mutant


def break_module(module: str, tests: Sequence[str], *, processes: int, every: int) -> int:
    """Test the mutants of one module and print those that survive.

    Returns:
        0 if none did, 1 if one did, 2 if the tests fail without any.
    """
    path = source_of(module)
    source = path.read_text(encoding="utf-8")
    preload(tests)
    began = time.monotonic()
    if run_tests(None, tests) != 0:
        print(f"{module}: the tests fail without any mutant; nothing can be learnt from them")
        return 2
    most_seconds = SECONDS_EACH + SLOWER * (time.monotonic() - began)
    known = equivalents(module)
    everything = mutants(source)[::every]
    candidates = [mutant for mutant in everything if (mutant.text, mutant.change) not in known]
    print(f"{module}: {len(candidates)} mutants, at most {most_seconds:.0f} s each", flush=True)
    began = time.monotonic()
    survivors = 0
    for mutant in run_all(
        lambda mutant: run_tests(Loader(module, path, mutant.tree), tests, most_seconds),
        candidates,
        processes,
    ):
        survivors += 1
        print(f"{path.name}:{mutant.line}: {mutant.change}\n    {mutant.text}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{module}: {len(everything)} mutants, {len(everything) - len(candidates)} equivalent, "
        f"{survivors} survived, {seconds:.0f} s",
        flush=True,
    )
    return 1 if survivors else 0


def source_of(module: str) -> Path:
    """Return the file of a module of this repository."""
    name = Path(*module.split(".")).with_suffix(".py")
    return next(found for root in SOURCES if (found := root / name).exists())


def main() -> int:
    """Read the arguments, test every mutant, print survivors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", help="dotted name of the module to break; without it, sets of them")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at a time")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth mutant")
    parser.add_argument("names", nargs="*", help="arguments for pytest; without --module names of sets")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), *(str(root) for root in SOURCES)]
    if arguments.module:
        chosen = [(arguments.module, tuple(arguments.names))]
    elif unknown := [name for name in arguments.names if name not in SETS]:
        parser.error(f"no set {', '.join(unknown)}; there are {', '.join(SETS)}")
    else:
        chosen = [SETS[name] for name in arguments.names or SETS]
    return max(
        break_module(module, tests, processes=arguments.processes, every=arguments.every)
        for module, tests in chosen
    )


if __name__ == "__main__":
    sys.exit(main())
