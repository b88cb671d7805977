"""``lock``: who has claimed a store, and removing a claim whose holder is gone."""

from __future__ import annotations

import json
import os
import time

import pytest

from bubu_storage.cli import lock
from bubu_storage.retention.claim import CLAIM_KEY, ClaimSettings, StoreClaim
from bubu_storage.retention.registration import register


@pytest.fixture
def person(monkeypatch):
    """Somebody sits at the terminal."""
    monkeypatch.setattr(lock, "_someone_is_there", lambda: True)


@pytest.fixture
def claim(store):
    """A claim that nobody renews."""
    made = StoreClaim(store, ClaimSettings("cluster/team-a/clean/7", "cluster"), in_background=False)
    made.acquire()
    return made


@pytest.fixture
def expire(store, tmp_path):
    """Let the claim be over."""

    def act():
        path = tmp_path / "store" / CLAIM_KEY
        document = json.loads(path.read_text()) | {"expiresAt": "2020-01-01T00:00:00+00:00"}
        path.write_text(json.dumps(document))
        then = time.time() - 3600
        os.utime(path, (then, then))

    return act


def test_show_of_nothing(on):
    """Nobody has it, and that is no failure."""
    result = on("lock", "show")

    assert result.exit_code == 0
    assert "is not claimed" in result.stdout
    assert json.loads(on("lock", "show", "-o", "json").stdout)["claim"] is None


@pytest.mark.usefixtures("claim")
def test_show_tells_who_since_when_and_until_when(on, store, keys):
    """And which operators have used the store; nothing is written."""
    register(store, "uid-1", name="bubu-operator 0.1")
    before = keys()
    text = on("lock", "show").stdout
    shown = json.loads(on("lock", "show", "-o", "json").stdout)

    for part in ("held", "cluster/team-a/clean/7", "since", "until", "uid-1", "bubu-operator 0.1"):
        assert part in text
    assert shown["claim"]["holder"] == "cluster/team-a/clean/7"
    assert shown["claim"]["expired"] is False
    assert shown["clusters"][0]["cluster"] == "uid-1"
    assert before == keys()


@pytest.mark.usefixtures("claim")
def test_show_of_one_that_is_over(on, expire):
    """It says that the next one takes it."""
    expire()

    assert "over; the next sweeper takes it" in on("lock", "show").stdout
    assert json.loads(on("lock", "show", "-o", "json").stdout)["claim"]["expired"] is True


def test_show_of_what_cannot_be_read(on, store):
    """No holder, never over, and why."""
    store.put_object(CLAIM_KEY, b"\x1b[2J{")
    result = on("lock", "show")

    assert result.exit_code == 0
    assert "unreadable: " in result.stdout
    assert "\x1b" not in result.stdout
    shown = json.loads(on("lock", "show", "-o", "json").stdout)["claim"]
    assert (None, False) == (shown["holder"], shown["expired"])


@pytest.mark.usefixtures("person", "claim")
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 4), ("", 4)])
def test_the_question_names_the_holder(on, keys, expire, answer, code):
    """Only a yes is a yes."""
    expire()
    result = on("lock", "break", stdin=answer)

    assert result.exit_code == code
    assert "Remove the claim of cluster/team-a/clean/7 since" in result.stderr
    assert (CLAIM_KEY in keys()) is (code == 4)


@pytest.mark.usefixtures("claim")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--holder NAME --yes"),
        (("--yes",), "needs --holder"),
        (("--yes", "--holder", "somebody"), "held by 'cluster/team-a/clean/7' and not by 'somebody'"),
        (("--yes", "--holder", "cluster/team-a/clean/7"), "may be deleting right now"),
    ],
)
def test_what_is_refused(on, keys, arguments, words):
    """Exit code 4, and the claim stays: nobody there, no name, another name, or one that is not over."""
    result = on("lock", "break", *arguments)

    assert result.exit_code == 4
    assert words in result.stderr
    assert CLAIM_KEY in keys()


def test_force_ends_a_living_holder(on, keys, claim):
    """It hears of it at its next renewal."""
    result = on("lock", "break", "--yes", "--force", "--holder", "cluster/team-a/clean/7")
    claim.renew()

    assert result.exit_code == 0
    assert "removed the claim of 'cluster/team-a/clean/7'" in result.stderr
    assert claim.remaining_seconds <= 0
    assert CLAIM_KEY not in keys()


def test_what_cannot_be_read_needs_force(on, keys, store):
    """It never ends by itself; its holder's name is empty."""
    store.put_object(CLAIM_KEY, b"{")
    assert on("lock", "break", "--yes", "--holder", "").exit_code == 4
    assert CLAIM_KEY in keys()
    assert on("lock", "break", "--yes", "--holder", "", "--force").exit_code == 0

    assert CLAIM_KEY not in keys()


def test_nothing_to_break(on):
    """That is no failure."""
    result = on("lock", "break", "--yes", "--holder", "x")

    assert result.exit_code == 0
    assert "nothing to break" in result.stderr


@pytest.mark.usefixtures("person")
def test_a_claim_made_while_somebody_thinks_is_left_alone(*, on, keys, store, claim, expire, monkeypatch):
    """What is removed is what was shown."""
    expire()

    def think(_shown):
        store.delete_object(CLAIM_KEY)
        StoreClaim(store, ClaimSettings("another"), in_background=False).acquire()
        return True

    monkeypatch.setattr(lock, "_confirmed", think)
    result = on("lock", "break")

    assert result.exit_code == 4
    assert "claimed anew" in result.stderr
    assert CLAIM_KEY in keys()
