"""The page about security says exactly what the accounts may do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import yaml

from tests.unit.docs.pages import CHART, DOCS

PAGE = (DOCS / "security.md").read_text("utf-8")
FILES = CHART / "files"
ACCOUNTS = ("controller", "webhook")
NAMESPACE = "bubu-storage-system"

Right = tuple[str, str, str, str]
"""Account, cluster or own namespace, resource, the object's name or ""."""


def rights_of(objects: Iterable[dict[str, Any]]) -> dict[Right, set[str]]:
    """Return the verbs that bindings give to the operator's accounts, right by right."""
    by_name = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
    found: dict[Right, set[str]] = defaultdict(set)
    for (kind, _), binding in by_name.items():
        if kind not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        place = "cluster" if kind == "ClusterRoleBinding" else "own namespace"
        assert kind == "ClusterRoleBinding" or binding["metadata"]["namespace"] == NAMESPACE
        role = by_name[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for subject in binding["subjects"]:
            account = subject["name"].removeprefix("bubu-storage-")
            for rule in role["rules"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", [""]):
                        found[account, place, resource, name].update(rule["verbs"])
    return dict(found)


def shown() -> dict[Right, set[str]]:
    """Return what the page's table says."""
    found: dict[Right, set[str]] = {}
    rows = re.findall(r"^\| (controller|webhook) \| ([a-z ]+) \| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
    for account, place, what, verbs in rows:
        one = re.fullmatch(r"one of `(\w+)`: `([\w-]+)`", what)
        rights = [(one[1], one[2])] if one else [(name, "") for name in re.findall(r"`([\w/]+)`", what)]
        for resource, name in rights:
            right = (account, place, resource, name)
            assert right not in found, f"{right} has two rows"
            found[right] = set(verbs.split(", "))
    return found


def installed() -> list[dict[str, Any]]:
    """Return the objects of an ordinary installation."""
    names = ("controller-rbac.yaml", "webhook-rbac.yaml", "webhook-authority-rbac.yaml")
    return [obj for name in names for obj in yaml.safe_load_all((FILES / name).read_text("utf-8"))]


def test_the_table_of_rights_is_that_of_the_installation():
    """Neither more nor less, verb by verb."""
    assert rights_of(installed()) == shown()


def test_what_is_not_bound_is_named():
    """Roles that an installation makes and binds to nobody are on the page, too."""
    objects = installed()
    roles = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "ClusterRole"}
    bound = {obj["roleRef"]["name"] for obj in objects if "roleRef" in obj}

    assert {"bubu-storage-secret-reader", "bubu-storage-prober"} == roles - bound
    assert [name for name in roles - bound if f"`{name}`" not in PAGE] == []


def test_nobody_gets_everything():
    """No wildcard, and no Secret of a tenant, by the plain installation."""
    rights = rights_of(installed())

    assert [right for right, verbs in rights.items() if "*" in {*right, *verbs}] == []
    assert [right for right in rights if right[2] == "secrets" and right[1] == "cluster"] == []
