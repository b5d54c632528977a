"""Thousands of small worlds: the real lock, line and session amid all that may go wrong around them."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterator

import pytest
from interleavings import test_interleavings as rules
from interleavings import world
from interleavings.stage import mutate
from interleavings.world import Weather

from coordkit import linewatch, ticket, waitlist
from coordkit.etcd import client as clients
from coordkit.etcd import heart as hearts

WEATHERS = {
    "fair": Weather(lose=0.0, stale=0.0, own=0.0, gap=0.0, session=0.0, interrupt=0.0),
    "foul": Weather(),
    "storm": Weather(act=0.8, lose=0.2, stale=0.3, own=0.1, gap=0.1, session=0.0, others=4),
    "dying sessions": Weather(session=0.05, others=3),
    "few names": Weather(lose=0.02, own=0.0, gap=0.0, session=0.0, few=1.0, others=3, act=0.75),
    "a long line": Weather(others=40, back=0.6, acts=80, few=0.1, lose=0.02, session=0.0, interrupt=0.0),
    "a line that ends first": Weather(others=25, back=1.0, acts=200, few=0.0, lose=0.0, own=0.0, gap=0.0),
}
PLAYS = 150
ENOUGH = 1000  # in so many plays a missing rule is found


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No heart, no sleep, no waiting for a watch to be dropped, no word about lost sessions."""

    class Heart:
        def order(self, what: str, pulse: object) -> None:
            pass

    monkeypatch.setattr(hearts, "heart_for", lambda options: Heart())
    monkeypatch.setattr(clients, "pause", lambda pause_s, deadline, error: pause_s)
    monkeypatch.setattr(linewatch, "LINGER_S", 0.0)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("weather", WEATHERS)
def test_no_grant_is_wrong_and_no_wait_is_endless(weather: str) -> None:
    """
    Whatever happens: a grant only to the oldest key, an end to every wait, and nothing left in line.
    """
    endings = collections.Counter(world.play(seed, WEATHERS[weather]) for seed in range(PLAYS))

    print(f"{weather}: {dict(endings)}")
    assert endings["released"] > PLAYS / 10


def an_older_use_of_our_name_counts(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, ticket.Ticket, "strike", "revision > self.create_revision", "True")


def an_older_use_of_our_name_counts_while_joining(patch: pytest.MonkeyPatch) -> None:
    rule = "self.struck.get(self.key, 0) > self.create_revision"
    mutate(patch, ticket.Ticket, "created", rule, "self.key in self.struck")


def reads_may_come_from_the_past(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "_read", "if seen.revision < floor:", "if False:")


def must_be_found(mutation: rules.Mutation, play: Callable[[int], object]) -> None:
    """One of enough plays, each with its seed, shows that the rule is missing."""
    for seed in range(ENOUGH):
        try:
            play(seed)
        except world.Violation as violation:
            print(f"{mutation.__name__}: play {seed + 1}: {violation}")
            return
    pytest.fail(f"{ENOUGH} plays, and nothing was found")


@pytest.mark.parametrize(
    ("mutation", "weather"),
    [
        (rules.creates_compare_no_epoch, "foul"),
        (rules.withdrawal_without_a_bump, "few names"),
        (rules.a_doubt_is_settled_by_a_read, "foul"),
        (rules.the_newest_are_read_whoever_they_are, "fair"),
        (rules.the_reply_to_a_join_is_always_believed, "storm"),
        (rules.strikes_by_name, "few names"),
        (rules.strikes_by_name_while_joining, "few names"),
        (rules.no_confirming_read, "fair"),
        (rules.no_confirming_read_far_back, "a long line"),
        (rules.a_read_need_not_show_our_key, "foul"),
        (rules.hand_over_to_whoever_waits, "fair"),
        (rules.a_window_is_the_line, "a line that ends first"),
        (rules.the_predecessors_end_is_our_turn, "fair"),
        (rules.a_gap_is_ignored, "foul"),
        (rules.after_a_gap_nobody_reads, "storm"),
        (rules.a_gap_far_back_is_ignored, "a long line"),
        (an_older_use_of_our_name_counts, "fair"),
        (an_older_use_of_our_name_counts_while_joining, "fair"),
        (reads_may_come_from_the_past, "storm"),
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

    must_be_found(mutation, lambda seed: world.play(seed, WEATHERS[weather]))
