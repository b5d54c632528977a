"""The calls of one connection: which stream each is on, which wait for one, and whose callbacks are due.

`mutex` guards the HTTP/2 state.  It is held for moments, never across a wait or a callback; no other lock is
taken under it.
"""

from __future__ import annotations

import collections
import threading
import typing

from coordkit import errors
from coordkit.wire import calls, frames, grpc, http2, outbox, rota


class Switchboard:
    """Calls on one side, streams on the other."""

    def __init__(self, peer: str, connection: http2.Connection) -> None:
        self.mutex = threading.Lock()
        self.closed: str | None = None  # why, once it is
        self.started = 0
        self._peer = peer
        self._connection = connection
        self._queued: collections.deque[calls.Call] = collections.deque()  # for MAX_CONCURRENT_STREAMS
        self._due: collections.deque[tuple[typing.Callable[[typing.Any], None], object]] = collections.deque()
        self._caller: int | None = None  # the thread that is running callbacks
        self._outbox: outbox.Outbox
        self._close: typing.Callable[[str], None]
        self.served: collections.deque[rota.Waiter]

    def attach(
        self, out: outbox.Outbox, close: typing.Callable[[str], None], served: collections.deque[rota.Waiter]
    ) -> None:
        """Where the bytes go, how to end the connection, and where to note who is to be woken."""
        self._outbox = out
        self._close = close
        self.served = served

    def expects(self) -> bool:
        """Whether a reply, a message or leave to open a stream may come."""
        return bool(self._connection.open_streams or self._queued)

    @property
    def usable(self) -> bool:
        """Whether a new call has a chance."""
        return self.closed is None and not self._connection.exhausted

    # From the callers.

    def start(self, call: calls.Call) -> None:
        """Open the call's stream, or line it up for one.

        Raises:
            CallFailed: UNAVAILABLE with outcome NONE; the connection takes no more calls.
        """
        connection = self._connection
        with self.mutex:
            if self.closed is not None or connection.exhausted:
                raise grpc.CallFailed(call.method, self._refusal())
            self.started += 1
            if not self._queued and connection.can_open:
                connection.open(call, call.block, call.body, call.end)
            else:
                self._queued.append(call)

    def send(self, call: calls.Call, body: bytes, end: bool = False) -> None:
        """Queue more of the request, and send what can be sent."""
        if self.closed is not None:
            return
        with self.mutex:
            if call.id:
                self._connection.send(call, body, end)
            elif not call.end:
                call.body += body
                call.end = end
        self._outbox.flush()

    def abandon(self, call: calls.Call) -> None:
        """Forget the call, and tell the server without waiting for it."""
        if self.closed is not None:
            return  # also in a forked child, where the mutex may be held for ever
        with self.mutex:
            self._connection.reset(call)
            if call in self._queued:
                self._queued.remove(call)
            self._admit()
            over = self._over()
        self._outbox.flush()
        if over is not None:
            self._close(over)

    def answer_pings(self) -> None:
        """Queue the answers that we owe."""
        with self.mutex:
            self._connection.answer_pings()

    def ping(self) -> None:
        """Ask the server whether it lives."""
        with self.mutex:
            self._connection.ping()
        self._outbox.flush()

    def outcome(self, call: calls.Call) -> errors.Outcome:
        """What a call that ends without an answer may have done.

        A request whose last byte cannot leave this process any more cannot be applied.  That it has not left
        yet says nothing: who sends next sends all that is queued, whoever has given up waiting for it.
        """
        end = call.end_offset
        sent = end is not None and (self.closed is None or end <= self._connection.taken_bytes)
        return errors.Outcome.UNKNOWN if sent else errors.Outcome.NONE

    # From the reader.

    def receive(self, received: bytes) -> str | None:
        """Take bytes from the server; callbacks become due.  Returns why the connection is over, if it is."""
        connection = self._connection
        with self.mutex:
            try:
                connection.receive(received)
            except frames.ProtocolError as error:
                return f"the server broke HTTP/2: {error}"
            if self._queued:
                self._admit()
                if connection.exhausted:
                    self._refuse_queued()
            return self._over()

    def give_up(self, call: calls.Call) -> None:
        """Reset the call's stream.  Under the mutex, within `receive`."""
        self._connection.reset(call)

    def deliver(self, callback: typing.Callable[[typing.Any], None], argument: object) -> None:
        """Have a callback run soon, after those before it."""
        self._due.append((callback, argument))

    @property
    def in_callback(self) -> bool:
        """Whether the asking thread is within a callback."""
        return self._caller is not None and self._caller == threading.get_ident()

    def run_callbacks(self) -> None:
        """Run what is due, in order, unless somebody is at it already: then that one takes ours along."""
        failure: BaseException | None = None
        while self._due:
            ours = False
            try:
                with self.mutex:
                    if self._caller is not None:
                        break
                    ours = True
                    self._caller = threading.get_ident()
                while self._due:
                    failure = self._run(*self._due.popleft()) or failure
            finally:
                if ours:
                    self._caller = None
        if failure is not None:
            raise failure

    def _run(self, callback: typing.Callable[[typing.Any], None], argument: object) -> BaseException | None:
        """A callback that fails ends the connection, but is no affair of the call whose thread reads.

        Returns what is its affair: the thread was interrupted, or is to end.
        """
        try:
            callback(argument)
        except BaseException as error:
            self._close(f"a callback failed: {type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                return error
            place = (type(error), error, error.__traceback__, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(place))
        return None

    # The end.

    def end_all(self, reason: str) -> bool:
        """End every call with what is known about it, once.  Returns whether this was the time."""
        if self.closed is not None:
            return False  # also in a forked child, where the mutex may be held for ever
        with self.mutex:
            if self.closed is not None:
                return False
            self.closed = reason
            for stream in self._connection.abandon_all():
                call = typing.cast(calls.Call, stream)
                message = f"{self._peer}: {reason}"
                call.finish(grpc.Status(grpc.Code.UNAVAILABLE, message, outcome=self.outcome(call)))
            self._refuse_queued()
        return True

    def _over(self) -> str | None:
        """Why the connection is over, if it is.  Under the mutex."""
        if self._connection.torn:
            return "interrupted in the middle of a change"
        if self._connection.goaway is not None and not self._connection.open_streams:
            return self._goodbye()
        return None

    def _goodbye(self) -> str:
        """What the server's GOAWAY says."""
        if self._connection.goaway is None:
            return "it has used up its streams"
        _, code, text = self._connection.goaway
        words = [text] if text else []
        if code != frames.ErrorCode.NO_ERROR:
            words.insert(0, frames.name_of(code))
        return f"the server said goodbye{': ' if words else ''}{', '.join(words)}"

    def _admit(self) -> None:
        """Open queued calls as far as MAX_CONCURRENT_STREAMS goes.  Under the mutex."""
        while self._queued and self._connection.can_open:
            call = self._queued[0]
            if not call.id:  # else Ctrl-C came between these two
                self._connection.open(call, call.block, call.body, call.end)
            self._queued.popleft()

    def _refuse_queued(self) -> None:
        """What never got onto this connection must go elsewhere.  Under the mutex."""
        while self._queued:
            self._queued.popleft().finish(self._refusal())

    def _refusal(self) -> grpc.Status:
        reason = self.closed or self._goodbye()
        return grpc.Status(grpc.Code.UNAVAILABLE, f"{self._peer}: {reason}", outcome=errors.Outcome.NONE)
