"""Reaching a server: name, connection, and the exchange of prefaces, all within one deadline."""

from __future__ import annotations

import math
import socket
import typing

from coordkit.deadline import Deadline
from coordkit.wire import address as addresses
from coordkit.wire import http2, tls

GREETING_BYTES = 64 * 2**10


def dial(address: addresses.Address, deadline: Deadline) -> socket.socket:
    """A connected socket.

    A name may stand for several addresses; each gets a fair share of the time, for one that swallows what is
    sent to it must not use up the others'.

    Raises:
        OSError: What the last of them said; TimeoutError when the time ran out.
    """
    targets = _targets(address)
    while True:
        family, target = targets.pop(0)
        try:
            return _connect(family, target, deadline, len(targets) + 1)
        except OSError:
            if not targets:
                raise


def shake_hands(sock: socket.socket, shield: tls.Shield, deadline: Deadline) -> None:
    """TLS's handshake.

    Raises:
        OSError: The connection broke, the time ran out, or the peer is not who it should be (`ssl.SSLError`).
    """
    received, when = b"", "in the TLS handshake: does this port speak TLS?"
    while True:
        ours, done = shield.handshake(received)
        if ours:
            _say(sock, ours, when)
        if done:
            return
        received = _hear(sock, deadline, when)


def greet(
    sock: socket.socket, connection: http2.Connection, deadline: Deadline, shield: tls.Shield | None = None
) -> int:
    """Exchange prefaces: afterwards the peer has shown that it speaks HTTP/2.

    Returns:
        How many bytes of HTTP/2 were sent.

    Raises:
        OSError: The connection broke, or the time ran out.
        ProtocolError: The peer speaks something else.
    """
    when = "before it said anything" + (": does this port want TLS?" if shield is None else "")
    greeting = b"".join(connection.take_output())
    _say(sock, greeting if shield is None else shield.encrypt(greeting), when)
    # What came behind the last part of the handshake is in the shield already.
    received: bytes | None = b"" if shield is None else shield.decrypt(b"")
    while True:
        if received is None:
            raise ConnectionResetError("the server closed the connection behind the TLS handshake")
        connection.receive(received)
        if connection.settled:
            return len(greeting)
        heard = _hear(sock, deadline, when)
        received = heard if shield is None else shield.decrypt(heard)


def _say(sock: socket.socket, said: bytes, when: str) -> None:
    """Send; `when` says where we are if the peer has left."""
    try:
        sock.sendall(said)
    except ConnectionError as error:
        raise _left(when) from error


def _hear(sock: socket.socket, deadline: Deadline, when: str) -> bytes:
    """The next bytes; `when` says where we are if the peer leaves, also before it has read what we said."""
    _set_timeout(sock, deadline, 1)
    try:
        received = sock.recv(GREETING_BYTES)
    except ConnectionError as error:
        raise _left(when) from error
    if not received:
        raise _left(when)
    return received


def _left(when: str) -> ConnectionResetError:
    return ConnectionResetError(f"the server closed the connection {when}")


def _targets(address: addresses.Address) -> list[tuple[int, typing.Any]]:
    if address.path:
        return [(socket.AF_UNIX, address.path)]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address.host)
        except OSError:
            continue
        return [(family, (address.host, address.port))]  # nobody to ask: under gevent that takes a thread
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]


def _connect(family: int, target: typing.Any, deadline: Deadline, shares: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _set_timeout(sock, deadline, shares)
        try:
            sock.connect(target)
        except ConnectionResetError as error:
            raise _left("as soon as it stood") from error
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_timeout(sock: socket.socket, deadline: Deadline, shares: int) -> None:
    remaining_s = deadline.remaining()
    if remaining_s == 0:
        raise TimeoutError("timed out")
    sock.settimeout(None if remaining_s == math.inf else remaining_s / shares)
