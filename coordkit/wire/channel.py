"""One connection to one server: the socket, who reads it, unary and streaming calls.

Plain blocking code.  In a process of threads the waiting caller reads the socket itself ("leader and
followers", Schmidt et al., PLoP 1995): a lone caller gets its reply without a thread switch; a standby
thread reads when nobody waits but streams are open.  In a process that gevent patched, one greenlet reads
and the others sleep on locks, for a greenlet switch costs next to nothing.

Roles and locks:

- `_mutex` guards the HTTP/2 state.  Held for moments, never across a wait or a callback.
- `_role` guards who reads: nobody, a waiter, or the standby.  Only the reader receives and delivers.
- `_write_lock` belongs to whoever sends; it takes along what others queued meanwhile.
"""

from __future__ import annotations

import collections
import math
import os
import select
import socket
import threading
import time
import typing
import weakref

import attrs

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import address as addresses
from coordkit.wire import grpc, http2, tls

SILENCE_S = 10.0  # without a byte while streams are open: ask
PONG_S = 5.0  # without an answer: the connection is dead
ANSWER_S = 0.1  # how long the answer to a ping may wait; whoever pings for a sign of life allows seconds
LINGER_S = 0.02  # how long the standby leaves the socket to the next caller
RECEIVE_BYTES = 256 * 2**10


@attrs.frozen
class Statistics:
    """Counters of a channel since it was made."""

    calls: int
    bytes_sent: int
    bytes_received: int
    in_flight: int
    #: Unary calls by round trip: entry i counts those of [2^i, 2^(i+1)) microseconds.
    round_trips_us: tuple[int, ...]


class Waiter:
    """What one thread or greenlet waits for.  `wake` may come from any other one."""

    def __init__(self) -> None:
        self.done = False
        self.leads: Channel | None = None  # the channel that its thread reads, or is about to
        self._token: threading.Lock | None = None  # made by who parks, before it looks at `done` once more

    def wake(self) -> None:
        """End the wait, now or when it begins."""
        self.done = True
        # `done` comes first: a thread that starts to lead looks at it again before it blocks.
        leads = self.leads
        if leads is not None:
            leads.interrupt()
        self.post()

    def post(self) -> None:
        """Let the waiting thread look again."""
        token = self._token
        if token is None:
            return  # it has not begun to park, and looks at everything before it sleeps
        try:
            token.release()
        except RuntimeError:
            pass  # posted already: one token is enough, for it looks at everything

    def arm(self) -> None:
        """Make ready to park: from here on no post is missed."""
        if self._token is None:
            token = threading.Lock()
            token.acquire()
            self._token = token

    def park(self, timeout_s: float) -> None:
        """Sleep until posted, or for so many seconds; not at all when the wait is over."""
        self.arm()
        if not self.done:
            assert self._token is not None
            self._token.acquire(timeout=timeout_s)


class _Call(grpc.Exchange):
    """One call: an exchange and its place on a channel."""

    __slots__ = ("block", "body", "channel", "end", "method", "stream")

    def __init__(self, channel: Channel, method: str, block: bytes, body: bytes, end: bool) -> None:
        super().__init__()
        self.channel = channel
        self.method = method
        self.block = block
        self.body = body
        self.end = end
        self.stream: http2.Stream | None = None  # None while it waits for MAX_CONCURRENT_STREAMS

    def give_up(self) -> None:
        if self.stream is not None:
            self.channel._connection.reset(self.stream)


class _Unary(_Call, Waiter):
    """A call with one request and one reply, and the thread that waits for it."""

    def __init__(self, channel: Channel, method: str, block: bytes, body: bytes) -> None:
        _Call.__init__(self, channel, method, block, body, True)
        Waiter.__init__(self)
        self.reply: bytes | None = None
        self.status = grpc.OK

    def on_message(self, message: bytes) -> None:
        if self.reply is not None:
            self._break("two replies to one request")
        self.reply = message

    def on_status(self, status: grpc.Status) -> None:
        if status.code is grpc.Code.OK and self.reply is None:
            status = grpc.Status(grpc.Code.INTERNAL, "the server said OK without a reply")
        self.status = status
        self.done = True
        self.channel._completed = True
        if self.leads is None:
            self.post()


