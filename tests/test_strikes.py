"""What a line tells its tickets, event by event."""

from __future__ import annotations

import types
from typing import Any

import pytest

from coordkit import linewatch
from coordkit.etcd import watch
from coordkit.ticket import Phase, Ticket


@pytest.fixture
def line() -> linewatch.Watched:
    return linewatch.Watched(None, b"p/")  # type: ignore[arg-type]


def stand(line: linewatch.Watched, revision: int, phase: Phase) -> Ticket:
    """A ticket in line, created at this revision."""
    session: Any = types.SimpleNamespace(lease_id=1, nonce=lambda: f"{revision:x}")
    ticket = Ticket(session, b"p/")
    ticket.create_revision, ticket.phase = revision, phase
    ticket.struck = None
    line._register(ticket)
    return ticket


def follow(line: linewatch.Watched, ticket: Ticket, guide: Ticket) -> None:
    """As who is far back does."""
    ticket.ahead, ticket.is_far, ticket.predecessors = None, True, (guide.key,)
    assert line._guide(ticket) is guide


def deletion(ticket: Ticket, revision: int) -> watch.Event:
    return watch.Event(ticket.key, b"", True, 0, revision, 0)


def test_the_end_of_whoever_was_first_leaves_nobody(line: linewatch.Watched) -> None:
    """
    Its follower knows that nobody is before it any more.
    """
    guide, ticket = stand(line, 5, Phase.READY), stand(line, 6, Phase.WAITING)
    follow(line, ticket, guide)

    line.strike([deletion(guide, 7)])

    assert ticket.ahead == {} and ticket.is_through
    assert ticket.waiter.done


def test_whose_turn_comes_brings_its_follower_near(line: linewatch.Watched) -> None:
    """
    Only the guide is left before it.  Where no watch stands, it wakes, to see to one.
    """
    guide, ticket = stand(line, 5, Phase.WAITING), stand(line, 6, Phase.WAITING)
    follow(line, ticket, guide)

    line._turn_comes(guide)

    assert ticket.ahead == {guide.key: 5} and not ticket.is_far
    assert ticket.waiter.done


def test_the_end_of_anybody_else_tells_nothing(line: linewatch.Watched) -> None:
    """
    There may be others before it: its follower must read.
    """
    guide, ticket = stand(line, 5, Phase.WAITING), stand(line, 6, Phase.WAITING)
    follow(line, ticket, guide)

    line.strike([deletion(guide, 7)])

    assert ticket.ahead is None and not ticket.is_through
    assert ticket.waiter.done


def test_who_came_near_by_one_event_hears_the_next(line: linewatch.Watched) -> None:
    """
    Both come together: the guide's release, and the deletion of the follower's own key by somebody's hand.
    """
    guide, ticket = stand(line, 5, Phase.READY), stand(line, 6, Phase.WAITING)
    follow(line, ticket, guide)

    line.strike([deletion(guide, 7), deletion(ticket, 8)])

    assert ticket.phase is Phase.GONE


def test_a_younger_key_of_the_predecessors_name_is_no_guide(line: linewatch.Watched) -> None:
    """
    Names come back: whoever has it now may stand behind us, and wait for us.
    """
    ticket, younger = stand(line, 6, Phase.WAITING), stand(line, 7, Phase.WAITING)
    ticket.predecessors = (younger.key,)

    assert line._guide(ticket) is None
    assert not younger.followers
