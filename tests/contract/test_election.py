"""Elections on a real etcd: who leads, who is told, and what is left when something goes wrong."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from contract.players import Call, expire, lose_replies, wait_until
from contract.test_watch import Break, compact

import coordkit
from coordkit import errors, waitlist
from coordkit.etcd import kv
from coordkit.etcd import lease as leases
from coordkit.testing import LocalEtcd


def stand(election: coordkit.Election, *arguments: Any, **options: Any) -> Call:
    """A campaign that waits behind somebody."""
    before = len(election.contenders())
    campaign = Call(election.campaign, *arguments, **options)
    wait_until(lambda: len(election.contenders()) == before + 1, what="the candidacy")
    return campaign


class Watcher:
    """Collects what an observation tells."""

    def __init__(self, election: coordkit.Election) -> None:
        self.told: list[coordkit.Candidate | None] = []
        self._observation = election.observe(timeout=60)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for leader in self._observation:
            self.told.append(leader)

    @property
    def values(self) -> list[bytes | None]:
        return [leader and leader.value for leader in list(self.told)]

    def wait_for(self, *values: bytes | None) -> None:
        wait_until(lambda: self.values == list(values), what=f"{values}, but {self.values}")

    def close(self) -> None:
        self._observation.close()
        self._thread.join(15)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server(etcd_binary):
    """One whose history may be compacted."""
    with LocalEtcd(etcd_binary) as server:
        yield server


@pytest.fixture
def watcher(coord):
    watching: list[Watcher] = []

    def start(election: coordkit.Election) -> Watcher:
        watching.append(Watcher(election))
        return watching[-1]

    yield start

    for each in watching:
        each.close()


class TestCall:
    def test_the_only_candidate_leads_and_resigns(self, coord):
        """
        Its key holds what it proclaims, and is gone after it resigned.
        """
        election = coord.election("chair")

        with election.campaign("me") as leadership:
            leadership.check()
            leader = election.leader()
            assert (leader.key, leader.value, leader.fence) == (leadership.key, b"me", leadership.fence)
            assert leader.lease == coord.session.lease_id
            assert leadership.remaining() > 0
            assert not leadership.lost.is_set()
            assert leadership.txn().then(kv.get(leadership.key)).commit().succeeded

        assert election.leader() is None
        assert leadership.resigned_revision > leadership.fence
        assert not leadership.lost.is_set()
        assert not leadership.txn().commit().succeeded
        with pytest.raises(errors.NotHeld):
            leadership.check()
        with pytest.raises(errors.NotHeld):
            leadership.resign()

    def test_without_a_value_the_identity_is_proclaimed(self, coord):
        """
        Who leads is known to all, also if nobody thought of a value.
        """
        with coord.election("chair").campaign():
            assert coord.election("chair").leader().value.decode() == coord.settings.identity

    def test_candidates_lead_in_the_order_in_which_they_came(self, coord, coord_factory):
        """
        Of this process and of others; fences rise.
        """
        mine, other = coord.election("chair"), coord_factory().election("chair")
        first = mine.campaign(b"1")
        second, third = stand(other, b"2"), stand(mine, b"3")
        assert [each.value for each in mine.contenders()] == [b"1", b"2", b"3"]
        assert first.contenders() == mine.contenders()

        first.resign()
        heir = second.end()
        assert third.waiting
        heir.resign()
        last = third.end()

        assert first.fence < heir.fence < last.fence
        assert heir.fence < first.resigned_revision < heir.resigned_revision
        last.resign()

    def test_a_change_of_leaders_is_one_commit_and_one_event(self, coord, coord_factory):
        """
        Who resigns writes once, and may have looked at its own key; the heir, told of the line, asks nothing.
        """
        other = coord_factory()
        leadership = coord.election("chair").campaign(b"1")
        heir = stand(other.election("chair"), b"2")
        wait_until(lambda: len(other._link.watcher._live) >= 2, what="the heir's watch")
        calls = [each.statistics().calls for each in (coord, other)]

        leadership.resign()
        heir = heir.end()

        mine, others = (
            each.statistics().calls - before for each, before in zip((coord, other), calls, strict=True)
        )
        assert mine <= 2  # the look at its own key may have been late
        assert others == 0
        heir.resign()

    def test_a_campaign_that_is_out_of_time_leaves_the_line(self, coord, coord_factory):
        """
        AcquireTimeout is a TimeoutError; a try writes nothing.
        """
        another = coord_factory()
        election, other = coord.election("chair"), another.election("chair")
        assert another.session.alive
        with election.campaign(b"me"):
            seen = coord.kv.put("/unrelated", b"")
            with pytest.raises(coordkit.AcquireTimeout):
                other.campaign(b"other", timeout=0)
            assert coord.kv.put("/unrelated", b"") == seen + 1
            with pytest.raises(TimeoutError):
                other.campaign(b"other", timeout=0.05)

            wait_until(lambda: len(election.contenders()) == 1, what="the withdrawal")
            with pytest.raises(coordkit.AcquireTimeout, match="another candidate"):
                other.run(lambda leadership: None, timeout=0)
        coord.kv.delete("/unrelated")
        other.campaign(b"other", timeout=0).resign()
        assert other.run(lambda leadership: "it led", timeout=0) == "it led"

    def test_a_run_without_a_timeout_waits(self, coord, coord_factory):
        """
        None is for ever, as -1 is; it is no try.
        """
        leadership = coord.election("chair").campaign(b"me")
        running = Call(lambda: coord_factory().election("chair").run(lambda _: "it led", timeout=None))
        wait_until(lambda: len(coord.election("chair").contenders()) == 2, what="the other candidate")

        leadership.resign()

        assert running.end() == "it led"

    def test_cancel_ends_all_that_waits(self, coord):
        """
        Calls, observations, runs, and the wait of a leader, who goes on to lead.
        """
        election = coord.election("chair")
        leadership = election.campaign(b"me")
        waiting = stand(election, b"other")
        observing = Call(lambda: list(election.observe()))
        running = Call(election.run, lambda leadership: "never")
        wait_until(lambda: len(election.contenders()) == 3, what="both candidacies")
        stopping = Call(leadership.wait)

        election.cancel()

        with pytest.raises(coordkit.Cancelled):
            waiting.end()
        assert [leader.value for leader in observing.end()] in ([b"me"], [])
        assert running.end() is None
        assert stopping.end() is True
        leadership.check()
        wait_until(lambda: len(election.contenders()) == 1, what="the withdrawals")
        leadership.resign()

    def test_a_candidate_whose_key_is_deleted_stands_again(self, coord):
        """
        It never takes office without a key of its own.
        """
        election = coord.election("chair")
        leadership = election.campaign(b"me")
        waiting = stand(election, b"other")
        doomed = election.contenders()[1]

        coord.kv.delete(doomed.key)
        wait_until(lambda: len(election.contenders()) == 2, what="another candidacy")
        leadership.resign()

        heir = waiting.end()
        assert heir.fence > doomed.fence
        assert election.leader().fence == heir.fence
        heir.resign()

    @pytest.mark.parametrize("timeout", [-1, 0])
    def test_a_campaign_that_is_interrupted_as_it_is_won_leaves_nothing(self, coord, monkeypatch, timeout):
        """
        Ctrl-C, a gevent.Timeout or a kill, in the last moment.
        """
        election = coord.election("chair")
        assert coord.session.alive

        def interrupt(*arguments: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(coord._link.attendant, "after", interrupt)
        with pytest.raises(KeyboardInterrupt):
            election.campaign(b"me", timeout=timeout)
        monkeypatch.undo()

        wait_until(lambda: not election.contenders(), what="the withdrawal")
        assert not coord.session._holds

    def test_a_campaign_that_is_interrupted_while_it_waits_leaves_the_line(self, coord, monkeypatch):
        """
        The same, behind somebody.
        """
        election = coord.election("chair")
        with election.campaign(b"leader"):
            wait = coord.client.wait

            def interrupt(*arguments: Any) -> None:
                monkeypatch.setattr(coord.client, "wait", wait)
                raise KeyboardInterrupt

            monkeypatch.setattr(coord.client, "wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                election.campaign(b"me", timeout=10)

            wait_until(lambda: len(election.contenders()) == 1, what="the withdrawal")


class TestLoss:
    def test_a_deposed_leader_is_told_though_its_session_lives(self, coord, watcher):
        """
        Somebody deletes its key: `lost`, `check` and `wait` tell, guarded writes fail, the next one leads.
        """
        election = coord.election("chair")
        leadership = election.campaign(b"me")
        told = Call(leadership.wait)

        assert coord.kv.delete(leadership.key)

        assert told.end() is True
        assert leadership.lost.wait(10)
        with pytest.raises(coordkit.LockLost, match=r"(deleted|gone) at revision"):
            leadership.check()
        assert leadership.remaining() == 0
        assert not leadership.txn().commit().succeeded
        with pytest.raises(coordkit.LockLost):
            leadership.proclaim(b"still me")
        with pytest.raises(coordkit.LockLost):
            leadership.resign()
        assert coord.session.alive
        election.campaign(b"again", timeout=10).resign()

    def test_an_heir_is_told_too_though_it_has_no_watch_of_its_own(self, coord, coord_factory):
        """
        The line's watch tells, long after the last one who waits has gone.
        """
        other = coord_factory()
        first = coord.election("chair").campaign(b"1")
        campaign = stand(other.election("chair"), b"2")
        wait_until(lambda: len(other._link.watcher._live) >= 2, what="the heir's watch")
        first.resign()
        heir = campaign.end()

        coord.kv.delete(heir.key)

        assert heir.lost.wait(10)
        with pytest.raises(coordkit.LockLost, match="deleted at revision"):
            heir.resign()

    def test_an_heir_finds_out_what_its_watch_has_missed(self, server):
        """
        Its connection breaks; meanwhile its key is deleted, and history compacted.
        """
        with coordkit.connect(server.url) as coord, coordkit.connect(server.url) as other:
            first = coord.election("missed").campaign(b"1")
            campaign = stand(other.election("missed"), b"2")
            wait_until(lambda: len(other._link.watcher._live) >= 2, what="the heir's watch")
            first.resign()
            heir = campaign.end()

            with Break(other.client):
                coord.kv.delete(heir.key)
                compact(coord, coord.kv.put("/unrelated", b""))

            assert heir.lost.wait(10)
            coord.kv.delete("/unrelated")

    def test_a_leader_loses_with_its_session(self, coord, coord_factory):
        """
        And the next candidate leads.
        """
        witness = coord_factory()
        leadership = coord.election("chair").campaign(b"me")
        heir = stand(witness.election("chair"), b"heir")

        expire(coord.session, witness)

        assert leadership.lost.wait(10)
        with pytest.raises(coordkit.LockLost), leadership:
            pass
        heir.end().resign()

    def test_a_loss_is_a_note_on_an_exception_that_is_on_its_way(self, coord):
        """
        Which is not replaced by it.
        """
        with pytest.raises(ZeroDivisionError) as raised, coord.election("chair").campaign() as leadership:
            coord.kv.delete(leadership.key)
            assert leadership.lost.wait(10)
            raise ZeroDivisionError

        assert any("was lost" in note for note in raised.value.__notes__)


class TestProclaim:
    def test_all_are_told_of_another_value(self, coord):
        """
        The place in line stays, and so does the lease.
        """
        election = coord.election("chair")
        with election.campaign(b"one") as leadership:
            revision = leadership.proclaim(b"two")

            leader = election.leader()
            assert (leader.value, leader.fence, leader.revision) == (b"two", leadership.fence, revision)
            assert leader.lease == coord.session.lease_id

    def test_a_late_copy_does_not_undo_a_newer_one(self, coord, monkeypatch):
        """
        What got no answer may be applied until the next proclamation, never after it.
        """
        election = coord.election("chair")
        with election.campaign(b"one") as leadership:
            late = lose_replies(monkeypatch, coord, apply=False)
            with pytest.raises(coordkit.Unavailable) as raised:
                leadership.proclaim(b"two", timeout=0.3)
            assert raised.value.outcome is coordkit.Outcome.UNKNOWN
            monkeypatch.undo()

            leadership.proclaim(b"three")
            copies = [request for request in late if request.key == leadership.key]
            assert copies
            assert not any(coord.client.txn(copy, coord.client.deadline(5)).succeeded for copy in copies)
            assert election.leader().value == b"three"

    def test_one_that_was_applied_without_an_answer_is_found_out(self, coord, monkeypatch):
        """
        The call says so; and the next proclamation stands on it.
        """
        election = coord.election("chair")
        with election.campaign(b"one") as leadership:
            lose_replies(monkeypatch, coord, apply=True, times=1)
            revision = leadership.proclaim(b"two")
            assert (election.leader().value, election.leader().revision) == (b"two", revision)
            assert coord.kv.get(leadership.key).version == 2, "it was proclaimed twice"

            lose_replies(monkeypatch, coord, apply=True)
            with pytest.raises((coordkit.Unavailable, coordkit.DeadlineExceeded)):
                leadership.proclaim(b"three", timeout=0.3)
            monkeypatch.undo()
            assert election.leader().value == b"three"
            leadership.proclaim(b"four")

            assert election.leader().value == b"four"


class TestObserve:
    def test_each_leader_each_value_and_nobody(self, coord, coord_factory, watcher):
        """
        In order, without a wrong one in between, also by a process that has no session.
        """
        looking = coord_factory()
        election = coord.election("chair")
        watching = watcher(looking.election("chair"))
        watching.wait_for(None)

        first = election.campaign(b"1")
        watching.wait_for(None, b"1")
        second, third = stand(election, b"2"), stand(election, b"3")
        first.proclaim(b"1b")
        watching.wait_for(None, b"1", b"1b")
        first.resign()
        second.end().resign()
        third.end().resign()

        watching.wait_for(None, b"1", b"1b", b"2", b"3", None)
        assert not coord.kv.range(f"/{looking.settings.namespace}/session/")[1:]

    def test_a_younger_candidate_is_never_taken_for_the_leader(self, coord, coord_factory, watcher):
        """
        One that proclaims in the middle of the line, or leaves it, is no change of leaders.
        """
        election = coord.election("chair")
        leadership = election.campaign(b"leader")
        watching = watcher(coord_factory().election("chair"))
        watching.wait_for(b"leader")
        prefix = leadership.key.rpartition(b"/")[0]

        coord.kv.put(prefix + b"/1", b"younger")
        coord.kv.put(prefix + b"/1", b"louder")
        coord.kv.delete(prefix + b"/1")
        leadership.proclaim(b"leader still")

        watching.wait_for(b"leader", b"leader still")
        leadership.resign()

    def test_time_is_up(self, coord):
        """
        Then the iteration ends.
        """
        assert list(coord.election("chair").observe(timeout=0.2)) == [None]

    def test_a_dropped_iterator_ends_its_watch_at_the_next_event(self, coord):
        """
        Nothing is told to nobody for ever.
        """
        election = coord.election("chair")
        for leader in election.observe():
            assert leader is None
            break
        watches = coord._link.watcher._live
        assert len(watches) >= 1
        before = len(watches)

        with election.campaign(b"me"):
            wait_until(lambda: len(coord._link.watcher._live) <= before + 1, what="the end of the watch")


class TestObservingThroughTrouble:
    @pytest.fixture
    def looking(self, server):
        """The observer's coordinator, whose connection breaks."""
        with coordkit.connect(server.url) as coordinator:
            yield coordinator

    @pytest.fixture
    def electing(self, server):
        """The candidates', whose does not."""
        with coordkit.connect(server.url) as coordinator:
            yield coordinator

    @pytest.mark.parametrize("compacted", [False, True])
    def test_the_last_that_is_told_is_what_is(self, looking, electing, watcher, compacted):
        """
        Without its connection it is told later, in order; without the history, what came of it.
        """
        election = electing.election("chair")
        first = election.campaign(b"1")
        watching = watcher(looking.election("chair"))
        watching.wait_for(b"1")

        with Break(looking.client):
            first.proclaim(b"1b")
            first.resign()
            last = election.campaign(b"2")
            last.proclaim(b"2b")
            if compacted:
                compact(electing, last.proclaim(b"2c"))

        watching.wait_for(b"1", *([b"2c"] if compacted else [b"1b", None, b"2", b"2b"]))
        last.resign()
        wait_until(lambda: watching.values[-1] is None, what="the end")


