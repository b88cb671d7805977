"""What passes leave for the next one: found again, and bounded."""

from __future__ import annotations

from bubu_operator.controllers.pass_memory import (
    CONDITIONAL_SECONDS,
    MOST_STORES,
    NOT_CONDITIONAL_SECONDS,
    PassMemory,
)
from bubu_operator.kube.resources import ObjectKey

ONE, TWO, THREE = (ObjectKey("team-a", name) for name in ("one", "two", "three"))


def test_it_is_remembered_by_policy_and_store():
    """Neither another store nor another policy gets it."""
    memory = PassMemory()
    memory.put("s3://a", ONE, {"documents": [1]})

    assert memory.get("s3://a", ONE) == {"documents": [1]}
    assert memory.get("s3://b", ONE) is None
    assert memory.get("s3://a", TWO) is None


def test_what_was_used_longest_ago_goes_first():
    """The bound is over all policies, in bytes; reading counts as use."""
    memory = PassMemory(max_bytes=100)
    content = {"documents": ["x" * 20]}
    memory.put("s", ONE, content)
    memory.put("s", TWO, content)
    assert memory.get("s", ONE) is not None
    memory.put("s", THREE, content)

    assert memory.get("s", TWO) is None
    assert memory.get("s", ONE) == memory.get("s", THREE) == content


def test_one_that_is_larger_than_the_bound_is_not_kept():
    """And takes nothing else's place for long."""
    memory = PassMemory(max_bytes=100)
    memory.put("s", ONE, {"documents": ["x" * 200]})

    assert memory.get("s", ONE) is None
    memory.put("s", TWO, {"documents": []})
    assert memory.get("s", TWO) is not None


def test_replacing_and_forgetting_give_the_room_back():
    """The same policy again and again never fills the memory; one that is gone leaves nothing."""
    memory = PassMemory(max_bytes=100)
    memory.put("s", TWO, {"documents": []})
    for _ in range(50):
        memory.put("s", ONE, {"documents": ["x" * 20]})
    assert memory.get("s", TWO) is not None

    memory.forget(ONE)

    assert memory.get("s", ONE) is None
    memory.put("s", THREE, {"documents": ["x" * 50]})
    assert memory.get("s", TWO) is not None


def test_what_a_store_honours_is_believed_for_a_while():
    """An hour where it was seen, less where it was not; being told the same again does not prolong it."""
    now = [0.0]
    memory = PassMemory(monotonic=lambda: now[0])
    assert memory.conditional("s3://a") is None
    memory.found_conditional("s3://a", is_conditional=True)
    memory.found_conditional("s3://b", is_conditional=False)
    assert (memory.conditional("s3://a"), memory.conditional("s3://b")) == (True, False)

    now[0] = NOT_CONDITIONAL_SECONDS
    memory.found_conditional("s3://a", is_conditional=True)
    assert (memory.conditional("s3://a"), memory.conditional("s3://b")) == (True, None)
    now[0] = CONDITIONAL_SECONDS
    assert memory.conditional("s3://a") is None


def test_what_stores_honour_is_remembered_of_so_many():
    """The one that was found out about longest ago goes."""
    memory = PassMemory()
    for number in range(MOST_STORES + 1):
        memory.found_conditional(f"s3://{number}", is_conditional=True)

    assert (memory.conditional("s3://0"), memory.conditional("s3://1")) == (None, True)
