"""The part of the acceptance suite about conditional requests: put-if-absent, compare-and-swap and the like.

Claims, locks and retention rest on them, so what a *server* cannot do is said by class attributes, and each
attribute is itself checked: where one says that conditions are not honoured, the test proves that they are
not, and fails on the day that they are. Used through `bubu_storage.testing.acceptance.BackendAcceptance`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final

import pytest

from bubu_storage.backend.types import BatchDeleter, ObjectBackend
from bubu_storage.errors import (
    ConfigurationError,
    ObjectNotFoundError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from bubu_storage.testing.acceptance_listing import keys_of, read_all

__all__ = ["WRONG_ETAG", "ConditionAcceptance"]

WRONG_ETAG: Final = '"00000000000000000000000000000000"'
"""An ETag that no object has."""


class ConditionAcceptance:
    """What conditional requests must be seen to do; see `BackendAcceptance`.

    "Not honoured" means that the store ignores the condition, or refuses the request with an
    `UnsupportedOperationError`; no store may claim that a condition failed and act all the same.

    Attributes:
        honours_conditional_get: ``if_match`` of get.
        honours_conditional_put: ``if_match`` and ``if_none_match`` of put, for a body of one request.
        honours_large_put_if_absent: ``if_none_match`` for a body that is uploaded in parts.
        honours_large_compare_and_swap: ``if_match`` for such a body.
        honours_conditional_delete: ``if_match`` of a single deletion.
        honours_conditional_batch: ``if_match`` of a batch; judged only where the backend has batches.
        conditions_are_atomic: of concurrent conditional writers exactly one wins.
        big_bytes: length of the "large" object.
        writers: threads of the concurrency tests.
    """

    honours_conditional_get: ClassVar[bool] = True
    honours_conditional_put: ClassVar[bool] = True
    honours_large_put_if_absent: ClassVar[bool] = True
    honours_large_compare_and_swap: ClassVar[bool] = True
    honours_conditional_delete: ClassVar[bool] = True
    honours_conditional_batch: ClassVar[bool] = True
    conditions_are_atomic: ClassVar[bool] = True
    big_bytes: ClassVar[int] = 5 * 1024 * 1024 + 1
    writers: ClassVar[int] = 8

    # ---- refused before anything is asked of the store

    def test_contradictory_conditions_are_refused(self, backend: ObjectBackend) -> None:
        """Conditions that no store understands are the caller's mistake and change nothing."""
        etag = backend.put_object("kept", b"old")
        acts: tuple[Callable[[], object], ...] = (
            lambda: backend.put_object("kept", b"new", if_match=etag, if_none_match="*"),
            lambda: backend.put_object("kept", b"new", if_none_match=etag),
            lambda: backend.put_object("kept", b"new", if_match="*"),
            lambda: backend.get_object("kept", if_match="*"),
            lambda: backend.delete_object("kept", if_match="*"),
        )
        for act in acts:
            with pytest.raises(ConfigurationError):
                act()
        assert read_all(backend, "kept") == b"old"

    # ---- put

    def test_put_if_absent(self, backend: ObjectBackend) -> None:
        """Only the first put of a key is accepted; after a deletion there is a first one again."""
        backend.put_object("old", b"x")
        if not self.honours_conditional_put:
            _not_honoured(lambda: backend.put_object("old", b"new", if_none_match="*"))
            return
        first = backend.put_object("claims/one", b"first", if_none_match="*")
        assert backend.head_object("claims/one").etag == first
        for body in (b"second", iter([b"another", b" body"])):
            with pytest.raises(PreconditionFailedError) as caught:
                backend.put_object("claims/one", body, if_none_match="*")
            assert caught.value.key == "claims/one"
        assert read_all(backend, "claims/one") == b"first"
        assert keys_of(backend.list_objects()) == ["claims/one", "old"]
        backend.delete_object("claims/one")
        backend.put_object("claims/one", b"third", if_none_match="*")
        assert read_all(backend, "claims/one") == b"third"

    def test_compare_and_swap(self, backend: ObjectBackend) -> None:
        """A put with an ETag replaces exactly that version, and nothing else."""
        first = backend.put_object("state", b"1")
        if not self.honours_conditional_put:
            _not_honoured(lambda: backend.put_object("state", b"2", if_match=WRONG_ETAG))
            return
        second = backend.put_object("state", b"2", if_match=first)
        assert second != first
        for stale in (first, WRONG_ETAG):
            with pytest.raises(PreconditionFailedError) as caught:
                backend.put_object("state", b"3", if_match=stale)
            assert caught.value.key == "state"
        assert read_all(backend, "state") == b"2"
        backend.put_object("state", b"3", if_match=backend.head_object("state").etag)
        assert read_all(backend, "state") == b"3"

    def test_replacing_what_is_not_there(self, backend: ObjectBackend) -> None:
        """A put with an ETag never creates an object: there is none that could have it."""
        if not self.honours_conditional_put:
            _not_honoured(lambda: backend.put_object("gone", b"x", if_match=WRONG_ETAG))
            return
        etag = backend.put_object("gone", b"x")
        backend.delete_object("gone")
        for key in ("gone", "never/was"):
            with pytest.raises(PreconditionFailedError):
                backend.put_object(key, b"y", if_match=etag)
        assert keys_of(backend.list_objects()) == []

    def test_put_if_absent_of_a_large_body(self, backend: ObjectBackend) -> None:
        """Also a body that goes out in parts appears only where there is nothing yet."""
        body = bytes(self.big_bytes)
        backend.put_object("big/old", b"small")
        if not self.honours_large_put_if_absent:
            _not_honoured(lambda: backend.put_object("big/old", body, if_none_match="*"))
            return
        etag = backend.put_object("big/new", body, if_none_match="*")
        for key in ("big/new", "big/old"):
            # Also the very same body: what is there must not be taken for the work of this call.
            with pytest.raises(PreconditionFailedError):
                backend.put_object(key, body, if_none_match="*")
        assert backend.head_object("big/new").etag == etag
        assert read_all(backend, "big/old") == b"small"

    def test_compare_and_swap_of_a_large_body(self, backend: ObjectBackend) -> None:
        """It replaces exactly the version that was named, and creates nothing."""
        body = bytes(self.big_bytes)
        etag = backend.put_object("big", body)
        if not self.honours_large_compare_and_swap:
            _not_honoured(lambda: backend.put_object("big", b"x" + body, if_match=WRONG_ETAG))
            return
        for key in ("big", "never/was"):
            with pytest.raises(PreconditionFailedError):
                backend.put_object(key, body, if_match=WRONG_ETAG)
        assert backend.head_object("big").etag == etag
        backend.put_object("big", b"x" + body, if_match=etag)
        assert backend.head_object("big").size_bytes == len(body) + 1
        assert keys_of(backend.list_objects()) == ["big"]

    # ---- get

    @pytest.mark.parametrize("range_header", ["", "bytes=2-4"])
    def test_get_if_same(self, backend: ObjectBackend, range_header: str) -> None:
        """A reader of several ranges notices that the object was replaced in between."""
        first = backend.put_object("read", b"0123456789")
        second = backend.put_object("read", b"9876543210 and more")
        if not self.honours_conditional_get:
            _not_honoured(
                lambda: backend.get_object("read", range_header=range_header, if_match=first).close()
            )
            return
        with pytest.raises(PreconditionFailedError) as caught:
            backend.get_object("read", range_header=range_header, if_match=first)
        assert caught.value.key == "read"
        with backend.get_object("read", range_header=range_header, if_match=second) as found:
            assert found.read() == (b"765" if range_header else b"9876543210 and more")
        with pytest.raises(ObjectNotFoundError):
            backend.get_object("not-there", range_header=range_header, if_match=second)

    # ---- delete

    def test_delete_if_same(self, backend: ObjectBackend) -> None:
        """A deletion with an ETag spares an object that was replaced."""
        first = backend.put_object("d/doomed", b"old")
        second = backend.put_object("d/doomed", b"newer")
        if not self.honours_conditional_delete:
            _not_honoured(lambda: backend.delete_object("d/doomed", if_match=first))
            return
        for stale in (first, WRONG_ETAG):
            with pytest.raises(PreconditionFailedError) as caught:
                backend.delete_object("d/doomed", if_match=stale)
            assert caught.value.key == "d/doomed"
        assert read_all(backend, "d/doomed") == b"newer"
        backend.delete_object("d/doomed", if_match=second)
        assert keys_of(backend.list_objects()) == []

    def test_delete_if_same_of_what_is_not_there(self, backend: ObjectBackend) -> None:
        """A missing object counts as deleted, whatever its ETag was."""
        if not self.honours_conditional_delete:
            _not_honoured(lambda: backend.delete_object("never/was", if_match=WRONG_ETAG))
            return
        etag = backend.put_object("gone", b"x")
        backend.delete_object("gone", if_match=etag)
        backend.delete_object("gone", if_match=etag)
        backend.delete_object("never/was", if_match=etag)
        assert keys_of(backend.list_objects()) == []

    def test_batch_delete_if_same(self, backend: ObjectBackend) -> None:
        """Each key of a batch has a condition of its own, or none; the answer names those that failed."""
        if not isinstance(backend, BatchDeleter):
            pytest.skip("this backend has no batches")
        etags = {key: backend.put_object(key, key.encode()) for key in ("b/changed", "b/plain", "b/same")}
        backend.put_object("b/changed", b"replaced")
        wanted = {"b/changed": etags["b/changed"], "b/same": etags["b/same"], "b/missing": WRONG_ETAG}
        keys = [*etags, "b/missing"]
        if not self.honours_conditional_batch:
            failed = backend.delete_objects(keys, if_match=wanted)
            if failed:
                assert all(isinstance(error, UnsupportedOperationError) for error in failed.values())
            else:
                assert keys_of(backend.list_objects()) == []
            return
        failed = backend.delete_objects(keys, if_match=wanted)
        assert list(failed) == ["b/changed"]
        assert isinstance(failed["b/changed"], PreconditionFailedError)
        assert failed["b/changed"].key == "b/changed"
        assert keys_of(backend.list_objects()) == ["b/changed"]
        assert read_all(backend, "b/changed") == b"replaced"

    # ---- threads

    def test_racing_claims(self, backend: ObjectBackend) -> None:
        """Of many that put-if-absent at once exactly one wins, and its body is the one that stays."""
        if not (self.honours_conditional_put and self.conditions_are_atomic):
            pytest.skip("this store does not decide races of conditional puts")

        def claim(key: str, worker: int) -> str:
            try:
                backend.put_object(key, f"worker {worker}".encode(), if_none_match="*")
            except PreconditionFailedError:
                return ""
            return f"worker {worker}"

        with ThreadPoolExecutor(self.writers) as pool:
            for number in range(5):
                key = f"claim/{number}"
                claims = [pool.submit(claim, key, worker) for worker in range(self.writers)]
                winners = [name for future in claims if (name := future.result())]
                assert winners == [read_all(backend, key).decode()]

    def test_racing_swaps(self, backend: ObjectBackend) -> None:
        """Counting by compare-and-swap from many threads loses no count."""
        if not (self.honours_conditional_put and self.conditions_are_atomic):
            pytest.skip("this store does not decide races of conditional puts")
        rounds = 5
        backend.put_object("counter", b"1000")

        def count() -> None:
            left = rounds
            while left:
                with backend.get_object("counter") as found:
                    value, etag = int(found.read()), found.info.etag
                try:
                    backend.put_object("counter", str(value + 1).encode(), if_match=etag)
                except PreconditionFailedError:
                    continue
                left -= 1

        with ThreadPoolExecutor(self.writers) as pool:
            for future in [pool.submit(count) for _ in range(self.writers)]:
                future.result()
        assert read_all(backend, "counter") == str(1000 + rounds * self.writers).encode()


def _not_honoured(act: Callable[[], object]) -> None:
    """Prove that a condition which does not hold is ignored, or refused as unsupported."""
    try:
        act()
    except UnsupportedOperationError:
        return
    except PreconditionFailedError as error:
        raise AssertionError(
            "this store honours the condition by now; say so in the suite's attributes"
        ) from error
