"""The heart without a server: the deadline rule, and what it does about silence, on a clock of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit import errors
from coordkit.etcd import heart as hearts
from coordkit.etcd import options as opts
from coordkit.etcd import pulse as pulses
from coordkit.wire import address, grpc, messages

TTL_S = 6.0
THIRD_S = TTL_S / pulses.RENEWALS_PER_TTL
SIXTH_S = TTL_S / pulses.ANSWERS_PER_TTL

OPTIONS = opts.Options(endpoints=(address.Address("nowhere", 1),))


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Channel:
    def __init__(self) -> None:
        self.usable = True


class Stream:
    """A keep-alive stream; `renewals` are the leases whose renewal is not answered yet."""

    def __init__(self, server: Server, on_message: Any, on_end: Any) -> None:
        self.server = server
        self.channel = server.channel
        self.on_message = on_message
        self.on_end = on_end
        self.renewals: list[int] = []
        self.cancelled = False

    def send(self, message: bytes) -> None:
        self.renewals.append(messages.LeaseKeepAliveRequest.FromString(message).ID)
        self.server.sent += 1
        self.server.clock.pass_by(self.server.sending_takes_s)

    def cancel(self) -> None:
        self.cancelled = True

    def answer(self, ttl: int | None = None, cluster: int = 7) -> None:
        """Answer the oldest renewal."""
        header = messages.ResponseHeader(cluster_id=cluster, revision=1)
        ttl = self.server.ttl if ttl is None else ttl
        reply = messages.LeaseKeepAliveResponse(header=header, ID=self.renewals.pop(0), TTL=ttl)
        self.on_message(reply.SerializeToString())

    def answer_all(self) -> None:
        while self.renewals:
            self.answer()


class Server:
    """Stands in for a client and what is behind it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.up = True
        self.ttl = int(TTL_S)
        self.channel = Channel()
        self.streams: list[Stream] = []
        self.sent = 0
        self.dials = 0
        self.drops: list[str] = []
        self.cluster = 0
        self.sending_takes_s = 0.0

    def stream(self, method: str, on_message: Any, on_end: Any, deadline: Any) -> Stream:
        if not self.up:
            self.dials += 1
            status = grpc.Status(grpc.Code.UNAVAILABLE, "nobody listens", outcome=errors.Outcome.NONE)
            raise grpc.CallFailed("connect", status)
        if not self.channel.usable:
            self.dials += 1
            self.channel = Channel()
        self.streams.append(Stream(self, on_message, on_end))
        return self.streams[-1]

    def drop_channel(self, reason: str, channel: Channel) -> None:
        if channel.usable:
            self.drops.append(reason)
            self.break_off(reason, channel)

    def break_off(self, reason: str = "reset", channel: Channel | None = None) -> None:
        """The connection breaks, with all that is on it."""
        broken = channel or self.channel
        broken.usable = False
        for stream in self.streams:
            if stream.channel is broken and not stream.cancelled:
                stream.on_end(grpc.Status(grpc.Code.UNAVAILABLE, reason))

    def is_foreign(self, header: messages.ResponseHeader) -> bool:
        self.cluster = self.cluster or header.cluster_id
        return header.cluster_id != self.cluster

    def close(self) -> None:
        self.channel.usable = False

    @property
    def living(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.channel.usable and not stream.cancelled]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hearts, "boottime", clock)
    return clock


@pytest.fixture
def server(clock: Clock) -> Server:
    return Server(clock)


@pytest.fixture
def heart(server: Server) -> hearts.Heart:
    """A heart that beats when the test calls `turn`, never by itself."""
    heart = hearts.Heart(OPTIONS)
    heart._client = server  # type: ignore[assignment]
    return heart


@pytest.fixture
def add(heart: hearts.Heart, clock: Clock) -> Callable[..., pulses.Pulse]:
    """`add(lease)` gives a pulse that was granted just now, with news of its own."""

    def add(lease: int, ttl_s: float = TTL_S) -> pulses.Pulse:
        pulse = pulses.Pulse(lease, ttl_s, clock(), pulses.News())
        heart.order("add", pulse)
        heart._turn()
        return pulse

    return add


