"""Many small worlds in which several of ours stand in one line: who is first in it holds, and knows it."""

from __future__ import annotations

import collections

import pytest
from interleavings import crowd
from interleavings import test_interleavings as rules
from interleavings.stage import mutate
from interleavings.test_world import must_be_found, quiet
from interleavings.world import Weather

from coordkit import linewatch, waitlist

WEATHERS = {
    "fair": Weather(lose=0.0, stale=0.0, own=0.0, gap=0.0, session=0.0, interrupt=0.0),
    "hands": Weather(lose=0.0, stale=0.0, own=0.15, gap=0.02, session=0.0, others=4, acts=120),
    "foul": Weather(own=0.08, others=5, acts=150, interrupt=0.05),
    "dying sessions": Weather(session=0.01, own=0.05, others=5, acts=150, interrupt=0.05),
    "a long line": Weather(others=12, back=0.6, acts=150, few=0.1, own=0.08),
}
CONTENDERS = 8
PLAYS = 60
WINDOW = 2  # so that most of them stand far back

__all__ = ["quiet"]


@pytest.fixture(autouse=True)
def short_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of eight is a long one."""
    monkeypatch.setattr(waitlist, "WINDOW", WINDOW)


@pytest.mark.parametrize("weather", WEATHERS)
def test_who_is_first_holds(weather: str) -> None:
    """
    Whatever has happened: when all has been told, the first in line has been granted, without a safety read.
    """
    endings: collections.Counter[str] = collections.Counter()
    for seed in range(PLAYS):
        endings.update(crowd.play(seed, WEATHERS[weather], CONTENDERS))

    print(f"{weather}: {dict(endings)}")
    assert endings["released"] > PLAYS


def a_guides_end_is_told_to_nobody(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "_forget", "ticket.tell_followers()", "pass")


def a_guide_is_waited_for_that_has_gone(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "_follow", " or not guide.stands", "")


def the_watch_is_dropped_while_somebody_needs_it(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "_drop_watch", "needed or ", "")


def nobody_wakes_for_a_gap(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "watch_missed", "self._wake_all()", "pass")


def nobody_wakes_when_cancelled(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "cancel", "ticket.waiter.wake()", "pass")


@pytest.mark.parametrize(
    ("mutation", "weather"),
    [
        (a_guides_end_is_told_to_nobody, "hands"),
        (a_guide_is_waited_for_that_has_gone, "hands"),
        (rules.the_guides_end_is_our_turn, "hands"),
        (rules.who_follows_is_not_told_of_its_own_end, "hands"),
        (rules.a_holder_is_followed_to_its_end, "foul"),
        (rules.hand_over_to_whoever_waits, "fair"),
        (rules.no_confirming_read, "fair"),
        (rules.a_gap_far_back_is_ignored, "foul"),
        (the_watch_is_dropped_while_somebody_needs_it, "hands"),
        (nobody_wakes_for_a_gap, "hands"),
        (nobody_wakes_when_cancelled, "foul"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_missing_rule_is_found(
    mutation: rules.Mutation, weather: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The plays are worth something: each rule that is taken out shows in one of them.
    """
    mutation(monkeypatch)

    must_be_found(mutation, lambda seed: crowd.play(seed, WEATHERS[weather], CONTENDERS))
