"""Gate and latch: what many wait for, and one or several let happen; it stays so whoever dies."""

from __future__ import annotations

import threading

import pytest
from contract.players import Call, wait_until

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, faults

pytestmark = pytest.mark.coordkit_leaves("keys")


class TestGate:
    def test_it_is_open_until_somebody_closes_it(self, coord, coord_factory):
        """
        Closing and opening tell whether they changed anything; everybody sees the same.
        """
        gate, other = coord.gate("start"), coord_factory().gate("start")

        assert gate.wait(5) is True
        assert gate.close() is True and other.close() is False
        assert not other.is_open() and not gate.is_open()
        assert gate.wait(0.05) is False and gate.wait(0) is False
        assert other.open() is True and gate.open() is False
        assert gate.is_open() and gate.wait(0) is True

    def test_opening_lets_everybody_through(self, coord, coord_factory):
        """
        Those who wait, in all processes, without a further read of each.
        """
        gate, others = coord.gate("start"), [coord_factory().gate("start") for _ in range(2)]
        gate.close()
        crew = [Call(each.wait, timeout=30) for each in others for _ in range(4)]
        wait_until(lambda: all(each._vigil._view is not None for each in others))

        gate.open()

        assert [each.outcome() for each in crew] == [True] * 8

    def test_a_gate_that_was_open_for_a_moment_only(self, coord, coord_factory):
        """
        Who waited then comes through, though it is closed again when it looks.
        """
        gate, other = coord.gate("start"), coord_factory().gate("start")
        gate.close()
        waiting = Call(other.wait, timeout=30)
        wait_until(lambda: other._vigil._view is not None)

        for _ in range(10):
            gate.open()
            gate.close()

        assert waiting.outcome() is True

    def test_a_closed_gate_is_not_passed_by_who_comes_later(self, coord, coord_factory):
        """
        What this process still knows from an earlier wait does not count.
        """
        gate, other = coord.gate("start"), coord_factory().gate("start")
        for _ in range(20):
            gate.close()
            assert other.wait(0.01) is False
            gate.open()
            assert other.wait(10) is True

    def test_it_stays_closed_when_its_closer_is_gone(self, coord, coord_factory):
        """
        It hangs on no session.
        """
        closer = coord_factory()
        closer.gate("start").close()
        closer.close()

        assert coord.gate("start").is_open() is False
        coord.gate("start").open()

    def test_cancel_ends_the_waits_of_one_object(self, coord):
        """
        They raise Cancelled; others wait on.
        """
        gate, other = coord.gate("start"), coord.gate("start")
        gate.close()
        mine, others = Call(gate.wait, timeout=30), Call(other.wait, timeout=30)
        wait_until(lambda: len(gate._vigil._attending) == 2)

        gate.cancel()

        assert isinstance(mine.outcome(), errors.Cancelled)
        gate.open()
        assert others.outcome() is True

    def test_closing_the_coordinator_ends_the_wait(self, coord, coord_factory):
        """
        With Closed.
        """
        coord.gate("start").close()
        other = coord_factory()
        waiting = Call(other.gate("start").wait, timeout=30)
        gate = other.gate("start")
        wait_until(lambda: gate._vigil._attending)

        other.close()

        assert isinstance(waiting.outcome(), errors.Closed)
        coord.gate("start").open()

    def test_an_outage_is_waited_out(self, coord, etcd, namespace):
        """
        A gate that was opened meanwhile lets through once the connection is back.
        """
        coord.gate("start").close()
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as far,
        ):
            gate = far.gate("start")
            waiting = Call(gate.wait, timeout=30)
            wait_until(lambda: gate._vigil._view is not None)
            proxy.refuse()
            proxy.reset()
            coord.gate("start").open()

            proxy.heal()

            assert waiting.outcome() is True

    def test_names_do_not_overlap(self, coord):
        """
        One gate's key is never under another's.
        """
        names = ["a", "a/b", "a/", "%2F", "\xe4"]
        coord.gate("a").close()

        assert [coord.gate(name).is_open() for name in names] == [False, True, True, True, True]
        coord.gate("a").open()


class TestLatch:
    def test_it_counts_down_to_zero_and_no_lower(self, coord, coord_factory):
        """
        Everybody sees what remains; at zero everybody comes through.
        """
        latch, other = coord.latch("ready", 3), coord_factory().latch("ready", 3)

        assert latch.count() == 3 and latch.wait(0) is False
        assert other.count_down() == 2
        assert latch.wait(0.05) is False
        assert latch.count_down(5) == 0
        assert other.count() == 0 and other.wait(0) is True
        assert other.count_down() == 0

    def test_who_waits_is_told(self, coord, coord_factory):
        """
        In all processes, when the last one counts; counting by many threads counts each of them.
        """
        latches = [coord_factory().latch("ready", 40) for _ in range(2)]
        waiting = [Call(latch.wait, timeout=30) for latch in latches for _ in range(3)]
        crew = [
            threading.Thread(target=lambda latch=latch: [latch.count_down() for _ in range(5)])
            for latch in latches
            for _ in range(4)
        ]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

        assert [each.outcome() for each in waiting] == [True] * 6
        assert latches[0].count() == 0

    def test_everybody_must_agree_on_the_count(self, coord):
        """
        Who counts from another number is told so, and counts nothing.
        """
        coord.latch("ready", 3).count_down()
        wrong = coord.latch("ready", 4)

        for call in (wrong.count_down, wrong.count, lambda: wrong.wait(1)):
            with pytest.raises(errors.LimitMismatch, match="from 3 elsewhere, from 4 here"):
                call()

        assert coord.latch("ready", 3).count() == 2

    def test_it_outlives_who_counted_and_can_be_removed(self, coord, coord_factory):
        """
        A count stays counted when its session is gone; `delete` begins anew.
        """
        counting = coord_factory()
        counting.latch("ready", 2).count_down()
        faults.expire(counting.session)

        assert coord.latch("ready", 2).count() == 1
        assert coord.latch("ready", 2).delete() is True
        assert coord.latch("ready", 5).count() == 5

    @pytest.mark.parametrize("count", [0, -1, 1.0, "3", True])
    def test_what_is_no_count_is_refused(self, coord, count):
        """
        Nothing is sent.
        """
        with pytest.raises(errors.InvalidValue):
            coord.latch("ready", count)
        with pytest.raises(errors.InvalidValue):
            coord.latch("ready", 1).count_down(count)

    def test_foreign_bytes_end_the_wait(self, coord, namespace):
        """
        Also when they come while somebody waits; the connection lives on.
        """
        latch = coord.latch("ready", 2)
        waiting = Call(latch.wait, timeout=30)
        wait_until(lambda: latch._cell is not None and latch.count() == 2)

        coord.kv.put(f"/{namespace}/latch/ready/value", b"\xff")

        assert isinstance(waiting.outcome(), errors.InvalidValue)
        assert coord.kv.get("/x") is None

    def test_cancel(self, coord):
        """
        The waits of that object end with Cancelled.
        """
        latch = coord.latch("ready", 2)
        waiting = Call(latch.wait, timeout=30)
        wait_until(lambda: latch._calls._calls)

        latch.cancel()

        assert isinstance(waiting.outcome(), errors.Cancelled)
