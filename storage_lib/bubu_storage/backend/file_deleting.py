"""Deleting from a directory tree: objects of one directory, each on its own condition or on none.

The directory is opened once and, when it is empty, removed with its empty parents.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from bubu_storage.backend.file_dirs import DirectoryChain, open_base
from bubu_storage.backend.file_entries import check_unchanged, look_up, remove_entry
from bubu_storage.backend.file_errors import mapped_errors
from bubu_storage.backend.file_locks import changing_entries
from bubu_storage.errors import StorageError

__all__ = ["delete_entries", "sync_directories"]


def delete_entries(
    base: str,
    folders: Sequence[bytes],
    names: Mapping[str, bytes],
    if_match: Mapping[str, str],
    *,
    store: str,
    changed: set[tuple[bytes, ...]],
    last_look: Callable[[], None] = lambda: None,
) -> dict[str, StorageError]:
    """Delete objects of one directory and return the keys that failed, each with its error.

    Args:
        base: base directory of the store.
        folders: the directory below it.
        names: its entries by key; at least one.
        if_match: ETags by key.
        store: name of the store, for messages.
        changed: gets the path of the directory, or of what is left above it; see `sync_directories`.
        last_look: called right before each entry is removed; its `StorageError` is that of the key.
    """
    failed: dict[str, StorageError] = {}
    first = next(iter(names))
    try:
        with mapped_errors(store, "deleted", first), DirectoryChain(open_base(base)) as chain:
            try:
                chain.descend(folders)
            except FileNotFoundError:
                return {}
            for key, name in names.items():
                try:
                    _delete_entry(
                        chain.leaf_fd, name, key, if_match.get(key, ""), store=store, last_look=last_look
                    )
                except StorageError as error:
                    failed[key] = error
            changed.add(tuple(folders[: chain.prune()]))
    except StorageError as error:
        if len(names) == 1:
            return {first: error}
        # It concerns all that is in the directory; each is to have an error of its own.
        for key, name in names.items():
            failed.update(
                delete_entries(
                    base, folders, {key: name}, if_match, store=store, changed=changed, last_look=last_look
                )
            )
    return failed


def sync_directories(base: str, changed: Iterable[Sequence[bytes]], *, store: str) -> None:
    """Force directories to disk, or what is left above them.

    Raises:
        StorageError: one cannot be opened or written.
    """
    for folders in changed:
        with mapped_errors(store, "listed", ""), DirectoryChain(open_base(base)) as chain:
            with contextlib.suppress(FileNotFoundError):
                chain.descend(folders)
            os.fsync(chain.leaf_fd)


def _delete_entry(
    directory: int, name: bytes, key: str, if_match: str, *, store: str, last_look: Callable[[], None]
) -> None:
    with (
        mapped_errors(store, "deleted", key),
        changing_entries(directory, alone=bool(if_match), key=key, store=store),
    ):
        if if_match:
            found = look_up(name, directory)
            if found is not None:
                check_unchanged(found, if_match, "", key=key, store=store)
        last_look()
        remove_entry(name, directory)
