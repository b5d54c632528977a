"""What a contention benchmark knows of each primitive: how it is judged, what counts, which bars it has.

Cost: values; a counter's judge reads its value from etcd.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence

import attrs

import coordkit
from coordkit.cli.bench import figures
from coordkit.recipes.cohort import MOST
from coordkit.testing import checkers
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, Violation


@attrs.frozen
class Scenario:
    """Who contends, and for what."""

    mode: str
    contenders: int
    primitive: str = "lock"
    rivals: int = 0  # processes of one contender each, beside all the others
    ttl_s: int = 0  # of the session of a holder that is killed; 0: nobody is

    @property
    def name(self) -> str:
        if self.ttl_s:
            return f"holder killed, TTL {self.ttl_s} s"
        if self.rivals:
            others = "another process" if self.rivals == 1 else f"{self.rivals} more processes"
            return f"{self.contenders} {self.mode} and {others}"
        if self.contenders > 1:
            return f"{self.contenders} {self.mode}"
        return "uncontended" if self.mode == "processes" else f"uncontended, {self.mode}"

    @property
    def slices(self) -> int:
        """Into how many slices a repeat is cut, each beside a slice of the floor."""
        return 5 if self.contenders == 1 else 2  # fewer where each has a queue to form first

    def teams(self) -> list[list[str]]:
        """The contenders' labels, process by process."""
        labels = [str(number) for number in range(self.contenders)]
        rivals = [[f"rival-{number}"] for number in range(self.rivals)]
        return ([[label] for label in labels] if self.mode == "processes" else [labels]) + rivals


Bounds = dict[str, tuple[str, float]]  # by figure: "least" or "most", and how much
_SUCCESSOR_S = 1.5  # beyond the TTL: etcd's look for ended leases, and a hand-over on a busy machine


@attrs.frozen
class Context:
    """What a judge must know beside the history."""

    url: str
    contenders: int
    limit: int


@attrs.frozen
class Primitive:
    """One of them."""

    name: str
    promise: str  # what the correctness line says when nothing is wrong
    judge: Callable[[list[Operation], Context], Verdict]
    holds: Callable[[Iterable[Operation]], Sequence[Hold]]
    passed: figures.Passings
    bars: Callable[[Scenario], Bounds] = lambda scenario: {}
    #: Whether the two transactions of an uncontended lock, and a delete and its event, are its floor, too.
    floors: bool = True
    counts: str = "acquisitions"
    beside: tuple[str, ...] = ()  # what is measured in turns with it


def _crash_bars(scenario: Scenario) -> Bounds:
    return {"successor_s": ("most", scenario.ttl_s + _SUCCESSOR_S)}


def _lock_bars(scenario: Scenario) -> Bounds:
    if scenario.ttl_s:
        return _crash_bars(scenario)
    if scenario.contenders == 1:
        return {"pair_p50_x": ("most", 1.25)}
    most = {2: 1.6, 8: 2.5}.get(scenario.contenders)
    return {"hand_over_p50_x": ("most", most)} if most and scenario.mode == "processes" else {}


def _cohort_bars(scenario: Scenario) -> Bounds:
    if scenario.rivals:
        return {"overtaken_p50": ("most", MOST)}
    threads = scenario.mode != "processes" and scenario.contenders >= 32
    return {"lock_x": ("least", 15), "baton_x": ("least", 0.3)} if threads else {}


def _election_bars(scenario: Scenario) -> Bounds:
    if scenario.ttl_s:
        return _crash_bars(scenario)
    contended = scenario.mode == "processes" and scenario.contenders > 1
    return {"hand_over_p50_x": ("most", 2.5)} if contended else {}


def _leaderships(history: Iterable[Operation]) -> list[Hold]:
    kinds = {Kind.CAMPAIGN: Kind.ACQUIRE, Kind.RESIGN: Kind.RELEASE}
    return checkers.holds_of(attrs.evolve(each, kind=kinds[each.kind]) for each in history)


def _calls(history: Iterable[Operation]) -> list[Hold]:
    """Calls that hold nothing, in the order in which they ended."""
    done = [Hold(each, None) for each in history if each.result is Result.OK]
    return sorted(done, key=lambda each: each.clock)


def _stays(history: Iterable[Operation]) -> list[Hold]:
    """Holds that stand in no order, as they were granted."""
    return sorted(checkers.holds_of(history), key=lambda hold: hold.clock)


def _by_name(history: Iterable[Operation], judge: Callable[[str, list[Operation]], Verdict]) -> Verdict:
    named: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        named[operation.name].append(operation)
    verdicts = [judge(name, operations) for name, operations in named.items()]
    violations = tuple(violation for verdict in verdicts for violation in verdict.violations)
    return Verdict(sum(verdict.holds for verdict in verdicts), violations)


def _judge_counter(history: list[Operation], context: Context) -> Verdict:
    with coordkit.connect(context.url) as coord:
        return _by_name(
            history,
            lambda name, operations: checkers.check_counter(operations, coord.counter(name).get()),
        )


def _judge_barrier(history: list[Operation], context: Context) -> Verdict:
    return _by_name(history, lambda _, own: checkers.check_barrier(own, context.contenders))


def _judge_sessions(history: list[Operation], _: Context) -> Verdict:
    """No lease was granted twice."""
    seen: dict[int, Hold] = {}
    violations = []
    for hold in _stays(history):
        if hold.fence in seen:
            other = seen[hold.fence]
            why = f"two sessions with lease {hold.fence:x}"
            violations.append(Violation(Rule.FENCE, why, other.operations + hold.operations))
        seen[hold.fence] = hold
    return Verdict(len(seen), tuple(violations))


_EXCLUSIVE = "overlaps 0, order inversions 0, fences rising"
_EACH = (
    Primitive(
        "lock", _EXCLUSIVE, lambda history, _: checkers.check_lock(history),
        checkers.holds_of, figures.from_holder_to_holder, _lock_bars,
    ),
    Primitive(
        "rwlock", "a writer is alone, in order", lambda history, _: checkers.check_rwlock(history),
        checkers.holds_of, figures.from_writers,
    ),
    Primitive(
        "semaphore", "never more holders than permits",
        lambda history, context: checkers.check_semaphore(history, context.limit),
        checkers.holds_of, figures.none,
    ),
    Primitive(
        "cohort", _EXCLUSIVE, lambda history, _: checkers.check_lock(history),
        checkers.holds_of, figures.from_holder_to_holder, _cohort_bars, beside=("lock", "baton"),
    ),
    Primitive(
        "election", "one leader at a time, in order", lambda history, _: checkers.check_election(history),
        _leaderships, figures.from_holder_to_holder, _election_bars, counts="elections",
    ),
    Primitive(
        "barrier", "nobody passed before all had arrived", _judge_barrier,
        _calls, figures.from_the_last_to_arrive, counts="passings",
    ),
    Primitive(
        "counter", "every addition is there once", _judge_counter,
        _calls, figures.none, counts="additions",
    ),
    Primitive(
        "session", "no lease twice", _judge_sessions,
        _stays, figures.none, floors=False, counts="sessions",
    ),
)  # fmt: skip

PRIMITIVES = {primitive.name: primitive for primitive in _EACH}
