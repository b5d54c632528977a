"""Calls on a channel: one with one reply, for which its caller waits, and one of any number of messages."""

from __future__ import annotations

import collections
import typing

from coordkit.wire import grpc, rota


class Host(typing.Protocol):
    """What calls need of their channel."""

    def give_up(self, call: Call) -> None:
        """Reset the call's stream.  Within a delivery."""

    def deliver(self, callback: typing.Callable[[typing.Any], None], argument: object) -> None:
        """Have a callback called soon, after those before it."""

    #: Whose calls have ended, and who are to be woken (`rota.Rota.served`).
    served: collections.deque[rota.Waiter]

    def send(self, call: Call, body: bytes, end: bool = False) -> None:
        """Queue more of the request."""

    def abandon(self, call: Call) -> None:
        """Forget the call, and tell the server."""


class Call(grpc.Exchange):
    """One call: an exchange, and what it sends."""

    def __init__(self, host: Host, method: str, block: bytes, body: bytes, end: bool) -> None:
        self.host = host
        self.method = method
        self.block = block
        self.body = body
        self.end = end

    def give_up(self) -> None:
        """See `grpc.Exchange`."""
        self.host.give_up(self)


class Unary(Call, rota.Waiter):
    """A call with one request and one reply, and the thread that waits for it."""

    reply: bytes | None = None
    status = grpc.OK

    def on_message(self, message: bytes) -> None:
        """See `grpc.Exchange`."""
        if self.reply is not None:
            self._break("two replies to one request")
        self.reply = message

    def on_status(self, status: grpc.Status) -> None:
        """See `grpc.Exchange`."""
        if status.code is grpc.Code.OK and self.reply is None:
            status = grpc.Status(grpc.Code.INTERNAL, "the server said OK without a reply")
        self.status = status
        self.done = True
        if self.leads is None:
            self.host.served.append(self)


class Stream(Call):
    """A call with any number of messages either way."""

    def __init__(
        self,
        host: Host,
        method: str,
        block: bytes,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
    ) -> None:
        super().__init__(host, method, block, b"", False)
        self._on_message = on_message
        self._on_end = on_end
        self._cancelled = False

    def on_message(self, message: bytes) -> None:
        """See `grpc.Exchange`."""
        self.host.deliver(self._tell_message, message)

    def on_status(self, status: grpc.Status) -> None:
        """See `grpc.Exchange`."""
        self.host.deliver(self._tell_end, status)

    def send(self, message: bytes) -> None:
        """Queue a message and send what the windows allow.  Never waits; nothing happens after the end."""
        self.host.send(self, grpc.frame(message))

    def half_close(self) -> None:
        """Say that no message follows; what the server still has to say comes."""
        self.host.send(self, b"", end=True)

    def cancel(self) -> None:
        """End the stream from our side.  No callback begins after this; `on_end` is not called."""
        self._cancelled = True
        try:
            self.host.abandon(self)
        except BaseException:
            self.host.abandon(self)  # interrupted, and nobody else will
            raise

    def _tell_message(self, message: bytes) -> None:
        if not self._cancelled:
            self._on_message(message)

    def _tell_end(self, status: grpc.Status) -> None:
        if not self._cancelled:
            self._on_end(status)
