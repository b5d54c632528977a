"""The keys of a topic and what stands in them.  Pure.

Under `/<namespace>/topic/<name>/`, and there under `p<i>/` where a topic has partitions:

    slots/<k:03d>            live: message k of a transaction; each publish is a new version
    log/<h:016x>-<k:03d>     retained: message k of the transaction that found `head` at revision h
    head                     how many messages were ever published; its mod revision is the next h
    trimmed                  up to which revision messages are gone, and how many they were
    cursors/<name>           how far a durable subscriber has come

The first message of each transaction in a log begins with a line of its own: a nonce, the time, the count.
"""

from __future__ import annotations

import re

import attrs

from coordkit import keys

MOST_IN_TXN = 100  # messages; etcd takes 128 operations
MOST_TXN_BYTES = 2**20  # of values; etcd takes 1.5 MiB

_SLOT = re.compile(rb"(\d{3})")
_MESSAGE = re.compile(rb"([0-9a-f]{16})-(\d{3})")
_HEADER = re.compile(rb"([0-9a-f]{16}) (\d{1,15}) (\d{1,3})\n")


@attrs.frozen
class Place:
    """Where a message of a log stands."""

    after: int  # the revision of the transaction before its own
    index: int


@attrs.frozen
class Trimmed:
    """What is gone from a log."""

    revision: int = 0  # of the newest message that is gone
    count: int = 0


@attrs.frozen
class Header:
    """Of a transaction: which publish made it, and when."""

    nonce: bytes
    at_ms: int  # by the publisher's clock
    count: int  # messages

    def before(self, value: bytes) -> bytes:
        """The first message, as it is stored."""
        return b"%s %d %d\n%s" % (self.nonce, self.at_ms, self.count, value)


@attrs.frozen
class Names:
    """The keys of one topic, or of one partition."""

    prefix: bytes
    slots: bytes
    log: bytes
    head: bytes
    trimmed: bytes
    cursors: bytes
    partitions: bytes
    slot_keys: tuple[bytes, ...] = attrs.field(repr=False)

    @classmethod
    def under(cls, prefix: bytes) -> Names:
        """All of them."""
        return cls(
            prefix,
            prefix + b"slots/",
            prefix + b"log/",
            prefix + b"head",
            prefix + b"trimmed",
            prefix + b"cursors/",
            prefix + b"partitions",
            tuple(b"%sslots/%03d" % (prefix, k) for k in range(MOST_IN_TXN)),
        )

    def partition(self, number: int) -> Names:
        """Those of one of several partitions."""
        return Names.under(b"%sp%d/" % (self.prefix, number))

    def message(self, after: int, index: int) -> bytes:
        """The key of a message in the log."""
        return b"%s%016x-%03d" % (self.log, after, index)

    def batch(self, after: int) -> bytes:
        """Where the messages of a transaction begin."""
        return b"%s%016x-" % (self.log, after)

    @property
    def slots_end(self) -> bytes:
        """The end of the slots' range."""
        return keys.range_end(self.slots)

    @property
    def log_end(self) -> bytes:
        """The end of the log's range."""
        return keys.range_end(self.log)

    def cursor(self, name: str) -> bytes:
        """The key of a durable cursor."""
        return self.cursors + keys.segment(name, "cursor").encode()

    def parse_slot(self, key: bytes) -> int | None:
        """The index of a live message; None for a key of somebody else's."""
        match = _SLOT.fullmatch(key, len(self.slots))
        return int(match[1]) if match else None

    def parse_message(self, key: bytes) -> Place | None:
        """Where a message of the log stands; None for a key of somebody else's."""
        match = _MESSAGE.fullmatch(key, len(self.log))
        return Place(int(match[1], 16), int(match[2])) if match else None


def parse_header(stored: bytes) -> tuple[Header, bytes] | None:
    """The header of a first message, and its value; None when it has none."""
    match = _HEADER.match(stored)
    return (Header(match[1], int(match[2]), int(match[3])), stored[match.end() :]) if match else None


def parse_head(stored: bytes) -> int:
    """How many messages were published; 0 when that makes no sense."""
    return int(stored) if re.fullmatch(rb"\d{1,18}", stored) else 0


def parse_trimmed(stored: bytes) -> Trimmed:
    """What is gone; nothing, when that makes no sense."""
    match = re.fullmatch(rb"(\d{1,18}) (\d{1,18})", stored)
    return Trimmed(int(match[1]), int(match[2])) if match else Trimmed()