@pytest.fixture
def live(heart: hearts.Heart, server: Server, clock: Clock) -> Callable[..., None]:
    """`live(seconds)` lets time pass in small steps; `meanwhile` is called after each turn of the heart."""

    def live(seconds: float, meanwhile: Callable[[], None] = lambda: None, step_s: float = 0.05) -> None:
        end_s = clock() + seconds
        while clock() < end_s - 1e-9:
            clock.pass_by(min(step_s, end_s - clock()))
            heart._turn()
            meanwhile()
        heart._turn()

    return live


def news(pulse: pulses.Pulse) -> int:
    """How often it was told of, since last asked."""
    count = len(pulse.news.changed)
    pulse.news.changed.clear()
    return count


class TestDeadline:
    """Until when a lease certainly lives."""

    def test_it_comes_before_etcds_by_drift_and_margin(self):
        """
        A clock that runs 1 % slow, and a reader that takes 0.2 s, are still in time.
        """
        assert pulses.deadline_of(100.0, 10.0) == pytest.approx(100 + 9.9 - 0.2)

    def test_it_is_counted_from_before_the_renewal_was_sent(self, heart, server, clock, add):
        """
        Time that passes while a renewal is sent, on its way, or its answer is, is not ours.
        """
        pulse = add(1)
        server.sending_takes_s = 0.5
        clock.pass_by(THIRD_S)
        before_s = clock()

        heart._turn()
        clock.pass_by(0.4)
        server.streams[0].answer()
        clock.pass_by(0.3)
        heart._turn()

        assert pulse.deadline_s == pulses.deadline_of(before_s, TTL_S)

    def test_it_is_counted_from_before_the_grant(self, clock):
        """
        A new pulse's deadline is that of a renewal sent when the grant was.
        """
        pulse = pulses.Pulse(1, TTL_S, 500.0, pulses.News())

        assert pulse.deadline_s == pulses.deadline_of(500.0, TTL_S)

    def test_answers_belong_to_renewals_in_order(self, heart, server, clock, add):
        """
        With two renewals on their way, the first answer counts from the first, the second from the second.
        """
        pulse = add(1)
        lane = pulses.Lane(clock())
        lane.stream = Stream(server, None, None)
        first_s, second_s = clock(), clock() + 1.5

        lane.renew(pulse, first_s)
        lane.renew(pulse, second_s)

        assert [lane.answered(1), lane.answered(1), lane.answered(1)] == [first_s, second_s, None]

    def test_leases_do_not_mix(self, heart, server, clock, add, live):
        """
        Each lease's answer counts from its own renewal, in whatever order they come.
        """
        one = add(1)
        live(0.5)
        two = add(2)
        live(THIRD_S - 0.5)
        first_s = clock()
        live(0.5)
        second_s = clock()
        stream = server.streams[0]
        assert stream.renewals == [1, 2]

        stream.renewals.reverse()
        stream.answer_all()
        heart._turn()

        assert one.deadline_s == pytest.approx(pulses.deadline_of(first_s, TTL_S), abs=2 * hearts.SLACK_S)
        assert two.deadline_s == pytest.approx(pulses.deadline_of(second_s, TTL_S), abs=2 * hearts.SLACK_S)

    def test_it_only_grows(self, heart, server, clock, add, live):
        """
        An answer with a shorter TTL does not take back what an earlier one gave.
        """
        pulse = add(1)
        live(THIRD_S)
        before_s = pulse.deadline_s

        server.streams[0].answer(ttl=1)
        heart._turn()

        assert pulse.deadline_s == before_s

    def test_an_answer_to_nothing_is_ignored(self, heart, server, clock, add, live):
        """
        Of two answers to one renewal only the first counts.
        """
        pulse = add(1)
        live(THIRD_S)
        stream = server.streams[0]
        stream.answer()
        heart._turn()
        before_s = pulse.deadline_s
        live(1.0)

        stream.renewals.append(1)
        stream.answer(ttl=1000)
        heart._turn()

        assert pulse.deadline_s == before_s

    def test_a_late_answer_counts_from_its_own_renewal(self, heart, server, clock, add, live):
        """
        After a move to another stream the old stream's answer is worth what its own renewal was.
        """
        pulse = add(1)
        live(0.5)
        add(2)
        live(THIRD_S - 0.5)
        first_s = clock()
        live(SIXTH_S + 0.1)
        old, new = server.living
        assert (old.renewals, new.renewals) == ([1, 2], [1])

        old.answer()
        heart._turn()

        assert pulse.deadline_s == pytest.approx(pulses.deadline_of(first_s, TTL_S), abs=2 * hearts.SLACK_S)

    def test_another_clusters_answer_counts_for_nothing(self, heart, server, clock, add, live):
        """
        Whoever answers in another cluster's name renews nothing of ours, nor ends it; the connection goes.
        """
        pulse = add(1)
        live(THIRD_S)
        server.streams[0].answer()
        live(THIRD_S)
        before_s = pulse.deadline_s

        server.streams[0].answer(ttl=0, cluster=8)
        heart._turn()

        assert (pulse.deadline_s, pulse.ended) == (before_s, "")
        assert server.drops == ["it belongs to another cluster"]


