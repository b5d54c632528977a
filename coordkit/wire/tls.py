"""TLS on bytes: the standard library's, without its sockets.

`ssl.MemoryBIO` keeps TLS out of the way of who waits for what: the channel reads and writes one plain socket
in threads and under gevent, and this module turns bytes into bytes.  Files are read at every dial, so a
certificate that was renewed on disk is used from the next connection on.
"""

from __future__ import annotations

import ssl
import threading

import attrs

from coordkit import errors


@attrs.frozen
class Credentials:
    """Where the certificates are; None for the system's authorities, and for none of our own."""

    cacert: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """A context that checks the server's certificate and name.

        Raises:
            InvalidValue: A file that cannot be read, or holds no certificate; the message names it.
        """
        try:
            context = ssl.create_default_context(cafile=self.cacert)
        except (OSError, ssl.SSLError) as error:
            raise errors.InvalidValue(f"cacert {self.cacert}: {_reason(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ssl.SSLError) as error:
                raise errors.InvalidValue(f"cert {self.cert}, key {self.key}: {_reason(error)}") from error
        elif self.key is not None:
            raise errors.InvalidValue("a key was given without its cert")
        return context


NO_CREDENTIALS = Credentials()


class Shield:
    """One connection's TLS state.  Reader and writer may use it at the same time.

    Raises:
        ssl.SSLError: The name cannot be a host's: a label too long, a leading dot.
        InvalidValue: A certificate's file cannot be used.
    """

    def __init__(self, credentials: Credentials, server_name: str) -> None:
        self._lock = threading.Lock()
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        context = credentials.context()
        try:
            self._tls = context.wrap_bio(self._from_peer, self._to_peer, server_hostname=server_name)
        except ValueError as error:
            raise ssl.SSLError(f"{server_name!r} is no name of a host: {error}") from error

    def handshake(self, received: bytes) -> tuple[bytes, bool]:
        """Take the peer's part; returns ours, and whether that was the last of it.

        Raises:
            ssl.SSLError: The peer is not who it should be, does not speak TLS, or speaks no HTTP/2 on it.
        """
        self._from_peer.write(received)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._to_peer.read(), False
        except ssl.SSLError as error:
            if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
                raise ssl.SSLError("the server does not speak TLS on this port") from error
            raise
        if self._tls.selected_alpn_protocol() != "h2":
            raise ssl.SSLError("the server does not speak HTTP/2 on TLS")
        return self._to_peer.read(), True

    def decrypt(self, received: bytes) -> bytes | None:
        """What the peer said; empty while a record is incomplete, None when it said goodbye.

        Raises:
            ssl.SSLError: The peer's alert, or damaged bytes.
        """
        parts: list[bytes] = []
        with self._lock:
            self._from_peer.write(received)
            while True:
                try:
                    part = self._tls.read(65536)
                except ssl.SSLWantReadError:
                    return b"".join(parts)
                except ssl.SSLZeroReturnError:
                    part = b""
                if not part:
                    return b"".join(parts) or None
                parts.append(part)

    def encrypt(self, plain: bytes) -> bytes:
        """What to send; with whatever TLS itself has to say."""
        with self._lock:
            rest = memoryview(plain)
            while rest:
                rest = rest[self._tls.write(rest) :]
            return self._to_peer.read()


def is_lasting(error: Exception) -> bool:
    """Whether a certificate is to blame, the server's or ours: to try again soon is of no use."""
    reason = getattr(error, "reason", None) or ""
    return isinstance(error, ssl.SSLError) and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _no_password() -> str:
    """Instead of asking on the terminal, which would hang a service."""
    raise ssl.SSLError("the key is encrypted")
