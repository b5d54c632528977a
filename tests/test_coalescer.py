"""Callers that share what they send: who sends, in which order, and what each is told."""

from __future__ import annotations

import threading

import pytest
from contract.players import PATIENCE_S, wait_until

from coordkit import errors
from coordkit.coalescer import Coalescer
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import channel as channels


class Post:
    """Where batches go: each is written down, and held back while the gate is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.senders: list[str] = []
        self.gate = threading.Event()
        self.refused: set[str] = set()
        self.broken: Exception | None = None
        self.coalescer: Coalescer[str, str] = Coalescer("post", self.send, most_weight=3, most_bytes=100)
        self.calls: list[Call] = []

    def send(self, batch, deadline):
        self.batches.append([entry.payload for entry in batch])
        self.senders.append(threading.current_thread().name)
        assert self.gate.wait(PATIENCE_S)
        if self.broken is not None:
            raise self.broken
        if self.refused & set(self.batches[-1]):
            raise errors.TooLarge("refused")
        for entry in batch:
            entry.succeed(entry.payload.upper())

    def call(self, payload, deadline=NEVER, **size):
        self.calls.append(Call(self.coalescer, payload, deadline, size))
        return self.calls[-1]

    def lead(self, payload="first"):
        """A caller whose batch is on its way."""
        call = self.call(payload)
        wait_until(lambda: self.batches)
        return call

    def queue(self, *payloads, **options):
        """Callers that wait, in this order."""
        calls = []
        for payload in payloads:
            before = len(self.coalescer._waiting)
            calls.append(self.call(payload, **options))
            wait_until(lambda before=before: len(self.coalescer._waiting) > before)
        return calls


class Call:
    def __init__(self, coalescer, payload, deadline, size):
        self.result = self.error = None
        self.thread = threading.Thread(target=self.run, args=(coalescer, payload, deadline, size))
        self.thread.start()

    def run(self, coalescer, payload, deadline, size):
        try:
            self.result = coalescer.submit(payload, deadline, **size)
        except BaseException as error:
            self.error = error

    def end(self):
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.error or self.result


@pytest.fixture
def post():
    made = Post()
    yield made
    made.gate.set()
    for call in made.calls:
        call.end()


class TestWhoSends:
    def test_a_lone_caller_sends_in_its_own_thread(self, post):
        """
        At once, and without a thread switch.
        """
        post.gate.set()

        assert post.coalescer.submit("a", NEVER) == "A"
        assert post.senders == [threading.current_thread().name]

    def test_those_who_wait_go_together_with_the_next(self, post):
        """
        In the order of their coming, as many as fit; each is told its own result.
        """
        first = post.lead()
        others = post.queue("a", "b", "c", "d")

        post.gate.set()

        assert [call.end() for call in (first, *others)] == ["FIRST", "A", "B", "C", "D"]
        assert post.batches == [["first"], ["a", "b", "c"], ["d"]]

    def test_a_batch_is_no_larger_than_was_asked_for(self, post):
        """
        In bytes, too; a single entry may be larger.
        """
        first = post.lead()
        others = [*post.queue("a", "b", size_bytes=60), *post.queue("c", size_bytes=1000)]

        post.gate.set()

        assert all(call.end() for call in (first, *others))
        assert post.batches == [["first"], ["a"], ["b"], ["c"]]


class TestErrors:
    def test_one_bad_member_fails_alone(self, post):
        """
        A batch that is refused is sent again, each on its own.
        """
        first = post.lead()
        others = post.queue("a", "bad", "c")
        post.refused = {"bad"}

        post.gate.set()

        results = [call.end() for call in (first, *others)]
        assert [results[0], results[1], results[3]] == ["FIRST", "A", "C"]
        assert isinstance(results[2], errors.TooLarge)
        assert post.batches == [["first"], ["a", "bad", "c"], ["a"], ["bad"], ["c"]]

    def test_an_outage_is_told_to_all_and_nothing_is_sent_again(self, post):
        """
        Each gets an exception of its own, with the outcome.
        """
        first = post.lead()
        others = post.queue("a", "b")
        post.broken = errors.Unavailable("gone", errors.Outcome.UNKNOWN)

        post.gate.set()

        told = [call.end() for call in (first, *others)]
        assert [error.outcome for error in told] == [errors.Outcome.UNKNOWN] * 3
        assert len({id(error) for error in told}) == 3
        assert post.batches == [["first"], ["a", "b"]]

    def test_who_has_no_more_time_is_told_whether_it_was_sent(self, post):
        """
        What still waited was certainly not sent, and is not any more.
        """
        first = post.lead()
        (late,) = post.queue("late", deadline=Deadline.after(0.05))

        error = late.end()
        post.gate.set()

        assert isinstance(error, errors.DeadlineExceeded)
        assert error.outcome is errors.Outcome.NONE
        assert first.end() == "FIRST"
        assert post.batches == [["first"]]

    def test_what_is_on_its_way_when_time_is_up_may_have_been_applied(self, post):
        """
        The rest of its batch is not hurt.
        """
        first = post.lead()
        late, other = post.queue("late", deadline=Deadline.after(0.5)) + post.queue("other")
        gate, post.gate = post.gate, threading.Event()
        gate.set()
        wait_until(lambda: len(post.batches) == 2)

        error = late.end()
        post.gate.set()

        assert error.outcome is errors.Outcome.UNKNOWN
        assert [first.end(), other.end()] == ["FIRST", "OTHER"]


class TestInterruptions:
    def test_a_leader_that_is_interrupted_hands_on(self, post):
        """
        Whoever waited behind it is sent all the same.
        """

        class Struck(BaseException):
            pass

        first = post.lead()
        others = post.queue("a", "b")
        post.broken = Struck()
        send, post.coalescer._send = post.coalescer._send, None

        def next_time(batch, deadline):
            post.broken = None
            send(batch, deadline)

        post.coalescer._send = next_time
        post.gate.set()

        assert isinstance(first.end(), Struck)
        assert [call.end() for call in others] == ["A", "B"]
        assert post.coalescer.submit("later", NEVER) == "LATER"

    def test_who_is_struck_as_it_wakes_up_wakes_who_is_behind(self, post, monkeypatch):
        """
        Those of a batch wake one after the other.
        """

        class Struck(BaseException):
            pass

        park, gate = channels.Waiter.park, post.gate
        struck = []

        def strike(waiter, timeout_s):
            park(waiter, timeout_s)
            if struck and threading.current_thread() is struck[0].thread and waiter.done:
                raise Struck

        monkeypatch.setattr(channels.Waiter, "park", strike)
        first = post.lead()
        struck += post.queue("a")
        others = post.queue("b", "c")

        gate.set()

        assert first.end() == "FIRST"
        assert isinstance(struck[0].end(), Struck)
        assert [call.end() for call in others] == ["B", "C"]
