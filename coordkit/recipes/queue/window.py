"""The head of a queue at one revision, and who is to get what of it.  Pure, but for the read itself.

A window has the oldest items, with their claims and the counts of their deliveries.  It is a hint: whether
an item can be claimed is decided by the transaction that claims it.
"""

from __future__ import annotations

import typing

import attrs

from coordkit.etcd import kv
from coordkit.recipes.queue import names

STEP = 64  # how many free places a consumer may leave to others, at most
LARGEST = 1_000  # keys per read


@attrs.frozen
class Candidate:
    """An item that nobody has claimed."""

    id: str
    mod_revision: int
    deliveries: int  # so far


@attrs.frozen
class Claim:
    """Somebody's claim."""

    id: str
    create_revision: int
    lease: int


@attrs.frozen
class Window:
    """What was there at `revision`."""

    revision: int
    candidates: tuple[Candidate, ...]
    claims: tuple[Claim, ...]
    more: bool  # there are further items behind these
    due_ms: int | None  # when the first delayed item is due
    first: str  # the id of the first item, free or not; "" if there is none
    last_key: bytes  # of the last item that was read
    last_id: str  # its id; "" for a foreign key

    def with_next(self, page: Window) -> Window:
        """This one, and the one that was read behind it."""
        return attrs.evolve(
            page,
            candidates=self.candidates + page.candidates,
            claims=tuple(dict.fromkeys(self.claims + page.claims)),
            first=self.first or page.first,
            last_key=page.last_key or self.last_key,
        )


def read_ops(layout: names.Layout, limit: int, first: str, start: bytes = b"") -> list[kv.Op]:
    """The reads of a window.

    Args:
        layout: Of the queue.
        limit: How many items.
        first: The id at which claims and deliveries begin to matter, as far as is known.
        start: The key at which the items begin.
    """
    return [
        kv.range(layout.items, keys_only=True, limit=limit, start=start),
        kv.range(layout.claims, keys_only=True, limit=limit, start=layout.claim(first) if first else b""),
        kv.range(layout.attempts, keys_only=True, limit=limit, start=layout.attempt(first) if first else b""),
        kv.range(layout.delayed, keys_only=True, limit=16),  # there may be foreign keys
    ]


def read(layout: names.Layout, result: kv.TxnResult) -> Window:
    """The window that `read_ops` found."""
    items, claimed, attempts, delayed = (result.found(index) for index in range(4))
    deliveries = {layout.id_behind(layout.attempts, each.key): each.version for each in attempts.kvs}
    claims = tuple(
        Claim(id_, each.create_revision, each.lease)
        for each in claimed.kvs
        if (id_ := layout.id_behind(layout.claims, each.key)) is not None
    )
    taken = {claim.id for claim in claims}
    found = [(layout.id_of_item(each.key), each.mod_revision) for each in items.kvs]
    candidates = tuple(
        Candidate(id_, mod_revision, deliveries.get(id_, 0))
        for id_, mod_revision in found
        if id_ is not None and id_ not in taken
    )
    due = next(filter(None, (layout.of_delayed(each.key) for each in delayed.kvs)), None)
    return Window(
        revision=result.revision,
        candidates=candidates,
        claims=claims,
        more=items.more,
        due_ms=None if due is None else due[0],
        first=next((id_ for id_, _ in found if id_ is not None), ""),
        last_key=items.kvs[-1].key if items.kvs else b"",
        last_id=found[-1][0] or "" if found else "",
    )


@attrs.frozen
class Want:
    """How many items a caller still wants, and how often it lets one be delivered."""

    count: int
    most_deliveries: int
    fresh: bool = True  # it has got nothing yet


def plan(
    candidates: typing.Sequence[Candidate], wants: typing.Sequence[Want], most: int, last_chance_out: bool
) -> list[list[Candidate]]:
    """Who gets what, in order: one list of candidates for each of the wants.

    From its second delivery on an item goes alone to its caller, so that one that kills its consumers does
    not take others with it.  And of those that have their last chance a process has one at a time: else two
    of them could send each other to the dead letters.

    Args:
        candidates: In order.
        wants: The oldest caller first.
        most: How many candidates may be used in all.
        last_chance_out: Whether an item that has its last chance is out already.
    """
    shares: list[list[Candidate]] = []
    left = list(reversed(candidates))  # the next one is the last
    for want in wants:
        share: list[Candidate] = []
        while left and len(share) < want.count and most > 0:
            candidate = left[-1]
            if candidate.deliveries and (share or not want.fresh):
                break  # it goes alone, to the next
            left.pop()
            if _is_last_chance(candidate, want):
                if last_chance_out:
                    continue  # later, or another process
                last_chance_out = True
            share.append(candidate)
            most -= 1
            if candidate.deliveries:
                break
        shares.append(share)
    return shares


def _is_last_chance(candidate: Candidate, want: Want) -> bool:
    return 1 < want.most_deliveries == candidate.deliveries + 1


def skip(candidates: typing.Sequence[Candidate], wanted: int, places: int) -> typing.Sequence[Candidate]:
    """The candidates after so many free places, as far as there are enough behind them."""
    return candidates[max(0, min(places, len(candidates) - wanted, STEP)) :]
