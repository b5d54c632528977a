"""Dials the endpoints in turn, and authenticates on what it has dialled.

Cost: a connection; where there are users one more call, which etcd makes slow on purpose (bcrypt).
"""

from __future__ import annotations

import random

import attrs

from coordkit.deadline import Deadline
from coordkit.etcd import endpoints as places
from coordkit.etcd import options as opts
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages, watchdog

AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"

LEAST_SHARE_S = 0.5  # of the time, for each endpoint


class Dialler:
    """Where to dial next, and the token of the last connection.  One caller at a time."""

    def __init__(self, options: opts.Options) -> None:
        self._options = options
        self._turn = random.getrandbits(32)  # not all clients at the first one
        #: What a call carries beside its request: the token, if there is one.  Swapped whole when renewed.
        self.metadata: grpc.Metadata = ()

    def pass_over(self) -> None:
        """Begin with the next endpoint."""
        self._turn += 1

    def dial(self, limit: Deadline) -> channels.Channel:
        """Try the endpoints in turn, each for a fair share of the time.

        Raises:
            CallFailed: UNAVAILABLE with outcome NONE, naming each endpoint's trouble; or the user is refused.
        """
        endpoints = places.known(self._options)
        share_s = max(limit.remaining() / len(endpoints), LEAST_SHARE_S)
        troubles: list[grpc.Status] = []
        for _ in endpoints:
            if troubles and limit.expired:
                break  # whose turn it is now is the first next time
            endpoint = endpoints[self._turn % len(endpoints)]
            try:
                channel = channels.Channel.connect(endpoint, limit.sooner(share_s), self._options.credentials)
                if len(endpoints) > 1:
                    channel.watchdog.silence_s = watchdog.SHORT_SILENCE_S
                return self._greet(channel, limit)
            except grpc.CallFailed as failure:
                if failure.status.from_server and failure.status.code is not grpc.Code.UNAVAILABLE:
                    raise  # a wrong password is wrong everywhere
                troubles.append(failure.status)
            self.pass_over()
        lasting = len(troubles) == len(endpoints) and all(each.lasting for each in troubles)
        raise grpc.no_connection("; ".join(each.message for each in troubles), lasting)

    def _greet(self, channel: channels.Channel, deadline: Deadline) -> channels.Channel:
        try:
            self.authenticate(channel, deadline)
        except BaseException:
            channel.close("authentication failed")
            raise
        return channel

    def authenticate(self, channel: channels.Channel, deadline: Deadline) -> None:
        """A token for this connection: tokens are a member's own.

        Raises:
            CallFailed: There is none to be had.
        """
        if self._options.user is None:
            return
        try:
            reply = channel.call(AUTHENTICATE, _Secret.of(self._options), deadline)
        except grpc.CallFailed as failure:
            status = failure.status
            if "authentication is not enabled" in status.message:
                return
            if not status.from_server:
                raise  # that names the endpoint already
            who = f"user {self._options.user!r} at {channel.address}"
            raise grpc.CallFailed(
                AUTHENTICATE, attrs.evolve(status, message=f"{who}: {status.message}")
            ) from None
        self.metadata = (("token", messages.AuthenticateResponse.FromString(reply).token),)


class _Secret(bytes):
    """A request that holds a password, and does not show it to tools that print the locals of a traceback."""

    @classmethod
    def of(cls, options: opts.Options) -> _Secret:
        """The request for a token."""
        request = messages.AuthenticateRequest(name=options.user or "", password=options.password or "")
        return cls(request.SerializeToString())

    def __repr__(self) -> str:
        return "<secret>"
