"""Loopback: ports to listen on, and one question over HTTP.

Cost: one bind per port tried; one connection per question.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl

from coordkit import errors

HOST = "127.0.0.1"

#: Below what Linux (32768) and macOS (49152) give to outgoing connections: up there a client that dials a
#: server that is down can be given the server's own port, connect to itself, and keep the server out.
_PORTS = range(15_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on, right now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise errors.CoordError(f"no {count} free ports in {_PORTS.start} to {_PORTS.stop - 1}")


def has_ipv6() -> bool:
    """Whether one can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def get_json(port: int, path: str, context: ssl.SSLContext | None = None, host: str = HOST) -> object:
    """What a server of ours says at `path`; None when it says nothing that we understand.

    Args:
        port: Of the host.
        path: Of the URL.
        context: For a server that speaks TLS.
        host: Where it is, if not on loopback.
    """
    connection = (
        http.client.HTTPConnection(host, port, timeout=1.0)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=1.0, context=context)
    )
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
