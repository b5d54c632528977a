"""One primitive, many contenders: repeats of a scenario, each beside the floor of its moment, each judged.

A repeat is cut in slices: the floor is measured, the contenders warm up, and then count for a fixed time. All
that they saw, warm-up included, goes to the checker.

Cost: a scenario starts one interpreter per process; a repeat takes warm-up, seconds, and the floor's second.
"""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterable

import attrs

from coordkit.cli import terminal
from coordkit.cli.bench import figures
from coordkit.cli.bench.contenders import PATIENCE_S
from coordkit.cli.bench.crew import Crew, Worker, WorkerDied
from coordkit.cli.bench.floor_crew import FloorCrew
from coordkit.cli.bench.histogram import Histogram
from coordkit.cli.bench.primitives import PRIMITIVES, Context, Primitive, Scenario
from coordkit.cli.bench.server import Server
from coordkit.testing import checkers, history
from coordkit.testing.history import Operation, Verdict, Violation, clock_ns

MODES = ("processes", "threads", "greenlets")
CONTENDERS = "contenders"  # the role of those who contend; tests put others in their place
_HEAD_START_NS = 100_000_000  # until every worker has read its order


@attrs.frozen
class Plan:
    """How each scenario is measured."""

    seconds: float = 2.0
    repeats: int = 5
    hold_s: float = 0.0
    warm_up_s: float = 0.5
    floor_seconds: float = 0.5
    floor_samples: int = 200
    rate: float = 0.0  # cycles a second that all together mean to begin; 0: a closed loop
    limit: int | None = None  # of a semaphore; None: half as many as contend
    write_every: int = 10  # of a reader-writer lock: one of so many holds is a writer's
    crashes: int = 0  # of the holder, where a scenario is about that

    def limit_of(self, contenders: int) -> int:
        return self.limit or max(1, contenders // 2)


@attrs.frozen
class Repeat:
    """What one repeat gave."""

    found: figures.Figures
    times: figures.LockTimes
    verdict: Verdict


@attrs.define
class Result:
    """All repeats of one scenario; a failure ends it early."""

    scenario: Scenario
    repeats: list[Repeat] = attrs.Factory(list)
    failure: str | None = None
    kept: str | None = None  # the file with the history that broke a rule or was cut short

    @property
    def clean(self) -> bool:
        return not self.failure and all(repeat.verdict.clean for repeat in self.repeats)

    def summary(self) -> dict[str, figures.Spread]:
        return figures.summary([repeat.found for repeat in self.repeats])

    def histogram(self, name: str) -> Histogram:
        """Over all repeats: waits, pairs, hand_overs or returns."""
        merged = Histogram()
        for repeat in self.repeats:
            merged.merge(getattr(repeat.times, name))
        return merged

    def shares(self) -> dict[str, int]:
        """What each contender got, over all repeats."""
        total: collections.Counter[str] = collections.Counter()
        for repeat in self.repeats:
            total.update(repeat.times.shares)
        return dict(sorted(total.items()))

    def timeline(self) -> list[tuple[int, int]]:
        """The hand-overs of the last repeat: when, from its first on, and how long."""
        moments = self.repeats[-1].times.timeline if self.repeats else []
        return [(at - moments[0][0], gap) for at, gap in moments]


def measure(server: Server, scenario: Scenario, plan: Plan, progress: terminal.Progress) -> Result:
    """Run one scenario on one server, and leave no process and no file but a history worth keeping."""
    result = Result(scenario)
    with tempfile.TemporaryDirectory(prefix="coordkit-bench-") as name:
        folder = pathlib.Path(name)
        try:
            with Crew(folder, progress.tick) as crew:
                progress.begin(f"{scenario.name}, starting")
                bench = _Bench(server, scenario, plan, folder, crew)
                crew.ready()
                for number in range(plan.repeats):
                    progress.begin(
                        f"{scenario.name}, repeat {number + 1} of {plan.repeats}", bench.expected_s
                    )
                    repeat = bench.repeat()
                    result.repeats.append(repeat)
                    rate = repeat.found["acquisitions_per_s"]
                    progress.end(f"{rate:,.0f} {PRIMITIVES[scenario.primitive].counts}/s")
        except WorkerDied as error:
            result.failure = str(error)
        if not result.clean:
            seen = load_all(folder.glob(f"history-*-{scenario.primitive}-*"))
            result.kept = keep(seen, judge(server, scenario, plan, seen))
    return result


def judge(server: Server, scenario: Scenario, plan: Plan, operations: list[Operation]) -> Verdict:
    """What the primitive's checker says of a history of this scenario."""
    context = Context(server.url, scenario.contenders, plan.limit_of(scenario.contenders))
    return PRIMITIVES[scenario.primitive].judge(operations, context)


class _Bench:
    """The workers of one scenario, and how they are set to work."""

    def __init__(
        self, server: Server, scenario: Scenario, plan: Plan, folder: pathlib.Path, crew: Crew
    ) -> None:
        self._server, self._scenario, self._plan = server, scenario, plan
        self._folder, self._crew = folder, crew
        self._rounds = itertools.count()
        self._primitive = PRIMITIVES[scenario.primitive]
        contended = scenario.contenders + scenario.rivals > 1
        floors = self._primitive.floors and not (contended and self._primitive.passed is figures.none)
        self._floors = FloorCrew(server.endpoint if floors else None, contended, crew)
        self._contenders = self._hire(scenario.primitive)
        beside = () if scenario.rivals else self._primitive.beside
        self._beside = {name: self._hire(name) for name in beside}

    @property
    def expected_s(self) -> float:
        """About how long a repeat takes."""
        spent_s = (self._plan.warm_up_s + self._plan.seconds) * (1 + len(self._beside))
        return spent_s + 2 * self._plan.floor_seconds

    def _hire(self, primitive: str) -> list[Worker]:
        """Its contenders, as many as the scenario has."""
        plan, scenario = self._plan, self._scenario
        terms = {
            "contenders": scenario.contenders,
            "limit": plan.limit_of(scenario.contenders),
            "write_every": plan.write_every,
            "every_ns": round(1e9 / plan.rate) if plan.rate else 0,
        }
        settings = {
            "url": self._server.url,
            "name": f"bench-{secrets.token_hex(4)}",
            "hold_s": plan.hold_s,
            "primitive": primitive,
            "terms": terms,
        }
        patched = scenario.mode == "greenlets"
        return [
            self._crew.hire(f"{primitive}-{number}", CONTENDERS, {**settings, "labels": labels}, patched)
            for number, labels in enumerate(scenario.teams())
        ]

    def repeat(self) -> Repeat:
        """In slices, so that contenders and floor share the machine's moods."""
        slices = self._scenario.slices
        times = figures.LockTimes()
        history: list[Operation] = []
        spent: collections.Counter[str] = collections.Counter()
        others = {name: _Beside(PRIMITIVES.get(name)) for name in self._beside}
        for _ in range(slices):
            self._floors.measure(self._plan.floor_seconds / slices, self._plan.floor_samples // slices)
            operations, window = self._contend(self._contenders, spent)
            holds = self._primitive.holds(operations)
            times.merge(figures.lock_times(holds, window, self._primitive.passed))
            history += operations
            for name, other in others.items():
                other.add(*self._contend(self._beside[name], collections.Counter()))

        verdict = judge(self._server, self._scenario, self._plan, history)
        found = figures.lock_figures(times, self._scenario.contenders + self._scenario.rivals)
        found |= figures.costs(spent, found["acquisitions"], verdict.holds)
        if self._scenario.rivals:
            found |= figures.rivalry(self._primitive.holds(history))
        for name, other in others.items():
            found |= {f"{name}_per_s": other.rate, f"{name}_x": found["acquisitions_per_s"] / other.rate}
            verdict = attrs.evolve(verdict, violations=verdict.violations + other.violations)
        floors = self._floors.take()
        return Repeat({**found, **floors, **figures.multiples(found, floors)}, times, verdict)

    def _contend(
        self, workers: list[Worker], spent: collections.Counter[str]
    ) -> tuple[list[Operation], figures.Window]:
        """Let them contend for one slice; what they saw, and into `spent` what it cost within the window."""
        slices = self._scenario.slices
        start_ns = clock_ns() + _HEAD_START_NS
        measure_ns = start_ns + round(self._plan.warm_up_s / slices * 1e9)
        window = figures.Window(measure_ns, measure_ns + round(self._plan.seconds / slices * 1e9))
        number = next(self._rounds)
        paths = {worker: self._folder / f"history-{number}-{worker.name}.jsonl" for worker in workers}
        moments = {"start_ns": start_ns, "measure_ns": window.start_ns, "until_ns": window.end_ns}
        orders = {
            worker: {**moments, "history_path": str(path), "number": number} for worker, path in paths.items()
        }
        server_before = self._server.cpu_ns()
        limit_s = self._plan.warm_up_s + self._plan.seconds + PATIENCE_S + 10
        for answer in self._crew.work(orders, limit_s):
            spent.update(answer)
        if server_before is not None:
            spent["server_cpu_ns"] += (self._server.cpu_ns() or 0) - server_before
        return load_all(paths.values()), window


class _Beside:
    """What is measured in turns with a primitive, to be compared with it: its rate, and that it is sound."""

    def __init__(self, primitive: Primitive | None) -> None:
        self._holds = primitive.holds if primitive else checkers.holds_of
        self._count = 0
        self._seconds = 0.0
        self.violations: tuple[Violation, ...] = ()

    def add(self, operations: list[Operation], window: figures.Window) -> None:
        """One slice."""
        self._count += sum(hold.clock[0] in window for hold in self._holds(operations))
        self._seconds += window.seconds
        self.violations += checkers.check_lock(operations).violations

    @property
    def rate(self) -> float:
        return max(self._count, 1) / self._seconds


def load_all(paths: Iterable[pathlib.Path]) -> list[Operation]:
    """The histories of several processes as one."""
    return [operation for path in sorted(paths) for operation in history.load(path)]


def keep(operations: Iterable[Operation], verdict: Verdict) -> str:
    """Save what the contenders saw, and what is wrong with it, where it outlives this run."""
    file, path = tempfile.mkstemp(prefix="coordkit-history-", suffix=".jsonl")
    os.close(file)
    history.save(path, [*operations, *verdict.violations])
    return path
