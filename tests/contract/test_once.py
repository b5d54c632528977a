"""Slots on a real etcd: who runs them, how it went, and what becomes of one whose process died."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from contract.players import expire, lose_replies, wait_until

import coordkit
from coordkit import SlotState, errors
from coordkit.etcd import kv
from coordkit.recipes import once as onces


@pytest.fixture
def once(coord, coord_factory, namespace):
    """`once("a", ...)`: the slot, as the replica of that name sees it.  Records are removed in the end."""
    replicas: dict[str, coordkit.Coordinator] = {}

    def make(replica: str = "a", slot: Any = "s", **options: Any) -> coordkit.Once:
        if replica not in replicas:
            replicas[replica] = coord_factory(identity=replica)
        return replicas[replica].once("report", slot=slot, **options)

    make.replicas = replicas
    yield make
    coord.kv.delete_prefix(f"/{namespace}/once/")


class TestOnce:
    def test_one_replica_runs_it_also_when_it_is_over(self, once):
        """
        A short job is not run again by a replica whose clock is behind.
        """
        assert once("a").run(lambda: "ran") == "ran"

        late = once("b")
        assert late.run(lambda: pytest.fail("it ran twice")) is None
        assert not late.won
        (slot,) = late.history()
        assert slot == late.state()
        assert (slot.state, slot.by, slot.attempt, slot.name) == (SlotState.DONE, "a", 1, "s")
        assert slot.began <= slot.ended

    def test_the_next_slot_is_another_one(self, once):
        """
        And the history tells of both, the newest first.
        """
        for slot in ("1", "2/2", "1"):
            once("a", slot).run(lambda: None)

        assert [each.name for each in once("b").history()] == ["2/2", "1"]

    def test_while_it_runs_it_is_another_ones(self, once):
        """
        All may see whose; its guard holds until its end.
        """
        mine = once("a")
        with mine as won:
            assert won
            mine.check()
            assert mine.remaining() > 0
            assert mine.txn().then(kv.get(mine.key)).commit().succeeded
            guard = mine.guard()
            with once("b") as other:
                assert not other
            assert (once("b").state().state, once("b").state().by) == (SlotState.RUNNING, "a")
            assert once("a").claim() is False

        assert mine.remaining() == 0
        assert once("b").state().state is SlotState.DONE
        assert not once.replicas["a"].kv.txn().when(*guard).commit().succeeded
        for ask in (mine.check, mine.done, mine.txn, lambda: mine.fence):
            with pytest.raises(coordkit.NotHeld):
                ask()

    def test_of_many_at_once_one_wins(self, once):
        """
        Whatever the order, and also when threads share one object.
        """
        shared = [once("a"), once("b")]
        contenders = [*shared * 3, *(once(name) for name in "ab" * 3)]
        ran, start = [], threading.Barrier(len(contenders))

        def contend(turn: coordkit.Once) -> None:
            start.wait()
            with turn as mine:
                if mine:
                    ran.append(turn)

        threads = [threading.Thread(target=contend, args=(turn,)) for turn in contenders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert len(ran) == 1
        assert once("a").state().state is SlotState.DONE

    def test_a_failure_is_told_by_its_kind_alone(self, once):
        """
        Its text may hold a secret.
        """
        with pytest.raises(ZeroDivisionError):
            once("a").run(lambda: 1 / 0)
        with pytest.raises(ValueError, match="hunter2"), once("a", "2"):
            raise ValueError("hunter2")

        second, first = once("b").history()
        assert (first.state, first.error) == (SlotState.FAILED, "ZeroDivisionError")
        assert (second.state, second.error) == (SlotState.FAILED, "ValueError")
        assert once("b").run(lambda: pytest.fail("it ran again")) is None

    def test_a_slot_is_forgotten_after_its_retention(self, once, coord):
        """
        Then it can be taken anew; whoever still runs it is told that its result is not kept.
        """
        slow = once("a", retention=1)
        assert slow.claim()

        wait_until(lambda: once("b").state() is None, what="the end of the retention")

        with pytest.raises(coordkit.ClaimLost):
            slow.done()
        assert once("b").run(lambda: "ran") == "ran"

    def test_nobody_has_it_yet(self, once):
        """
        Then there is no state, and no history.
        """
        assert once("a").state() is None
        assert once("a").history() == []

    def test_foreign_bytes_are_somebody_elses(self, once, coord, namespace):
        """
        The slot is taken; nothing is known of it.
        """
        coord.kv.put(f"/{namespace}/once/report/s", b"\xff{")

        assert once("a", attempts=9).claim() is False
        assert once("a").state().state is SlotState.UNREADABLE

    @pytest.mark.parametrize(
        "options", [{"retention": 0}, {"attempts": 0}, {"attempts": 1.5}, {"retention": None}]
    )
    def test_silly_numbers(self, coord, options):
        """
        Are refused at once.
        """
        with pytest.raises(coordkit.InvalidValue):
            coord.once("report", slot="s", **options)

    @pytest.mark.parametrize("retention", [0, 1e12, float("inf"), float("nan")])
    def test_what_a_retention_may_be_is_told(self, coord, retention):
        """
        Both bounds.
        """
        with pytest.raises(coordkit.InvalidValue, match="at least 1 and below 1e9"):
            coord.once("report", slot="s", retention=retention)


class TestAttempts:
    def test_a_slot_whose_process_died_stays_abandoned(self, once, coord):
        """
        It may have done its work or not: nobody runs it again unasked.
        """
        assert once("a").claim()
        expire(once.replicas["a"].session, coord)

        assert once("b").state().state is SlotState.ABANDONED
        assert once("b").claim() is False
        assert [slot.state for slot in once("b").history()] == [SlotState.ABANDONED]

    def test_who_ended_in_good_order_while_we_looked_abandoned_nothing(self, once, coord, monkeypatch):
        """
        Between the read of the slot and that of its session it was done, and the session closed.
        """
        mine, read = once("a"), onces._get
        assert mine.claim()
        reads = []

        def get(link: Any, key: bytes, deadline: Any) -> Any:
            found = read(link, key, deadline)
            reads.append(key)
            if len(reads) == 1:
                mine.done()
                expire(once.replicas["a"].session, coord)
            return found

        monkeypatch.setattr(onces, "_get", get)

        assert once("b", attempts=2).claim() is False
        assert once("b").state().state is SlotState.DONE

    def test_with_more_attempts_it_is_taken_again(self, once, coord):
        """
        The first one's guard and result are refused from then on.
        """
        first = once("a")
        assert first.claim()
        guard, fence, lost = first.guard(), first.fence, first.lost
        assert once("b", attempts=2).claim() is False
        expire(once.replicas["a"].session, coord)
        second = once("b", attempts=2)

        assert second.claim()

        assert lost.wait(10)
        assert second.fence > fence
        assert not coord.kv.txn().when(*guard).commit().succeeded
        with pytest.raises(coordkit.ClaimLost):
            first.done()
        second.done()
        slot = once("b").state()
        assert (slot.state, slot.by, slot.attempt) == (SlotState.DONE, "b", 2)
        assert once("c", attempts=9).claim() is False

    def test_who_is_gone_takes_nothing(self, once, coord):
        """
        A session that ended unnoticed: SessionLost, and the slot is free.
        """
        turn = once("a")
        once.replicas["a"].session.key_created += 1  # as if it were another one's key by now

        with pytest.raises(coordkit.SessionLost):
            turn.claim()

        assert once("b").run(lambda: "ran") == "ran"

    def test_a_failure_is_retried_so_often_and_no_more(self, once):
        """
        Whoever asks next takes it.
        """
        for replica in ("a", "b"):
            with pytest.raises(ZeroDivisionError):
                once(replica, attempts=2).run(lambda: 1 / 0)

        assert once("c", attempts=2).claim() is False
        assert once("c", attempts=3).run(lambda: "ran") == "ran"
        assert once("a").state().attempt == 3


class TestLostReplies:
    """A transaction is applied, or not, and its reply is lost."""

    @pytest.mark.parametrize("attempt", [1, 2])
    @pytest.mark.parametrize("applied", [True, False])
    def test_a_claim_is_found_out(self, once, monkeypatch, attempt, applied):
        """
        By its nonce.
        """
        if attempt == 2:
            with pytest.raises(ZeroDivisionError):
                once("a").run(lambda: 1 / 0)
        turn = once("b", attempts=2)
        lose_replies(monkeypatch, once.replicas["b"], applied, times=1)

        assert turn.claim()

        turn.done()
        assert (once("a").state().state, once("a").state().attempt) == (SlotState.DONE, attempt)

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_a_claim_that_was_given_up_is_taken_back(self, once, coord, monkeypatch, attempt):
        """
        What was applied is undone; what comes late is refused; the slot is free for others.
        """
        if attempt == 2:
            with pytest.raises(ZeroDivisionError):
                once("a").run(lambda: 1 / 0)
        before = once("a").state()
        turn = once("b", attempts=2)
        replica = once.replicas["b"]
        sent = lose_replies(monkeypatch, replica, apply=True)
        with pytest.raises(coordkit.Unavailable):
            turn.claim(timeout=0.3)
        assert not turn.won
        monkeypatch.undo()

        wait_until(lambda: once("a").state() == before, what="the claim to be taken back")

        for request in sent:
            try:
                late = coord.client.txn(request, coord.client.deadline(5))
            except errors.LeaseNotFound:
                continue
            assert not late.succeeded
        assert once("a", attempts=2).run(lambda: "ran") == "ran"

    def test_a_result_is_found_out(self, once, monkeypatch):
        """
        It was kept, whether the reply came or not.
        """
        turn = once("a")
        assert turn.claim()
        lose_replies(monkeypatch, once.replicas["a"], apply=True, times=1)

        turn.done()

        assert once("b").state().state is SlotState.DONE
