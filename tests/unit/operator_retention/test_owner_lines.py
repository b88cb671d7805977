"""Questions about owners and their answers: lines, differences, threads, and everything that goes wrong."""

from __future__ import annotations

import json
import queue
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.retention.owner_answers import MAX_WAITING, OwnerAnswers
from bubu_operator.retention.owner_lines import (
    PART_ENTRIES,
    Assembly,
    OwnerQuestion,
    answer_lines,
    error_line,
    is_answer,
)
from bubu_operator.retention.piped_owners import PipedOwners
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.report import StoppedBy

facts = st.builds(OwnerFacts, st.booleans(), st.none() | st.integers(1, 5))
owners = st.dictionaries(st.text(min_size=1, max_size=4), facts, max_size=8)
references = st.frozensets(st.text(max_size=4), max_size=8)


def assemble(question, base, lines):
    """Put an answer together; return the view of its last line."""
    assembly = Assembly(question, base)
    *parts, last = [assembly.take(line.rstrip(b"\n")) for line in lines]
    assert parts == [None] * len(parts)
    return last


def view(version=1, observed_at=1.0, count=3):
    """Make a view of some owners."""
    return OwnerView(
        version,
        observed_at,
        {f"n/r{number}": OwnerFacts(number % 2 == 0, number or None) for number in range(count)},
        frozenset(f"outputs/n/r{number}/a" for number in range(count)),
    )


@given(owners, references, owners, references, st.booleans())
def test_what_arrives_is_what_was_sent(old, old_refs, new, new_refs, has_base):
    """Whole or as a difference, for any two views."""
    before = OwnerView(1, 1.0, old, old_refs)
    after = OwnerView(2, 2.5, new, new_refs)
    question = OwnerQuestion(7, 2.0, 1 if has_base else None)

    lines = list(answer_lines(question, after, before))

    assert assemble(question, before if has_base else None, lines) == after
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 and is_answer(line) for line in lines)


def test_a_difference_is_as_long_as_what_changed():
    """Of 100,000 owners, one has ended and one reference is gone."""
    before = view(count=100_000)
    after = OwnerView(
        2, 2.0, {**before.owners, "n/r8": OwnerFacts(False)}, before.references - {"outputs/n/r8/a"}
    )

    lines = list(answer_lines(OwnerQuestion(1, 0.0, 1), after, before))

    assert len(lines) == 3
    assert sum(map(len, lines)) < 500
    assert assemble(OwnerQuestion(1, 0.0, 1), before, lines) == after


def test_no_line_grows_with_the_number_of_owners():
    """So that a stop, or more time, is heard between two of them."""
    lines = list(answer_lines(OwnerQuestion(1, 0.0), view(count=20 * PART_ENTRIES), None))

    assert len(lines) == 41
    assert max(map(len, lines)) < 30_000


def test_a_view_that_the_process_does_not_have_is_sent_whole():
    """What was sent last may never have been received."""
    question = OwnerQuestion(1, 0.0, None)

    assert assemble(question, None, answer_lines(question, view(2), view(1))) == view(2)


@pytest.mark.parametrize("version", [0, 1])
def test_versions_may_begin_anywhere(version):
    """The difference to a view is told from no view."""
    question = OwnerQuestion(1, 0.0, version)
    base = view(version)

    assert assemble(question, base, answer_lines(question, view(version + 1), base)) == view(version + 1)


def test_a_lost_part_is_noticed():
    """Whichever it is."""
    question = OwnerQuestion(1, 0.0)
    lines = list(answer_lines(question, view(count=3 * PART_ENTRIES), None))
    assert len(lines) == 7

    for lost in range(6):
        with pytest.raises(OwnersUnknownError, match="a part of it is missing"):
            assemble(question, None, lines[:lost] + lines[lost + 1 :])


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"type":"owners"}',
        b'{"type":"owners","id":1,"set":{"n/r":[1,2]}}',
        b'{"type":"owners","id":1,"set":{"n/r":[true,"x"]}}',
        b'{"type":"owners","id":1,"set":{"n/r":[true]}}',
        b'{"type":"owners","id":1,"gone":7}',
        b'{"type":"owners","id":1,"version":1}',
        b'{"type":"owners","id":1,"version":2,"observed_at":1.0,"base":1,"owners":0,"references":0}',
        b"[" * 100_000,
    ],
)
def test_a_broken_answer_is_an_error(line):
    """Never a view with something missing."""
    with pytest.raises(OwnersUnknownError, match="broken"):
        Assembly(OwnerQuestion(1, 0.0), None).take(line)


def test_an_error_travels_with_its_code():
    """The text says what to do, the code which condition it makes."""
    question = OwnerQuestion(3, 0.0)
    line = error_line(question, OwnersUnknownError("no right: grant it", code="OwnersUnknown"))

    with pytest.raises(OwnersUnknownError, match="no right: grant it") as raised:
        Assembly(question, None).take(line)

    assert raised.value.code == "OwnersUnknown"
    assert Assembly(OwnerQuestion(4, 0.0), None).take(line) is None


# -- both ends joined ----------------------------------------------------------------------


