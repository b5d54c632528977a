"""The idle consumers of a queue, as far as claims show: which of them an item is left to first.  Pure.

All hear of an item at once, and one gets it.  So each reckons its rank for it, from what all are told alike:
who has claimed lately, and has nothing in hand.  The order is drawn anew for each item, so nobody is
preferred; the first asks at once, the others a moment later each, when most have heard that it is taken.

It is a hint: who has never claimed is not known yet, and who has left is taken for idle until 64 other claims
were told.

Source: rendezvous hashing, Thaler and Ravishankar (1996).
"""

from __future__ import annotations

import collections
import hashlib

RECENT = 64


class Crowd:
    """Kept from the claims that a watch tells of."""

    def __init__(self) -> None:
        self._recent: collections.deque[int] = collections.deque(maxlen=RECENT)
        self._in_hand: dict[str, int] = {}  # whose an item is, by its id

    def claimed(self, id_: str, lease: int) -> None:
        """A claim was put."""
        self._recent.append(lease)
        self._in_hand[id_] = lease

    def ended(self, id_: str) -> None:
        """It is over."""
        self._in_hand.pop(id_, None)

    def lose_sight(self) -> None:
        """Nothing is told any more."""
        self._in_hand.clear()

    def rank(self, id_: str, lease: int) -> int:
        """How many others come before the consumer with this lease, for this item."""
        others = {*self._recent} - {*self._in_hand.values(), lease}
        ours = _draw(id_, lease)
        return sum(_draw(id_, other) < ours for other in others)


def _draw(id_: str, lease: int) -> bytes:
    return hashlib.blake2b(f"{id_} {lease:x}".encode(), digest_size=8).digest()
