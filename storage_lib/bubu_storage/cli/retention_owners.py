"""Who owns runs, from a file: for ``retention`` where no API server is asked.

The file is ``{owners: [{run: NAMESPACE/ID, live: true, rank: 1}, …], references: [KEY, …]}``. It is taken as
complete and current: a run that is not in it has no owner. ``rank`` is the run's place among those of its
story, 1 for the newest; without it the run has none, and is kept by rules that count.
"""

from __future__ import annotations

from typing import Final

from bubu_storage.cli.failures import Misconfigured
from bubu_storage.cli.retention_input import Fields, read_documents
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.runner import boot_seconds

__all__ = ["StaticOwners", "read_owners"]

_MAX_RANK: Final = 1_000_000_000
_SEGMENTS: Final = 2


class StaticOwners:
    """An `OwnerSource` that always says the same.

    Args:
        owners: by the name of the run.
        references: keys that live owners refer to.
    """

    def __init__(self, owners: dict[str, OwnerFacts], references: frozenset[str] = frozenset()) -> None:
        self.owners = owners
        self.references = references

    def observe(self, not_before: float) -> OwnerView:
        """Return the content of the file as of now."""
        del not_before
        return OwnerView(1, boot_seconds(), self.owners, self.references)


def read_owners(path: str) -> StaticOwners:
    """Read owners from a file.

    Raises:
        Misconfigured: it cannot be read, or is no such file.
    """
    documents = read_documents(path)
    if len(documents) != 1:
        raise Misconfigured(f"{path!r} holds {len(documents)} documents; one with owners is wanted")
    content = Fields(documents[0], path, ("owners", "references"))
    owners: dict[str, OwnerFacts] = {}
    # Missing and empty differ: no owners at all must be said, for then every run is an orphan.
    for number, item in enumerate(content.items("owners", required=True)):
        owner = Fields(item, f"{path}.owners[{number}]", ("run", "live", "rank"))
        run = owner.text("run")
        segments = run.split("/")
        if len(segments) != _SEGMENTS or not all(segments):
            raise owner.wrong("run", f"is {run!r}; it must be NAMESPACE/ID")
        if run in owners:
            raise owner.wrong("run", f"{run!r} is given twice")
        rank = owner.whole("rank", least=1, most=_MAX_RANK) if owner.has("rank") else None
        owners[run] = OwnerFacts(live=owner.flag("live"), rank=rank)
    references: set[str] = set()
    for number, key in enumerate(content.items("references")):
        if not isinstance(key, str) or not key:
            raise Misconfigured(f"{path}.references[{number}] must be a key of the store")
        references.add(key)
    return StaticOwners(owners, frozenset(references))
