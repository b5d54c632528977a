"""The barrier's checker on hand-written histories, good and bad."""

from __future__ import annotations

import pytest

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule


def wait(who: str, when, generation: int | None, place: int | None = None, result=Result.OK) -> Operation:
    return Operation(Kind.WAIT, result, 1, who, when[0], *when, number=place, subject=str(generation or ""))


def rules(*history: Operation, parties: int = 2) -> set[Rule]:
    return {violation.rule for violation in checkers.check_barrier(history, parties).violations}


GOOD = (
    wait("a", (0, 20), 1, 0),
    wait("b", (10, 15), 1, 1),
    wait("a", (25, 40), 2, 1),
    wait("b", (18, 41), 2, 0),
)


class TestGood:
    def test_two_generations(self):
        """
        All arrive, all pass, and again.
        """
        verdict = checkers.check_barrier(GOOD, 2)

        assert verdict.clean and verdict.holds == 4

    def test_broken_for_all(self):
        """
        A generation that nobody passed.
        """
        broken = [wait(who, (50, 60), 3, None, Result.FAIL) for who in "ab"]

        assert rules(*GOOD, *broken) == set()

    @pytest.mark.parametrize("result", [Result.INVOKED, Result.UNKNOWN])
    def test_a_member_that_was_not_told(self, result):
        """
        Who died, or does not know, may have been there.
        """
        other = wait("b", (10, None), None, None, result)

        assert rules(wait("a", (0, 20), 1, 0), other) == set()

    def test_an_arrival_at_a_broken_barrier(self):
        """
        Who was refused before it arrived belongs to no generation.
        """
        assert rules(*GOOD, wait("c", (5, 6), None, None, Result.FAIL)) == set()


class TestBad:
    def test_passing_alone(self):
        """
        The other one had not called yet; or only for another generation.
        """
        assert rules(wait("a", (0, 5), 1, 0), wait("b", (10, 15), 1, 1)) == {Rule.EARLY}
        assert rules(wait("a", (0, 20), 1, 0), wait("b", (10, 15), 2, 1)) == {Rule.EARLY}

    def test_passing_beside_one_that_was_refused(self):
        """
        Who certainly did not arrive does not count.
        """
        assert rules(wait("a", (0, 20), 1, 0), wait("b", (1, 5), None, None, Result.FAIL)) == {Rule.EARLY}

    def test_a_generation_that_was_broken_for_one_only(self):
        """
        One verdict for all.
        """
        history = [
            wait("a", (0, 20), 1, 0),
            wait("b", (1, 19), 1, 1),
            wait("c", (2, 18), 1, None, Result.FAIL),
        ]

        assert rules(*history) == {Rule.SPLIT}

    def test_places(self):
        """
        Each is told once, and is one of those that exist.
        """
        assert rules(wait("a", (0, 20), 1, 0), wait("b", (1, 19), 1, 0)) == {Rule.PLACE}
        assert rules(wait("a", (0, 20), 1, 0), wait("b", (1, 19), 1, 2)) == {Rule.PLACE}

    def test_generations_that_mix(self):
        """
        A later one was passed before an earlier one had been called for.
        """
        history = [
            wait("a", (0, 5), 2, 0),
            wait("b", (0, 5), 2, 1),
            wait("c", (6, 9), 1, 0),
            wait("d", (6, 9), 1, 1),
        ]

        assert rules(*history) == {Rule.BLEED}
