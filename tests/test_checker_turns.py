"""The checker of turns, on hand-written histories: what was told, beside what one saw who only looked on."""

from __future__ import annotations

import attrs
import pytest

from coordkit.testing import checkers
from coordkit.testing.checkers import turns
from coordkit.testing.checkers.turns import Silence, Stay
from coordkit.testing.history import Kind, Operation, Result, Rule

DUE_NS = 10


def call(kind: Kind, completed_ns: int, fence: int | None, result: Result = Result.OK) -> Operation:
    index = 0 if kind is Kind.ACQUIRE else 1
    return Operation(kind, result, 1, "a", index, completed_ns - 1, completed_ns, fence=fence)


def rules(operations: list[Operation], stays: list[Stay], silences: list[Silence]) -> list[Rule]:
    verdict = checkers.check_turns(operations, stays, silences, DUE_NS)
    return [each.rule for each in verdict.violations]


GRANT, RELEASE = call(Kind.ACQUIRE, 12, 5), call(Kind.RELEASE, 90, 5)


def test_who_learns_of_its_turn_soon_may_hold_for_long() -> None:
    """
    It is a hold that lasts, not a turn that nobody knew of.
    """
    assert rules([GRANT, RELEASE], [Stay("k", "", 5, 1, turn_ns=10, gone_ns=90)], []) == []


def test_a_grant_without_a_turn() -> None:
    """
    Its key stood behind an older one until it went.
    """
    assert rules([GRANT, RELEASE], [Stay("k", "", 5, 1, gone_ns=90)], []) == [Rule.ORDER]
    assert rules([GRANT, RELEASE], [Stay("k", "", 5, 1, gone_ns=90, partial=True)], []) == []


@pytest.mark.parametrize(
    ("operations", "stay"),
    [
        ([call(Kind.ACQUIRE, 30, 5)], Stay("k", "", 5, 1, turn_ns=10, gone_ns=40)),
        ([call(Kind.ACQUIRE, 30, None, Result.FAIL)], Stay("k", "", 5, 1, turn_ns=10, gone_ns=30)),
        ([GRANT, call(Kind.RELEASE, 20, 5)], Stay("k", "", 5, 1, turn_ns=10, gone_ns=40)),
    ],
    ids=["told late", "never told", "given back and still there"],
)
def test_a_turn_in_which_nobody_holds(operations: list[Operation], stay: Stay) -> None:
    """
    While the cluster answers, it is a violation; while it does not, or the session is over, it is none.
    """
    assert rules(operations, [stay], []) == [Rule.IDLE]
    assert rules(operations, [stay], [Silence(0, 50)]) == []
    assert rules(operations, [stay], [Silence(0, 11)]) == [Rule.IDLE]
    stay.lapsed = True
    assert rules(operations, [stay], []) == []


def test_places_in_two_lines_at_one_revision() -> None:
    """
    Joins of different lines travel together: their fences are the same.
    """
    grant = attrs.evolve(GRANT, name="one")
    stays = [Stay("k", "one", 5, 1, turn_ns=10, gone_ns=90), Stay("l", "two", 5, 1, gone_ns=40)]

    assert rules([grant], stays, []) == []
    assert rules([attrs.evolve(grant, name="two")], stays[1:], []) == [Rule.ORDER]


def test_the_longest_of_those_times_is_told() -> None:
    """
    Also where it is none too long.
    """
    (found,) = turns.idle([GRANT, RELEASE], [Stay("k", "", 5, 1, turn_ns=5, gone_ns=90)], [Silence(6, 8)])

    assert found.answered_ns == 5


def test_a_place_that_nobody_has_deleted() -> None:
    """
    What is not certain is held against nobody.
    """
    evicted = call(Kind.EVICTED, 9, 7)

    assert rules([evicted], [], []) == [Rule.EVICTED]
    assert rules([evicted, call(Kind.STRIKE, 8, 7, Result.FAIL)], [], []) == [Rule.EVICTED]
    assert rules([evicted, call(Kind.STRIKE, 8, 7)], [], []) == []
    assert rules([evicted, call(Kind.STRIKE, 8, 7, Result.UNKNOWN)], [], []) == []
