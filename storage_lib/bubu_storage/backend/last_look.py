"""A last look right before a deletion leaves this process: may it still be sent?

Whoever deletes under a claim that ends looks at the clock before each request. But a process may be
stopped, or its machine put to sleep, between that look and the moment when the bytes go out: while a
connection is made, or before a further try. So a backend with the capability `GuardsDeletions` asks once
more, at the last place before the operating system, and again between the pieces of a longer request: a
request of which the end was not sent is not carried out by any store.

Invariants: only deletions are asked about; a deletion that was refused was not sent, and fails with a
`NotSentError`, be it alone or one of many; without a guard nothing changes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Protocol, runtime_checkable

from bubu_storage.errors import NotSentError

__all__ = ["GuardsDeletions", "LastLook"]


@runtime_checkable
class GuardsDeletions(Protocol):
    """The optional capability of a backend to ask before each deletion that it sends."""

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Call ``check`` right before each deletion is sent, until the context ends.

        What it raises is carried by a `NotSentError`: of the request, or where the objects of a request
        are deleted one after the other, of each that was not.
        """
        ...


class LastLook:
    """The checks that are installed on one backend; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checks: tuple[Callable[[], None], ...] = ()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody wants to be asked."""
        return bool(self._checks)

    def ask(self) -> None:
        """Call each check; the first that raises ends it.

        Raises:
            NotSentError: with what a check raised.
        """
        for check in self._checks:
            try:
                check()
            except Exception as error:
                refusal = NotSentError(f"the deletion was not sent: {error}")
                refusal.said = error
                raise refusal from error

    @contextlib.contextmanager
    def guard(self, check: Callable[[], None]) -> Generator[None]:
        """Install a check for as long as the context lasts."""
        # Bound methods are equal without being the same; each installation is one of its own.
        installed: Callable[[], None] = lambda: check()  # noqa: E731, PLW0108 - see above
        with self._lock:
            self._checks = (*self._checks, installed)
        try:
            yield
        finally:
            with self._lock:
                self._checks = tuple(one for one in self._checks if one is not installed)
