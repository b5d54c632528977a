"""Where a server listens: `host:port`, `[v6]:port`, or `unix:///path`.  Pure."""

from __future__ import annotations

import re

import attrs

from coordkit import errors

DEFAULT_PORT = 2379

_HOST = r"(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/@\[\]?#]+))"
_HOST_PORT = re.compile(_HOST + r"(?::(?P<port>[0-9]{1,9}))?")
_NO_HOST = re.compile(r"(?::[0-9]*)?")
_SCHEMES = {"http": False, "https": True, "etcd": False, "etcds": True}


@attrs.frozen
class Address:
    """One endpoint of a server."""

    host: str = ""
    port: int = 0
    path: str = ""  # of a unix socket; then host and port are unused
    tls: bool = False

    @classmethod
    def parse(cls, text: str, tls: bool = False) -> Address:
        """An endpoint as people write it, with or without `http://` or `https://`.

        Raises:
            InvalidValue: Not an endpoint; the message quotes it.
        """
        if not isinstance(text, str):
            raise errors.InvalidValue(f"an endpoint must be a str, not {type(text).__name__}")
        shown = repr(f"...@{text.rpartition('@')[2]}" if "@" in text else text)  # no password in an error
        scheme, mark, rest = text.strip().partition("://")
        if not mark:
            scheme, rest = "etcds" if tls else "etcd", scheme
        if scheme in ("unix", "unixs"):
            if not rest or "\0" in rest:
                raise errors.InvalidValue(f"{shown} names no unix socket")
            return cls(path=rest, tls=tls or scheme == "unixs")
        rest = rest.rstrip("/")
        if scheme in _SCHEMES and _NO_HOST.fullmatch(rest):
            raise errors.InvalidValue(f"{shown} names no host: an endpoint is host:port or unix:///path")
        match = _HOST_PORT.fullmatch(rest)
        if scheme not in _SCHEMES or match is None:
            raise errors.InvalidValue(
                f"{shown} is no endpoint: expected host:port, https://host:port or unix:///path"
            )
        port = int(match["port"] or DEFAULT_PORT)
        if not 0 < port < 65536:
            raise errors.InvalidValue(f"{shown} has port {port}, which is not between 1 and 65535")
        return cls(host=match["v6"] or match["host"], port=port, tls=_SCHEMES[scheme])

    @property
    def authority(self) -> str:
        """The `:authority` of requests."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else self.authority