class TestEnd:
    """When a lease is renewed no more."""

    @pytest.mark.parametrize("ttl", [0, -1])
    def test_a_ttl_of_nothing_means_lost(self, heart, server, clock, add, live, ttl):
        """
        etcd's answer for a lease that it does not know ends the pulse, and is told.
        """
        pulse = add(1)
        live(THIRD_S)

        server.streams[0].answer(ttl=ttl)
        heart._turn()

        assert "ended" in pulse.ended
        assert news(pulse) == 1
        sent = server.sent
        live(2 * TTL_S)
        assert server.sent == sent

    def test_nothing_is_renewed_past_its_deadline(self, heart, server, clock, add, live):
        """
        A lease that may be gone is left alone: the session has the word, and it says LOST.
        """
        server.up = False
        pulse = add(1)
        live(TTL_S + 1)

        server.up = True
        news(pulse)
        live(TTL_S)

        assert server.sent == 0
        assert not pulse.ended

    def test_past_max_hold_nothing_is_renewed(self, heart, server, clock, add, live):
        """
        The renewals stop at `stop_at_s`; the session learns that it is overdue, and why.
        """
        pulse = add(1)
        pulse.stop_at_s = clock() + 1.5 * THIRD_S
        live(3 * TTL_S, meanwhile=lambda: [stream.answer_all() for stream in server.streams])

        assert server.sent == 1
        assert pulse.overdue
        assert "max_hold" in pulse.trouble

    def test_a_removed_lease_is_forgotten(self, heart, server, clock, add, live):
        """
        After `remove` nothing is sent, and the connection of a heart without leases is closed.
        """
        pulse = add(1)
        live(THIRD_S)
        heart.order("remove", pulse)

        live(2 * TTL_S)

        assert server.sent == 1
        assert not server.channel.usable


