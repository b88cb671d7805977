"""Configs share what is equal in them, and stay what they were."""

from __future__ import annotations

from dataclasses import replace

from bubu_operator.injection import load_config
from bubu_operator.webhook.sharing import PartPool


def config(bucket: str, **more):
    """A config on S3; only the bucket differs unless told otherwise."""
    s3 = {"bucket": bucket, "authentication": {"secretRef": {"name": "minio"}}, **more}
    return load_config(
        {"kind": "StorageConfig", "metadata": {"name": bucket, "namespace": "n"}, "spec": {"s3": s3}}
    )


def test_equal_parts_are_kept_once():
    """All variables but the bucket's are the very same objects; both configs equal what they were."""
    pool = PartPool()
    one, two = pool.share(config("one")), pool.share(config("two"))

    assert (one, two) == (config("one"), config("two"))
    assert one.plan is not None
    assert two.plan is not None
    differing = [
        first.name for first, second in zip(one.plan.env, two.plan.env, strict=True) if first is not second
    ]
    assert differing == ["BUBU_STORAGE_S3_BUCKET"]


def test_a_digest_alone_does_not_make_parts_equal():
    """Two parts of one digest that differ are kept apart."""
    pool = PartPool()
    first = pool.share(config("one"))
    assert first.plan is not None
    forged = replace(first.plan.env[0], unless=frozenset({"OTHER"}))
    second = replace(first, plan=replace(first.plan, env=(forged,)))

    assert pool.share(second) == second


def test_the_pool_is_bounded():
    """Configs in which nothing is equal do not make it grow without end."""
    pool = PartPool(max_parts=5)

    for number in range(50):
        assert pool.share(config(f"bucket-{number}")) == config(f"bucket-{number}")

    assert len(pool._parts) <= 5


def test_a_config_with_a_problem_passes():
    """There is no plan to share."""
    broken = load_config({"kind": "StorageConfig", "metadata": {"name": "x"}, "spec": {}})

    assert PartPool().share(broken) is broken
