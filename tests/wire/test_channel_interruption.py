"""Callers that are interrupted, woken, killed or late, at every moment that can be arranged; others go on."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import subprocess
import sys
import threading
import time

import pytest

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import address, frames, grpc, inbox
from coordkit.wire import channel as channels
from tests.wire import machines, peers
from tests.wire.interruptions import interrupted_at
from tests.wire.peers import Caller, Request, echo, hold


def soon() -> Deadline:
    return Deadline.after(peers.PATIENCE_S)


@pytest.fixture
def natively(mode):
    if mode == "gevent":
        pytest.skip("of native threads: under gevent callers do not read")


@pytest.fixture
def cooperatively(mode):
    if mode == "threads":
        pytest.skip("of greenlets: a native thread cannot be killed")
    import gevent

    return gevent


class TestWaiters:
    def test_a_lone_waiter_is_woken(self, peer, opened, eventually):
        """
        It reads the socket, where nothing comes; `wake` makes it look up.
        """
        channel = opened(peer(echo).channel())
        waiter = channels.Waiter()
        done: queue.Queue[bool] = queue.Queue()
        thread = threading.Thread(target=lambda: done.put(channel.wait(waiter, NEVER)), daemon=True)
        thread.start()

        eventually(lambda: waiter in channel._rota._parked or channel._rota._leader is waiter)
        waiter.wake()

        assert done.get(timeout=peers.PATIENCE_S) is True
        assert channel.call("/t/m", b"on", soon()) == b"on"

    def test_who_is_told_while_it_reads_itself_rings_no_bell(self, peer, opened, eventually, natively):
        """
        Its own delivery ends its wait: a bell would only make its next read return with nothing.
        """
        server = peer(hold)
        channel = opened(server.channel())
        waiter = channels.Waiter()

        def on_message(message: bytes) -> None:
            if message == b"news":
                waiter.wake()

        def tell() -> None:
            (request,) = server.requests
            eventually(lambda: channel._rota._leader is waiter or request.send(b"whoever reads"))
            request.send(b"news")

        channel.stream("/t/watch", on_message, lambda status: None)
        eventually(lambda: server.requests)
        threading.Thread(target=tell, daemon=True).start()

        assert channel.wait(waiter, soon())

        assert not inbox.readable(channel._inbox._bell)

    def test_one_behind_a_reader_is_woken(self, peer, opened, eventually):
        """
        The reader's own call goes on.
        """
        server = peer(hold)
        channel = opened(server.channel())
        caller = Caller(channel)
        eventually(lambda: server.requests)
        waiter = channels.Waiter()
        threading.Thread(
            target=lambda: eventually(lambda: waiter in channel._rota._parked) and waiter.wake()
        ).start()

        assert channel.wait(waiter, soon())

        server.requests[0].reply(b"reply")
        assert caller.result() == b"reply"

    def test_the_last_who_is_woken_sends_what_others_queued(self, peer, opened, eventually, natively):
        """
        While callers are being woken one by one, requests wait to travel together; not for ever.
        """
        server = peer(echo)
        channel = opened(server.channel())
        leader, last = channels.Waiter(), channels.Waiter()
        for waiter in (leader, last):
            threading.Thread(target=channel.wait, args=(waiter, NEVER), daemon=True).start()
            eventually(lambda: waiter in channel._rota._parked or channel._rota._leader is waiter)  # noqa: B023
        channel._rota.served.append(last)  # as if its reply had come, and it was about to wake
        caller = Caller(channel, b"together")
        eventually(lambda: len(channel._rota._parked) == 2)
        assert not server.requests

        last.wake()

        assert caller.result() == b"together"

    def test_a_wake_that_came_before_is_seen(self, peer, opened):
        """
        Nothing is waited for.
        """
        channel = opened(peer(echo).channel())
        waiter = channels.Waiter()
        waiter.wake()

        assert channel.wait(waiter, NEVER)

    def test_a_deadline_ends_the_wait(self, peer, opened):
        """
        The waiter is not done, and may wait again.
        """
        channel = opened(peer(echo).channel())
        waiter = channels.Waiter()

        assert not channel.wait(waiter, Deadline.after(0.05))
        assert not channel.wait(waiter, Deadline.after(0))

        assert channel.call("/t/m", b"on", soon()) == b"on"

    def test_closing_ends_every_wait(self, peer, opened, eventually):
        """
        Whoever reads and whoever is parked: all look up and find the channel closed.
        """
        channel = opened(peer(echo).channel())
        ended: queue.Queue[bool] = queue.Queue()

        def wait() -> None:
            ended.put(channel.wait(channels.Waiter(), NEVER))

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(5)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(channel._rota._parked) >= 4)

        channel.close()

        assert [ended.get(timeout=peers.PATIENCE_S) for _ in threads] == [False] * 5

    def test_messages_come_after_the_callers_have_left(self, peer, opened, eventually):
        """
        The last caller takes the reader's role with it; the standby reads what comes then.
        """
        server = peer(lambda request: echo(request) if request.method == "/t/echo" else hold(request))
        channel = opened(server.channel())
        messages: queue.Queue[bytes] = queue.Queue()
        channel.stream("/t/watch", messages.put, lambda status: None)
        eventually(lambda: server.requests)
        watch = server.requests[0]

        for number in range(20):
            assert channel.call("/t/echo", b"%d" % number, soon()) == b"%d" % number
            watch.send(b"%d" % number)
            assert messages.get(timeout=peers.PATIENCE_S) == b"%d" % number

        with pytest.raises(grpc.CallFailed):
            channel.call("/t/never", b"", Deadline.after(0.05))
        watch.send(b"after a deadline")
        assert messages.get(timeout=peers.PATIENCE_S) == b"after a deadline"

    def test_a_tried_lead_is_not_left_in_the_line(self, peer, opened, eventually):
        """
        After an idle time two callers look at the socket at once; the slower one must not inherit as a ghost.
        """
        server = peer(hold)
        channel = opened(server.channel())
        reader = Caller(channel)
        eventually(lambda: server.requests)

        parked = set(channel._rota._parked)

        channel._notice_the_end()  # somebody reads already

        assert set(channel._rota._parked) == parked
        server.requests[0].reply(b"reply")
        assert reader.result() == b"reply"
        after = Caller(channel)
        eventually(lambda: len(server.requests) == 2)
        server.requests[1].reply(b"after")
        assert after.result() == b"after"


class TestSignals:
    @pytest.fixture
    def interrupt(self, eventually):
        """`interrupt(state)`: once the state is true, a child sends this process a SIGINT."""
        threads = []
        send = [sys.executable, "-c", f"import os, signal; os.kill({os.getpid()}, signal.SIGINT)"]

        def arrange(state) -> None:
            def run() -> None:
                eventually(state)
                subprocess.run(send, check=True)

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()

        yield arrange

        for thread in threads:
            thread.join(peers.PATIENCE_S)

    def test_a_reader_that_is_interrupted_hands_over(self, peer, opened, eventually, interrupt):
        """
        Ctrl-C in the main thread's call: those of other threads go on, and so does the channel.
        """
        server = peer(hold)
        channel = opened(server.channel())
        others: list[Caller] = []

        def all_are_in_flight() -> bool:
            if len(server.requests) == 1 and not others:
                others.extend(Caller(channel, b"%d" % number) for number in range(5))
            return len(server.requests) == 6 and len(channel._rota._parked) >= 5

        interrupt(all_are_in_flight)
        with pytest.raises(KeyboardInterrupt):
            channel.call("/t/m", b"main", NEVER)

        eventually(lambda: server.requests[0].reset is not None)
        for request in server.requests[1:]:
            request.reply(request.message)
        assert [caller.result() for caller in others] == [b"%d" % number for number in range(5)]
        server.script = echo
        assert channel.call("/t/m", b"on", soon()) == b"on"

    def test_a_follower_that_is_interrupted_leaves_the_line(self, peer, opened, eventually, interrupt):
        """
        The one that reads goes on, and nobody waits for the one that left.
        """
        server = peer(hold)
        channel = opened(server.channel())
        reader = Caller(channel, b"reader")
        eventually(lambda: server.requests)

        interrupt(lambda: len(server.requests) == 2 and channel._rota._parked)
        with pytest.raises(KeyboardInterrupt):
            channel.call("/t/m", b"main", NEVER)

        server.requests[0].reply(b"reply")
        assert reader.result() == b"reply"
        server.script = echo
        assert channel.call("/t/m", b"on", soon()) == b"on"

    def test_a_sender_that_is_interrupted_leaves_its_bytes_to_others(
        self, peer, opened, eventually, interrupt
    ):
        """
        A large request stuck in a full buffer: it is given up, what was begun is finished, the rest goes on.
        """
        server = peer(echo, INITIAL_WINDOW_SIZE=2**30, MAX_FRAME_SIZE=2**20)
        channel = opened(server.channel())
        server.reads.clear()

        interrupt(lambda: channel._outbox._full)
        with pytest.raises(KeyboardInterrupt):
            channel.call("/t/m", bytes(16 * 2**20), NEVER)

        other = Caller(channel, b"other")
        server.reads.set()
        assert other.result() == b"other"
        assert channel.usable


@pytest.mark.usefixtures("natively")
class TestInterruptionAnywhere:
    """Ctrl-C at each place of a call where it may come: the channel goes on, or ends and says why."""

    def run(
        self, attempt, before=lambda place: None, after=lambda context: None
    ) -> tuple[int, set[str], set[str]]:
        """Attempt until no place is left.

        Returns how many there were; the functions in which they were, and those in which one ended the
        channel: how often each has its turn depends on how the bytes come.
        """
        places = 0
        functions: set[str] = set()
        fatal: set[str] = set()
        with quick_server() as place:
            channel = channels.Channel.connect(place, soon())
            while True:
                context = before(channel)
                where = interrupted_at(places + 1, lambda: attempt(channel))  # noqa: B023
                if where is None:
                    channel.close()
                    return places, functions, fatal
                places += 1
                functions.add(where)
                problem = f"after place {places}, in {where}"
                try:
                    assert channel.call("/t/echo", b"on", Deadline.after(5)) == b"on", problem
                    after(context)
                    assert channel.statistics().in_flight == 0, problem
                except grpc.CallFailed as failure:
                    assert failure.status.code is grpc.Code.UNAVAILABLE, f"{problem}: {failure}"
                    assert "interrupted" in failure.status.message, f"{problem}: {failure}"
                    fatal.add(where)
                    channel = channels.Channel.connect(place, soon())

    def test_alone(self):
        """
        A call by the only thread there is.  Only what was read and not yet understood is lost for good.
        """
        places, functions, fatal = self.run(lambda channel: channel.call("/t/echo", b"x", Deadline.after(5)))

        assert places > 50
        assert len(fatal) < len(functions) * 0.6

    def test_before_others(self):
        """
        Another thread's call is in flight, and ours reads for it.
        """

        def other(channel) -> Caller:
            started = channel.statistics().calls
            caller = Caller(channel, b"held", method="/t/held")
            while channel.statistics().calls == started:
                caller.thread.join(0.001)
            return caller

        def finish(caller: Caller) -> None:
            assert caller.result() == b"held"

        places, *_ = self.run(lambda channel: channel.call("/t/echo", b"x", Deadline.after(5)), other, finish)

        assert places > 50

    def test_on_the_way_out(self):
        """
        A call whose time runs out is abandoned, whatever comes between.
        """

        def expire(channel) -> None:
            with contextlib.suppress(grpc.CallFailed):
                channel.call("/t/never", b"x", Deadline.after(0.002))

        places, functions, fatal = self.run(expire)

        assert places > 50
        assert len(fatal) < len(functions) * 0.6

    def test_with_a_large_request(self):
        """
        One that waits for the server's window, piece by piece.
        """
        places, *_ = self.run(lambda channel: channel.call("/t/echo", bytes(70_000), Deadline.after(5)))

        assert places > 50

    def test_while_a_stream_is_opened_and_cancelled(self):
        """
        Its standby may be starting just then.
        """

        def watch(channel) -> None:
            stream = channel.stream("/t/never", lambda message: None, lambda status: None)
            try:
                stream.send(b"hello")
                stream.cancel()
            except KeyboardInterrupt:
                stream.cancel()
                raise

        places, *_ = self.run(watch)

        assert places > 50


def quick_server() -> contextlib.AbstractContextManager[address.Address]:
    """A server without ceremony: it echoes; /t/never is never answered, /t/held when the next call comes."""

    def serve(sock: socket.socket) -> None:
        peers.greet(sock)
        methods: dict[int, bytes] = {}
        bodies: dict[int, bytes] = {}
        held: list[bytes] = []
        for kind, flags, stream_id, payload in peers.read_frames(sock):
            if kind == frames.HEADERS:
                methods[stream_id] = next(name for name in (b"echo", b"never", b"held") if name in payload)
                sock.sendall(b"".join(held))
                held.clear()
            elif kind == frames.DATA:
                bodies[stream_id] = bodies.get(stream_id, b"") + payload
                if payload:
                    credit = machines.u32(len(payload))
                    update = frames.pack(frames.WINDOW_UPDATE, 0, 0, credit)
                    sock.sendall(update + frames.pack(frames.WINDOW_UPDATE, 0, stream_id, credit))
                if flags & frames.END_STREAM and methods[stream_id] != b"never":
                    reply = peers.response(stream_id, bodies.pop(stream_id)[5:1_000])
                    if methods[stream_id] == b"held":
                        held.append(reply)
                    else:
                        sock.sendall(reply)

    return peers.listening(serve)


class TestGreenlets:
    @pytest.mark.parametrize("steps", range(12))
    def test_one_that_is_killed_harms_no_other(self, peer, opened, cooperatively, steps):
        """
        After any number of switches: its call is given up, the others' go on.
        """
        server = peer(echo)
        channel = opened(server.channel())
        victim = cooperatively.spawn(channel.call, "/t/m", bytes(100_000), soon())
        others = [Caller(channel, b"%d" % number) for number in range(3)]

        for _ in range(steps):
            cooperatively.idle()
        victim.kill()

        assert [caller.result() for caller in others] == [b"%d" % number for number in range(3)]
        assert channel.call("/t/m", b"on", soon()) == b"on"
        assert channel.statistics().in_flight == 0

    def test_a_timeout_while_connecting_leaves_nothing_behind(self, cooperatively, eventually):
        """
        The server sees the connection close; no greenlet of its making stays.
        """
        left = threading.Event()
        others = set(threading.enumerate())  # earlier tests' may be ending still

        def serve(sock: socket.socket) -> None:
            while sock.recv(2**16):
                pass
            left.set()

        with peers.listening(serve) as place:
            with pytest.raises(cooperatively.Timeout), cooperatively.Timeout(0.1):
                channels.Channel.connect(place, NEVER)

            assert left.wait(peers.PATIENCE_S)
        eventually(
            lambda: not [
                thread
                for thread in set(threading.enumerate()) - others
                if thread.name.startswith("coordkit")
            ]
        )

    def test_a_kill_while_a_large_request_is_stuck(self, peer, opened, cooperatively, eventually):
        """
        The same by `kill`, and the request that was begun is finished and reset.
        """
        server = peer(echo, INITIAL_WINDOW_SIZE=2**30, MAX_FRAME_SIZE=2**20)
        channel = opened(server.channel())
        server.reads.clear()
        victim = cooperatively.spawn(channel.call, "/t/m", bytes(16 * 2**20), NEVER)
        eventually(lambda: channel._outbox._full)

        victim.kill()
        other = Caller(channel, b"other")
        server.reads.set()

        assert other.result() == b"other"
        eventually(lambda: server.requests[0].reset == 8)

    def test_a_timeout_in_a_call_resets_it(self, peer, opened, eventually, cooperatively):
        """
        gevent.Timeout is raised where the caller waits; the server hears of it.
        """
        server = peer(hold)
        channel = opened(server.channel())

        with pytest.raises(cooperatively.Timeout), cooperatively.Timeout(0.1):
            channel.call("/t/m", b"", NEVER)

        eventually(lambda: server.requests[0].reset == 8)
        server.script = echo
        assert channel.call("/t/m", b"on", soon()) == b"on"

    def test_a_timeout_while_a_large_request_is_stuck(self, peer, opened, cooperatively):
        """
        What had been begun is finished by another greenlet, and what others send follows in order.
        """
        server = peer(echo, INITIAL_WINDOW_SIZE=2**30, MAX_FRAME_SIZE=2**20)
        channel = opened(server.channel())
        server.reads.clear()

        with pytest.raises(cooperatively.Timeout), cooperatively.Timeout(0.2):
            channel.call("/t/m", bytes(16 * 2**20), NEVER)
        others = [Caller(channel, b"%d" % number) for number in range(3)]
        server.reads.set()

        assert [caller.result() for caller in others] == [b"%d" % number for number in range(3)]
        assert server.served[0].goaway is None

    def test_a_reader_that_is_killed_fails_every_call_with_its_reason(
        self, peer, opened, eventually, cooperatively, monkeypatch
    ):
        """
        Somebody kills all greenlets that it finds; nobody waits for ever.
        """
        import gc

        server = peer(hold)
        channel = opened(server.channel())
        callers = [Caller(channel, timeout_s=None) for _ in range(3)]
        ends: queue.Queue[grpc.Status] = queue.Queue()
        channel.stream("/t/m", lambda message: None, ends.put)
        eventually(lambda: len(server.requests) == 4)
        (thread,) = (one for one in threading.enumerate() if one.name == f"coordkit-{channel.address}")
        # By type(): isinstance() would ask what a dead weak reference stood for.
        greenlets = (one for one in gc.get_objects() if issubclass(type(one), cooperatively.Greenlet))
        (reader,) = (one for one in greenlets if id(one) == thread.ident)

        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        reader.kill()

        for caller in callers:
            with pytest.raises(grpc.CallFailed, match="the reader ended: GreenletExit"):
                caller.result()
        assert "GreenletExit" in ends.get(timeout=peers.PATIENCE_S).message
        assert not channel.usable

    def test_a_blocked_hub_costs_no_reply_that_has_come(self, peer, opened, cooperatively):
        """
        Timers that fire first after the block let the reader drain, then rule.
        """

        def script(request: Request) -> None:
            if request.message == b"last":
                for held in server.requests:
                    held.reply(held.message)
                until_s = time.monotonic() + 0.5
                while time.monotonic() < until_s:
                    pass  # longer than the deadlines

        server = peer(script)
        channel = opened(server.channel())

        callers = [Caller(channel, message, timeout_s=0.3) for message in (b"one", b"two", b"last")]

        assert [caller.result() for caller in callers] == [b"one", b"two", b"last"]


class TestRaces:
    def test_everyone_gets_its_own_reply_or_its_own_deadline(self, peer, opened):
        """
        Calls that are answered, calls that are not, and waits that are woken, on many threads for a while.
        """
        held: list[Request] = []

        def script(request: Request) -> None:
            late = list(held)
            held.clear()
            if request.method == "/t/never":
                pass
            elif request.message.endswith(b"7"):
                held.append(request)  # answered with the next one: out of turn
            else:
                request.reply(request.message)
            for one in late:
                one.reply(one.message)

        server = peer(script)
        channel = opened(server.channel())
        until_s = time.monotonic() + 2.0
        wrong: list[str] = []
        rounds = [0, 0, 0]

        def answered(number: int) -> None:
            count = 0
            while time.monotonic() < until_s:
                message = b"%d.%d" % (number, count)
                count += 1
                reply = channel.call("/t/m", message, Deadline.after(20))
                if reply != message:
                    wrong.append(f"{message!r} got {reply!r}")
                rounds[0] += 1

        def unanswered(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < until_s:
                try:
                    channel.call("/t/never", b"", Deadline.after(chance.uniform(0, 0.02)))
                    wrong.append("an answer to what nobody answers")
                except grpc.CallFailed as failure:
                    if failure.status.code is not grpc.Code.DEADLINE_EXCEEDED:
                        wrong.append(str(failure))
                rounds[1] += 1

        def woken(number: int) -> None:
            while time.monotonic() < until_s:
                waiter = channels.Waiter()
                wakers.put(waiter)
                if not channel.wait(waiter, Deadline.after(20)):
                    wrong.append("not woken")
                rounds[2] += 1

        def wake() -> None:
            while (waiter := wakers.get()) is not None:
                waiter.wake()

        wakers: queue.Queue[channels.Waiter | None] = queue.Queue()
        waker = threading.Thread(target=wake, daemon=True)
        waker.start()
        kinds = [answered] * 8 + [unanswered] * 6 + [woken] * 4
        failures: list[BaseException] = []

        def run(kind, number: int) -> None:
            try:
                kind(number)
            except BaseException as error:
                failures.append(error)

        threads = [
            threading.Thread(target=run, args=pair, daemon=True)
            for pair in zip(kinds, range(18), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads[8:]:
            thread.join(30)
        while any(thread.is_alive() for thread in threads):
            assert channel.call("/t/m", b"flush", soon()) == b"flush"  # lets held ones go
        wakers.put(None)
        waker.join(peers.PATIENCE_S)

        assert failures == []
        assert wrong == []
        assert min(rounds) > 20
        assert channel.statistics().in_flight == 0

    def test_closing_in_the_midst_leaves_nobody_behind(self, peer, eventually):
        """
        Calls start, wait, read and end while the channel is closed: each fails as closed, or had its reply.
        """
        server = peer(echo)

        for number in range(60):
            channel = server.channel()
            closed = threading.Event()

            def work(channel=channel, closed=closed) -> None:
                while True:
                    assert channel.call("/t/m", b"x", NEVER) == b"x"

            def stop(channel=channel, closed=closed, number=number) -> None:
                for _ in range(number):
                    channel.interrupt()
                channel.close("stop")
                closed.set()

            workers = [Outcome(work) for _ in range(4)]
            stopper = threading.Thread(target=stop, daemon=True)
            stopper.start()
            for worker in workers:
                error = worker.wait()
                assert isinstance(error, grpc.CallFailed), error
                assert "stop" in error.status.message
            assert closed.wait(peers.PATIENCE_S)
            eventually(lambda channel=channel: channel._inbox.sockets[0].fileno() == -1)

    def test_who_sees_the_close_before_its_own_call_has_ended_is_told_of_the_close(self, peer, monkeypatch):
        """
        It has all the time in the world: that it ran out would be no true word.
        """
        channel = peer(echo).channel()
        monkeypatch.setattr(channel, "_start", lambda call: setattr(channel._board, "closed", "stop"))

        with pytest.raises(grpc.CallFailed, match="stop") as caught:
            channel.call("/t/m", b"x", NEVER)

        assert caught.value.status.code is grpc.Code.UNAVAILABLE
        channel._board.closed = None
        channel.close("the test is over")


class Outcome:
    """What a function raised on a thread of its own."""

    def __init__(self, run) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run) -> None:
        try:
            run()
        except BaseException as error:
            self._error = error

    def wait(self) -> BaseException | None:
        self._thread.join(peers.PATIENCE_S)
        assert not self._thread.is_alive(), "it does not end"
        return self._error


def test_outcomes_are_told_apart(peer, opened, eventually):
    """
    What ends without an answer says whether it may have been applied.
    """
    server = peer(hold, MAX_CONCURRENT_STREAMS=1)
    channel = opened(server.channel())
    sent = Caller(channel, timeout_s=0.3)
    eventually(lambda: server.requests)
    queued = Caller(channel, timeout_s=0.1)

    outcomes = []
    for caller in (queued, sent):
        with pytest.raises(grpc.CallFailed) as caught:
            caller.result()
        outcomes.append(caught.value.status.outcome)

    assert outcomes == [errors.Outcome.NONE, errors.Outcome.UNKNOWN]
