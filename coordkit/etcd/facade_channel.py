"""Our client under grpc.Channel's calling convention, for stubs that expect one of grpcio's.

Calls go through `client.Client`: its connection, failover, retries and token.  What grpcio's callers hand
along for its sake (credentials, metadata, compression, wait_for_ready) is accepted and ignored.  Errors are
`grpc.RpcError`s with `code()` and `details()`.

Not offered: futures, interceptors, connectivity states, calls with many requests and one reply.
"""

from __future__ import annotations

import collections
import threading
import typing
import weakref

import grpc as grpcio

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import client as clients
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

Serialize = typing.Callable[[typing.Any], bytes]
Deserialize = typing.Callable[[bytes], typing.Any]

#: Reads: they may be sent again although they may have been answered.
READS = frozenset(
    f"/etcdserverpb.{call}"
    for call in (
        "KV/Range",
        "Lease/LeaseTimeToLive",
        "Lease/LeaseLeases",
        "Cluster/MemberList",
        "Maintenance/Status",
        "Maintenance/Hash",
        "Maintenance/HashKV",
        "Auth/UserGet",
        "Auth/UserList",
        "Auth/RoleGet",
        "Auth/RoleList",
    )
)

#: Replies of a stream of its own that may wait to be taken; etcd sends snapshots in pieces of 32 KiB.
MOST_WAITING = 64

_CODES: tuple[tuple[type[errors.CoordError], grpc.Code], ...] = (
    (errors.DeadlineExceeded, grpc.Code.DEADLINE_EXCEEDED),
    (errors.PermissionDenied, grpc.Code.PERMISSION_DENIED),
    (errors.Unauthenticated, grpc.Code.UNAUTHENTICATED),
    (errors.Rejected, grpc.Code.INVALID_ARGUMENT),
    (errors.Unavailable, grpc.Code.UNAVAILABLE),
)


class CallError(grpcio.RpcError):  # type: ignore[misc]  # grpc has no types
    """A call that failed, as grpcio would say it."""

    def __init__(self, method: str, code: grpc.Code, details: str) -> None:
        super().__init__(f"{method}: {code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpcio.StatusCode:
        """grpcio's name for how it ended."""
        return grpcio.StatusCode[self._code.name]

    def details(self) -> str:
        """In the server's words, or in ours about a broken connection."""
        return self._details

    def initial_metadata(self) -> tuple[()]:
        """None is kept."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """None is kept."""
        return ()


def call_error(method: str, error: BaseException) -> CallError:
    """grpcio's form of a public error; the code is the one that the server gave, if it did."""
    failure = error.__cause__ or error.__context__
    if isinstance(failure, grpc.CallFailed):
        # Our own words about a broken exchange also tell whether the request may have been applied.
        status = failure.status
        code = grpc.Code.DEADLINE_EXCEEDED if isinstance(error, errors.DeadlineExceeded) else status.code
        return CallError(method, code, status.message if status.from_server else str(error))
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.Code.UNKNOWN)
    return CallError(method, code, str(error))


