"""The checkers of elections and of slots, on hand-written histories, good and bad."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule


class Script:
    """Writes a history, a call after the other: each begins at `at` and ends one later."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._indexes: dict[str, itertools.count[int]] = {}

    def call(self, kind: Kind, who: str, at: int, result: Result = Result.OK, **fields: Any) -> Script:
        index = next(self._indexes.setdefault(who, itertools.count()))
        self.operations.append(Operation(kind, result, 1, who, index, at, at + 1, **fields))
        return self

    def term(self, who: str, at: tuple[int, int], fence: int, end: int, value: str = "") -> Script:
        self.call(Kind.CAMPAIGN, who, at[0], fence=fence, subject=value)
        return self.call(Kind.RESIGN, who, at[1], fence=fence, revision=end)

    def told(self, at: int, fence: int | None, revision: int | None = None, value: str = "") -> Script:
        return self.call(Kind.OBSERVE, "eye", at, fence=fence, revision=revision, subject=value)


@pytest.fixture
def script() -> Script:
    return Script()


class TestElection:
    def rules(self, script: Script) -> list[Rule]:
        return [each.rule for each in checkers.check_election(script.operations).violations]

    def test_leaders_in_turn_and_an_observer_behind_them(self, script):
        """
        What is told late is no lie.
        """
        script.term("a", (0, 10), fence=5, end=8, value="A").term("b", (11, 20), fence=6, end=9, value="B")
        script.call(Kind.PROCLAIM, "c", 21, fence=10, revision=11, subject="C")
        script.told(1, None).told(12, 5, 5, "A").told(13, 6, 6, "B").told(30, None).told(31, 10, 11, "C")

        verdict = checkers.check_election(script.operations)

        assert verdict.clean
        assert verdict.holds == 2

    def test_two_leaders(self, script):
        """
        As with a lock.
        """
        script.call(Kind.CAMPAIGN, "a", 0, fence=5, revision=5).call(
            Kind.RESIGN, "a", 30, fence=5, revision=20
        )
        script.call(Kind.CAMPAIGN, "b", 10, fence=6, revision=7)

        assert self.rules(script) == [Rule.OVERLAP, Rule.CLOCK]

    def test_a_late_proclamation(self, script):
        """
        One that was accepted after a younger leader's.
        """
        script.call(Kind.PROCLAIM, "b", 1, fence=6, revision=10)
        script.call(Kind.PROCLAIM, "a", 2, fence=5, revision=11)

        assert self.rules(script) == [Rule.WRITE]

    def test_a_younger_candidate_that_was_taken_for_the_leader(self, script):
        """
        While an older one certainly led.
        """
        script.term("a", (0, 10), fence=5, end=8).told(5, 6, 6)

        assert self.rules(script) == [Rule.LEADER]

    @pytest.mark.parametrize(
        "second",
        [
            pytest.param((4, 9), id="an older leader"),
            pytest.param((5, 6), id="an older value"),
            pytest.param((5, 7), id="the same again"),
        ],
    )
    def test_an_observer_that_was_told_out_of_order(self, script, second):
        """
        Time does not run backwards, and what did not change is not told again.
        """
        script.told(0, 5, 7).told(1, *second)

        assert self.rules(script) == [Rule.LEADER]

    def test_a_leader_that_came_back_from_nothing(self, script):
        """
        Whoever led before nobody did has a key no more.
        """
        script.told(0, 5, 5).told(1, None).told(2, 5, 9)

        assert self.rules(script) == [Rule.LEADER]

    @pytest.mark.parametrize("kind", [Kind.CAMPAIGN, Kind.PROCLAIM])
    def test_a_value_that_was_never_proclaimed(self, script, kind):
        """
        At that revision.
        """
        script.call(kind, "a", 0, fence=5, revision=5, subject="A").told(1, 5, 5, "B")

        assert self.rules(script) == [Rule.LEADER]


class TestOnce:
    def rules(self, script: Script, attempts: int = 1) -> list[Rule]:
        return [each.rule for each in checkers.check_once(script.operations, attempts).violations]

    def take(self, script: Script, who: str, number: int = 1, fence: int = 5, slot: str = "s") -> None:
        script.call(Kind.TAKE, who, 0, number=number, fence=fence, subject=slot)

    def test_one_winner_a_slot(self, script):
        """
        Others are told so, or nothing.
        """
        self.take(script, "a")
        self.take(script, "a", slot="t")
        script.call(Kind.TAKE, "b", 1, Result.FAIL, subject="s").call(
            Kind.TAKE, "c", 1, Result.UNKNOWN, subject="s"
        )
        script.call(Kind.FINISH, "a", 2, number=1, subject="s")

        assert checkers.check_once(script.operations).clean
        assert checkers.check_once(script.operations).holds == 2

    def test_two_winners(self, script):
        """
        Of one attempt.
        """
        self.take(script, "a")
        self.take(script, "b", fence=6)

        assert self.rules(script) == [Rule.TWICE]

    def test_more_attempts_than_allowed(self, script):
        """
        The second of one.
        """
        self.take(script, "a")
        self.take(script, "b", number=2, fence=6)

        assert self.rules(script, attempts=2) == []
        assert self.rules(script) == [Rule.TWICE]

    def test_an_attempt_after_the_end(self, script):
        """
        What was done stays done.
        """
        self.take(script, "a")
        script.call(Kind.FINISH, "a", 2, number=1, subject="s")
        self.take(script, "b", number=2, fence=6)

        assert self.rules(script, attempts=2) == [Rule.TWICE]

    def test_a_later_attempt_with_an_older_fence(self, script):
        """
        Fences grow from attempt to attempt.
        """
        self.take(script, "a", fence=6)
        self.take(script, "b", number=2, fence=5)

        assert self.rules(script, attempts=2) == [Rule.TWICE]

    @pytest.mark.parametrize("result", [Result.INVOKED, Result.UNKNOWN])
    def test_nobodys_slot(self, script, result):
        """
        Unless one of those who were told nothing may have it.
        """
        script.call(Kind.TAKE, "a", 0, Result.FAIL, subject="s")
        assert self.rules(script) == [Rule.MISSED]

        script.call(Kind.TAKE, "b", 0, result, subject="s")
        assert self.rules(script) == []

    def test_a_slot_that_nobody_could_ask_for(self, script):
        """
        Who was told of an outage was not told that it is another's.
        """
        script.call(Kind.TAKE, "a", 0, Result.FAIL, subject="s", error="Unavailable: nobody is there")

        assert self.rules(script) == []