class TestRun:
    def test_what_the_leader_returned_is_returned(self, coord):
        """
        Once it was leader to the end; it resigned.
        """
        election = coord.election("chair")

        assert election.run(lambda leadership: leadership.fence, b"me") > 0

        assert election.leader() is None

    def test_after_a_loss_it_campaigns_again(self, coord, coord_factory):
        """
        Deposed, or with its session gone, whether the function returns or lets the loss pass.
        """
        witness = coord_factory()
        fences = []

        def lead(leadership: coordkit.Leadership) -> str:
            fences.append(leadership.fence)
            if len(fences) == 1:
                witness.kv.delete(leadership.key)
                leadership.wait()
                leadership.check()
            if len(fences) == 2:
                leases.revoke(witness.client, coord.session.lease_id, witness.client.deadline(5))
                assert leadership.wait(10)
            return "done"

        assert coord.election("chair").run(lead) == "done"

        assert len(fences) == 3 and sorted(fences) == fences

    def test_another_error_is_the_callers(self, coord):
        """
        After a resignation.
        """
        election = coord.election("chair")

        with pytest.raises(ZeroDivisionError):
            election.run(lambda leadership: 1 / 0)

        assert election.leader() is None

    def test_cancel_tells_the_leader_to_stop(self, coord):
        """
        `wait` returns True; what the function returns is returned.
        """
        election = coord.election("chair")

        def lead(leadership: coordkit.Leadership) -> str:
            while not leadership.wait(60):
                pass
            return "stopped"

        running = Call(election.run, lead)
        wait_until(election.leader, what="a leader")
        election.cancel()

        assert running.end() == "stopped"

    def test_a_cancel_at_the_moment_of_the_election_is_told(self, coord, monkeypatch):
        """
        It came too late to end the campaign, and too early to see the leader.
        """
        election = coord.election("chair")
        take_turn = waitlist.Line.take_turn

        def take(line, ticket, deadline, grant, late):
            def cancelled(*granted):
                election.cancel()
                return grant(*granted)

            return take_turn(line, ticket, deadline, cancelled, late)

        monkeypatch.setattr(waitlist.Line, "take_turn", take)

        with election.campaign() as leadership:
            assert leadership.wait(0)

    def test_a_session_of_the_callers_is_not_replaced(self, coord):
        """
        SessionLost says so.
        """
        session = coord.new_session()
        election = coordkit.Election(session, "chair")

        def lead(leadership: coordkit.Leadership) -> None:
            expire(session, coord)
            leadership.wait()

        with pytest.raises(coordkit.SessionLost):
            election.run(lead)


class TestNames:
    def test_a_prefix_as_it_is(self, coord, namespace):
        """
        With a slash behind it.
        """
        election = coordkit.Election.at(coord.session, f"/{namespace}/mine")

        with election.campaign() as leadership:
            assert leadership.key.startswith(f"/{namespace}/mine/{coord.session.lease_id:016x}-".encode())

    @pytest.mark.parametrize("prefix", ["", b"bytes", "\udc80"])
    def test_no_prefix(self, coord, prefix):
        """
        What cannot be one is refused.
        """
        with pytest.raises(coordkit.InvalidName):
            coordkit.Election.at(coord.session, prefix)
