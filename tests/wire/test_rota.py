"""Who reads: leaders, heirs, the standby, and what happens to them at the worst moment."""

from __future__ import annotations

import pytest

from coordkit.wire import rota
from tests.wire.interruptions import interrupted_at


class Situation:
    """A rota without a socket: `looked_up` counts interruptions, `expects` is set by the test."""

    def __init__(self, callers_read: bool = True) -> None:
        self.looked_up = 0
        self.expects = False
        self.rota = rota.Rota(self._look_up, lambda: self.expects, callers_read)

    def _look_up(self) -> None:
        self.looked_up += 1


@pytest.fixture
def threads() -> Situation:
    return Situation()


def waiters(number: int) -> list[rota.Waiter]:
    return [rota.Waiter() for _ in range(number)]


def posted(waiter: rota.Waiter) -> bool:
    """Whether a park would return at once; takes the post."""
    return waiter._token.acquire(blocking=False)


class TestLeading:
    def test_the_first_leads_and_the_others_line_up(self, threads):
        """
        One reads; the others wait to be its heirs.
        """
        first, second = waiters(2)

        assert threads.rota.line_up(first)
        assert not threads.rota.line_up(second)
        assert not threads.rota.seize(second)
        assert not threads.rota.vacant

    def test_the_oldest_inherits(self, threads):
        """
        A leader that leaves posts who has waited longest, and only that one.
        """
        first, second, third = waiters(3)
        for waiter in (first, second, third):
            threads.rota.line_up(waiter)

        threads.rota.leave(first)

        assert (posted(second), posted(third)) == (True, False)
        assert threads.rota.line_up(second)
        assert not threads.rota.line_up(third)

    def test_who_is_done_does_not_inherit(self, threads):
        """
        Its reply is there: it will leave as soon as it runs, and nobody would read until then.
        """
        first, second, third = waiters(3)
        for waiter in (first, second, third):
            threads.rota.line_up(waiter)
        second.done = True

        threads.rota.leave(first)

        assert (posted(second), posted(third)) == (False, True)

    def test_an_heir_that_dies_before_it_looked_passes_the_role_on(self, threads):
        """
        Posted and named, then interrupted: leaving is enough, whether or not it ever read.
        """
        first, second, third = waiters(3)
        for waiter in (first, second, third):
            threads.rota.line_up(waiter)
        threads.rota.leave(first)

        threads.rota.leave(second)

        assert posted(third)
        assert threads.rota.line_up(third)

    def test_who_only_tries_does_not_line_up(self, threads):
        """
        A waiter that tried to seize the role and went its way is nobody's heir.
        """
        leader, passer_by = waiters(2)
        threads.rota.line_up(leader)
        assert not threads.rota.seize(passer_by)

        threads.rota.leave(leader)

        assert threads.rota.vacant

    def test_leaving_twice_does_no_harm(self, threads):
        """
        The second time somebody else may lead already.
        """
        first, second = waiters(2)
        threads.rota.line_up(first)
        threads.rota.line_up(second)
        threads.rota.leave(first)

        threads.rota.leave(first)

        assert threads.rota.line_up(second)

    def test_a_follower_that_leaves_inherits_nothing(self, threads):
        """
        A deadline that ran out takes its owner out of the line.
        """
        first, second, third = waiters(3)
        for waiter in (first, second, third):
            threads.rota.line_up(waiter)

        threads.rota.leave(second)
        threads.rota.leave(first)

        assert (posted(second), posted(third)) == (False, True)