class TestSilence:
    """What is done about renewals that are not answered."""

    def test_the_first_answer_missing_makes_it_overdue(self, heart, server, clock, add, live):
        """
        TTL/6 without an answer is told, once; so is the end of it.
        """
        pulse = add(1)
        live(THIRD_S + SIXTH_S - 0.2)
        assert (pulse.overdue, news(pulse)) == (False, 0)

        live(0.3)
        assert (pulse.overdue, news(pulse)) == (True, 1)

        server.living[-1].answer()
        heart._turn()
        assert (pulse.overdue, news(pulse)) == (False, 1)

    def test_a_blocked_stream_does_not_cost_the_others_their_leases(self, heart, server, clock, add, live):
        """
        etcd blocks a stream on a dead lease: the others are answered on streams of their own.
        """
        victims = [add(lease) for lease in (1, 2, 3)]
        dead = 1

        def answer() -> None:
            """etcd's order: what stands behind a dead lease waits with it."""
            for stream in server.living:
                while stream.renewals and stream.renewals[0] != dead:
                    stream.answer()

        for pulse in victims:
            news(pulse)
        live(4 * TTL_S, meanwhile=answer)

        assert [pulse.deadline_s > clock() for pulse in victims] == [False, True, True]
        assert server.drops == []
        assert [news(pulse) for pulse in victims[1:]] == [2, 2]  # overdue once, and then no more

    def test_an_answered_lease_comes_back_to_the_common_stream(self, heart, server, clock, add, live):
        """
        Streams of one's own are for the time of trouble.
        """
        all_of_them = [add(lease) for lease in range(1, 11)]
        live(THIRD_S + SIXTH_S + 0.2)
        assert len(server.living) > 1

        live(2 * TTL_S, meanwhile=lambda: [stream.answer_all() for stream in server.living])

        assert len(server.living) == 1
        assert not any(pulse.overdue for pulse in all_of_them)

    def test_a_silent_connection_is_dropped_once(self, heart, server, clock, add, live):
        """
        When streams of their own stay silent too, the connection goes; the new one is given its time.
        """
        for lease in range(1, 11):
            add(lease)

        live(THIRD_S + 2 * SIXTH_S + 0.3)

        assert server.drops == ["renewals go unanswered"]
        assert server.dials == 1
        assert len(server.living) == 1

    def test_a_broken_connection_is_replaced_at_once(self, heart, server, clock, add, live):
        """
        What was on its way is sent again on the next connection; nothing is overdue if that answers in time.
        """
        pulse = add(1)
        live(THIRD_S + 1.0, meanwhile=lambda: [stream.answer_all() for stream in server.living])

        server.break_off()
        live(0.1)

        assert (server.dials, server.living[0].renewals) == (1, [1])
        assert not pulse.overdue
        live(pulse.patience_s)
        assert pulse.overdue

    def test_dials_are_bounded_while_nobody_answers(self, heart, server, clock, add, live):
        """
        An outage costs a few dials a second, however many leases there are.
        """
        for lease in range(1, 101):
            add(lease)
        server.up = False

        live(TTL_S)

        assert 5 <= server.dials <= 2 * TTL_S / pulses.LONGEST_RETRY_S

    def test_an_outage_of_half_the_ttl_is_survived(self, heart, server, clock, add, live):
        """
        Whenever it begins, and however short the TTL: TTL/2 without a server loses nothing.
        """
        for ttl_s in (2.0, 5.0, 10.0):
            server.ttl = int(ttl_s)
            for start in range(20):
                pulse = add(start + 1, ttl_s)

                def answer() -> None:
                    for stream in server.living:
                        stream.answer_all()

                live(ttl_s * (1 + start / 20), meanwhile=answer, step_s=0.02)
                server.up = False
                server.break_off()
                live(ttl_s / 2, step_s=0.02)
                server.up = True
                live(ttl_s / 2, meanwhile=answer, step_s=0.02)

                assert pulse.deadline_s > clock(), (ttl_s, start)
                heart.order("remove", pulse)
                live(0.1)
                heart._client = server  # type: ignore[assignment]

    def test_a_member_that_ends_streams_is_left_after_a_pause(self, heart, server, clock, add, live):
        """
        A member without a leader ends each stream at once: it is neither stormed nor asked again.
        """
        add(1)

        def refuse() -> None:
            for stream in server.living:
                status = grpc.Status(grpc.Code.UNAVAILABLE, "etcdserver: no leader", from_server=True)
                stream.cancelled = True
                stream.on_end(status)

        live(TTL_S, meanwhile=refuse)

        assert 5 <= len(server.drops) <= 2 * TTL_S / pulses.LONGEST_RETRY_S

    def test_a_process_that_was_stopped_reads_before_it_judges(self, heart, server, clock, add, live):
        """
        An answer that has come while the process was stopped is heard before it is missed.
        """
        pulse = add(1)
        live(THIRD_S)

        class Bell:
            """Wakes up two seconds late; by then the answer is in the socket, and soon read."""

            waits = 0

            def wait(self, timeout_s: float) -> None:
                self.waits += 1
                if self.waits == 1:
                    clock.pass_by(timeout_s + 2.0)
                else:
                    server.streams[0].answer()

            def set(self) -> None:
                """The answer rings."""

            clear = set

        heart._bell = Bell()  # type: ignore[assignment]
        heart._sleep()
        heart._turn()

        assert len(server.streams) == 1
        assert (pulse.overdue, news(pulse)) == (False, 0)


