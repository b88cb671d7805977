"""The tables of rights in docs/chart.md, made from what the chart renders.

``python -m tests.chart.rbac_table`` writes them between the page's markers; a test compares.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from tests.chart.rendering import NAMESPACE, render
from tests.chart.rights import Right, rights_of

__all__ = ["PAGE", "with_tables"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chart.md"
_TENANT = "TEAM"
_ORDER = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
_PLACES = {"*": "everywhere", NAMESPACE: "the release's namespace", "team": f"a namespace `{_TENANT}`"}
_CASES = {
    "default": {"tenantSecrets": {"namespaces": ["team"]}, "tenantJobs": {"namespaces": ["team"]}},
    "scoped": {
        "scopedNamespace": "team",
        "tenantSecrets": {"namespaces": ["team"]},
        "tenantJobs": {"namespaces": ["team"]},
    },
}


def table(rights: set[Right]) -> str:
    """Return a table: one line for each set of verbs that an account has on something somewhere."""
    verbs: dict[tuple[str, str, str, str, str, str], set[str]] = defaultdict(set)
    for right in rights:
        who = right.account or "people"
        key = (who, right.namespace, right.role, right.group, right.resource, right.name)
        verbs[key].add(right.verb)
    lines: dict[tuple[str, str, str, str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (who, place, role, group, resource, name), some in sorted(verbs.items()):
        ordered = tuple(sorted(some, key=_ORDER.index))
        lines[who, place, role, group, name, ordered].append(resource)
    text = ["| account | where | role | on | may |", "|---|---|---|---|---|"]
    for (who, place, role, group, name, some), resources in lines.items():
        what = ", ".join(f"`{resource}`" for resource in resources)
        what += f" of `{group}`" if group else ""
        what += f", only `{name}`" if name else ""
        text.append(f"| {_short(who)} | {_PLACES[place]} | `{role}` | {what} | {', '.join(some)} |")
    return "\n".join(text)


def with_tables(page: str) -> str:
    """Return the page with its tables made anew.

    Raises:
        LookupError: a marker is missing.
    """
    for case, values in _CASES.items():
        begin, end = f"<!-- rights: {case} -->", "<!-- end of rights -->"
        new = f"{begin}\n{table(rights_of(render(values).objects))}\n{end}"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        page, count = re.subn(pattern, lambda _match, new=new: new, page, flags=re.DOTALL)
        if count != 1:
            raise LookupError(f"{PAGE.name} has {count} times: {begin}")
    return page


def _short(account: str) -> str:
    return account.removeprefix("bubu-storage-")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
    sys.exit(0)
