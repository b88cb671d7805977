"""Rights as flat facts: who may do what to which resource, where; compared, and shown in the docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Right", "rights_of"]


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource.

    Attributes:
        account: the ServiceAccount, or `` "" `` for a role that nobody is bound to.
        role: name of the role.
        namespace: where it holds; ``*`` for everywhere.
        group, resource: of the API.
        name: of the one object, "" for all.
        verb: what may be done.
    """

    account: str
    role: str
    namespace: str
    group: str
    resource: str
    name: str
    verb: str


def rights_of(objects: Iterable[Mapping[str, Any]]) -> set[Right]:
    """Return all rights that roles and bindings among some objects give.

    Raises:
        LookupError: a binding names a role that is not among them.
    """
    objects = list(objects)
    roles = {
        (obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj["rules"]
        for obj in objects
        if obj["kind"] in {"Role", "ClusterRole"}
    }
    found: set[Right] = set()
    bound: set[tuple[str, str, str]] = set()
    for obj in objects:
        if obj["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        place = obj["metadata"].get("namespace", "")
        reference = obj["roleRef"]
        key = (reference["kind"], place if reference["kind"] == "Role" else "", reference["name"])
        if key not in roles:
            raise LookupError(f"{obj['kind']} {obj['metadata']['name']} binds {key}, which is not there")
        bound.add(key)
        for subject in obj["subjects"]:
            found |= _flat(subject["name"], key[2], place or "*", roles[key])
    for key in roles.keys() - bound:
        found |= _flat("", key[2], key[1] or "*", roles[key])
    return found


def _flat(account: str, role: str, namespace: str, rules: list[dict[str, Any]]) -> set[Right]:
    return {
        Right(account, role, namespace, group, resource, name, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    }