class TestWaking:
    def test_a_follower_is_posted(self, threads):
        """
        `wake` ends the wait of one that sleeps; the reader is left alone.
        """
        leader, follower = waiters(2)
        threads.rota.line_up(leader)
        threads.rota.line_up(follower)

        follower.wake()

        assert follower.done
        assert posted(follower)
        assert threads.looked_up == 0

    def test_a_leader_looks_up(self, threads):
        """
        It sleeps on the socket, not on its token.
        """
        (leader,) = waiters(1)
        threads.rota.line_up(leader)

        leader.wake()

        assert threads.looked_up == 1

    def test_an_heir_is_woken_during_the_hand_over(self, threads):
        """
        Named but not yet running: it finds itself done, and the next one leads.
        """
        first, second, third = waiters(3)
        for waiter in (first, second, third):
            threads.rota.line_up(waiter)
        threads.rota.leave(first)

        second.wake()

        assert second.done
        assert posted(second)
        threads.rota.leave(second)
        assert posted(third)

    def test_a_wake_before_the_wait_is_not_lost(self, threads):
        """
        The post stays until somebody parks.
        """
        (waiter,) = waiters(1)

        waiter.wake()
        waiter.wake()

        waiter.park(-1)
        assert waiter.done


class TestServed:
    """Callers whose replies came in one batch."""

    @pytest.fixture
    def served(self, threads) -> list[rota.Waiter]:
        """Three, parked behind a leader, as a thread beside the main one would be."""
        leader, *parked = waiters(4)
        for waiter in (leader, *parked):
            threads.rota.line_up(waiter)
        for waiter in parked:
            waiter.is_link = True
            waiter.done = True
            threads.rota.served.append(waiter)
        return parked

    def test_they_wake_one_after_the_other(self, threads, served):
        """
        All at once they would wait for the interpreter, and for each other's sends.
        """
        threads.rota.wake_served()

        assert [posted(waiter) for waiter in served] == [True, False, False]

        threads.rota.leave(served[0])

        assert [posted(waiter) for waiter in served] == [False, True, False]

    def test_who_has_left_wakes_nobody_and_is_passed_over(self, threads, served):
        """
        Its deadline ran out meanwhile: the one behind it must not wait for it.
        """
        threads.rota.leave(served[1])  # which wakes the first
        assert posted(served[0])

        threads.rota.leave(served[0])

        assert [posted(waiter) for waiter in served] == [False, False, True]

    def test_nobody_waits_for_the_main_thread(self, threads, served):
        """
        It may be in a signal's handler for ever.
        """
        served[0].is_link = False

        threads.rota.wake_served()

        assert [posted(waiter) for waiter in served] == [True, True, False]

    def test_the_main_thread_knows_itself(self, threads):
        """
        Who lines up here is no link.
        """
        leader, follower = waiters(2)
        threads.rota.line_up(leader)
        threads.rota.line_up(follower)

        assert not follower.is_link

    def test_greenlets_wake_all_at_once(self):
        """
        To wake them costs no switch, and the reader then lets them queue their requests.
        """
        greenlets = Situation(callers_read=False)
        parked = waiters(3)
        for waiter in parked:
            greenlets.rota.line_up(waiter)
            waiter.is_link = True
            greenlets.rota.served.append(waiter)

        greenlets.rota.wake_served()

        assert [posted(waiter) for waiter in parked] == [True, True, True]