class Channel:
    """What a stub's constructor takes."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client
        self._open: weakref.WeakSet[Responses] = weakref.WeakSet()
        self._closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Serialize | None = None,
        response_deserializer: Deserialize | None = None,
        **_: object,
    ) -> typing.Callable[..., typing.Any]:
        """A callable for one request and one reply."""
        serialize = request_serializer or _identity
        reply_type = _ReplyType(response_deserializer or _identity)

        def call(request: typing.Any, timeout: float | None = None, *_: object, **__: object) -> typing.Any:
            self.check_open()
            try:
                reply = self._client.unary(
                    method,
                    _Request(request, serialize),
                    typing.cast("type[_Reply]", reply_type),
                    _deadline(timeout),
                    repeatable=method in READS,
                )
                return reply.message
            except errors.UsageError:
                raise
            except errors.CoordError as error:
                raise call_error(method, error) from error

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Serialize | None = None,
        response_deserializer: Deserialize | None = None,
        **_: object,
    ) -> typing.Callable[..., Responses]:
        """A callable for one request and many replies.

        It gets a connection of its own, on which the server sends no faster than replies are taken: a
        snapshot may be larger than memory, and must not stand in the way of everything else.
        """
        serialize, deserialize = request_serializer or _identity, response_deserializer or _identity

        def call(request: typing.Any, timeout: float | None = None, *_: object, **__: object) -> Responses:
            self.check_open()
            payload = serialize(request)
            spare = clients.Client(self._client.options)
            responses = Responses(method, deserialize, _deadline(timeout), spare.close, MOST_WAITING)
            self._open.add(responses)
            responses.start(spare, _stream_from_any_member)
            responses.send_all([payload])
            return responses

        return call

    def stream_stream(
        self,
        method: str,
        request_serializer: Serialize | None = None,
        response_deserializer: Deserialize | None = None,
        **_: object,
    ) -> typing.Callable[..., Responses]:
        """A callable for many requests and many replies; a thread takes the requests from their iterator."""
        serialize, deserialize = request_serializer or _identity, response_deserializer or _identity

        def call(
            requests: typing.Iterable[typing.Any], timeout: float | None = None, *_: object, **__: object
        ) -> Responses:
            self.check_open()
            responses = Responses(method, deserialize, _deadline(timeout))
            self._open.add(responses)
            responses.start(self._client, clients.Client.stream)
            payloads = (serialize(request) for request in requests)
            sender = threading.Thread(
                target=responses.send_all, args=(payloads,), name="coordkit-requests", daemon=True
            )
            sender.start()
            return responses

        return call

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raise Closed after `close`."""
        if self._closed:
            raise errors.Closed("this etcd3 client was closed")

    def close(self) -> None:
        """Cancel every stream that was opened here.  The connection is not ours to close."""
        self._closed = True
        for responses in list(self._open):
            responses.cancel()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Responses:
    """The replies of a stream, as an iterator.  Once it has ended it says again how."""

    def __init__(
        self,
        method: str,
        deserialize: Deserialize,
        deadline: Deadline,
        finish: typing.Callable[[], None] | None = None,
        most_waiting: int = 0,
    ) -> None:
        self._method = method
        self._deserialize = deserialize
        self._deadline = deadline
        self._finish = finish  # run once nothing more can come
        self._most_waiting = most_waiting  # 0: any number
        self._changed = threading.Condition()
        self._arrived: collections.deque[bytes] = collections.deque()
        self._status: grpc.Status | None = None
        self._cause: BaseException | None = None
        self._stream: channels.Stream | None = None

    # From the side of the call.

    def start(self, client: clients.Client, open_stream: typing.Callable[..., channels.Stream]) -> None:
        """Open the stream.  That it could not be opened is told by the iterator, as grpcio does."""
        deadline = self._deadline.sooner(client.options.timeout_s)
        try:
            self._stream = open_stream(client, self._method, self._on_message, self._end, deadline)
        except grpc.CallFailed as failure:
            self._cause = failure
            self._end(failure.status)

    def send_all(self, payloads: typing.Iterable[bytes]) -> None:
        """Send every request, then say that no more follow."""
        stream = self._stream
        if stream is None:
            return
        try:
            for payload in payloads:
                if self._status is not None:
                    return
                stream.send(payload)
            stream.half_close()
        except Exception as error:  # the iterator is the user's
            self._cause = error
            self._abandon(grpc.Status(grpc.Code.UNKNOWN, f"the requests' iterator raised {error!r}"))

    # From the user's side.

    def __iter__(self) -> Responses:
        return self

    def __next__(self) -> typing.Any:
        payload = self._take()
        if payload is not None:
            return self._deserialize(payload)
        status = self._status
        if status is None:
            status = grpc.Status(grpc.Code.DEADLINE_EXCEEDED, "no reply in time")
            self._abandon(status)
        if self._finish is not None:
            self._finish()
        if status.code is grpc.Code.OK:
            raise StopIteration
        raise CallError(self._method, status.code, status.message) from self._cause

    def cancel(self) -> None:
        """End it from our side; whoever waits for a reply gets CANCELLED."""
        self._abandon(grpc.Status(grpc.Code.CANCELLED, "cancelled by this program"))
        if self._finish is not None:
            self._finish()

    def is_active(self) -> bool:
        """Whether replies may still come."""
        return self._status is None

    def code(self) -> grpcio.StatusCode | None:
        """How it ended; None while it has not.  Unlike grpcio's it does not wait."""
        return None if self._status is None else grpcio.StatusCode[self._status.code.name]

    def details(self) -> str | None:
        """The words to it."""
        return None if self._status is None else self._status.message

    def _take(self) -> bytes | None:
        """The next reply; None when none will come, or not in time."""
        with self._changed:
            while not self._arrived:
                if self._status is not None or self._deadline.expired:
                    return None
                self._changed.wait(self._deadline.wait_s())
            self._changed.notify_all()
            return self._arrived.popleft()

    def _abandon(self, status: grpc.Status) -> None:
        ended = self._status is not None
        self._end(status)
        self._arrived.clear()
        if not ended and self._stream is not None:
            self._stream.cancel()

    # On the reader.

    def _on_message(self, payload: bytes) -> None:
        with self._changed:
            while self._status is None and 0 < self._most_waiting <= len(self._arrived):
                self._changed.wait()  # a connection of its own: nobody else is kept waiting
            if self._status is None:
                self._arrived.append(payload)
                self._changed.notify_all()

    def _end(self, status: grpc.Status) -> None:
        with self._changed:
            self._status = self._status or status
            self._changed.notify_all()


def _stream_from_any_member(
    client: clients.Client,
    method: str,
    on_message: typing.Callable[[bytes], None],
    on_end: typing.Callable[[grpc.Status], None],
    deadline: Deadline,
) -> channels.Stream:
    """As `Client.stream`, from a member without a leader too: a lost cluster's snapshot is wanted most."""
    channel = client.channel(deadline)
    return channel.stream(method, on_message, on_end, client.metadata)


class _Request:
    """A request that is serialized already, with what an error may say about it."""

    def __init__(self, message: typing.Any, serialize: Serialize) -> None:
        self._payload = serialize(message)
        self.key: bytes = getattr(message, "key", b"")

    def SerializeToString(self) -> bytes:
        return self._payload


class _Reply:
    """A reply, and the header that the client looks at, if the user's deserializer leaves one."""

    def __init__(self, message: typing.Any) -> None:
        self.message = message
        self.header: messages.ResponseHeader = getattr(message, "header", messages.ResponseHeader())


class _ReplyType:
    """A class of replies as far as the client needs one."""

    def __init__(self, deserialize: Deserialize) -> None:
        self._deserialize = deserialize

    def FromString(self, payload: bytes) -> _Reply:
        return _Reply(self._deserialize(payload))


def _identity(message: typing.Any) -> typing.Any:
    return message


def _deadline(timeout: float | None) -> Deadline:
    """grpcio's timeout: None is never, and what is not positive is over already."""
    return NEVER if timeout is None else Deadline.after(max(0.0, timeout))
