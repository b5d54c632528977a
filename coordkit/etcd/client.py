"""The client: endpoints, failover, retries, authentication; the boundary where errors become public.

One connection at a time.  When it breaks, the next caller dials, trying the endpoints in turn; the others
wait for it.  A request that certainly was not applied is sent again within its deadline, as is any read; a
write that may have been applied is never repeated here, for only its protocol knows whether that is safe.
"""

from __future__ import annotations

import os
import random
import threading
import time
import typing

from google.protobuf import message as protobuf

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import dialler as diallers
from coordkit.etcd import endpoints as places
from coordkit.etcd import kv, mapping
from coordkit.etcd import options as opts
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
MEMBERS = "/etcdserverpb.Cluster/MemberList"

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
OUTAGE_LOOK_S = 0.2  # how often a waiter looks for a new connection during an outage

# How long an answer may take to a request that may be sent again; doubled each time.  A follower keeps what
# it has passed on to a leader that is dead for seven seconds, and a member that was stopped for ever.
PATIENCE_S = 2.0
SILENCE_S = 1.5  # a request after which nothing at all was heard for so long went to a dead member

#: Makes a member that has lost its cluster fail loudly instead of answering from the past.
REQUIRE_LEADER = ("hasleader", "true")


class Message(typing.Protocol):
    """A request."""

    def SerializeToString(self) -> bytes:
        """Its bytes."""


class Reply(typing.Protocol):
    """A reply: every one has a header."""

    @property
    def header(self) -> messages.ResponseHeader:
        """The server's state at the reply."""


R = typing.TypeVar("R", bound=Reply)