class TestCost:
    def test_many_leases_cost_no_more_than_their_renewals(self, heart, server, clock, add, live, monkeypatch):
        """
        A thousand leases are looked at a few times for each renewal, not at each beat.
        """
        looks = 0
        look = heart._look

        def counted(pulse: pulses.Pulse) -> None:
            nonlocal looks
            looks += 1
            look(pulse)

        monkeypatch.setattr(heart, "_look", counted)
        chance = random.Random(1)
        for lease in range(1, 1001):
            add(lease)
            clock.pass_by(chance.uniform(0, THIRD_S / 500))

        live(2 * TTL_S, meanwhile=lambda: [stream.answer_all() for stream in server.living], step_s=0.01)

        assert server.sent >= 5000
        assert looks <= 3 * server.sent

    def test_troubles_do_not_multiply_the_looks(self, heart, server, clock, add, live):
        """
        However often the connection breaks, each lease is looked at by one plan, its latest.
        """
        all_of_them = [add(lease) for lease in range(1, 11)]
        live(THIRD_S, meanwhile=lambda: [stream.answer_all() for stream in server.living])
        for _ in range(20):
            server.break_off()
            live(0.5, meanwhile=lambda: [stream.answer_all() for stream in server.living])

        live(2 * TTL_S, meanwhile=lambda: [stream.answer_all() for stream in server.living])

        assert len(heart._looks) <= 2 * len(all_of_them)

    def test_what_was_removed_is_not_kept(self, heart, server, clock, add, live):
        """
        Leases that come and go leave nothing behind.
        """
        for lease in range(1, 101):
            heart.order("remove", add(lease))

        live(TTL_S)

        assert (heart._pulses, heart._looks) == ({}, [])


class TestThread:
    @pytest.fixture
    def beating(self) -> Iterator[tuple[Stumbling, pulses.Pulse]]:
        heart = Stumbling(OPTIONS)
        pulse = pulses.Pulse(1, TTL_S, 0.0, pulses.News())
        heart.start()
        yield heart, pulse
        heart.stop()

    def test_a_mistake_in_one_turn_does_not_end_it(self, beating, eventually):
        """
        Whatever a turn raises is told, and the next turn comes.
        """
        heart, pulse = beating

        heart.order("add", pulse)

        eventually(lambda: heart.turns > 3)
        assert str(pulse.news.stumbles[0]) == "a mistake"


class Stumbling(hearts.Heart):
    """Every turn fails."""

    turns = 0

    def _turn(self) -> None:
        self._obey()
        self.turns += 1
        raise ValueError("a mistake")

    def stop(self) -> None:
        self._pid = -1
        self._bell.set()


def test_there_is_one_heart_for_each_cluster_and_user(monkeypatch):
    """
    Coordinators with equal options share a heart, whichever of many threads asked first.
    """
    monkeypatch.setattr(hearts, "_HEARTS", {})
    monkeypatch.setattr(hearts.Heart, "start", lambda self: None)
    other = opts.Options(endpoints=OPTIONS.endpoints, user="somebody")
    found: list[hearts.Heart] = []
    threads = [threading.Thread(target=lambda: found.append(hearts.heart_for(OPTIONS))) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 1
    assert hearts.heart_for(other) is not found[0]
