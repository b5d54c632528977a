"""The checkers of double barriers and gates on hand-written histories, good and bad."""

from __future__ import annotations

import pytest

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule


def call(kind: Kind, who: str, when: tuple[int, int | None], result=Result.OK, subject="1") -> Operation:
    return Operation(kind, result, int(who, 36), who, when[0], when[0], when[1], subject=subject)


def enter(who: str, *when: int | None, **more) -> Operation:
    return call(Kind.ENTER, who, when, **more)


def leave(who: str, *when: int | None, **more) -> Operation:
    return call(Kind.LEAVE, who, when, **more)


class TestDoubleBarrier:
    def rules(self, *history: Operation, lost=()) -> set[Rule]:
        return {each.rule for each in checkers.check_double_barrier(history, 2, lost).violations}

    def test_all_come_and_all_go(self):
        """
        Twice, each pair on its own.
        """
        assert not self.rules(
            *(enter("a", 1, 5), enter("b", 4, 6), leave("a", 7, 9), leave("b", 8, 10)),
            *(enter("a", 11, 15, subject="2"), enter("b", 12, 16, subject="2")),
            *(leave("b", 17, 20, subject="2"), leave("a", 18, 19, subject="2")),
        )

    def test_one_is_inside_alone(self):
        """
        Before the other has called.
        """
        assert self.rules(enter("a", 1, 3), enter("b", 4, 6)) == {Rule.EARLY}

    def test_a_second_generation_needs_new_calls(self):
        """
        Two calls do not do for three that are inside.
        """
        history = [enter("a", 1, 5), enter("b", 4, 6), enter("a", 7, 9, subject="2")]

        assert self.rules(*history) == {Rule.EARLY}
        assert not self.rules(*history, enter("c", 8, None, result=Result.INVOKED, subject=""))

    def test_somebody_is_inside_when_all_have_left(self):
        """
        Unless he was lost, or the time of whoever left ran out.
        """
        inside = [enter("a", 1, 5), enter("b", 4, 6)]

        assert self.rules(*inside, leave("a", 7, 9)) == {Rule.LEFT}
        assert self.rules(*inside, leave("a", 7, 9), leave("b", 10, 11)) == {Rule.LEFT}
        assert not self.rules(*inside, leave("a", 7, 9), lost={int("b", 36)})
        assert not self.rules(*inside, leave("a", 7, 9, result=Result.FAIL))


class TestGate:
    def rules(self, *history: Operation) -> set[Rule]:
        return {each.rule for each in checkers.check_gate(history).violations}

    def closed(self, *when: int) -> Operation:
        return call(Kind.CLOSE, "door", when)

    def opened(self, *when: int | None, result=Result.OK) -> Operation:
        return call(Kind.OPEN, "door", when, result)

    def wait(self, *when: int, result=Result.OK) -> Operation:
        return call(Kind.WAIT, "a", when, result)

    @pytest.mark.parametrize("when", [(1, 3), (1, 12), (4, 8), (7, 25), (19, 21), (30, 40)])
    def test_it_was_open_at_some_moment(self, when):
        """
        Before it was closed, while that was under way, or when it may have been open again.
        """
        assert not self.rules(self.closed(5, 9), self.opened(20, 24), self.wait(*when))

    @pytest.mark.parametrize("when", [(10, 11), (10, 19), (12, 13)])
    def test_it_was_closed_all_the_time(self, when):
        """
        That is the rule.  Whoever gave up in time is right.
        """
        history = [self.closed(5, 9), self.opened(20, 24)]

        assert self.rules(*history, self.wait(*when)) == {Rule.SHUT}
        assert not self.rules(*history, self.wait(*when, result=Result.FAIL))

    @pytest.mark.parametrize("opened", [(4, 6), (8, 30), (4, 40)])
    def test_an_opening_at_the_same_time_may_come_after_it(self, opened):
        """
        Nobody knows in which order they took effect.
        """
        assert not self.rules(self.closed(5, 9), self.opened(*opened), self.wait(10, 12))

    def test_an_opening_in_doubt_may_come_at_any_time(self):
        """
        Its late copy, too.
        """
        doubtful = self.opened(1, 2, result=Result.UNKNOWN)

        assert not self.rules(doubtful, self.closed(5, 9), self.wait(10, 12))
