"""A channel against grpcio's server in another process: statuses, sizes, deadlines, streams, goodbyes."""

from __future__ import annotations

import queue
import threading

import pytest

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import grpc
from tests.wire import peers
from tests.wire.peers import Caller

TEXT = "naïve ключ 鍵 🔑 100% \t\n\x7f"


class News:
    """What comes on a stream."""

    def __init__(self) -> None:
        self.messages: queue.Queue[bytes] = queue.Queue()
        self.ends: queue.Queue[grpc.Status] = queue.Queue()

    def next(self) -> bytes:
        return self.messages.get(timeout=peers.PATIENCE_S)

    def end(self) -> grpc.Status:
        return self.ends.get(timeout=peers.PATIENCE_S)


def soon() -> Deadline:
    return Deadline.after(peers.PATIENCE_S)


def number_cancelled(channel) -> int:
    return int(channel.call("/t/Cancelled", b"", soon()))


@pytest.fixture
def channel(grpc_server, opened):
    return opened(grpc_server.channel())


class TestUnary:
    @pytest.mark.parametrize("code", [code for code in grpc.Code if code is not grpc.Code.OK])
    def test_every_status_arrives_with_its_message(self, channel, code):
        """
        Code and text are the server's, letter for letter; the connection goes on.
        """
        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Status", f"{code.value}:{TEXT}".encode(), soon())

        assert caught.value.status == grpc.Status(code, TEXT, from_server=True)
        assert channel.call("/t/Echo", b"on", soon()) == b"on"

    def test_a_method_that_does_not_exist(self, channel):
        """
        The server says UNIMPLEMENTED.
        """
        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/None", b"", soon())

        assert caught.value.status.code is grpc.Code.UNIMPLEMENTED
        assert caught.value.method == "/t/None"

    @pytest.mark.parametrize("size", [0, 1, 16_379, 65_530, 65_531, 1_572_864, 4 * 2**20])
    def test_messages_of_any_size_both_ways(self, channel, size):
        """
        Up to 4 MiB through windows of 64 KiB, and back.
        """
        message = (b"0123456789abcde\n" * (size // 16 + 1))[:size]

        assert channel.call("/t/Echo", message, soon()) == message

    def test_a_small_request_with_a_large_reply(self, channel):
        """
        More than a stream's window comes in one reply: credit is given as it comes.
        """
        assert len(channel.call("/t/Big", b"20000000", soon())) == 20_000_000

    def test_metadata_is_sent(self, channel):
        """
        Further headers are the server's to see, of any length.
        """
        for token in ("", "short", "t" * 5_000):
            assert channel.call("/t/Metadata", b"", soon(), (("token", token),)) == token.encode()

    def test_two_hundred_calls_at_once(self, channel):
        """
        Each gets its own reply.
        """
        callers = [Caller(channel, str(number).encode(), method="/t/Echo") for number in range(200)]

        assert [caller.result() for caller in callers] == [str(number).encode() for number in range(200)]
        assert channel.statistics().in_flight == 0
        assert sum(channel.statistics().round_trips_us) == 200

    def test_large_and_small_calls_share_a_connection(self, channel):
        """
        A large request that waits for credit does not hold up the small ones, nor mix with them.
        """
        large = [Caller(channel, bytes([number]) * 2**20, method="/t/Echo") for number in range(6)]
        small = [Caller(channel, b"small", method="/t/Echo") for _ in range(20)]

        assert [caller.result() for caller in small] == [b"small"] * 20
        assert [caller.result() for caller in large] == [bytes([number]) * 2**20 for number in range(6)]


class TestDeadlines:
    def test_ours_ends_the_call_and_tells_the_server(self, channel, eventually):
        """
        DEADLINE_EXCEEDED here, a cancelled call there, and the connection goes on.
        """
        before = number_cancelled(channel)

        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Slow", b"60", Deadline.after(0.1))

        assert caught.value.status.code is grpc.Code.DEADLINE_EXCEEDED
        assert caught.value.status.outcome is errors.Outcome.UNKNOWN
        eventually(lambda: number_cancelled(channel) == before + 1)

    def test_one_that_has_passed_sends_nothing(self, channel):
        """
        Such a request is certain not to be applied.
        """
        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Echo", b"", Deadline.after(0))

        assert caught.value.status.code is grpc.Code.DEADLINE_EXCEEDED
        assert caught.value.status.outcome is errors.Outcome.NONE
        assert channel.statistics().calls == 0

    def test_a_slow_reply_within_the_deadline(self, channel):
        """
        Waiting is not failing.
        """
        assert channel.call("/t/Slow", b"0.2", soon()) == b"slept"


class TestStreams:
    def test_a_server_stream_is_delivered_in_order(self, channel):
        """
        Every message once, then the status, though nobody waits for it.
        """
        news = News()
        stream = channel.stream("/t/Count", news.messages.put, news.ends.put)

        stream.send(b"500")

        assert [news.next() for _ in range(500)] == [str(number).encode() for number in range(500)]
        assert news.end() == grpc.OK

    def test_messages_go_both_ways(self, channel):
        """
        Each message is answered before the next is sent.
        """
        news = News()
        stream = channel.stream("/t/Chat", news.messages.put, news.ends.put)

        for number in range(20):
            stream.send(b"%d" % number)
            assert news.next() == b"re: %d" % number

        stream.cancel()
        assert channel.call("/t/Echo", b"on", soon()) == b"on"
        assert news.ends.empty()

    def test_a_half_closed_stream_is_answered_to_its_end(self, channel):
        """
        The server hears that nothing follows, says what it has to say, and ends with its status.
        """
        news = News()
        stream = channel.stream("/t/Chat", news.messages.put, news.ends.put)

        stream.send(b"one")
        stream.send(b"two")
        stream.half_close()
        stream.half_close()
        stream.send(b"too late")

        assert [news.next(), news.next(), news.end()] == [b"re: one", b"re: two", grpc.OK]
        assert news.messages.empty()

    def test_streams_and_calls_at_once(self, channel):
        """
        Who reads changes all the time; nothing is lost or doubled.
        """
        news = News()
        channel.stream("/t/Count", news.messages.put, news.ends.put).send(b"2000")
        callers = [Caller(channel, b"%d" % number, method="/t/Echo") for number in range(50)]

        assert [caller.result() for caller in callers] == [b"%d" % number for number in range(50)]
        assert [news.next() for _ in range(2000)] == [b"%d" % number for number in range(2000)]
        assert news.end() == grpc.OK

    def test_a_stream_ends_with_the_servers_status(self, channel):
        """
        An unknown method is told through `on_end`.
        """
        news = News()
        channel.stream("/t/None", news.messages.put, news.ends.put).send(b"")

        assert news.end().code is grpc.Code.UNIMPLEMENTED

    def test_a_call_from_a_callback_is_refused_at_once(self, channel):
        """
        It would wait for the thread that it blocks.
        """
        found: queue.Queue[object] = queue.Queue()

        def on_message(message: bytes) -> None:
            try:
                found.put(channel.call("/t/Echo", b"", soon()))
            except errors.UsageError as error:
                found.put(error)

        channel.stream("/t/Count", on_message, lambda status: None).send(b"1")

        assert isinstance(found.get(timeout=peers.PATIENCE_S), errors.UsageError)
        assert channel.call("/t/Echo", b"on", soon()) == b"on"


class TestLimits:
    def test_calls_above_the_servers_limit_wait(self, grpc_server_with, opened):
        """
        MAX_CONCURRENT_STREAMS holds calls back; each is answered, or refused by a server that counts the
        streams that it has just ended, and then certainly not applied.
        """
        channel = opened(grpc_server_with(max_concurrent_streams=2).channel())

        callers = [Caller(channel, b"%d" % number, method="/t/Echo") for number in range(20)]

        for number, caller in enumerate(callers):
            try:
                assert caller.result() == b"%d" % number
            except grpc.CallFailed as failure:
                assert "REFUSED_STREAM" in failure.status.message
                assert failure.status.outcome is errors.Outcome.NONE

    def test_a_deadline_runs_while_a_call_waits_for_a_stream(self, grpc_server_with, opened, eventually):
        """
        It ends in the queue, where nothing of it can have been applied, and those behind it go on.
        """
        channel = opened(grpc_server_with(max_concurrent_streams=2).channel())
        slow = [Caller(channel, b"60", method="/t/Slow", timeout_s=2.0) for _ in range(2)]
        eventually(lambda: channel.statistics().in_flight == 2)

        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Echo", b"", Deadline.after(0.2))
        behind = Caller(channel, b"behind", method="/t/Echo")

        assert caught.value.status.code is grpc.Code.DEADLINE_EXCEEDED
        assert caught.value.status.outcome is errors.Outcome.NONE
        assert behind.result() == b"behind"
        for caller in slow:
            with pytest.raises(grpc.CallFailed):
                caller.result()


class TestGoodbyes:
    def test_a_graceful_stop_lets_calls_finish_and_takes_no_more(self, grpc_server_with, opened, eventually):
        """
        GOAWAY: what runs is answered, the channel says that it is of no more use, then it closes.
        """
        server = grpc_server_with()
        channel = opened(server.channel())
        running = Caller(channel, b"1", method="/t/Slow")
        eventually(lambda: channel.call("/t/Started", b"", soon()) == b"1")

        server.stop(30.0)
        eventually(lambda: not channel.usable)
        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Echo", b"", soon())

        assert caught.value.status.code is grpc.Code.UNAVAILABLE
        assert caught.value.status.outcome is errors.Outcome.NONE
        assert running.result() == b"slept"

    def test_a_server_that_ends_old_connections_loses_no_call(self, grpc_server_with, opened):
        """
        With a connection age of 300 ms every call either succeeds or is safe to make again elsewhere.
        """
        server = grpc_server_with(max_connection_age_ms=300, max_connection_age_grace_ms=5_000)
        channel = opened(server.channel())
        connections = 1

        for number in range(3_000):
            message = b"%d" % number
            while True:
                try:
                    assert channel.call("/t/Echo", message, soon()) == message
                    break
                except grpc.CallFailed as failure:
                    assert failure.status.code is grpc.Code.UNAVAILABLE
                    assert failure.status.outcome is errors.Outcome.NONE
                    channel = opened(server.channel())
                    connections += 1
            if connections >= 3:
                break

        assert connections >= 3

    def test_a_killed_server_leaves_sent_calls_unknown_and_queued_ones_undone(
        self, grpc_server_with, opened, eventually
    ):
        """
        What was sent may have been applied; what never left this process was not.
        """
        server = grpc_server_with(max_concurrent_streams=3)
        channel = opened(server.channel())
        news = News()
        channel.stream("/t/Chat", news.messages.put, news.ends.put).send(b"")
        sent = [Caller(channel, b"60", method="/t/Slow") for _ in range(2)]
        eventually(lambda: channel.statistics().in_flight == 3)
        queued = [Caller(channel, b"", method="/t/Echo") for _ in range(3)]
        eventually(lambda: channel.statistics().calls == 6)

        server.process.kill()

        outcomes = []
        for caller in (*sent, *queued):
            with pytest.raises(grpc.CallFailed) as caught:
                caller.result()
            assert caught.value.status.code is grpc.Code.UNAVAILABLE
            outcomes.append(caught.value.status.outcome)
        assert outcomes == [errors.Outcome.UNKNOWN] * 2 + [errors.Outcome.NONE] * 3
        assert news.end().code is grpc.Code.UNAVAILABLE
        assert not channel.usable

    def test_a_server_that_went_away_while_nobody_looked(self, grpc_server_with, opened, monkeypatch):
        """
        After an idle time we look before we send: the call is known not to have been applied.
        """
        server = grpc_server_with()
        channel = opened(server.channel())
        channel.call("/t/Echo", b"", soon())
        server.process.kill()
        server.process.wait()
        channel.watchdog.heard_at_s -= 60

        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/Echo", b"", soon())

        assert caught.value.status.outcome is errors.Outcome.NONE

    def test_closing_ends_all_calls(self, grpc_server, opened, eventually):
        """
        `close` fails what is in flight, with the reason; afterwards each call is refused.
        """
        channel = opened(grpc_server.channel())
        callers = [Caller(channel, b"60", method="/t/Slow") for _ in range(5)]
        news = News()
        channel.stream("/t/Chat", news.messages.put, news.ends.put)
        eventually(lambda: channel.statistics().in_flight == 6)

        channel.close("enough")
        channel.close("twice does no harm")

        for caller in callers:
            with pytest.raises(grpc.CallFailed, match="enough"):
                caller.result()
        assert "enough" in news.end().message
        with pytest.raises(grpc.CallFailed, match="enough") as caught:
            channel.call("/t/Echo", b"", NEVER)
        assert caught.value.status.outcome is errors.Outcome.NONE

    def test_a_close_within_a_callback(self, grpc_server, opened):
        """
        The reader itself may be who closes; it ends, and every stream hears of it.
        """
        channel = opened(grpc_server.channel())
        news = News()
        ended = threading.Event()
        channel.stream("/t/Chat", news.messages.put, news.ends.put)

        channel.stream(
            "/t/Count", lambda message: channel.close("heard it"), lambda status: ended.set()
        ).send(b"100")

        assert "heard it" in news.end().message
        assert ended.wait(peers.PATIENCE_S)
