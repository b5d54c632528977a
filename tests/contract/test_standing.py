"""Candidates in the background, and functions that only the leader runs."""

from __future__ import annotations

import threading

import pytest
from contract.players import expire, wait_until

import coordkit


class TestStanding:
    def test_alone_it_leads_at_once_and_resigns_at_its_end(self, coord):
        """
        When `start` returns, and until `close` does.
        """
        with coordkit.Standing(coord.election("chair"), b"me") as standing:
            assert standing.leads
            assert standing.wait(0)
            assert coord.election("chair").leader().value == b"me"

        assert not standing.leads
        assert coord.election("chair").leader() is None
        with pytest.raises(coordkit.Closed):
            standing.start()

    def test_it_takes_over_and_stands_again_after_a_loss(self, coord, coord_factory):
        """
        With the coordinator's next session.
        """
        other = coord_factory()
        first, second = coord.standing("chair"), other.standing("chair")
        assert first.leads and not second.leads
        assert not second.wait(0.05)

        expire(coord.session, other)

        assert second.wait(10)
        wait_until(lambda: not first.leads, what="the loss to be told")
        wait_until(lambda: len(other.election("chair").contenders()) == 2, what="another candidacy")
        second.close()
        assert first.wait(10)

    def test_a_coordinator_that_is_closed_resigns(self, coord, coord_factory):
        """
        The next one leads at once: nobody waits for a lease to run out.
        """
        heir = coord_factory(ttl=60)
        leaving = coord_factory(ttl=60)
        assert leaving.standing("chair").leads
        standing = heir.standing("chair")

        leaving.close()

        assert standing.wait(10)

    def test_there_is_one_for_all_who_ask(self, coord):
        """
        Until it is closed.
        """
        standing = coord.standing("chair")
        assert coord.standing("chair") is standing
        standing.close()

        assert coord.standing("chair") is not standing


class TestLeaderOnly:
    def test_only_the_leader_runs_it(self, coord, coord_factory):
        """
        Elsewhere a call returns None, until that process leads.
        """
        other = coord_factory()
        mine = coord.leader_only("chair")(lambda text, *, mark: text + mark)
        others = other.leader_only("chair")(lambda text: text)

        assert mine("it ran", mark="!") == "it ran!"
        assert others("it ran") is None

        coord.standing("chair").close()
        wait_until(lambda: others("it ran") == "it ran", what="the other to lead")

    def test_a_name_and_a_docstring_stay(self, coord):
        """
        As functools.wraps does it; nothing is dialled before the first call.
        """

        @coord.leader_only("chair")
        def tick():
            """Beat."""

        assert (tick.__name__, tick.__doc__) == ("tick", "Beat.")
        assert coord.election("chair").contenders() == []

    def test_a_loss_while_it_runs_is_told(self, coord):
        """
        LockLost: the next leader may have begun.
        """

        @coord.leader_only("chair")
        def tick():
            leadership = coord.standing("chair").leadership
            coord.kv.delete(leadership.key)
            assert leadership.lost.wait(10)

        with pytest.raises(coordkit.LockLost):
            tick()

    def test_a_close_waits_for_what_runs(self, coord, coord_factory):
        """
        Nobody leads while the function of the one before still runs.
        """
        heir = coord_factory()
        inside, leave = threading.Event(), threading.Event()
        standing, heirs = coord.standing("chair"), heir.standing("chair")

        @coord.leader_only("chair")
        def tick():
            inside.set()
            leave.wait(10)
            return heirs.leads

        led_meanwhile = []
        running = threading.Thread(target=lambda: led_meanwhile.append(tick()))
        running.start()
        assert inside.wait(10)
        closing = threading.Thread(target=standing.close, args=(10,))
        closing.start()
        wait_until(lambda: standing.closed, what="the close")
        assert not heirs.wait(0.2)
        leave.set()
        running.join(10)
        closing.join(10)

        assert led_meanwhile == [False]
        assert heirs.wait(10)
