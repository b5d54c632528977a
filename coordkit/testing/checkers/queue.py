"""Queues: nothing lost, nothing that nobody put, nothing twice but for a reason, and in order.

For items whose values are unique and have no space in them, and queues that were drained in the end, or whose
rest is told.

Source: Jepsen's total-queue checker for lost and unexpected; the order is judged by etcd's revisions of the
    claims.
Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator, Mapping

import attrs

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation

WINDOW = 64  # how many older items one may overtake where several consumers are at work


@attrs.frozen
class _Item:
    """What became of one value."""

    value: str
    put: Operation | None
    claims: tuple[Operation, ...]  # by revision
    acks: tuple[Operation, ...]

    @property
    def first(self) -> Operation | None:
        """Its first delivery, if it was told."""
        return next((claim for claim in self.claims if claim.number == 1), None)

    @property
    def id(self) -> str:
        """As the claims tell it; "" when there are none."""
        return self.claims[0].subject.partition("@")[2] if self.claims else ""


def check_queue(
    history: Iterable[Operation],
    window: int = WINDOW,
    left: Iterable[str] = (),
    first_claims: Mapping[str, int | None] | None = None,
) -> Verdict:
    """Judge one queue.

    Args:
        history: All puts, claims and acks.
        window: How many older items one may overtake; 0 for a single consumer.
        left: The values that are still there, dead letters too.
        first_claims: The revision of each item's first claim, by id, as etcd tells it.  Consumers do not hear
            of all claims: what was claimed for a caller that had no time left goes back uncounted, and its
            next delivery is called the first.  Who came meanwhile has overtaken nothing that was free.
            None where even etcd's was missed: such an item's place is not judged.
    """
    items = _items(history)
    violations = [
        *_lost(items, set(left)),
        *_unexpected(items),
        *_again(items),
        *_overtaken(items, window, first_claims or {}),
    ]
    return Verdict(sum(len(item.claims) for item in items), tuple(violations))


def _items(history: Iterable[Operation]) -> list[_Item]:
    puts: dict[str, Operation] = {}
    claims: dict[str, list[Operation]] = collections.defaultdict(list)
    acks: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        values = [part.partition("@")[0] for part in operation.subject.split()]
        for value in values:
            if operation.kind is Kind.PUT:
                puts[value] = operation
            elif operation.kind is Kind.CLAIM and operation.result is Result.OK:
                claims[value].append(operation)
            elif operation.kind is Kind.ACK:
                acks[value].append(operation)
    return [
        _Item(
            value,
            puts.get(value),
            tuple(sorted(claims[value], key=lambda claim: claim.fence or 0)),
            tuple(acks[value]),
        )
        for value in {**puts, **claims}
    ]


def _lost(items: list[_Item], left: set[str]) -> Iterator[Violation]:
    for item in items:
        if item.put is None or item.put.result is not Result.OK or item.value in left:
            continue
        if all(ack.result is Result.FAIL for ack in item.acks):
            yield Violation(Rule.LOST, f"{item.value} is gone, and was not acked", (item.put, *item.claims))


def _unexpected(items: list[_Item]) -> Iterator[Violation]:
    for item in items:
        if item.claims and (item.put is None or item.put.result is Result.FAIL):
            yield Violation(Rule.UNEXPECTED, f"{item.value} was delivered, and not put", item.claims)


def _again(items: list[_Item]) -> Iterator[Violation]:
    for item in items:
        last, attempts = item.claims[-1:], [claim.number or 0 for claim in item.claims]
        if attempts != sorted(set(attempts)):
            yield Violation(Rule.AGAIN, f"{item.value} was delivered as {attempts}", item.claims)
        for ack in item.acks:
            late = ack.result is Result.OK and (ack.fence or 0) < (last[0].fence or 0 if last else 0)
            if late and not _is_anothers(ack, item):
                why = f"{item.value} was delivered again after it was acked"
                yield Violation(Rule.AGAIN, why, (ack, *last))


def _is_anothers(ack: Operation, item: _Item) -> bool:
    """Whether a later consumer's ack may have ended the item by then.

    Whose claim was deleted by hand while the reply to its ack was lost takes that for its own.
    """
    return any(
        (other.fence or 0) > (ack.fence or 0)
        and other.result is not Result.FAIL
        and other.invoked_ns < (ack.completed_ns or 0)
        for other in item.acks
    )


def _overtaken(
    items: list[_Item], window: int, first_claims: Mapping[str, int | None]
) -> Iterator[Violation]:
    """First claims alone count: what comes back comes to the front.

    An item counts as older when it was put before the other's put began, and stands before it in the queue.
    """
    known = []
    for item in items:
        first = item.first or (item.claims[0] if item.id in first_claims else None)
        if item.put is not None and first is not None:
            revision = first_claims.get(item.id, first.fence or 0)
            if revision is not None:
                known.append((revision, item.id, item.put, first))
    known.sort(key=lambda each: each[:2], reverse=True)
    # From the last claim to the first: `later` has what was claimed after the one that is looked at.
    later: list[tuple[str, int]] = []  # (id, when its put had ended), sorted
    waiting: list[tuple[str, int]] = []  # claimed at the same revision as the one before
    latest = -1
    for fence, id_, put, first in known:
        if fence != latest:
            for each in waiting:
                bisect.insort(later, each)
            waiting, latest = [], fence
        before = later[: bisect.bisect_left(later, (id_, 0))]
        overtaken = sum(ended_ns < put.invoked_ns for _, ended_ns in before)
        if overtaken > window:
            why = f"{first.subject} was claimed before {overtaken} that were put before it"
            yield Violation(Rule.OVERTAKEN, why, (put, first))
        if put.completed_ns is not None and put.result is Result.OK:
            waiting.append((id_, put.completed_ns))