class Source:
    """An owner source of a test's own."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def observe(self, not_before):
        """Answer, or raise."""
        self.asked.append(not_before)
        answer = self.answer(not_before) if callable(self.answer) else self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Joined:
    """Answers and asker, without a process in between."""

    def __init__(self, source, **options):
        self.sent = []
        self.stopped = threading.Event()
        self.answers = OwnerAnswers(source, self._tell, name="answers")
        self.owners = PipedOwners(
            self.answers.ask, should_stop=self.stopped.is_set, **({"answer_seconds": 10.0} | options)
        )

    def _tell(self, line):
        self.sent.append(line)
        self.owners.take(line.rstrip(b"\n"))
        return True


@pytest.fixture
def joined():
    """Make joined ends; they are closed afterwards."""
    made = []

    def make(source, **options):
        made.append(Joined(source, **options))
        return made[-1]

    yield make
    for one in made:
        one.answers.close()


def test_a_view_is_asked_for_only_when_it_is_too_old(joined):
    """One that is fresh enough is given again."""
    source = Source(lambda not_before: view(1, not_before))
    ends = joined(source)

    first = ends.owners.observe(5.0)
    assert ends.owners.observe(4.0) is first
    assert ends.owners.observe(6.0).observed_at == 6.0
    assert source.asked == [5.0, 6.0]


def test_the_second_answer_is_a_difference(joined):
    """And one without any difference is a single line that costs nothing on either side."""
    views = iter([view(1, 1.0), view(1, 2.0), view(2, 3.0, count=4)])
    ends = joined(Source(lambda _: next(views)))

    first = ends.owners.observe(1.0)
    second = ends.owners.observe(2.0)
    assert second.owners is first.owners
    assert ends.owners.observe(3.0) == view(2, 3.0, count=4)
    assert [len(json.loads(line)) for line in ends.sent].count(7) == 3
    assert len(ends.sent) == 3 + 1 + 3


def test_after_an_error_everything_is_sent_anew(joined):
    """Nobody knows what was half received."""
    answers = iter([view(1, 1.0), OwnersUnknownError("boom", code="X"), view(1, 3.0)])
    ends = joined(Source(lambda _: next(answers)))
    ends.owners.observe(1.0)
    with pytest.raises(OwnersUnknownError, match="boom"):
        ends.owners.observe(2.0)
    ends.sent.clear()

    assert ends.owners.observe(3.0) == view(1, 3.0)
    assert len(ends.sent) == 3


def test_an_unexpected_error_is_an_answer_too(joined, caplog):
    """The process does not wait for ever for a thread that has died; the next question is answered."""
    answers = iter([ZeroDivisionError("planted"), view(1, 2.0)])
    ends = joined(Source(lambda _: next(answers)))

    with pytest.raises(OwnersUnknownError, match="ZeroDivisionError") as raised:
        ends.owners.observe(1.0)
    assert "planted" not in str(raised.value)
    assert "planted" in caplog.text
    assert ends.owners.observe(2.0) == view(1, 2.0)


def test_an_answer_that_is_too_old_is_refused(joined):
    """Whatever the other side makes of the question."""
    ends = joined(Source(view(1, 1.0)))

    with pytest.raises(OwnersUnknownError, match="older"):
        ends.owners.observe(2.0)


def test_waiting_is_bounded(joined):
    """A controller that is stopped says nothing."""
    release = threading.Event()
    ends = joined(Source(lambda _: release.wait(200) and view(1, 9.0)), answer_seconds=0.5)
    began = time.monotonic()
    try:
        with pytest.raises(OwnersUnknownError, match=r"not said within 0\.5 s"):
            ends.owners.observe(1.0)
        assert time.monotonic() - began < 60
    finally:
        release.set()


def test_a_late_answer_is_passed_over(joined):
    """It belongs to a question that nobody waits for."""
    release = threading.Event()
    answers = iter([lambda: release.wait(200) and view(1, 1.0, count=9), lambda: view(2, 2.0)])
    ends = joined(Source(lambda _: next(answers)()), answer_seconds=0.5)
    with pytest.raises(OwnersUnknownError):
        ends.owners.observe(1.0)
    release.set()
    ends.owners._answer_seconds = 10.0

    assert ends.owners.observe(2.0) == view(2, 2.0)


def test_a_stop_is_heard_while_it_waits(joined):
    """The pass ends as by any other stop, not as by an error."""
    release = threading.Event()
    ends = joined(Source(lambda _: release.wait(200) and view()))
    threading.Timer(0.2, ends.stopped.set).start()
    try:
        with pytest.raises(PassStoppedError) as raised:
            ends.owners.observe(1.0)
        assert raised.value.reason is StoppedBy.STOPPED
    finally:
        release.set()


def test_callers_from_several_threads_share_a_question(joined):
    """The engine's threads each want to know."""
    source = Source(lambda not_before: view(1, not_before + 100))
    ends = joined(source)
    results = queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: results.put(ends.owners.observe(1.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results.qsize() == 8
    assert len(source.asked) == 1


def test_a_flood_of_questions_is_refused(joined):
    """A process asks one at a time; the controller's memory does not depend on that."""
    release = threading.Event()
    ends = joined(Source(lambda _: release.wait(200) and view()))
    try:
        taken = [ends.answers.ask(OwnerQuestion(number, 0.0)) for number in range(100)]
        assert MAX_WAITING <= sum(taken) <= MAX_WAITING + 1
    finally:
        release.set()


def test_closing_waits_for_nobody(joined):
    """An observation that is under way is not worth a wait; its answer is not sent."""
    started, release = threading.Event(), threading.Event()

    def answer(_):
        started.set()
        release.wait(200)
        return view()

    ends = joined(Source(answer))
    for number in range(MAX_WAITING + 1):
        ends.answers.ask(OwnerQuestion(number, 0.0))
    assert started.wait(60)
    began = time.monotonic()
    ends.answers.close()
    assert time.monotonic() - began < 60
    release.set()
    deadline = time.monotonic() + 60
    while any(t.name == "answers" for t in threading.enumerate()) and time.monotonic() < deadline:
        threading.Event().wait(0.01)

    assert ends.sent == []
