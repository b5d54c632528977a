"""The queue's checker on hand-written histories, good and bad."""

from __future__ import annotations

import itertools

import pytest

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule


class Script:
    """Writes a history; each call takes the next moment."""

    def __init__(self):
        self.operations = []
        self._moments = itertools.count(10, 10)
        self._ids = {}
        self._revisions = itertools.count(100)

    def put(self, *values, result=Result.OK, ids=None):
        for value, id_ in zip(
            values, ids or [f"000-{len(self._ids) + n:04d}" for n in range(99)], strict=False
        ):
            self._ids[value] = id_
        return self._note(Kind.PUT, " ".join(map(self._name, values)), result)

    def claim(self, value, number=1, revision=None):
        self._note(Kind.CLAIM, self._name(value), fence=revision or next(self._revisions), number=number)
        return self.operations[-1].fence

    def ack(self, value, fence, result=Result.OK):
        return self._note(Kind.ACK, self._name(value), result, fence=fence)

    def work_off(self, *values):
        for value in values:
            self.ack(value, self.claim(value))

    def _name(self, value):
        return f"{value}@{self._ids.get(value, '000-9999')}"

    def _note(self, kind, subject, result=Result.OK, **fields):
        moment = next(self._moments)
        ended = None if result is Result.INVOKED else moment + 5
        index = len(self.operations)
        operation = Operation(kind, result, 1, "a", index, moment, ended, subject=subject, **fields)
        self.operations.append(operation)
        return operation


@pytest.fixture
def script():
    return Script()


def rules(script, **options):
    return [violation.rule for violation in checkers.check_queue(script.operations, **options).violations]


class TestGoodHistories:
    def test_what_was_put_and_worked_off_is_clean(self, script):
        """
        One by one or many in a call.
        """
        script.put("a")
        script.put("b", "c")
        script.work_off("a", "b", "c")

        verdict = checkers.check_queue(script.operations, window=0)

        assert verdict.clean and verdict.holds == 3

    def test_an_unknown_put_may_have_happened_or_not(self, script):
        """
        Neither its item nor its absence is held against anybody.
        """
        script.put("a", result=Result.UNKNOWN)
        script.put("b", result=Result.INVOKED)
        script.work_off("a")

        assert rules(script) == []

    def test_a_second_delivery_says_that_it_is_one(self, script):
        """
        After a nack, or the death of a consumer; also where the first was told by nobody.
        """
        script.put("a", "b")
        script.claim("a")
        script.ack("a", script.claim("a", 2))
        script.ack("b", script.claim("b", 3))

        assert rules(script) == []

    def test_an_ack_that_nobody_answered_may_have_been_one(self, script):
        """
        The item may be gone, or come again.
        """
        script.put("a", "b")
        script.ack("a", script.claim("a"), Result.UNKNOWN)
        script.ack("b", script.claim("b"), Result.INVOKED)
        script.ack("b", script.claim("b", 2))

        assert rules(script) == []

    def test_what_is_left_is_not_lost(self, script):
        """
        In the queue, or among the dead letters.
        """
        script.put("a", "b")
        script.claim("b")

        assert rules(script, left=["a", "b"]) == []

    def test_what_was_put_at_the_same_time_has_no_order(self, script):
        """
        An item overtakes only those whose put had ended before its own began.
        """
        script.put("young", ids=["000-5"])
        script.put("old", ids=["000-1"])
        script.work_off("young", "old")

        assert rules(script, window=0) == []


    def test_what_was_claimed_and_given_back_uncounted_is_not_overtaken(self, script):
        """
        Etcd knows of its claim, and consumers do not; without one it was free all the time.
        """
        script.put("old", ids=["000-1"])
        script.put("young", ids=["000-2"])
        script.work_off("young", "old")

        assert rules(script, window=0) == [Rule.OVERTAKEN]
        assert rules(script, window=0, first_claims={"000-1": 99, "000-2": 100}) == []
        assert rules(script, window=0, first_claims={"000-1": 101, "000-2": 100}) == [Rule.OVERTAKEN]
        assert rules(script, window=0, first_claims={"000-1": None, "000-2": 100}) == []

    def test_a_first_claim_that_nobody_told_of_overtakes_too(self, script):
        """
        Its consumer was killed.
        """
        script.put("old", ids=["000-1"])
        script.put("young", ids=["000-2"])
        script.work_off("old")
        script.ack("young", script.claim("young", 2))

        assert rules(script, window=0) == []
        assert rules(script, window=0, first_claims={"000-1": 100, "000-2": 99}) == [Rule.OVERTAKEN]


class TestBadHistories:
    def test_an_item_that_is_gone_is_lost(self, script):
        """
        Never delivered, or delivered and not acked.
        """
        script.put("a", "b", "c")
        script.claim("b")
        script.ack("c", script.claim("c"), Result.FAIL)

        assert rules(script) == [Rule.LOST] * 3

    @pytest.mark.parametrize("put", [False, True])
    def test_an_item_that_nobody_put_is_found(self, script, put):
        """
        Nor one whose put certainly failed.
        """
        if put:
            script.put("a", result=Result.FAIL)
        script.work_off("a")

        assert rules(script) == [Rule.UNEXPECTED]

    def test_two_first_deliveries_are_found(self, script):
        """
        Somebody did not know that somebody else had it.
        """
        script.put("a")
        script.claim("a")
        script.ack("a", script.claim("a"))

        assert rules(script) == [Rule.AGAIN]

    def test_attempts_that_fall_are_found(self, script):
        """
        By the order of the claims' revisions.
        """
        script.put("a")
        script.claim("a", 2)
        script.ack("a", script.claim("a", 1))

        assert Rule.AGAIN in rules(script)

    def test_a_delivery_after_an_ack_is_found(self, script):
        """
        However it is numbered.
        """
        script.put("a")
        script.work_off("a")
        script.claim("a", 2)

        assert rules(script) == [Rule.AGAIN]

    def test_an_item_that_is_overtaken_by_too_many_places_is_found(self, script):
        """
        A window of so many older items may be left to others.
        """
        old = [f"old{number}" for number in range(5)]
        for value in old:
            script.put(value)
        script.put("young")
        script.work_off("young", *old)

        assert rules(script, window=5) == []
        assert rules(script, window=4) == [Rule.OVERTAKEN]

    def test_claims_of_one_transaction_overtake_nobody(self, script):
        """
        They have one revision.
        """
        script.put("a")
        script.put("b")
        for value in ("b", "a"):
            script.ack(value, script.claim(value, revision=500))

        assert rules(script, window=0) == []
