"""The part of the acceptance suite about copies inside a store; for backends that are a `BackendCopier`.

Used through `bubu_storage.testing.acceptance.BackendAcceptance`.
"""

from __future__ import annotations

import random
from typing import ClassVar

import pytest

from bubu_storage.backend.types import BackendCopier, ObjectBackend
from bubu_storage.errors import InvalidKeyError, ObjectNotFoundError
from bubu_storage.testing.acceptance_listing import NASTY_KEYS, keys_of, read_all, utf8

__all__ = ["CopyAcceptance"]


class CopyAcceptance:
    """What a copy must be seen to do; see `BackendAcceptance`.

    Attributes:
        copies: the backend is a `BackendCopier`; checked, so that a lost capability is noticed.
        keeps_content_type: head and get return what put was given.
        keeps_metadata: likewise for user metadata.
        nasty_keys: keys to try; leave out only what the store itself cannot have.
        large_copy_bytes: length of the largest object that is copied.
    """

    copies: ClassVar[bool] = True
    keeps_content_type: ClassVar[bool] = True
    keeps_metadata: ClassVar[bool] = True
    nasty_keys: ClassVar[tuple[str, ...]] = NASTY_KEYS
    large_copy_bytes: ClassVar[int] = 5 * 1024 * 1024 + 1

    def test_copy(self, backend: ObjectBackend) -> None:
        """A copy has the source's bytes, type and metadata; the source stays as it was."""
        copier = self._copier(backend)
        backend.put_object("src/a", b"payload", content_type="application/json", metadata={"run": "r1"})
        before = backend.head_object("src/a")
        etag = copier.copy_object("src/a", "dst/deep/b")
        copied = backend.head_object("dst/deep/b")
        assert copied.etag == etag
        assert read_all(backend, "dst/deep/b") == b"payload" == read_all(backend, "src/a")
        assert (copied.content_type, dict(copied.metadata)) == (before.content_type, dict(before.metadata))
        assert backend.head_object("src/a") == before
        assert keys_of(backend.list_objects()) == ["dst/deep/b", "src/a"]

    def test_copy_replaces(self, backend: ObjectBackend) -> None:
        """What was at the destination is gone, whole; who has it open reads on."""
        copier = self._copier(backend)
        backend.put_object("src", b"new")
        backend.put_object("dst", b"a longer old version", content_type="text/plain")
        with backend.get_object("dst") as found:
            copier.copy_object("src", "dst")
            assert found.read() == b"a longer old version"
        assert read_all(backend, "dst") == b"new"
        assert backend.head_object("dst").size_bytes == 3

    def test_copy_is_a_version_of_its_own(self, backend: ObjectBackend) -> None:
        """Changing or deleting the source does not touch the copy, nor the other way round."""
        copier = self._copier(backend)
        backend.put_object("src", b"one")
        copier.copy_object("src", "dst")
        backend.put_object("src", b"two")
        assert read_all(backend, "dst") == b"one"
        backend.delete_object("dst")
        assert read_all(backend, "src") == b"two"

    def test_copy_with_another_type_keeps_the_metadata(self, backend: ObjectBackend) -> None:
        """What is not given is the source's: a new content type does not lose the metadata."""
        copier = self._copier(backend)
        if not (self.keeps_content_type and self.keeps_metadata):
            pytest.skip("this store keeps no type or metadata")
        backend.put_object("src", b"x", content_type="text/plain", metadata={"run": "r1"})
        copier.copy_object("src", "dst", content_type="application/json")
        copied = backend.head_object("dst")
        assert (copied.content_type, dict(copied.metadata)) == ("application/json", {"run": "r1"})

    def test_copy_with_other_metadata_keeps_the_type(self, backend: ObjectBackend) -> None:
        """And new metadata, or none at all, does not lose the content type."""
        copier = self._copier(backend)
        if not (self.keeps_content_type and self.keeps_metadata):
            pytest.skip("this store keeps no type or metadata")
        backend.put_object("src", b"x", content_type="text/plain", metadata={"run": "r1"})
        for key, metadata in (("other", {"Story": "s"}), ("none", {})):
            copier.copy_object("src", key, metadata=metadata)
            copied = backend.head_object(key)
            lower = {name.lower(): value for name, value in metadata.items()}
            assert (copied.content_type, dict(copied.metadata)) == ("text/plain", lower)

    def test_copy_onto_itself(self, backend: ObjectBackend) -> None:
        """It changes what is known about an object; with nothing to change it is a mistake."""
        copier = self._copier(backend)
        backend.put_object("same", b"x", content_type="text/plain", metadata={"run": "r1"})
        with pytest.raises(InvalidKeyError, match="same"):
            copier.copy_object("same", "same")
        copier.copy_object("same", "same", content_type="application/json")
        assert read_all(backend, "same") == b"x"
        if self.keeps_content_type:
            assert backend.head_object("same").content_type == "application/json"

    def test_copy_of_a_missing_object(self, backend: ObjectBackend) -> None:
        """It is "not found", naming the source, and leaves the destination as it was."""
        copier = self._copier(backend)
        backend.put_object("dst", b"old")
        for source in ("not-there", "not/there/either"):
            for content_type in ("", "text/plain"):
                with pytest.raises(ObjectNotFoundError) as caught:
                    copier.copy_object(source, "dst", content_type=content_type)
                assert caught.value.key == source
        assert read_all(backend, "dst") == b"old"

    def test_copy_refuses_bad_keys(self, backend: ObjectBackend) -> None:
        """On both sides, before anything is done."""
        copier = self._copier(backend)
        backend.put_object("fine", b"x")
        for bad in ("", "/absolute", "../x", "a/../b", "nul\x00byte", "k" * 1025):
            for source, destination in ((bad, "fine"), ("fine", bad)):
                with pytest.raises(InvalidKeyError):
                    copier.copy_object(source, destination)
        assert keys_of(backend.list_objects()) == ["fine"]

    def test_copy_of_nasty_keys(self, backend: ObjectBackend) -> None:
        """Odd names are copied from and to under exactly that name."""
        copier = self._copier(backend)
        for key in self.nasty_keys:
            backend.put_object(key, utf8(key))
        for key in self.nasty_keys:
            copier.copy_object(key, f"copies/{key}")
        for key in self.nasty_keys:
            assert read_all(backend, f"copies/{key}") == utf8(key)
        assert len(keys_of(backend.list_objects())) == 2 * len(self.nasty_keys)

    def test_copy_of_empty_and_large_objects(self, backend: ObjectBackend) -> None:
        """No byte is lost at either end of the scale."""
        copier = self._copier(backend)
        large = random.Random(4).randbytes(self.large_copy_bytes)
        for key, body in (("empty", b""), ("large", large)):
            backend.put_object(key, body)
            copier.copy_object(key, f"copy-of-{key}")
            assert read_all(backend, f"copy-of-{key}") == body

    def _copier(self, backend: ObjectBackend) -> BackendCopier:
        """Return the backend as what the attribute says it is, or skip."""
        if isinstance(backend, BackendCopier):
            assert self.copies, "this backend copies by now; say so in the suite's attributes"
            return backend
        assert not self.copies, "this backend has no copy_object"
        pytest.skip("this backend has no copies")
