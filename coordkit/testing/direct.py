"""One request to one server, on a connection of its own: past any client's failover, retries and state.

Cost: a dial and a call.
"""

from __future__ import annotations

import typing

from coordkit import deadline
from coordkit.etcd import mapping
from coordkit.testing import etcd_server
from coordkit.wire import address, channel, grpc, tls

#: The longest that one server may take: it is on this machine.
PATIENCE_S = 2.0


class Request(typing.Protocol):
    """A message to send."""

    def SerializeToString(self) -> bytes:
        """Its bytes."""


class Reply(typing.Protocol):
    """A message that came."""

    @classmethod
    def FromString(cls, data: bytes) -> typing.Any:
        """From its bytes."""


R = typing.TypeVar("R", bound=Reply)


def ask(
    server: etcd_server.EtcdServer,
    method: str,
    request: Request,
    reply_type: type[R],
    limit: deadline.Deadline = deadline.NEVER,
) -> R:
    """The server's answer.

    Args:
        server: Whom to ask.
        method: The full path, as `/etcdserverpb.Maintenance/Status`.
        request: The message.
        reply_type: The class of the answer.
        limit: When to give up; two seconds at the latest.

    Raises:
        CoordError: It did not answer, or refused.
    """
    limit = limit.sooner(PATIENCE_S)
    where = address.Address.parse(server.endpoint)
    try:
        connection = channel.Channel.connect(where, limit, _credentials(server))
        try:
            answer = connection.call(method, request.SerializeToString(), limit)
        finally:
            connection.close()
    except grpc.CallFailed as failure:
        raise mapping.public_error(failure, method.rpartition("/")[2]) from failure
    return typing.cast(R, reply_type.FromString(answer))


def _credentials(server: etcd_server.EtcdServer) -> tls.Credentials:
    if server.tls is None:
        return tls.NO_CREDENTIALS
    return tls.Credentials(server.tls.cacert, server.tls.client.cert, server.tls.client.key)
