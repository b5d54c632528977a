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
    due_ms: int | None  # when the first delayed item is due, as far as that was read
    first: str  # the id of the first item, free or not; "" if there is none
    last_key: bytes  # of the last item that was read
    last_id: str  # its id; "" for a foreign key

    def without(self, chosen: typing.Iterable[Candidate]) -> Window:
        """What is left of it."""
        gone = set(chosen)
        return attrs.evolve(self, candidates=tuple(each for each in self.candidates if each not in gone))

    def with_next(self, page: Window) -> Window:
        """This one, and the one that was read behind it."""
        return attrs.evolve(
            page,
            revision=self.revision,  # what came in front since then may be new
            candidates=self.candidates + page.candidates,
            claims=tuple(dict.fromkeys(self.claims + page.claims)),
            due_ms=self.due_ms,
            first=self.first or page.first,
            last_key=page.last_key or self.last_key,
        )


Look = typing.Callable[[typing.Sequence[kv.Op]], kv.TxnResult]


def read(
    look: Look, layout: names.Layout, limit: int, first: str, start: bytes = b"", delayed: bool = True
) -> Window:
    """Read one.

    Args:
        look: Reads at one revision.
        layout: Of the queue.
        limit: How many items.
        first: The id at which claims and deliveries begin to matter, as far as is known.
        start: The key at which the items begin.
        delayed: Whether to look for delayed items, too.

    Cost: 2 round trips, 1 more with `delayed`; 3 more where far more was claimed than so many items.
    """
    attempts_from = layout.attempt(first) if first else layout.attempts
    claims_from = layout.claim(first) if first else layout.claims
    items = kv.range(layout.items, keys_only=True, limit=limit, start=start)
    # Side by side in the order of keys: one read for both, unless there are very many.
    marks = [
        kv.range(layout.attempts, keys_only=True, limit=2 * limit, start=attempts_from, end=layout.claims_end)
    ]
    late = [kv.range(layout.delayed, keys_only=True, limit=16)] if delayed else []  # some may be foreign
    result = look([items, *marks, *late])
    if result.found(1).more:
        marks = [
            kv.range(layout.attempts, keys_only=True, limit=limit, start=attempts_from),
            kv.range(layout.claims, keys_only=True, limit=limit, start=claims_from),
        ]
        result = look([items, *marks, *late])
    marked = [each for number, _ in enumerate(marks, 1) for each in result.found(number).kvs]
    return _window(layout, result, marked, result.found(len(marks) + 1).kvs if delayed else ())


def _window(
    layout: names.Layout,
    result: kv.TxnResult,
    marked: typing.Sequence[kv.KeyValue],
    delayed: typing.Sequence[kv.KeyValue],
) -> Window:
    items = result.found(0)
    deliveries = {
        layout.id_behind(layout.attempts, each.key): each.version
        for each in marked
        if each.key.startswith(layout.attempts)
    }
    claims = tuple(
        Claim(id_, each.create_revision, each.lease)
        for each in marked
        if each.key.startswith(layout.claims)
        and (id_ := layout.id_behind(layout.claims, each.key)) is not None
    )
    taken = {claim.id for claim in claims}
    found = [(layout.id_of_item(each.key), each.mod_revision) for each in items.kvs]
    candidates = tuple(
        Candidate(id_, mod_revision, deliveries.get(id_, 0))
        for id_, mod_revision in found
        if id_ is not None and id_ not in taken
    )
    due = next(filter(None, (layout.of_delayed(each.key) for each in delayed)), None)
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
