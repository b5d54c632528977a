"""Names: an item's id, and the keys that belong to it.  Pure.

An id is `<priority:03d>-<stamp:016x>-<producer>-<n:08x>`, the same for as long as the item lives.  Items sort
by priority, then by stamp, then by producer; the items of one producer sort in the order in which it put
them, for its stamps never fall and its numbers rise.
"""

from __future__ import annotations

import re
import secrets

LARGEST_PRIORITY = 999

_ID = re.compile(r"[0-9]{3}-[0-9a-f]{16}-[0-9a-z]+-[0-9a-f]{8,}")
_PRIORITY_WIDTH = 3


def item_id(priority: int, stamp: int, producer: str, number: int | None = None) -> str:
    """The id of a new item; without its number, how it begins."""
    start = f"{priority:03d}-{stamp:016x}-{producer}-"
    return start if number is None else f"{start}{number:08x}"


def new_producer() -> str:
    """A name that no other producer has."""
    return secrets.token_hex(6)


def producer_of(id_: str) -> str:
    """Who put the item."""
    return id_.split("-")[2]


def priority_of(id_: str) -> int:
    """Of the item."""
    return int(id_[:_PRIORITY_WIDTH])


def is_id(text: str) -> bool:
    """Whether this is an id, and not something foreign."""
    return _ID.fullmatch(text) is not None


class Layout:
    """The keys of one queue; every range ends with a slash."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.items = prefix + b"items/"
        self.claims = prefix + b"claims/"
        self.attempts = prefix + b"attempts/"
        self.dead = prefix + b"dead/"
        self.delayed = prefix + b"delayed/"
        self.dedup = prefix + b"dedup/"
        self.receipts = prefix + b"receipts/"
        #: Behind the claims, whose neighbours in front are the attempts.
        self.claims_end = self.claims[:-1] + b"0"
        #: What an idle consumer listens to: claims, dead, dedup, delayed and items, for they are neighbours.
        self.lively = (self.claims, self.items[:-1] + b"0")

    def item(self, id_: str) -> bytes:
        """The key of an item that waits, or is claimed."""
        return b"%s%s/%s" % (
            self.items,
            id_[:_PRIORITY_WIDTH].encode(),
            id_[_PRIORITY_WIDTH + 1 :].encode(),
        )

    def claim(self, id_: str) -> bytes:
        """The key of its claim."""
        return self.claims + id_.encode()

    def attempt(self, id_: str) -> bytes:
        """The key whose version counts its deliveries."""
        return self.attempts + id_.encode()

    def dead_letter(self, id_: str) -> bytes:
        """The key of a dead letter."""
        return self.dead + id_.encode()

    def delayed_item(self, due_ms: int, id_: str) -> bytes:
        """The key of an item that is not due yet."""
        return b"%s%016x/%s" % (self.delayed, due_ms, id_.encode())

    def receipt(self, lease_id: int, nonce: str) -> bytes:
        """The key that proves that a transaction was applied."""
        return b"%s%016x-%s" % (self.receipts, lease_id, nonce.encode())

    def id_of_item(self, key: bytes) -> str | None:
        """The id behind an item's key; None for a foreign key."""
        text = key[len(self.items) :].decode(errors="replace")
        if text[_PRIORITY_WIDTH : _PRIORITY_WIDTH + 1] != "/":
            return None
        return _checked(text[:_PRIORITY_WIDTH] + "-" + text[_PRIORITY_WIDTH + 1 :])

    def id_behind(self, range_: bytes, key: bytes) -> str | None:
        """The id behind a key of `claims`, `attempts` or `dead`; None for a foreign key."""
        return _checked(key[len(range_) :].decode(errors="replace"))

    def of_delayed(self, key: bytes) -> tuple[int, str] | None:
        """When it is due, and the id, behind a key of `delayed`; None for a foreign key."""
        due, _, text = key[len(self.delayed) :].decode(errors="replace").partition("/")
        if not re.fullmatch("[0-9a-f]{16}", due) or _checked(text) is None:
            return None
        return int(due, 16), text


def _checked(text: str) -> str | None:
    return text if is_id(text) else None
