"""From recorded histories to figures: pure functions.

A figure is a number under a flat name that ends in its unit: `wait_p50_us`. One repeat has a dictionary of
them; repeats are summed up by their median and extremes. A name that ends in `_x` is a multiple of a floor.

Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from coordkit.cli.bench.histogram import Histogram, jain
from coordkit.testing.history import Hold, Operation

Figures = dict[str, float]
PERCENTILES = (50, 95, 99, 99.9)
MOST_MOMENTS = 2000  # of a timeline: more than a plot can show


@attrs.frozen
class Window:
    """The measured time of one repeat; what came before was warming up."""

    start_ns: int
    end_ns: int

    def __contains__(self, moment_ns: int) -> bool:
        return self.start_ns <= moment_ns < self.end_ns

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


#: From holds in the order of their fences, within a window: when each hand-over began, and how long it took.
Passings = Callable[[Sequence[Hold], Window], Iterable[tuple[int, int]]]


@attrs.define
class LockTimes:
    """What was measured of a lock; durations in nanoseconds."""

    waits: Histogram = attrs.Factory(Histogram)  # acquire called -> it returned
    pairs: Histogram = attrs.Factory(Histogram)  # the time spent in acquire and in release, together
    #: Release called -> the next holder runs, where that one stood in line.
    hand_overs: Histogram = attrs.Factory(Histogram)
    returns: Histogram = attrs.Factory(Histogram)  # release called -> the same contender holds again
    shares: collections.Counter[str] = attrs.Factory(collections.Counter)  # acquisitions by contender
    #: When each hand-over began, and how long it took.
    timeline: list[tuple[int, int]] = attrs.Factory(list)
    seconds: float = 0.0

    def merge(self, other: LockTimes) -> None:
        """Add another slice."""
        for name in ("waits", "pairs", "hand_overs", "returns"):
            getattr(self, name).merge(getattr(other, name))
        self.shares.update(other.shares)
        self.timeline += other.timeline[: MOST_MOMENTS - len(self.timeline)]
        self.seconds += other.seconds


def lock_times(holds: Sequence[Hold], window: Window, passed: Passings | None = None) -> LockTimes:
    """What was completed in the window.

    Args:
        holds: In the order of their fences.
        window: What counts.
        passed: Finds the hand-overs; by default from each holder to the next.
    """
    handed = list((passed or from_holder_to_holder)(holds, window))
    measured = [hold for hold in holds if hold.clock[0] in window]
    pairs = (_pair_ns(hold) for hold in measured)
    by_contender: dict[str, list[Hold]] = collections.defaultdict(list)
    for hold in measured:
        by_contender[hold.acquire.contender].append(hold)
    return LockTimes(
        waits=Histogram(hold.clock[0] - hold.acquire.invoked_ns for hold in measured),
        pairs=Histogram(pair for pair in pairs if pair is not None),
        hand_overs=Histogram(gap for _, gap in handed),
        returns=Histogram(gap for own in by_contender.values() for gap in _returns_ns(own)),
        shares=collections.Counter({who: len(own) for who, own in by_contender.items()}),
        timeline=handed[:MOST_MOMENTS],
        seconds=window.seconds,
    )


def lock_figures(times: LockTimes, contenders: int) -> Figures:
    """The figures of one repeat, without those that are multiples."""
    acquisitions = times.shares.total()
    shares = [*times.shares.values(), *[0] * (contenders - len(times.shares))]
    figures: Figures = {
        "acquisitions": acquisitions,
        "acquisitions_per_s": acquisitions / times.seconds,
        "jain": jain(shares),
        **percentiles("wait", times.waits),
        **percentiles("pair", times.pairs),
    }
    if times.hand_overs.count:
        figures |= {"hand_overs": times.hand_overs.count, **percentiles("hand_over", times.hand_overs)}
    if times.returns.count:
        figures["reacquire_p50_us"] = times.returns.percentile(50) / 1e3
    return figures


def rivalry(holds: Sequence[Hold]) -> Figures:
    """How many hand-overs there were within the cohort while one of another process waited, from its call on.

    The first holder of a turn was handed nothing by its own: its number is 0.
    """
    moments = sorted(hold.clock[0] for hold in holds if hold.acquire.number)
    rivals = [hold for hold in holds if hold.acquire.contender.startswith("rival")]
    passed = [
        bisect.bisect_left(moments, hold.clock[0]) - bisect.bisect_left(moments, hold.acquire.invoked_ns)
        for hold in rivals
    ]
    if not passed:
        return {"rival_turns": 0}
    middle = statistics.median(passed)
    return {"rival_turns": len(passed), "overtaken_p50": middle, "overtaken_max": max(passed)}


def costs(spent: Mapping[str, int], acquisitions: float, holds: int) -> Figures:
    """What was spent per acquisition; a count that nobody kept is left out.

    The server's time is that of all `holds`, for it is counted with the warm-up.
    """
    if not acquisitions:
        return {}
    names = {"cpu_ns": "client_cpu_us", "server_cpu_ns": "server_cpu_us"}
    found = {names.get(name, name): total / acquisitions for name, total in spent.items()}
    if "server_cpu_us" in found:
        found["server_cpu_us"] = spent["server_cpu_ns"] / holds
    return {name: total / 1e3 if name.endswith("_us") else total for name, total in found.items()}


def percentiles(name: str, histogram: Histogram) -> Figures:
    """A histogram's percentiles and its largest value, in microseconds."""
    if not histogram.count:
        return {}
    found = {f"{name}_p{_digits(percent)}_us": histogram.percentile(percent) / 1e3 for percent in PERCENTILES}
    return {**found, f"{name}_max_us": histogram.largest / 1e3}