class Stream(_Call):
    """A call with any number of messages either way."""

    __slots__ = ("_on_end", "_on_message")

    def __init__(
        self,
        channel: Channel,
        method: str,
        block: bytes,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
    ) -> None:
        super().__init__(channel, method, block, b"", False)
        self._on_message = on_message
        self._on_end = on_end

    def on_message(self, message: bytes) -> None:
        self.channel._deliveries.append((self._on_message, message))

    def on_status(self, status: grpc.Status) -> None:
        self.channel._deliveries.append((self._on_end, status))

    def send(self, message: bytes) -> None:
        """Queue a message and send what the windows allow.  Nothing happens on a stream that has ended."""
        self.channel._send(self, grpc.frame(message))

    def half_close(self) -> None:
        """Say that no message follows; what the server still has to say comes."""
        self.channel._send(self, b"", end=True)

    def cancel(self) -> None:
        """End the stream from our side; `on_end` is not called."""
        self.channel._abandon(self)


class _Standby(Waiter):
    """The reader for when no caller waits."""

    def __init__(self) -> None:
        super().__init__()
        self.arm()


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
        self._make_lock = threading.Lock  # tells later whether gevent patched the process since
        self._cooperative = type(threading.Lock()).__module__ != "_thread"
        self._foreign = False  # it belongs to the process that forked this one
        self._sock = sock
        self._connection = connection
        self._shield = shield
        self._mutex = threading.Lock()
        self._role = threading.Lock()
        self._write_lock = threading.Lock()
        self._delivery = threading.RLock()
        self._reader: Waiter | None = None
        self._parked: dict[Waiter, None] = {}  # in the order of their arrival
        self._turns = 0  # how often the reader's role became free
        self._standby = _Standby()
        self._standby_sleeps = False
        self._standby_started = False
        self._deliveries: collections.deque[tuple[typing.Callable[[typing.Any], None], typing.Any]] = (
            collections.deque()
        )
        self._delivering: int | None = None  # the thread in whose callbacks we are
        self._gathering = False  # the reader sends presently what is queued now
        self._completed = False  # a unary call ended in the batch that was read last
        self._queued: collections.deque[_Call] = collections.deque()
        self._heads: dict[tuple[str, grpc.Metadata], bytes] = {}
        self._unsent: memoryview | bytes = b""
        self._torn_write = False  # the same of the writer
        self._torn = False  # bytes are between the kernel and our state: an interruption here is fatal
        self._closed: str | None = None
        self._sent_bytes = 0  # as the kernel took them
        self._taken_bytes = 0  # as HTTP/2 queued them: under TLS the two do not compare
        self._received_bytes = 0
        self._hear(time.monotonic())
        self._pinged_by_peer_at = 0.0
        self._calls = 0
        self._round_trips = [0] * 40
        sock.setblocking(False)
        if self._cooperative:
            self._sock.settimeout(PONG_S)
            self._writer = sock.dup()  # a timeout of its own
            self._alarm: tuple[socket.socket, ...] = ()
        else:
            self._writer = sock
            self._alarm = socket.socketpair()  # written to [1] makes the reader look up from the socket
            for end in self._alarm:
                end.setblocking(False)
            self._poller = select.poll()
            self._poller.register(sock.fileno(), select.POLLIN)
            self._poller.register(self._alarm[0].fileno(), select.POLLIN)
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
        shield = tls.Shield(credentials, address.host or "localhost") if address.tls else None
        try:
            sock = _dial(address, deadline)
            try:
                if shield is not None:
                    _shake_hands(sock, shield, deadline)
                sent = _greet(sock, connection, shield, deadline)
                channel = cls(sock, address, connection, shield)
            except BaseException:
                sock.close()
                raise
        except (OSError, UnicodeError, http2.ProtocolError) as error:  # UnicodeError: no name of a host
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise _failed("connect", f"{address}: {reason}", errors.Outcome.NONE) from error
        channel._sent_bytes = channel._taken_bytes = sent
        if channel._cooperative:
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
        if self._foreign or threading.Lock is not self._make_lock:
            raise self._not_ours()
        if self._delivering is not None and self._delivering == threading.get_ident():
            raise errors.UsageError(
                "a call from within a callback of the same connection would wait for itself"
            )
        block = self._heads.get((method, metadata)) or self._head(method, metadata)
        started = time.monotonic()
        if deadline is not NEVER:
            block += grpc.timeout_field(deadline.at_s - started)
        call = _Unary(self, method, block, grpc.frame(request))
        try:
            self._start(call, started)
            if not self._gathering:
                self._flush(deadline)
            self.wait(call, deadline)
        finally:
            if not call.done:
                self._abandon(call)
        if not call.done:
            raise self._timed_out(call)
        if call.status is not grpc.OK:
            raise grpc.CallFailed(method, call.status)
        reply = call.reply
        assert reply is not None
        self._round_trips[int((self._heard_at - started) * 1e6).bit_length()] += 1
        return reply

    def stream(
        self,
        method: str,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
        metadata: grpc.Metadata = (),
    ) -> Stream:
        """Open a stream.

        The callbacks run one at a time, in order, on whichever thread reads; they must be quick and must not
        call this channel.  `on_end` comes once, unless we cancel.
        """
        if self._foreign or threading.Lock is not self._make_lock:
            raise self._not_ours()
        call = Stream(self, method, self._head(method, metadata), on_message, on_end)
        self._start(call, time.monotonic())
        self._flush()
        if not self._standby_started:
            self._start_standby()
        self._wake_standby()
        return call

    def close(self, reason: str = "closed by this program") -> None:
        """End every call with outcome as known, and release the socket.  Never blocks for long."""
        self._fail(reason)

    @property
    def usable(self) -> bool:
        """Whether a new call has a chance."""
        return self._closed is None and not self._connection.exhausted

    def statistics(self) -> Statistics:
        """The counters."""
        in_flight = self._connection.open_streams
        return Statistics(
            self._calls, self._sent_bytes, self._received_bytes, in_flight, tuple(self._round_trips)
        )

    def _not_ours(self) -> errors.Closed:
        if self._foreign:
            return errors.Closed(f"the connection to {self.address} was made before a fork")
        return errors.Closed(f"the connection to {self.address} was made before gevent patched this process")

    def _head(self, method: str, metadata: grpc.Metadata) -> bytes:
        block = self._heads.get((method, metadata))
        if block is None:
            if len(self._heads) > 200:
                self._heads.clear()  # tokens come and go
            scheme = "https" if self.address.tls else "http"
            block = grpc.request_head(method, self.address.authority, scheme, metadata)
            self._heads[method, metadata] = block
        return block

    def _start(self, call: _Call, now: float) -> None:
        connection = self._connection
        if self._reader is None and now - self._heard_at > 1:
            self._notice_the_end()
        with self._mutex:
            if self._closed is not None:
                raise _failed(call.method, f"{self.address}: {self._closed}", errors.Outcome.NONE)
            if connection.exhausted:
                raise _failed(call.method, f"{self.address} is going away", errors.Outcome.NONE)
            self._calls += 1
            if not connection.open_streams:
                self._hear(now)  # silence counts from the first request on
            if not self._queued and connection.can_open:
                call.stream = connection.open(call.block, call, call.body, call.end)
            else:
                self._queued.append(call)

    def _notice_the_end(self) -> None:
        """Nobody read for a while: learn of a close or GOAWAY before a request is risked on it."""
        waiter = Waiter()
        if self._lead(waiter):
            try:
                self._read(NEVER.sooner(0))
            finally:
                self._step_down(waiter)

    def _send(self, call: _Call, body: bytes, end: bool = False) -> None:
        with self._mutex:
            if self._closed is not None:
                return
            if call.stream is None:
                call.body += body
                call.end = end
            else:
                self._connection.send(call.stream, body, end)
        self._flush()

    def _abandon(self, call: _Call) -> None:
        """Forget a call; the server is told, without waiting for it."""
        with self._mutex:
            if call.stream is not None:
                self._connection.reset(call.stream)
            elif call in self._queued:
                self._queued.remove(call)
            self._admit()
        self._flush(Deadline(0.0))

    def _admit(self) -> None:
        """Open queued calls as far as MAX_CONCURRENT_STREAMS goes.  Under the mutex."""
        while self._queued and self._connection.can_open:
            call = self._queued.popleft()
            call.stream = self._connection.open(call.block, call, call.body, call.end)

    def _refuse_queued(self) -> None:
        """What never got onto this connection must go elsewhere.  Under the mutex."""
        while self._queued:
            reason = self._closed or "going away"
            self._queued.popleft().finish(_unavailable(f"{self.address}: {reason}", errors.Outcome.NONE))

    def _outcome(self, call: _Call) -> errors.Outcome:
        """What a call that ends without an answer may have done.

        A request whose last byte did not leave this process cannot have been applied.
        """
        end = None if call.stream is None else call.stream.end_offset
        reached = self._sent_bytes if self._shield is None else self._taken_bytes
        sent = end is not None and end <= reached
        return errors.Outcome.UNKNOWN if sent else errors.Outcome.NONE

    def _timed_out(self, call: _Call) -> grpc.CallFailed:
        status = grpc.Status(
            grpc.Code.DEADLINE_EXCEEDED, f"{self.address}: no reply in time", outcome=self._outcome(call)
        )
        return grpc.CallFailed(call.method, status)

    # Waiting, and who reads.

    def wait(self, waiter: Waiter, deadline: Deadline) -> bool:
        """Sleep until the waiter is done, reading the socket meanwhile if nobody else does.

        Returns:
            Whether it is done; False also when the channel has closed.
        """
        try:
            while not waiter.done and self._closed is None:
                if self._lead(waiter):
                    self._read_until(waiter, deadline)
                else:
                    waiter.park(deadline.wait_s())
                if not waiter.done and deadline.expired:
                    self._last_look(waiter)
                    break
        finally:
            self._step_down(waiter)
        return waiter.done

    def interrupt(self) -> None:
        """Make the reader look up from the socket."""
        if self._alarm:
            try:
                self._alarm[1].send(b"!")
            except OSError:
                pass  # full: it will look up anyway; closed: nobody reads any more

    def _lead(self, waiter: Waiter) -> bool:
        """Become the reader, or line up behind it."""
        with self._role:
            if self._reader is None and not self._cooperative:
                self._reader = waiter
            if self._reader is waiter:
                waiter.leads = self
                return True
            waiter.arm()  # before anybody can make it the heir
            self._parked[waiter] = None
            return False

    def _step_down(self, waiter: Waiter) -> None:
        """Leave; a reader makes the oldest waiter its heir."""
        with self._role:
            self._parked.pop(waiter, None)
            waiter.leads = None
            if self._reader is waiter:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give the reader's role away.  Under the role's lock."""
        heir = next(iter(self._parked), None)
        if heir is not None:
            del self._parked[heir]
            heir.leads = self
            self._reader = heir
            heir.post()
            return
        self._reader = None
        self._turns += 1
        if self._closed is not None:
            self._release()
        elif self._standby_sleeps and self._connection.open_streams:
            self._standby_sleeps = False
            self._standby.post()

    def _read_until(self, waiter: Waiter, deadline: Deadline) -> None:
        while not waiter.done and self._closed is None:
            if not self._read(deadline) and deadline.expired:
                return  # read once more than the time allowed: `_read` looks before it waits

    def _last_look(self, waiter: Waiter) -> None:
        """A timer that fires before a reply that has long arrived lets it be read.

        So it is after a blocked hub, or a stopped process.
        """
        for _ in range(20):
            if waiter.done or self._closed is not None or not self._readable():
                return
            if self._lead(waiter):
                self._read(NEVER.sooner(0))
            else:
                waiter.park(0.01)

    def _readable(self) -> bool:
        try:
            return bool(select.select([self._sock], [], [], 0)[0])
        except (OSError, ValueError):
            return False  # closed meanwhile, or a descriptor too large for select

    def _start_standby(self) -> None:
        with self._role:
            if self._standby_started or self._closed is not None:
                return
            self._standby_started = True
            if self._cooperative:
                self._reader = self._standby
        thread = threading.Thread(target=self._stand_by, name=f"coordkit-{self.address}", daemon=True)
        thread.start()

    def _wake_standby(self) -> None:
        with self._role:
            if self._standby_sleeps:
                self._standby_sleeps = False
                self._standby.post()

    def _stand_by(self) -> None:
        """Read whenever nobody else does."""
        try:
            while self._closed is None:
                if self._cooperative or self._take_over():
                    self._read(NEVER)
                    self._offer()
        except BaseException as error:
            self._fail(f"the reader ended: {type(error).__name__}: {error}")
            raise
        finally:
            self._step_down(self._standby)

    def _offer(self) -> None:
        """After a batch: let the next waiter read; or linger, if a caller was served that may come again."""
        if self._cooperative:
            return
        with self._role:
            if self._reader is self._standby and (self._parked or self._completed):
                self._pass_on()

    def _take_over(self) -> bool:
        """Wait until the socket has been left alone for a while, then become its reader."""
        seen = -1
        while self._closed is None:
            with self._role:
                if self._reader is self._standby:
                    return True
                alone = self._turns == seen
                streams = self._connection.open_streams
                if self._reader is None and alone and streams:
                    self._reader = self._standby
                    return True
                # Whoever frees the role posts us; so a long reader, or an idle channel, costs no wake-ups.
                self._standby_sleeps = not streams or (self._reader is not None and alone)
                seen = self._turns
                timeout_s = -1.0 if self._standby_sleeps else LINGER_S
            self._standby.park(timeout_s)
        return False

    # Reading.

    def _read(self, deadline: Deadline) -> bool:
        """Read once and deliver.  Only the reader comes here.

        Returns:
            False when the time, or the silence that we allow, ran out with nothing to read.
        """
        served, self._completed = self._completed, False
        if served and self._cooperative:
            self._gather()
        try:
            data = self._receive(deadline)
            if data is None:
                self._torn = False
                self._watch_silence()
                return False
            self._take(data if self._shield is None or not data else self._shield.decrypt(data))
            self._torn = False
        except OSError as error:
            self._torn = False
            self._fail(error.strerror or str(error))
        finally:
            if self._torn:  # Ctrl-C between the kernel and our state: what was read is lost
                self._fail("interrupted while reading")
        return True

    def _receive(self, deadline: Deadline) -> bytes | None:
        """The next bytes; None when there are none yet; `_torn` is set while they are in our hands."""
        connection = self._connection
        wait_s = max(min(deadline.at_s, self._look_at) - time.monotonic(), 0.0)
        if connection.pings_owed:
            wait_s = min(wait_s, self._answer_pings())
        if self._unsent or connection.has_output:
            self._flush()
        if self._cooperative:
            self._sock.settimeout(wait_s)
            try:
                data = self._sock.recv(RECEIVE_BYTES)
            except (TimeoutError, BlockingIOError):
                return None
            self._torn = True
            return data
        ready = self._poller.poll(wait_s * 1000)
        if not ready:
            return None
        self._torn = True
        try:
            if ready[0][0] != self._sock.fileno():
                self._alarm[0].recv(4096)
            return self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def _gather(self) -> None:
        """Let those whom we just woke queue their next requests, to send them all at once."""
        self._gathering = True
        try:
            time.sleep(0)
        finally:
            self._gathering = False

    def _answer_pings(self) -> float:
        """Answer pings that have waited long enough; returns the seconds until that is so.

        grpc-go answers data with a ping, and our answer with the next one, to measure the path: two more
        messages for each call.  Answered at leisure, they are a handful a second.
        """
        now = time.monotonic()
        self._pinged_by_peer_at = self._pinged_by_peer_at or now
        left_s = self._pinged_by_peer_at + ANSWER_S - now
        if left_s <= 0:
            self._pinged_by_peer_at = 0.0
            with self._mutex:
                self._connection.answer_pings()
            return math.inf
        return left_s

    def _take(self, data: bytes | None) -> None:
        """What came; nothing at all means the end, unless TLS has only a part of a record yet."""
        if not data and (self._shield is None or data is None):
            return self._fail("the server closed the connection")
        connection = self._connection
        self._received_bytes += len(data)
        self._hear(time.monotonic())
        failure = None
        with self._mutex:
            try:
                connection.receive(data)
            except http2.ProtocolError as error:
                failure = f"the server broke HTTP/2: {error}"
            if self._queued:
                self._admit()
                if connection.exhausted:
                    self._refuse_queued()
        if self._deliveries:
            self._deliver()
        if failure is not None:
            self._fail(failure)
        elif connection.goaway is not None and not connection.open_streams:
            self._fail("the server said goodbye")

    def _deliver(self) -> None:
        with self._delivery:
            before, self._delivering = self._delivering, threading.get_ident()
            try:
                while self._deliveries:
                    callback, argument = self._deliveries.popleft()
                    callback(argument)
            finally:
                self._delivering = before

    def _hear(self, now: float) -> None:
        """Bytes came, or the first request went out: silence counts from here."""
        self._heard_at = now
        self._look_at = now + SILENCE_S
        self._pinged = False

    def _watch_silence(self) -> None:
        """Ask a silent server whether it lives; take one that does not answer for dead.

        Never without streams and never more often than every 5 s: etcd ends such connections.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        if not self._connection.open_streams:
            self._look_at = now + SILENCE_S
        elif not self._pinged:
            self._pinged = True
            self._look_at = now + PONG_S
            with self._mutex:
                self._connection.ping()
            self._flush()
        elif not self._readable():  # a process that was stopped finds the answer waiting
            self._fail(f"silent for {now - self._heard_at:.0f} s, no answer to a ping")

    # Sending.

    def _flush(self, deadline: Deadline = NEVER) -> None:
        """Send what is queued, unless somebody is at it already: then that one takes ours along."""
        while (self._unsent or self._connection.has_output) and self._closed is None:
            if not self._write_lock.acquire(blocking=False):
                return
            finished = False
            try:
                finished = self._drain(deadline)
            finally:
                torn, self._torn_write = self._torn_write, False
                self._write_lock.release()
                if torn:  # Ctrl-C between the kernel and our offset
                    self._fail("interrupted while sending")
                elif not finished and self._closed is None:
                    self._finish_elsewhere()
            if not finished:
                return

    def _drain(self, deadline: Deadline) -> bool:
        """Send until nothing is queued.  False: the time ran out; the offset is kept for whoever goes on."""
        while True:
            if not self._unsent:
                with self._mutex:
                    self._unsent = self._connection.take_output()
                    self._taken_bytes += len(self._unsent)
                if self._unsent and self._shield is not None:
                    self._unsent = self._shield.encrypt(self._unsent)
                if not self._unsent:
                    return True
            try:
                if self._cooperative:
                    self._writer.settimeout(min(deadline.remaining(), SILENCE_S))
                    size = self._writer.send(self._unsent)
                    self._torn_write = True
                else:
                    self._torn_write = True
                    size = self._writer.send(self._unsent)
                self._sent_bytes += size
                if size == len(self._unsent):
                    self._unsent = b""
                    self._torn_write = False
                    if not self._connection.has_output:
                        return True
                else:
                    self._unsent = memoryview(self._unsent)[size:]
                    self._torn_write = False
            except (BlockingIOError, TimeoutError):
                self._torn_write = False
                if deadline.expired or self._closed is not None or not self._await_room(deadline):
                    return False
            except OSError as error:
                self._torn_write = False
                self._fail(error.strerror or str(error))
                return True

    def _await_room(self, deadline: Deadline) -> bool:
        if self._cooperative:
            return not deadline.expired  # send waited already
        poller = select.poll()
        poller.register(self._writer.fileno(), select.POLLOUT)
        while not poller.poll(min(deadline.remaining(), 1.0) * 1000):
            if deadline.expired or self._closed is not None:
                return False
        return True

    def _finish_elsewhere(self) -> None:
        """A sender left with bytes unsent, others' among them: somebody without a deadline goes on."""
        threading.Thread(target=self._flush, name=f"coordkit-send-{self.address}", daemon=True).start()

    # The end.

    def _fail(self, reason: str) -> None:
        """Close, once, and end every call with what is known about it."""
        with self._mutex:
            if self._closed is not None:
                return
            self._closed = reason
            calls = [typing.cast(_Call, stream.sink) for stream in self._connection.abandon_all()]
            for call in calls:
                call.finish(_unavailable(f"{self.address}: {reason}", self._outcome(call)))
            self._refuse_queued()
        _CHANNELS.discard(self)
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster
        self.interrupt()
        with self._role:
            for waiter in (*self._parked, self._standby):
                waiter.post()
            if self._reader is None or self._cooperative:
                self._release()
        self._deliver()

    def _release(self) -> None:
        """Close the descriptors, once nobody polls them: their numbers may come back as something else."""
        for sock in (self._sock, self._writer, *self._alarm):
            sock.close()

    def _forget_in_child(self) -> None:
        """After a fork, in the child: the parent's connection is not ours to touch, nor to keep open."""
        self._foreign = True
        self._closed = self._closed or "made before a fork"
        for sock in {self._sock, self._writer, *self._alarm}:
            fd = sock.detach()
            if fd >= 0:
                os.closerange(fd, fd + 1)  # at once; gevent's os.close leaves it to a later turn of the hub
        for waiter in (*self._parked, self._standby):
            waiter.post()


