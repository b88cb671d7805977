"""The manager on a real S3 server, configured as pods are: by environment alone."""

from __future__ import annotations

import uuid

import pytest

from bubu_storage import StorageManager
from bubu_storage.errors import BucketNotFoundError, ObjectNotFoundError, is_not_found
from bubu_storage.payload.codec import encode

pytestmark = pytest.mark.s3


@pytest.fixture
def env(s3_server, tmp_path):
    """What ApplyEnv gives a container: ``AWS_*`` credentials with an endpoint."""
    bucket = f"manager-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    return {
        "BUBU_STORAGE_PROVIDER": "s3",
        "BUBU_STORAGE_S3_BUCKET": bucket,
        "BUBU_STORAGE_S3_ENDPOINT": s3_server.endpoint,
        "BUBU_STORAGE_S3_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "HOME": str(tmp_path),
    }


def test_documents_with_small_and_large_parts(env):
    """Hundreds of objects in parallel, and one far over the part size, which the Go SDK cannot store."""
    data = {
        "rows": [{"text": f"{i}" + "x" * 1100, "n": i / 4} for i in range(300)],
        "blob": "é<" * 3_000_000,
        "odd keys": {"a/b": "1" * 1100, "../up": "2" * 1100, "a.b": "3" * 1100, "a": {"b": "4" * 1100}},
    }
    with StorageManager.from_env(env) as storage:
        small = storage.dehydrate(data, run_id="team/run-1")
        again = storage.hydrate(small)
        keys = [item.key for item in storage.list_objects("outputs/team/run-1")]

    assert again == data
    assert len(encode(small)) < 100_000
    assert len(keys) == 305
    assert keys == sorted(keys, key=str.encode)


def test_inputs_and_blobs(env):
    """The other operations, and that a missing object is known as such."""
    with StorageManager.from_env(env) as storage:
        small = storage.dehydrate_inputs({"a": "x" * 1100, "b": "y" * 1000}, run_id="team/story")
        assert small["$bubuStorageRef"] == "inputs/team/story/input.json"
        assert storage.hydrate(small) == {"a": "x" * 1100, "b": "y" * 1000}
        storage.write_blob("b/x", b"\x00" * 6_000_000, content_type="application/x-test")
        assert storage.read_blob("b/x") == b"\x00" * 6_000_000
        storage.delete("b/x")
        with pytest.raises(ObjectNotFoundError) as caught:
            storage.read_blob("b/x")
        assert is_not_found(caught.value)


def test_a_missing_bucket_is_not_a_missing_object(env):
    """Code that treats "not found" as "nothing there yet" must not swallow it."""
    with StorageManager.from_env({**env, "BUBU_STORAGE_S3_BUCKET": "no-such-bucket"}) as storage:
        with pytest.raises(BucketNotFoundError) as caught:
            storage.hydrate({"$bubuStorageRef": "a"})
        assert not is_not_found(caught.value)
        with pytest.raises(BucketNotFoundError):
            storage.dehydrate("x" * 2000, run_id="r")


def test_wrong_credentials_say_so_and_do_not_show(env):
    """The secret is in no message, note or cause."""
    wrong = {**env, "AWS_SECRET_ACCESS_KEY": "planted-secret"}
    with StorageManager.from_env(wrong) as storage, pytest.raises(PermissionError) as caught:
        storage.hydrate({"$bubuStorageRef": "a"})

    assert "planted-secret" not in f"{caught.value!s} {caught.value.__cause__!r} {caught.value.__notes__}"
