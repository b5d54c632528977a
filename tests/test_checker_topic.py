"""The topic's checker, on histories that are good and on such that are not."""

from __future__ import annotations

import itertools

import pytest

from coordkit.testing.checkers import check_topic
from coordkit.testing.history import Kind, Operation, Result, Rule

_INDEXES = itertools.count()


def publish(subject: str, count: int, revision: int | None, result: Result = Result.OK) -> Operation:
    return Operation(
        Kind.PUBLISH, result, 1, "p", next(_INDEXES), 0, subject=subject, number=count, revision=revision
    )


def deliver(who: str, subject: str, revision: int, index: int) -> Operation:
    return Operation(
        Kind.DELIVER, Result.OK, 2, who, next(_INDEXES), 0, subject=subject, number=index, revision=revision
    )


def gap(who: str, revision: int | None) -> Operation:
    return Operation(Kind.GAP, Result.OK, 2, who, next(_INDEXES), 0, revision=revision)


def all_of(who: str) -> list[Operation]:
    return [
        deliver(who, "a0", 5, 0),
        deliver(who, "a1", 5, 1),
        deliver(who, "b0", 7, 0),
        deliver(who, "b1", 7, 1),
        deliver(who, "c0", 9, 0),
    ]


PUBLISHED = [publish("a", 2, 5), publish("b", 2, 7), publish("c", 1, 9)]
UNKNOWN = publish("d", 1, None, Result.UNKNOWN)


@pytest.mark.parametrize(
    "told",
    [
        [*all_of("x"), *all_of("y")],
        [*all_of("x"), *all_of("y")[2:]],
        [*all_of("x")[:4], *all_of("y")],
        [*all_of("x"), deliver("x", "d0", 11, 0), *all_of("y")],
        [*all_of("x"), deliver("y", "a0", 5, 0), gap("y", 9), deliver("y", "c0", 9, 0)],
        [*all_of("x"), deliver("y", "a0", 5, 0), gap("y", None), deliver("y", "c0", 9, 0)],
    ],
)
def test_good_histories_are_clean(told):
    """
    Late comers, early leavers, doubts, and gaps that were told.
    """
    verdict = check_topic([*PUBLISHED, UNKNOWN, *told])

    assert verdict.clean, verdict.violations
    assert verdict.holds == len([each for each in told if each.kind is Kind.DELIVER])


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ([*all_of("x"), deliver("x", "c0", 9, 0)], Rule.REPEATED),
        ([deliver("x", "b0", 7, 0), deliver("x", "a0", 5, 0)], Rule.REPEATED),
        ([deliver("x", "a1", 5, 1), deliver("x", "a0", 5, 0)], Rule.REPEATED),
        ([each for each in all_of("x") if each.subject[0] != "b"], Rule.SKIPPED),
        ([each for each in all_of("x") if each.subject != "b1"], Rule.SKIPPED),
        ([deliver("x", "a0", 5, 0), gap("x", 6), deliver("x", "c0", 9, 0)], Rule.SKIPPED),
        ([*all_of("x"), deliver("x", "d0", 11, 0), deliver("x", "d0", 12, 0)], Rule.DOUBLED),
        ([*all_of("x"), deliver("y", "b1", 7, 0)], Rule.MIXED),
        ([deliver("x", "a0", 6, 0)], Rule.MIXED),
        ([*all_of("x"), deliver("x", "z0", 11, 0)], Rule.INVENTED),
        ([*all_of("x"), deliver("x", "e0", 11, 0)], Rule.INVENTED),
    ],
)
def test_bad_histories_are_not(told, rule):
    """
    Each kind of mistake is found, and called by its name.
    """
    refused = publish("e", 1, None, Result.FAIL)

    verdict = check_topic([*PUBLISHED, UNKNOWN, refused, *told])

    assert verdict.count(rule), verdict.violations


def test_topics_are_judged_apart():
    """
    By their names.
    """
    other = Operation(
        Kind.DELIVER, Result.OK, 2, "x", next(_INDEXES), 0, subject="a0", number=0, revision=6, name="other"
    )

    assert check_topic([*PUBLISHED, *all_of("x")]).clean
    assert not check_topic([*PUBLISHED, *all_of("x"), other]).clean
