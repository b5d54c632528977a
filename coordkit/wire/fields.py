"""Response header blocks (RFC 7541), decoded once each.

We announce a dynamic table of size 0, so that a block means the same wherever it stands, and a server's few
blocks are looked up rather than decoded: etcd's `grpc-status: 0` trailers are the same bytes each time.
"""

from __future__ import annotations

import logging
import typing

import hpack

from coordkit.wire.frames import ErrorCode, ProtocolError

LARGEST_BLOCK = 64 * 2**10
MOST_REMEMBERED = 256
LONGEST_REMEMBERED = 1024

Headers = dict[bytes, bytes]

# The heart decodes on a native thread, where logging's locks, shared with greenlets, must not be touched; and
# what hpack logs at DEBUG is every header.  A disabled logger takes no lock.
_HPACK_LOGS = [logging.getLogger(name) for name in ("hpack.hpack", "hpack.table")]


class Decoder:
    """Blocks to headers."""

    def __init__(self) -> None:
        self._hpack: typing.Any = None
        #: What was decoded lately; for the hot path, which only looks.
        self.known: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """The fields of a block.  Shared between calls: do not change them.

        Raises:
            ProtocolError: No header block, one that uses a table, or one that unpacks to too much.
        """
        headers = self.known.get(block)
        if headers is None:
            headers = self._unpack(block)
            if len(block) <= LONGEST_REMEMBERED:
                if len(self.known) >= MOST_REMEMBERED:
                    self.known.clear()
                self.known[block] = headers
        return headers

    def _unpack(self, block: bytes) -> Headers:
        for log in _HPACK_LOGS:
            log.disabled = True  # here, and not once: logging.config enables every logger that it finds
        if self._hpack is None:
            self._hpack = hpack.Decoder(max_header_list_size=LARGEST_BLOCK)
            self._hpack.header_table_size = 0
            self._hpack.max_allowed_table_size = 0
        try:
            return {bytes(name): bytes(value) for name, value in self._hpack.decode(block, raw=True)}
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise ProtocolError(f"a bad header block: {error}", ErrorCode.COMPRESSION_ERROR) from error
