"""Topics: every subscriber is given every message once and in order, or is told of a gap.

What was acknowledged is seen, at the revision that was told; what is in doubt is seen once or never. A
subscriber is judged between the first and the last message that it was given: what anybody saw there, and
what was acknowledged there, it must have seen, too, unless a gap was told.

Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator

import attrs

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation

Place = tuple[int, int]  # revision, index
_NEVER = 2**63


def check_topic(history: Iterable[Operation]) -> Verdict:
    """Judge topics; names keep several topics, or partitions, apart."""
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        by_name[operation.name].append(operation)

    count = 0
    violations: list[Violation] = []
    for operations in by_name.values():
        published = _published(operations)
        deliveries = [each for each in operations if each.kind is Kind.DELIVER]
        count += len(deliveries)
        violations += _places(deliveries, published)
        truth = _truth(deliveries, published)
        for own in _by_subscriber(operations):
            violations += [*_repeated(own), *_missed(own, truth)]
    return Verdict(count, tuple(violations))


def _published(operations: list[Operation]) -> dict[str, Operation]:
    """The publish of each message that was asked for."""
    published = {}
    for operation in operations:
        if operation.kind is Kind.PUBLISH:
            for number in range(operation.number or 0):
                published[f"{operation.subject}{number}"] = operation
    return published


def _places(deliveries: list[Operation], published: dict[str, Operation]) -> Iterator[Violation]:
    """One message, one place, in the eyes of all."""
    by_place: dict[Place, Operation] = {}
    by_subject: dict[str, Operation] = {}
    for delivery in deliveries:
        first = by_place.setdefault(_place(delivery), delivery)
        if first.subject != delivery.subject:
            why = f"{first.subject} and {delivery.subject} at {_place(delivery)}"
            yield Violation(Rule.MIXED, why, (first, delivery))
        first = by_subject.setdefault(delivery.subject, delivery)
        if _place(first) != _place(delivery):
            why = f"{delivery.subject} at {_place(first)} and at {_place(delivery)}"
            yield Violation(Rule.DOUBLED, why, (first, delivery))
    for subject, delivery in by_subject.items():
        publish = published.get(subject)
        if publish is None or publish.result is Result.FAIL:
            why = f"{subject} was given to somebody, and " + ("refused" if publish else "never published")
            yield Violation(Rule.INVENTED, why, (delivery, *([publish] if publish else [])))
        elif publish.result is Result.OK and publish.revision != delivery.revision:
            why = f"{subject} was given at {delivery.revision}, and published at {publish.revision}"
            yield Violation(Rule.MIXED, why, (publish, delivery))


@attrs.frozen
class _Known:
    """A message that certainly was published."""

    revision: int
    subject: str
    by: Operation


def _truth(deliveries: list[Operation], published: dict[str, Operation]) -> list[_Known]:
    """All of them, in the order of their revisions."""
    known = {
        subject: _Known(publish.revision, subject, publish)
        for subject, publish in published.items()
        if publish.result is Result.OK and publish.revision is not None
    }
    for delivery in deliveries:
        known.setdefault(delivery.subject, _Known(_place(delivery)[0], delivery.subject, delivery))
    return sorted(known.values(), key=lambda each: each.revision)


def _by_subscriber(operations: list[Operation]) -> list[list[Operation]]:
    """What each subscriber was told, in order."""
    told: dict[tuple[int, str], list[Operation]] = collections.defaultdict(list)
    for operation in operations:
        if operation.kind in (Kind.DELIVER, Kind.GAP):
            told[operation.process, operation.contender].append(operation)
    return [sorted(own, key=lambda each: each.index) for own in told.values()]


def _repeated(own: list[Operation]) -> Iterator[Violation]:
    last: Operation | None = None
    for operation in own:
        if operation.kind is Kind.GAP:
            continue
        if last is not None and _place(operation) <= _place(last):
            why = f"{_place(operation)} was given after {_place(last)}"
            yield Violation(Rule.REPEATED, why, (last, operation))
        last = operation


def _missed(own: list[Operation], truth: list[_Known]) -> Iterator[Violation]:
    """What was certainly published between its first message and its last one, and was not given to it."""
    given = [operation for operation in own if operation.kind is Kind.DELIVER]
    if not given:
        return
    seen = {operation.subject for operation in given}
    excuses = list(_excuses(own))  # in order, and none within another
    begins = [low for low, _ in excuses]
    revisions = [known.revision for known in truth]
    start = bisect.bisect_right(revisions, _place(given[0])[0])
    end = bisect.bisect_left(revisions, _place(given[-1])[0])
    for known in truth[start:end]:
        at = bisect.bisect_right(begins, known.revision) - 1
        if known.subject in seen or (at >= 0 and known.revision < excuses[at][1]):
            continue
        why = f"{own[0].contender} was not given {known.subject} of revision {known.revision}"
        yield Violation(Rule.SKIPPED, why, (known.by, given[0], given[-1]))


def _excuses(own: list[Operation]) -> Iterator[tuple[int, int]]:
    """From which revision to which it was told that messages are missing: also the rest of a transaction."""
    last = told = 0
    for operation in own:
        if operation.kind is Kind.GAP:
            told = max(told, operation.revision or _NEVER)
            continue
        revision = _place(operation)[0]
        if told:
            yield last, min(told, revision)
        last, told = revision, 0


def _place(delivery: Operation) -> Place:
    assert delivery.revision is not None and delivery.number is not None
    return delivery.revision, delivery.number
