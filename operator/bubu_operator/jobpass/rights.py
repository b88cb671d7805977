"""What an agent does for the engine, and what it refuses; pure.

The engine asks for nothing else than this. An agent does not rely on that: it was started for one
policy, and holds the identity of a team.

Invariants: listings and deletions stay inside the scopes that the Job was made with, or in the area
of retention's own objects; inside the scopes nothing reserved is deleted; writing happens in that
area alone. A batch with one key that is not allowed is refused whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from bubu_storage.backend.checks import check_key, check_prefix
from bubu_storage.errors import InvalidKeyError, PermissionDeniedError
from bubu_storage.retention.spec import check_path_prefix
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["CONTROL_PREFIX", "Rights"]

CONTROL_PREFIX: Final = f"{RESERVED_PREFIX}retention/"
"""Claims, registrations and marks of retention."""

_RESERVED_INNER: Final = f"/{RESERVED_PREFIX}"
_MAX_QUOTED: Final = 80


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one agent.

    Attributes:
        scopes: prefixes of whole segments, each ending in ``/``.
    """

    scopes: tuple[str, ...]

    @classmethod
    def of_scopes(cls, scopes: Iterable[str]) -> Self:
        """Make the rights of a Job.

        Raises:
            InvalidKeyError: a scope is none, or there is none at all.
        """
        checked = tuple(check_path_prefix(scope, "scope") for scope in scopes)
        if not checked:
            raise InvalidKeyError("an agent needs at least one scope")
        return cls(checked)

    def may_list(self, prefix: str) -> None:
        """Let a listing of a prefix through, or refuse it.

        Raises:
            PermissionDeniedError: it would show what lies outside.
            InvalidKeyError: this is no prefix.
        """
        check_prefix(prefix)
        if not prefix.startswith((*self.scopes, CONTROL_PREFIX)):
            raise self._refusal("list", prefix)

    def may_delete(self, keys: Sequence[str]) -> None:
        """Let the deletion of some objects through, or refuse all of it.

        Raises:
            PermissionDeniedError: one of them lies outside, or is reserved.
            InvalidKeyError: one of them is no key.
        """
        for key in keys:
            check_key(key)
            if key.startswith(CONTROL_PREFIX):
                continue
            if not key.startswith(self.scopes) or _RESERVED_INNER in key:
                raise self._refusal("delete", key)

    def may_put(self, key: str) -> None:
        """Let an object be written, or refuse it.

        Raises:
            PermissionDeniedError: it is none of retention's own.
            InvalidKeyError: this is no key.
        """
        check_key(key)
        if not key.startswith(CONTROL_PREFIX):
            raise self._refusal("write", key)

    def may_read(self, key: str) -> None:
        """Let an object be read: documents of a run may refer to any object of the store.

        Raises:
            InvalidKeyError: this is no key.
        """
        check_key(key)

    def _refusal(self, verb: str, key: str) -> PermissionDeniedError:
        return PermissionDeniedError(
            f"the agent does not {verb} {key[:_MAX_QUOTED]!r}: this pass is about {', '.join(self.scopes)}",
            key=key,
            code="OutsideScopes",
        )