def _digits(percent: float) -> str:
    return f"{percent:g}".replace(".", "")


def multiples(figures: Mapping[str, float], floors: Mapping[str, float]) -> Figures:
    """How many times its floor each figure is: `pair_p50_us` of `floor_pair_p50_us` is `pair_p50_x`.

    Where several contend, a wait is mostly the others' holds: then only hand-overs have a floor of their own.
    `cycle_x` is the mean time per acquisition, by all contenders together, as a multiple of the floor's pair.
    """
    found: Figures = {}
    contended = "floor_hand_over_p50_us" in floors
    for name, floor in floors.items():
        figure = name.removeprefix("floor_")
        if figure in figures and floor > 0 and contended == figure.startswith("hand_over"):
            found[figure.removesuffix("us") + "x"] = figures[figure] / floor
    if "floor_pair_p50_us" in floors and figures["acquisitions_per_s"]:
        found["cycle_x"] = 1e6 / figures["acquisitions_per_s"] / floors["floor_pair_p50_us"]
    return found


@attrs.frozen
class Spread:
    """The median of several repeats, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str, scale: float = 1.0) -> str:
        """For a table: the median, and the extremes where they differ."""
        median, low, high = (form.format(number / scale) for number in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low} to {high})"


def summary(repeats: Sequence[Figures]) -> dict[str, Spread]:
    """Each figure over all repeats that have it."""
    names = dict.fromkeys(itertools.chain.from_iterable(repeats))
    return {name: Spread.of([figures[name] for figures in repeats if name in figures]) for name in names}


def _pair_ns(hold: Hold) -> int | None:
    if hold.release is None or hold.release.completed_ns is None:
        return None
    acquired = hold.clock[0] - hold.acquire.invoked_ns
    return acquired + hold.release.completed_ns - hold.release.invoked_ns


def from_holder_to_holder(
    holds: Sequence[Hold], window: Window, which: Callable[[Hold], bool] = lambda hold: True
) -> Iterator[tuple[int, int]]:
    """By the order of fences: from each release that found the next holder in line; when, and how long."""
    for hold, following in itertools.pairwise(holds):
        release = hold.release
        if release and which(hold) and release.invoked_ns in window and _stood_in_line(following, release):
            yield release.invoked_ns, _gap_ns(hold, following)


def from_writers(holds: Sequence[Hold], window: Window) -> Iterator[tuple[int, int]]:
    """Of readers and writers: from each writer to whoever came next."""
    return from_holder_to_holder(holds, window, lambda hold: hold.acquire.subject == "write")


def from_the_last_to_arrive(holds: Sequence[Hold], window: Window) -> Iterator[tuple[int, int]]:
    """Of a barrier: from the call of the last to arrive until each of the others passed."""
    generations: dict[tuple[str, str], list[Hold]] = collections.defaultdict(list)
    for hold in holds:
        generations[hold.acquire.name, hold.acquire.subject].append(hold)
    for passing in generations.values():
        last = max(hold.acquire.invoked_ns for hold in passing)
        if last in window:
            yield from ((last, hold.clock[0] - last) for hold in passing if hold.acquire.invoked_ns < last)


def none(holds: Sequence[Hold], window: Window) -> Iterator[tuple[int, int]]:
    """Nothing is handed from one to another."""
    return iter(())


def _stood_in_line(hold: Hold, release: Operation) -> bool:
    if release.revision is not None:
        return hold.fence < release.revision
    return hold.acquire.invoked_ns < release.invoked_ns


def _returns_ns(own: Sequence[Hold]) -> Iterator[int]:
    for hold, following in itertools.pairwise(own):
        if hold.release:
            yield _gap_ns(hold, following)


def _gap_ns(hold: Hold, following: Hold) -> int:
    """From the call to release to the next grant; none where they overlap, which the checker tells."""
    return max(0, following.clock[0] - hold.clock[1])
