"""One connection to one server: unary and streaming calls, in threads and under gevent.

Plain blocking code.  Who reads the socket is settled in `rota`, who writes to it in `outbox`, what is said on
it in `switchboard`.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import typing
import weakref

import attrs

from coordkit import errors, interrupts
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import address as addresses
from coordkit.wire import calls, dial, frames, grpc, http2, inbox, outbox, rota, switchboard, tls, watchdog

IDLE_S = 1.0  # after so long without a byte: has the server left?  A look, before a request is risked
ANSWER_S = 0.1  # how long the answer to a ping may wait; whoever pings for a sign of life allows seconds
LAST_LOOKS = 20  # how often an expired call looks for a reply that has arrived
LAST_LOOK_S = 0.01  # how long each look waits for another reader
MOST_HEADS = 200
TOGETHER = 16  # how many requests, at most, wait for those that are about to be made

Waiter = rota.Waiter


@attrs.frozen
class Statistics:
    """Counters of a channel since it was made."""

    calls: int
    bytes_sent: int
    bytes_received: int
    in_flight: int
    #: Unary calls by round trip: entry i counts those of [2^i, 2^(i+1)) microseconds.
    round_trips_us: tuple[int, ...]


class Stream(calls.Stream):
    """A call with any number of messages either way, made by `Channel.stream`."""

    def __init__(
        self,
        channel: Channel,
        method: str,
        block: bytes,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
    ) -> None:
        super().__init__(channel._board, method, block, on_message, on_end)
        #: The connection that it is on.
        self.channel = channel


class Channel:
    """A connection.  Made by `connect`; once closed, for whatever reason, it stays closed."""

    def __init__(
        self,
        sock: socket.socket,
        address: addresses.Address,
        connection: http2.Connection,
        shield: tls.Shield | None = None,
    ) -> None:
        self.address = address
        self._foreign = False  # it belongs to the process that forked this one
        self._shield = shield
        self._lock_type = threading.Lock  # tells later whether gevent patched the process since
        native = type(threading.Lock()).__module__ == "_thread"
        self._connection = connection
        self._board = switchboard.Switchboard(str(address), connection)
        self._inbox: inbox.Inbox = inbox.Polled(sock) if native else inbox.Cooperative(sock)
        writer = sock
        if not native:
            writer = sock.dup()  # with a timeout of its own
            writer.setblocking(False)
        self._outbox = outbox.Outbox(writer, connection, self._board.mutex, self.close, self._release, shield)
        self._rota = rota.Rota(self.interrupt, self._board.expects, native)
        self._board.attach(self._outbox, self.close, self._rota.served)
        self.watchdog = watchdog.Watchdog(time.monotonic())
        self._standby_started = False
        self._gathering = False  # the reader sends presently what is queued now
        self._pinged_at_s = 0.0  # by the peer, and not answered yet
        self._heads: dict[tuple[str, grpc.Metadata], bytes] = {}
        self._received_bytes = 0
        self._round_trips = [0] * 40
        _CHANNELS.add(self)

    @classmethod
    def connect(
        cls,
        address: addresses.Address,
        deadline: Deadline = NEVER,
        credentials: tls.Credentials = tls.NO_CREDENTIALS,
    ) -> Channel:
        """Dial, and wait until the peer has shown that it speaks HTTP/2.

        Raises:
            CallFailed: With code UNAVAILABLE and outcome NONE; the message says what was met.
            InvalidValue: A certificate's file cannot be used.
        """
        connection = http2.Connection()
        try:
            shield = tls.Shield(credentials, address.host or "localhost") if address.tls else None
            sock = dial.dial(address, deadline)
            try:
                if shield is not None:
                    dial.shake_hands(sock, shield, deadline)
                sent_bytes = dial.greet(sock, connection, deadline, shield)
                channel = cls(sock, address, connection, shield)
            except BaseException:
                sock.close()
                raise
        except (OSError, UnicodeError, frames.ProtocolError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise grpc.no_connection(f"{address}: {reason}", tls.is_lasting(error)) from error
        channel._outbox.sent_bytes = sent_bytes
        if not channel._rota.callers_read:
            interrupts.spare_our_greenlets()
            channel._start_standby()
        return channel

    # Calls.

    def call(
        self, method: str, request: bytes, deadline: Deadline = NEVER, metadata: grpc.Metadata = ()
    ) -> bytes:
        """One request, one reply.

        Args:
            method: The full path, as `/etcdserverpb.KV/Put`.
            request: The serialized message.
            deadline: When to give up; also told to the server.
            metadata: Further request headers.

        Returns:
            The reply's bytes.

        Raises:
            CallFailed: With the status, and whether the request may have been applied.
            Closed: The channel is another process's, or from before gevent patched this one.
        """
        self._check_usable()
        if self._board.in_callback:
            raise errors.UsageError("a call within a callback of its connection would wait for itself")
        block = self._head(method, metadata)
        if deadline is not NEVER:
            block += grpc.timeout_field(deadline.remaining())
        call = calls.Unary(self._board, method, block, grpc.frame(request), True)
        started_s = time.monotonic()
        try:
            if not deadline.expired:
                self._start(call)
                self.wait(call, deadline)
            if not call.done:
                self._board.abandon(call)
        except BaseException:
            self._board.abandon(call)
            raise
        if not call.done:
            self._check_usable()  # it may have been forked away from us
            raise self._unanswered(call, deadline)
        if call.status.code is not grpc.Code.OK:
            raise grpc.CallFailed(method, call.status)
        self._round_trips[min(int((time.monotonic() - started_s) * 1e6).bit_length(), 40) - 1] += 1
        assert call.reply is not None
        return call.reply

    def stream(
        self,
        method: str,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
        metadata: grpc.Metadata = (),
    ) -> Stream:
        """Open a stream.

        The callbacks run one at a time, in order, on whichever thread reads or closes; they must be quick and
        must not wait for this channel.  `on_end` comes once, unless we cancel.
        """
        self._check_usable()
        call = Stream(self, method, self._head(method, metadata), on_message, on_end)
        try:
            self._start(call)
            self._start_standby()
            self._rota.wake_standby()
        except BaseException:
            call.cancel()
            raise
        return call

    def close(self, reason: str = "closed by this program") -> None:
        """End every call with what is known about it, and release the socket.

        Never waits; a callback that is running on another thread goes on, and those behind it follow there.
        """
        if not self._board.end_all(reason):
            return
        _CHANNELS.discard(self)
        self._outbox.close()  # with the GOAWAY that says what we did not like, if it is that
        self._inbox.interrupt()
        self._rota.post_all()
        self._release()
        self._board.run_callbacks()

    @property
    def usable(self) -> bool:
        """Whether a new call has a chance."""
        return self._board.usable and not self._foreign

    def statistics(self) -> Statistics:
        """The counters."""
        return Statistics(
            self._board.started,
            self._outbox.sent_bytes,
            self._received_bytes,
            self._connection.open_streams,
            tuple(self._round_trips),
        )

    def _check_usable(self) -> None:
        if self._foreign:
            raise errors.Closed(f"the connection to {self.address} was made before a fork")
        if threading.Lock is not self._lock_type:
            why = "before gevent patched this process"
            raise errors.Closed(f"the connection to {self.address} was made {why}")

    def _head(self, method: str, metadata: grpc.Metadata) -> bytes:
        block = self._heads.get((method, metadata))
        if block is None:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()  # tokens come and go
            scheme = "https" if self.address.tls else "http"
            block = grpc.request_head(method, self.address.authority, scheme, metadata)
            self._heads[method, metadata] = block
        return block

    def _start(self, call: calls.Call) -> None:
        now_s = time.monotonic()
        if now_s - self.watchdog.heard_at_s > IDLE_S:
            if self._rota.vacant:
                self._notice_the_end()
            if not self._connection.open_streams:
                self.watchdog.asked(now_s)
        self._board.start(call)
        if self._gathering or (self._board.served and self._connection.pieces < TOGETHER):
            return  # others are about to send, too
        self._outbox.flush()

    def _notice_the_end(self) -> None:
        """Nobody read for a while: learn of a close or GOAWAY before a request is risked on it."""
        waiter = rota.Waiter()
        try:
            if self._rota.seize(waiter):
                self._read(NEVER.sooner(0))
            self._leave(waiter)
        except BaseException:
            self._leave(waiter)  # also when the interruption came on the way out
            raise

    def _unanswered(self, call: calls.Call, deadline: Deadline) -> grpc.CallFailed:
        """Its time is up; or the connection has closed, and has not come to end this call yet."""
        closed = None if deadline.expired else self._board.closed
        code = grpc.Code.UNAVAILABLE if closed else grpc.Code.DEADLINE_EXCEEDED
        why = closed or ("no reply in time" if call.id else "no time was left to ask")
        status = grpc.Status(code, f"{self.address}: {why}", outcome=self._board.outcome(call))
        return grpc.CallFailed(call.method, status)

    # Waiting.

    def wait(self, waiter: rota.Waiter, deadline: Deadline) -> bool:
        """Sleep until the waiter is done, reading the socket meanwhile if nobody else does.

        Returns:
            Whether it is done; False also when the channel has closed.
        """
        try:
            while not waiter.done and self._board.closed is None:
                if self._rota.line_up(waiter):
                    self._read_until(waiter, deadline)
                else:
                    waiter.park(deadline.wait_s())
                if not waiter.done and deadline.expired:
                    self._last_look(waiter)
                    break
            self._leave(waiter)
        except BaseException:
            self._leave(waiter)  # also when the interruption came on the way out
            raise
        return waiter.done

    def interrupt(self) -> None:
        """Make the reader look up from the socket; one that is delivering will, by itself."""
        if not self._board.in_callback:
            self._inbox.interrupt()

    def _leave(self, waiter: rota.Waiter) -> None:
        self._rota.leave(waiter)
        if self._board.closed is not None:
            self._release()
        elif self._connection.has_output and not (self._board.served or self._gathering):
            self._outbox.flush()  # we are the last who was woken: what the others have left to us

    def _read_until(self, waiter: rota.Waiter, deadline: Deadline) -> None:
        while not waiter.done and self._board.closed is None:
            self._read(deadline)
            if not waiter.done and deadline.expired:
                return

    def _last_look(self, waiter: rota.Waiter) -> None:
        """Time does not rule over a reply that has come: after a blocked hub, or a stopped process."""
        for _ in range(LAST_LOOKS):
            # In this order: who has emptied the kernel's buffer is `torn` until it has delivered.
            all_taken = not inbox.readable(self._outbox.sock) and not self._inbox.torn
            if waiter.done or self._board.closed is not None or all_taken:
                return
            if self._rota.line_up(waiter):
                self._read(NEVER.sooner(0))
            else:
                waiter.park(LAST_LOOK_S)

    # Reading.

    def _read(self, deadline: Deadline) -> None:
        """Wait for bytes, no longer than the deadline and the watchdog say, and deliver what they bring."""
        wait_s = self._before_reading(deadline)
        source = self._inbox
        over: str | None = None
        try:
            try:
                received = source.receive(wait_s)
            except OSError as error:
                received, over = None, error.strerror or str(error)
            if received and self._shield is not None:
                received, over = self._decrypt(received)
            if received is not None and over is None:
                over = self._take(received)
            source.torn = False
        finally:
            if source.torn:  # Ctrl-C came between the kernel and our state: what was read is lost
                self.close("interrupted while reading")
        if self._board.served:
            self._rota.wake_served()
            if not self._rota.callers_read:
                self._gather()
        self._board.run_callbacks()
        if over is not None:
            self.close(over)
        elif received is None:
            self._watch_silence()

    def _before_reading(self, deadline: Deadline) -> float:
        connection = self._connection
        now_s = time.monotonic()
        wait_s = self.watchdog.patience_s(now_s, connection.open_streams)
        if connection.pings_owed:
            wait_s = min(wait_s, self._answer_pings(now_s))
        if connection.has_output:
            self._outbox.flush()
        return max(min(deadline.at_s - now_s, wait_s), 0.0)

    def _gather(self) -> None:
        """Let those greenlets whom we just woke queue their next requests, to send them all at once."""
        self._gathering = True
        try:
            time.sleep(0)
        finally:
            self._gathering = False

    def _answer_pings(self, now_s: float) -> float:
        """Answer pings that have waited long enough; returns the seconds until that is so.

        grpc-go answers data with a ping, and our answer with the next one, to measure the path: two more
        messages for each call.  Answered at leisure, they are a handful a second.
        """
        self._pinged_at_s = self._pinged_at_s or now_s
        left_s = self._pinged_at_s + ANSWER_S - now_s
        if left_s > 0:
            return left_s
        self._pinged_at_s = 0.0
        self._board.answer_pings()
        return math.inf

    def _decrypt(self, received: bytes) -> tuple[bytes | None, str | None]:
        """Plain bytes, or nothing yet; and why the connection is over, if TLS says that it is."""
        assert self._shield is not None
        try:
            plain = self._shield.decrypt(received)
        except OSError as error:
            return None, error.strerror or str(error)
        if plain is None:
            return None, "the server closed the connection"
        if not plain:
            self.watchdog.heard(time.monotonic())  # a part of a record: a sign of life
        return plain or None, None

    def _take(self, received: bytes) -> str | None:
        """Returns why the connection is over, if it is."""
        if not received:
            return "the server closed the connection"
        self._received_bytes += len(received)
        self.watchdog.heard(time.monotonic())
        return self._board.receive(received)

    def _watch_silence(self) -> None:
        now_s = time.monotonic()
        verdict = self.watchdog.judge(now_s, self._connection.open_streams)
        if verdict is watchdog.Verdict.ASK:
            self._board.ping()
        elif verdict is watchdog.Verdict.DEAD and not inbox.readable(self._outbox.sock):
            silent_s = now_s - self.watchdog.heard_at_s
            self.close(f"silent for {silent_s:.0f} s, no answer to a ping")

    # The standby.

    def _start_standby(self) -> None:
        with self._board.mutex:
            if self._standby_started:
                return
            self._standby_started = True
        try:
            threading.Thread(target=self._stand_by, name=f"coordkit-{self.address}", daemon=True).start()
        except BaseException as error:
            self.close(f"interrupted while its reader was started: {type(error).__name__}")
            raise

    def _stand_by(self) -> None:
        """Read whenever no caller does."""
        try:
            while self._board.closed is None:
                if self._rota.take_over():
                    self._read(NEVER)
                    self._rota.offer()
        except BaseException as error:
            self.close(f"the reader ended: {type(error).__name__}: {error}")
            raise
        finally:
            self._leave(self._rota.standby)
        while self._foreign:
            # A greenlet lives on in a forked child, where ending a thread that it began is an error.
            self._rota.standby.park(-1)

    # The end.

    def _release(self) -> None:
        """Close the descriptors, once nobody uses them: their numbers may come back as something else."""
        if self._rota.vacant and self._outbox.idle:
            for sock in (self._outbox.sock, *self._inbox.sockets):
                sock.close()

    def _forget_in_child(self) -> None:
        """After a fork, in the child: the parent's connection is not ours to touch, nor to keep open."""
        self._foreign = True
        self._board.closed = self._board.closed or "made before a fork"
        for sock in {self._outbox.sock, *self._inbox.sockets}:
            fd = sock.detach()
            if fd >= 0:
                os.closerange(fd, fd + 1)  # at once; gevent's os.close leaves it to a later turn of the hub
        self._outbox.abandon()
        self._rota.restart()


_CHANNELS: weakref.WeakSet[Channel] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channel in list(_CHANNELS):
        channel._forget_in_child()
    _CHANNELS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