class TestStandby:
    def test_it_leads_once_the_socket_is_left_alone(self, threads):
        """
        Something may come and nobody waits: after one quiet look it reads.
        """
        threads.expects = True
        (caller,) = waiters(1)
        threads.rota.line_up(caller)
        threads.rota.leave(caller)

        looks = [threads.rota.take_over() for _ in range(3)]

        assert looks == [False, True, True]

    def test_it_leaves_the_socket_to_callers_that_come_again(self, threads):
        """
        While calls follow each other it does not read: each would cost a thread switch.
        """
        threads.expects = True
        (caller,) = waiters(1)

        for _ in range(3):
            threads.rota.line_up(caller)
            threads.rota.leave(caller)
            assert not threads.rota.take_over()

    def test_it_is_posted_when_the_last_caller_leaves_a_stream_behind(self, threads):
        """
        It sleeps without a timeout while somebody reads; who frees the role wakes it.
        """
        threads.expects = True
        (caller,) = waiters(1)
        threads.rota.line_up(caller)
        threads.rota.standby.post()
        assert not threads.rota.take_over()  # somebody reads: from now on it sleeps
        assert not posted(threads.rota.standby)

        threads.rota.leave(caller)

        assert posted(threads.rota.standby)

    def test_nothing_expected_is_nothing_to_wake_for(self, threads):
        """
        An idle channel costs no wake-ups, until a stream is opened.
        """
        threads.rota.standby.post()
        assert not threads.rota.take_over()
        (caller,) = waiters(1)
        threads.rota.line_up(caller)

        threads.rota.leave(caller)
        assert not posted(threads.rota.standby)
        threads.rota.wake_standby()
        assert posted(threads.rota.standby)

    def test_it_offers_the_role_after_each_batch(self, threads):
        """
        A caller that waits leads from then on; without one it goes on reading.
        """
        threads.expects = True
        threads.rota.standby.post()
        threads.rota.take_over()
        assert threads.rota.take_over()
        (caller,) = waiters(1)

        threads.rota.offer()
        assert not threads.rota.line_up(caller)
        threads.rota.offer()

        assert posted(caller)
        assert threads.rota.line_up(caller)

    def test_under_gevent_it_leads_for_good(self):
        """
        Callers only ever line up; the role is neither seized nor offered.
        """
        greenlets = Situation(callers_read=False)
        (caller,) = waiters(1)

        assert greenlets.rota.take_over()
        assert not greenlets.rota.line_up(caller)
        greenlets.rota.offer()

        assert greenlets.rota.take_over()
        assert not posted(caller)


@pytest.fixture
def natively(mode):
    if mode == "gevent":
        pytest.skip("greenlets are interrupted only where they wait; see test_channel_interruption")


@pytest.mark.usefixtures("natively")
class TestInterruption:
    def test_one_anywhere_in_leaving_loses_neither_role_nor_wake_up(self):
        """
        Ctrl-C at the worst moment of a hand-over: leaving again is enough for the heir to lead.
        """
        places = 0
        while True:
            threads = Situation()
            leader, heir = waiters(2)
            threads.rota.line_up(leader)
            threads.rota.line_up(heir)
            where = interrupted_at(places + 1, lambda: threads.rota.leave(leader))  # noqa: B023
            if where is None:
                break
            places += 1

            threads.rota.leave(leader)

            assert posted(heir), f"not posted after place {places}, in {where}"
            assert threads.rota.line_up(heir), f"does not lead after place {places}, in {where}"
        assert places >= 4

    def test_one_anywhere_in_freeing_the_role_still_posts_the_standby(self):
        """
        Otherwise a stream would never be read again.
        """
        places = 0
        while True:
            threads = Situation()
            threads.expects = True
            (leader,) = waiters(1)
            threads.rota.line_up(leader)
            threads.rota.standby.post()
            threads.rota.take_over()
            where = interrupted_at(places + 1, lambda: threads.rota.leave(leader))  # noqa: B023
            if where is None:
                break
            places += 1

            threads.rota.leave(leader)

            assert threads.rota.vacant, f"not free after place {places}, in {where}"
            assert posted(threads.rota.standby), f"not posted after place {places}, in {where}"
        assert places >= 4

    def test_one_anywhere_in_leaving_wakes_who_was_served(self):
        """
        The one behind it waits for nobody else.
        """
        places = 0
        while True:
            threads = Situation()
            leader, first, second = waiters(3)
            for waiter in (leader, first, second):
                threads.rota.line_up(waiter)
            threads.rota.served.append(second)
            where = interrupted_at(places + 1, lambda: threads.rota.leave(first))  # noqa: B023
            if where is None:
                break
            places += 1

            threads.rota.leave(first)

            assert posted(second), f"not posted after place {places}, in {where}"
        assert places >= 3
