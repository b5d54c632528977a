"""Where a server for tests listens: in the words of etcd's options, and in those of its clients.

etcd names a unix socket by a file in its working folder, and 3.4 wants a `host:port` even there: so the file
is called `etcd:1`.

Cost: none but for `is_healthy`, which is one request over HTTP.
"""

from __future__ import annotations

import pathlib
import urllib.parse
from collections.abc import Sequence

import attrs

from coordkit import errors
from coordkit.testing import certificates, loopback

IPV6 = "ipv6"
UNIX = "unix"

_SOCKET_FILE = "etcd:1"


@attrs.frozen
class Listening:
    """One server's places: a host, mostly 127.0.0.1, and `also_on` more of them."""

    client_port: int
    peer_port: int
    folder: pathlib.Path
    also_on: tuple[str, ...] = ()
    tls: certificates.Certificates | None = None
    host: str = loopback.HOST

    @property
    def client_urls(self) -> tuple[str, ...]:
        """For `--listen-client-urls`; the first one is good for `--advertise-client-urls`."""
        s = "s" if self.tls else ""
        places = {IPV6: f"http{s}://[::1]:{self.client_port}", UNIX: f"unix{s}://{_SOCKET_FILE}"}
        return f"http{s}://{self.host}:{self.client_port}", *(places[where] for where in self.also_on)

    @property
    def peer_url(self) -> str:
        """For its peers, who speak in the clear."""
        return f"http://{self.host}:{self.peer_port}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """For clients: `host:port`, with `https://` before it under TLS; `unix://` and a path."""
        scheme = "https://" if self.tls else ""
        socket_url = f"unix{'s' if self.tls else ''}://{self.folder / _SOCKET_FILE}"
        places = {IPV6: f"{scheme}[::1]:{self.client_port}", UNIX: socket_url}
        return f"{scheme}{self.host}:{self.client_port}", *(places[where] for where in self.also_on)

    def is_healthy(self) -> bool:
        """Whether it serves requests; that takes a leader."""
        context = self.tls.unverified_context() if self.tls else None
        health = loopback.get_json(self.client_port, "/health", context, self.host)
        return isinstance(health, dict) and str(health.get("health")).lower() == "true"


def checked(also_on: Sequence[str]) -> tuple[str, ...]:
    """What was given as `also_on`.

    Raises:
        InvalidValue: Something else than "ipv6" and "unix".
    """
    for where in also_on:
        if where not in (IPV6, UNIX):
            raise errors.InvalidValue(f"also_on takes {IPV6!r} and {UNIX!r}, not {where!r}")
    return tuple(also_on)


def url(endpoints: Sequence[str], tls: certificates.Certificates | None) -> str:
    """For `coordkit.connect()`, with all that it needs."""
    hosts = ",".join(endpoint.removeprefix("https://") for endpoint in endpoints)
    if tls is None:
        return f"etcd://{hosts}/coordkit"
    files = urllib.parse.urlencode({"cacert": tls.cacert, "cert": tls.client.cert, "key": tls.client.key})
    return f"etcds://{hosts}/coordkit?{files}"
