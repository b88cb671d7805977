"""Each place where a rule or the judge decides to keep is turned round, one at a time: a test has to fail.

`scripts/mutants.py` breaks these modules in every way, and takes minutes for it. This is the part of it
that matters most, made cheap enough to belong to every run: a keep that no test asks for cannot be lost
unseen. The tests are those of the two modules, called as functions; property tests are not among them.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from bubu_storage.retention import judge, rules
from tests.unit.retention import directed, test_judge, test_owner_rules, test_rules

DUE = ast.parse("Decision(Reason.DUE)", mode="eval").body
NOTHING = ast.Constant(None)


class Flip(ast.NodeTransformer):
    """Replaces one node of a tree, told by its place in the walk."""

    def __init__(self, place: int, other: ast.AST) -> None:
        self.place = place
        self.other = other
        self.at = -1

    def visit(self, node: ast.AST) -> Any:
        """Count, and replace."""
        self.at += 1
        return self.other if self.at == self.place else super().visit(node)


def flips(module: ModuleType, turn: Any) -> list[Any]:
    """Return the ways to turn one decision of a module round: a name and the tree after it.

    Args:
        module: with the decisions.
        turn: gives what is to stand for a node, or None where it is none of them.
    """
    tree = ast.parse(inspect.getsource(module))
    found = []
    nodes = list(walk(tree))
    for place, node in enumerate(nodes):
        other = turn(node)
        if other is not None:
            flipped = Flip(place, other).visit(copy.deepcopy(tree))
            name = f"{node.lineno}: {ast.unparse(node).partition(chr(10))[0][:60]}"
            found.append(pytest.param(ast.fix_missing_locations(flipped), id=name))
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in the order in which `Flip` comes to them."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def keep_of_a_rule(node: ast.AST) -> ast.AST | None:
    """Give nothing for a reason to keep, but where reasons are defined and listed."""
    if isinstance(node, ast.IfExp) and "Reason.KEPT" in ast.unparse(node):
        return NOTHING
    if isinstance(node, ast.Return) and ast.unparse(node).startswith("return Reason.KEPT"):
        return ast.Return(NOTHING)
    return None


def keep_of_the_judge(node: ast.AST) -> ast.AST | None:
    """Give what loses a protection for each statement that protects."""
    match node:
        case ast.Raise():
            return ast.Pass()
        case ast.Return(value=ast.Name(id="decision")):
            return ast.Return(DUE)
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="add" | "note" | "_merge" | "_follow"))):
            return ast.Pass()
        case ast.Assign(targets=[ast.Subscript()]) | ast.AugAssign(op=ast.Add()):
            return ast.Pass()
        case ast.keyword(arg="owner" | "is_referenced" | "is_shared_store"):
            return ast.keyword(node.arg, ast.Constant(None if node.arg == "owner" else False))
        case _:
            return None


def loaded(module: ModuleType, tree: ast.Module) -> dict[str, Any]:
    """Return what a module's tree defines, beside what the module has."""
    names = dict(vars(module))
    exec(compile(tree, str(module.__file__), "exec"), names)  # noqa: S102 - what loading a module means
    return names


def put_rules(tree: ast.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be judged by the rules of a tree."""
    names = loaded(rules, without_classes(tree))
    monkeypatch.setattr(rules, "KEEP_CHAIN", names["KEEP_CHAIN"])
    monkeypatch.setattr(test_rules, "decide_loose", names["decide_loose"])


def put_judge(tree: ast.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests of the judge use that of a tree."""
    names = loaded(judge, tree)
    for name in ("Judge", "more_protective"):
        monkeypatch.setattr(test_judge, name, names[name])


def without_classes(tree: ast.Module) -> ast.Module:
    """Return a tree that takes its classes from elsewhere: a second `Reason` would be another one."""
    body = [statement for statement in tree.body if not isinstance(statement, ast.ClassDef)]
    return ast.Module(body, tree.type_ignores)


def failing(*modules: ModuleType) -> list[str]:
    """Return the tests of modules that fail."""
    return [name for module in modules for name, fails in directed.tests_of(module) if fails()]


@pytest.mark.parametrize("tree", flips(rules, keep_of_a_rule))
def test_no_keep_of_a_rule_can_be_lost(tree, monkeypatch):
    """A rule that does not speak where it has to lets something go that a test knows is kept."""
    put_rules(tree, monkeypatch)

    assert failing(test_rules, test_owner_rules)


@pytest.mark.parametrize("tree", flips(judge, keep_of_the_judge))
def test_no_protection_of_the_judge_can_be_lost(tree, monkeypatch):
    """What the judge looks up, remembers and refuses to do is asked for by a test."""
    put_judge(tree, monkeypatch)

    assert failing(test_judge)


def test_nothing_fails_as_it_is(monkeypatch):
    """Loaded in the same ways without a flip; so whatever fails above does so because of the flip."""
    put_rules(ast.parse(inspect.getsource(rules)), monkeypatch)
    put_judge(ast.parse(inspect.getsource(judge)), monkeypatch)

    assert failing(test_rules, test_owner_rules, test_judge) == []


def test_every_keep_has_a_flip():
    """The search for decisions finds at least one in each rule of the chain."""
    sources = {keep.__name__: inspect.getsource(keep) for keep in rules.KEEP_CHAIN}

    assert [
        name for name, source in sources.items() if not any(map(keep_of_a_rule, walk(ast.parse(source))))
    ] == []
