"""What is compared: what is held, counters, puts into a queue and taking out of one; how each is judged.

Only completed work counts, in items where a call is about several.  A peer that loses or repeats anything, or
grants something twice, is out.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence

import attrs

from benchmarks.peers import fillers
from benchmarks.peers.lineup import Peer
from coordkit.cli.bench import figures
from coordkit.testing import checkers
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, Violation


@attrs.frozen
class Judged:
    """What one round gave."""

    found: figures.Figures
    count: int
    broken: str | None = None


@attrs.define
class Match:
    """One peer in one scenario: what its judge must know, and what it remembers between rounds."""

    peer: Peer
    where: str
    name: str
    contenders: int
    seen: list[Operation] = attrs.Factory(list)
    filled: set[str] = attrs.Factory(set)

    @property
    def limit(self) -> int:
        """Of a semaphore."""
        return max(1, self.contenders // 2)


@attrs.frozen
class Compared:
    """One thing that is compared."""

    name: str
    unit: str
    scenarios: str
    judge: Callable[[Match, list[Operation], figures.Window], Judged]
    fills: bool = False  # whether there must be something to take before a round
    held: bool = False  # whether something is held, and each round is judged by itself


_LEADERSHIP = {Kind.CAMPAIGN: Kind.ACQUIRE, Kind.RESIGN: Kind.RELEASE}


def _holds(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """Locks and elections: by the order of fences where there are any, else by the clock alone."""
    seen = _fenced(match, [attrs.evolve(each, kind=_LEADERSHIP.get(each.kind, each.kind)) for each in seen])
    verdict = checkers.check_lock(seen)
    broken = [each for each in verdict.violations if match.peer.fenced or each.rule is Rule.CLOCK]
    return _held(match, seen, window, attrs.evolve(verdict, violations=tuple(broken)))


def _reads_and_writes(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """A writer is alone."""
    seen = _fenced(match, seen)
    return _held(match, seen, window, checkers.check_rwlock(seen), figures.from_writers)


def _permits(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """Never more holders than permits."""
    seen = _fenced(match, seen)
    return _held(match, seen, window, checkers.check_semaphore(seen, match.limit), figures.none)


def _fenced(match: Match, seen: list[Operation]) -> list[Operation]:
    return seen if match.peer.fenced else ranked(seen)


def _held(
    match: Match,
    seen: list[Operation],
    window: figures.Window,
    verdict: Verdict,
    passed: figures.Passings | None = None,
) -> Judged:
    times = figures.lock_times(checkers.holds_of(seen), window, passed)
    return Judged(figures.lock_figures(times, match.contenders), verdict.holds, _why(verdict.violations))


def _why(broken: Sequence[Violation]) -> str | None:
    return f"{len(broken)} violations: {broken[0].why}" if broken else None


def _additions(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """Counters: all of a peer's rounds add to one, or each to one of its own."""
    match.seen += seen
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in match.seen:
        by_name[operation.name].append(operation)
    verdicts = [
        checkers.check_counter(operations, fillers.value(match.peer.store, match.where, name or match.name))
        for name, operations in by_name.items()
    ]
    broken = [violation for verdict in verdicts for violation in verdict.violations]
    return Judged(_calls(match, seen, window), sum(verdict.holds for verdict in verdicts), _why(broken))


def _puts(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """Everything that was put is there."""
    match.seen += seen
    put = sum(map(_items, _done(match.seen)))
    there = fillers.size(match.peer.store, match.where, match.name)
    why = None if put == there else f"{put} items were put, {there} are there"
    return Judged(_calls(match, seen, window), put, why)


def _takings(match: Match, seen: list[Operation], window: figures.Window) -> Judged:
    """Nothing is taken twice, nothing that was not put, nothing is lost."""
    match.seen += seen
    taken = [item for each in _done(match.seen) for item in each.subject.split()]
    expected = len(match.filled) - len(taken)
    left = fillers.settled_size(match.peer.store, match.where, match.name, expected)
    why = None
    if len(set(taken)) != len(taken):
        why = f"{len(taken) - len(set(taken))} items were taken twice"
    elif set(taken) - match.filled:
        why = f"{len(set(taken) - match.filled)} items were taken that nobody had put"
    elif left != expected:
        why = f"{len(match.filled)} items were put, {len(taken)} taken, {left} are left"
    return Judged(_calls(match, seen, window), len(taken), why)


def _done(seen: Iterable[Operation]) -> list[Operation]:
    return [each for each in seen if each.result is Result.OK]


def _items(operation: Operation) -> int:
    return max(1, len(operation.subject.split())) if operation.kind is not Kind.ADD else 1


def _calls(match: Match, seen: list[Operation], window: figures.Window) -> figures.Figures:
    """Rates in items; where all was taken before the end, until then."""
    holds = sorted((Hold(each, None) for each in _done(seen)), key=lambda hold: hold.clock)
    measured = [hold for hold in holds if hold.clock[0] in window]
    times = figures.lock_times(holds, window, figures.none)
    found = figures.lock_figures(times, match.contenders)
    if measured:
        ran_out = any(each.result is Result.FAIL for each in seen)
        end_ns = measured[-1].clock[0] if ran_out else window.end_ns
        items = sum(_items(hold.acquire) for hold in measured)
        found["acquisitions"] = items
        found["acquisitions_per_s"] = items / max((end_ns - window.start_ns) / 1e9, 1e-6)
    return found


def ranked(operations: list[Operation]) -> list[Operation]:
    """Holds without fences, numbered in the order in which they were granted by the clock."""
    grants = [each for each in operations if each.kind is Kind.ACQUIRE and each.result is Result.OK]
    ranks = {
        (each.process, each.contender, each.index): rank
        for rank, each in enumerate(sorted(grants, key=lambda each: each.completed_ns or 0), 1)
    }

    def rank(each: Operation) -> int | None:
        index = each.index if each.kind is Kind.ACQUIRE else each.index - 1
        return ranks.get((each.process, each.contender, index))

    return [attrs.evolve(each, fence=rank(each)) for each in operations]


_LOCKS = "processes:1,processes:2,processes:8,processes:32,threads:2,threads:8,threads:32,greenlets:8,own:64"
KINDS = {
    kind.name: kind
    for kind in (
        Compared("lock", "holds", _LOCKS, _holds, held=True),
        Compared("rwlock", "holds", "processes:8,threads:8", _reads_and_writes, held=True),
        Compared("semaphore", "holds", "processes:8,threads:8", _permits, held=True),
        Compared("election", "elections", "processes:2,processes:8,threads:2,threads:8", _holds, held=True),
        Compared("counter", "additions", "threads:1,threads:8,processes:8", _additions),
        Compared("put", "items put", "threads:1,threads:8", _puts),
        Compared("take", "items taken", "threads:1,threads:8", _takings, fills=True),
    )
}