class Client:
    """A connection to a cluster that mends itself.  Cheap until the first call.

    Attributes:
        options: Where it dials.
        kv: The public form of raw keys.
    """

    def __init__(self, options: opts.Options) -> None:
        self.options = options
        self.kv = kv.KV(self)
        self._pid = os.getpid()
        self._channel: channels.Channel | None = None
        self._dialling = threading.Lock()
        self._dialler = diallers.Dialler(options)
        self._cluster_id = 0
        self._seen_revision = 0
        self._closed = False
        self._dials = True
        self._past = [0, 0, 0]  # calls, bytes sent, bytes received of connections that are gone

    # Calls.

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline of a request: None takes the client's timeout, -1 is never."""
        return Deadline.after(self.options.timeout_s if timeout is None else timeout)

    @property
    def seen_revision(self) -> int:
        """The newest revision that any reply has shown: whoever is behind it is behind the times."""
        return self._seen_revision

    def unary(
        self, method: str, request: Message, reply_type: type[R], deadline: Deadline, repeatable: bool = False
    ) -> R:
        """One call, with public errors.

        Args:
            method: The full path.
            request: The message.
            reply_type: The class of the reply.
            deadline: For all attempts together.
            repeatable: Whether it may be sent again although it may have been applied.

        Raises:
            Unavailable, DeadlineExceeded: With the outcome.
            Rejected: And its kinds.
        """
        payload = request.SerializeToString()
        pause_s, patience_s = FIRST_PAUSE_S, PATIENCE_S
        doubtful = False
        telling: errors.CoordError | None = None
        while True:
            used = self._dialler.metadata
            limit = deadline.sooner(patience_s) if repeatable else deadline
            try:
                reply = reply_type.FromString(self._call(method, payload, limit))  # type: ignore[attr-defined]
            except grpc.CallFailed as failure:
                error = mapping.public_error(failure, _describe(method, request), len(payload))
                if isinstance(error, errors.OUTAGE):
                    # What an earlier attempt may have done stays in doubt; a read never did anything.
                    doubtful = (doubtful or error.outcome is errors.Outcome.UNKNOWN) and method != RANGE
                    error.outcome = errors.Outcome.UNKNOWN if doubtful else errors.Outcome.NONE
                if isinstance(error, errors.Unauthenticated):
                    again = self._renew_token(failure, used, deadline)
                else:
                    again = self._may_repeat(failure, error, repeatable)
                if not again:
                    raise error from failure
                telling = _more_telling(telling, error, deadline)
                pause_s, patience_s = pause(pause_s, deadline, telling), patience_s * 2
            except protobuf.DecodeError:
                self.drop_channel("its reply makes no sense")
                what = _describe(method, request)
                outcome = errors.Outcome.NONE if method == RANGE else errors.Outcome.UNKNOWN
                raise errors.Unavailable(f"{what}: the reply makes no sense", outcome) from None
            else:
                self.note(reply.header)
                return typing.cast(R, reply)

    def read(self, request: messages.RangeRequest, deadline: Deadline) -> messages.RangeResponse:
        """A read, repeated within its deadline."""
        return self.unary(RANGE, request, messages.RangeResponse, deadline, repeatable=True)

    def look(self, ops: typing.Sequence[kv.Op], deadline: Deadline) -> kv.TxnResult:
        """Several reads at one revision, as the result of a transaction that only reads would be.

        It is none: a client that goes away while such a one runs ends the whole server, up to etcd 3.4.20 and
        3.5.4 (its issue 14110).

        Args:
            ops: Reads, at least one.
            deadline: For all of them, retries included.

        Raises:
            Unavailable, DeadlineExceeded, Rejected: Nothing was read.

        Cost: 1 round trip for each.
        """
        requests = [messages.RequestOp.FromString(op.encoded).request_range for op in ops]
        while True:
            result = messages.TxnResponse(succeeded=True)
            revision = 0
            try:
                for request in requests:
                    request.revision = revision
                    reply = self.read(request, deadline)
                    revision = revision or reply.header.revision
                    result.responses.add().response_range.CopyFrom(reply)
            except errors.Gap:
                continue  # compacted meanwhile: all of it again, at a newer revision
            return kv.TxnResult(result, revision)

    def txn(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        """A transaction, sent once as far as anybody can know."""
        reply = self.unary(TXN, request, messages.TxnResponse, deadline)
        return kv.TxnResult(reply, reply.header.revision)

    def judge(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        """A transaction that has compares, and nothing to do in either case.

        etcd answers it from what the member has, however old that is.  So a linearizable read comes first,
        and an answer that is older than that does not count.

        Cost: 2 round trips.
        """
        floor = self.read(messages.RangeRequest(key=request.key, count_only=True), deadline).header.revision
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                reply = self.unary(TXN, request, messages.TxnResponse, deadline, True)
            except errors.OUTAGE as error:
                error.outcome = errors.Outcome.NONE  # it never does anything
                raise
            if reply.header.revision >= floor:
                return kv.TxnResult(reply, reply.header.revision)
            lags = f"a member at revision {reply.header.revision} is behind {floor}"
            self.drop_channel(lags)
            pause_s = pause(pause_s, deadline, errors.Unavailable(lags, errors.Outcome.NONE))

    def note(self, header: messages.ResponseHeader) -> None:
        """Remember the newest revision; refuse another cluster.

        Raises:
            Unavailable: The endpoint belongs to another cluster than before.
        """
        if header.cluster_id != self._cluster_id and self.is_foreign(header):
            self.drop_channel("it belongs to another cluster")
            raise errors.Unavailable(
                f"the cluster's id changed from {self._cluster_id:x} to {header.cluster_id:x}: "
                "the endpoints do not belong together, or the data was replaced",
                errors.Outcome.UNKNOWN,
            )
        if header.revision > self._seen_revision:
            self._seen_revision = header.revision

    def is_foreign(self, header: messages.ResponseHeader) -> bool:
        """Whether a reply is from another cluster than the first one was."""
        self._cluster_id = self._cluster_id or header.cluster_id
        return header.cluster_id not in (0, self._cluster_id)

    def _may_repeat(self, failure: grpc.CallFailed, error: errors.CoordError, repeatable: bool) -> bool:
        """Whether a call that failed may be sent again; makes ready for that."""
        status = failure.status
        if not self._dials or not (repeatable or mapping.is_certainly_not_applied(status)):
            return False
        if not isinstance(error, errors.OUTAGE):
            return False
        if mapping.is_no_use(status):
            self.drop_channel("this member does not serve")  # another one may be on the cluster's better side
        return True

    def _call(self, method: str, payload: bytes, deadline: Deadline) -> bytes:
        channel = self._channel
        if channel is None or not channel.usable:
            channel = self.channel(deadline)
        started_s = time.monotonic()
        try:
            return channel.call(method, payload, deadline, self._dialler.metadata)
        except grpc.CallFailed as failure:
            if failure.status.code is grpc.Code.DEADLINE_EXCEEDED:
                self._suspect(channel, started_s)
            raise

    def _suspect(self, channel: channels.Channel, since_s: float) -> None:
        """Leave a member that gave no sign of life since a request was sent, if there are others to ask.

        One that is only slow still acknowledges what it receives.
        """
        silent = channel.watchdog.heard_at_s < since_s and time.monotonic() - since_s >= SILENCE_S
        if silent and len(places.known(self.options)) > 1:
            self.drop_channel("no sign of life since a request was sent", channel)

    @property
    def metadata(self) -> grpc.Metadata:
        """What a call carries beside its request: the token, if there is one.  Swapped whole when renewed."""
        return self._dialler.metadata

    # Streams and waits.

    def stream(
        self,
        method: str,
        on_message: typing.Callable[[bytes], None],
        on_end: typing.Callable[[grpc.Status], None],
        deadline: Deadline,
    ) -> channels.Stream:
        """Open a stream on the current connection; `on_end` comes when either breaks."""
        channel = self.channel(deadline)
        return channel.stream(method, on_message, on_end, (REQUIRE_LEADER, *self._dialler.metadata))

    def wait(self, waiter: channels.Waiter, deadline: Deadline) -> bool:
        """Sleep until the waiter is done; through outages too.  Returns whether it is done."""
        while not waiter.done and not deadline.expired:
            channel = self._channel
            if channel is None or not channel.wait(waiter, deadline):
                self._check_open()
                if not waiter.done:
                    waiter.park(min(deadline.wait_s(), OUTAGE_LOOK_S))
        return waiter.done

    # Connections.

    def channel(self, deadline: Deadline) -> channels.Channel:
        """The current connection, dialled if need be.

        Raises:
            CallFailed: UNAVAILABLE with outcome NONE, naming each endpoint's trouble.
        """
        channel = self._channel
        if channel is not None and channel.usable:
            return channel
        self._check_open()
        limit = deadline.sooner(self.options.timeout_s)
        if not self._dialling.acquire(timeout=limit.wait_s()):
            raise grpc.no_connection("another caller is still dialling")
        try:
            self._check_open()
            channel = self._channel
            if channel is not None and channel.usable:
                return channel
            if not self._dials:
                raise grpc.no_connection("the process is ending")
            self._retire()
            self._channel = self._dialler.dial(limit)
            return self._channel
        finally:
            self._dialling.release()

    def connect(self) -> None:
        """Dial now, to learn early what is wrong.

        Raises:
            Unavailable: Nobody answers; at once where every endpoint's certificate, or ours, is to blame.
            Unauthenticated: Wrong user or password.
        """
        deadline = self.deadline(None)
        pause_s = FIRST_PAUSE_S
        telling: errors.CoordError | None = None
        while True:
            try:
                self.channel(deadline)
                return
            except grpc.CallFailed as failure:
                error = mapping.public_error(failure, "connect")
                if failure.status.lasting or not isinstance(error, errors.Unavailable):
                    raise error from failure
                telling = _more_telling(telling, error, deadline)
                pause_s = pause(pause_s, deadline, telling)

    def refresh_endpoints(self, timeout: float | None = None) -> list[str]:
        """Ask the cluster for its members, and dial those from now on: some may have come since we connected.

        What was configured stays, behind them. Learners, and members without a URL for clients, are left out.

        Args:
            timeout: Seconds; the client's by default.

        Returns:
            All endpoints, in the order in which they are tried in turn.

        Raises:
            Unavailable, DeadlineExceeded, PermissionDenied: Nothing has changed.

        Cost: 1 round trip.
        """
        request = messages.MemberListRequest()
        reply = self.unary(MEMBERS, request, messages.MemberListResponse, self.deadline(timeout), True)
        return [str(each) for each in places.learn(self.options, reply.members)]

    def drop_channel(self, reason: str, channel: channels.Channel | None = None) -> None:
        """Close a connection, the current one by default, so that the next call dials another endpoint."""
        dropped = channel or self._channel
        if dropped is not None and dropped.usable:
            dropped.close(reason)

    def stop_dialling(self) -> None:
        """From now on make do with the connection that there is: the process is ending."""
        self._dials = False

    def close(self) -> None:
        """Release the connection; calls in flight fail."""
        self._closed = True
        if self._channel is not None and self._pid == os.getpid():
            self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or this is the child of a fork."""
        return self._closed or self._pid != os.getpid()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that takes calls, as far as is known."""
        channel = self._channel
        return channel is not None and channel.usable

    def statistics(self) -> channels.Statistics:
        """Counters over all connections since the client was made."""
        channel = self._channel
        now = channel.statistics() if channel is not None else channels.Statistics(0, 0, 0, 0, ())
        return channels.Statistics(
            self._past[0] + now.calls,
            self._past[1] + now.bytes_sent,
            self._past[2] + now.bytes_received,
            now.in_flight,
            now.round_trips_us,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise errors.Closed("this client was closed")
        if self._pid != os.getpid():
            raise errors.Closed(f"this client was made before a fork, by process {self._pid}: connect anew")

    def _retire(self) -> None:
        if self._channel is not None:
            was = self._channel.statistics()
            self._past[0] += was.calls
            self._past[1] += was.bytes_sent
            self._past[2] += was.bytes_received
            self._channel = None
            self._dialler.pass_over()  # whyever it ended, another endpoint is the better bet

    def _renew_token(self, failure: grpc.CallFailed, used: grpc.Metadata, deadline: Deadline) -> bool:
        """A fresh token after a refusal; once for all callers that were refused with the one that was used.

        Raises:
            Unauthenticated, Unavailable: There is none to be had.
        """
        if not used or not self._dials or not mapping.is_stale_token(failure.status):
            return False
        if not self._dialling.acquire(timeout=deadline.wait_s()):
            return False
        try:
            channel = self._channel
            if self._dialler.metadata is used and channel is not None and channel.usable:
                time.sleep(random.uniform(0, FIRST_PAUSE_S))  # a cluster's clients must not come all at once
                self._dialler.authenticate(channel, deadline)
        except grpc.CallFailed as refused:
            raise mapping.public_error(refused, "authenticate") from refused
        finally:
            self._dialling.release()
        return True


def pause(pause_s: float, deadline: Deadline, error: errors.CoordError) -> float:
    """Sleep a jittered while before the next attempt; returns the next while.

    Near the deadline the sleeps get shorter: an outage may end in its last second.

    Raises:
        CoordError: `error`, when the time is up.
    """
    remaining_s = deadline.remaining()
    if remaining_s <= FIRST_PAUSE_S:
        raise error
    time.sleep(min(pause_s * random.uniform(0.5, 1.0), remaining_s / 2))
    return min(pause_s * 2, LONGEST_PAUSE_S)


def _more_telling(
    before: errors.CoordError | None, error: errors.CoordError, deadline: Deadline
) -> errors.CoordError:
    """What to tell of two attempts: one that was cut short knows less than the one before it."""
    if before is None or not deadline.expired:
        return error
    if isinstance(before, errors.OUTAGE) and isinstance(error, errors.OUTAGE):
        before.outcome = error.outcome
    return before


def _describe(method: str, request: Message) -> str:
    """The operation and its key: never a value."""
    what = method.rpartition("/")[2].lower()
    key = getattr(request, "key", b"")
    return f"{what} {key.decode(errors='backslashreplace')}" if key else what