_CHANNELS: weakref.WeakSet[Channel] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channel in list(_CHANNELS):
        channel._forget_in_child()
    _CHANNELS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _unavailable(message: str, outcome: errors.Outcome) -> grpc.Status:
    return grpc.Status(grpc.Code.UNAVAILABLE, message, outcome=outcome)


def _failed(method: str, message: str, outcome: errors.Outcome) -> grpc.CallFailed:
    return grpc.CallFailed(method, _unavailable(message, outcome))


def _dial(address: addresses.Address, deadline: Deadline) -> socket.socket:
    timeout_s = None if deadline is NEVER else max(0.001, deadline.remaining())
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _shake_hands(sock: socket.socket, shield: tls.Shield, deadline: Deadline) -> None:
    """TLS's handshake."""
    received = b""
    while True:
        ours, done = shield.handshake(received)
        if ours:
            sock.sendall(ours)
        if done:
            return
        received = _hear(sock, deadline, "in the TLS handshake: does this port speak TLS?")


def _greet(
    sock: socket.socket, connection: http2.Connection, shield: tls.Shield | None, deadline: Deadline
) -> int:
    """Exchange prefaces; returns how many bytes of HTTP/2 were sent."""
    greeting = connection.take_output()
    sock.sendall(greeting if shield is None else shield.encrypt(greeting))
    # What came behind the last part of the handshake is in the shield already.
    received: bytes | None = b"" if shield is None else shield.decrypt(b"")
    while True:
        if received is None:
            raise ConnectionResetError("the server closed the connection behind the TLS handshake")
        connection.receive(received)
        if connection.settled:
            return len(greeting)
        if shield is None:
            received = _hear(sock, deadline, "before it said anything: does this port want TLS?")
        else:
            received = shield.decrypt(_hear(sock, deadline, "before it said anything"))


def _hear(sock: socket.socket, deadline: Deadline, when: str) -> bytes:
    """The next bytes, which must come within the deadline; `when` says where we are if the peer leaves."""
    if deadline.expired:
        raise TimeoutError("timed out")
    sock.settimeout(None if deadline.remaining() == math.inf else max(0.001, deadline.remaining()))
    data = sock.recv(RECEIVE_BYTES)
    if not data:
        raise ConnectionResetError(f"the server closed the connection {when}")
    return data
