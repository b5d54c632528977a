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


def follow(ticket: Ticket, guide: Ticket) -> None:
    """As who is far back does."""
    ticket.ahead, ticket.is_far = None, True
    guide.followers.append(ticket)


def deletion(ticket: Ticket, revision: int) -> watch.Event:
    return watch.Event(ticket.key, b"", True, 0, revision, 0)


def test_the_end_of_whoever_was_first_leaves_nobody(line: linewatch.Watched) -> None:
    """
    Its follower knows that nobody is before it any more.
    """
    guide, ticket = stand(line, 5, Phase.READY), stand(line, 6, Phase.WAITING)
    follow(ticket, guide)

    line.strike([deletion(guide, 7)])

    assert ticket.ahead == {} and ticket.is_through
    assert ticket.waiter.done


def test_the_end_of_anybody_else_tells_nothing(line: linewatch.Watched) -> None:
    """
    There may be others before it: its follower must read.
    """
    guide, ticket = stand(line, 5, Phase.WAITING), stand(line, 6, Phase.WAITING)
    follow(ticket, guide)

    line.strike([deletion(guide, 7)])

    assert ticket.ahead is None and not ticket.is_through
    assert ticket.waiter.done


def test_who_came_near_by_one_event_hears_the_next(line: linewatch.Watched) -> None:
    """
    Both come together: the guide's release, and the deletion of the follower's own key by somebody's hand.
    """
    guide, ticket = stand(line, 5, Phase.READY), stand(line, 6, Phase.WAITING)
    follow(ticket, guide)

    line.strike([deletion(guide, 7), deletion(ticket, 8)])

    assert ticket.phase is Phase.GONE
