"""One lock, many contenders: repeats of a scenario, each beside the floor of the same moment, each judged.

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
from coordkit.cli.bench.crew import Crew, WorkerDied
from coordkit.cli.bench.floor_crew import FloorCrew
from coordkit.cli.bench.histogram import Histogram
from coordkit.cli.bench.server import Server
from coordkit.testing import checkers, history
from coordkit.testing.history import Operation, Verdict, clock_ns

MODES = ("processes", "threads", "greenlets")
CONTENDERS = "contenders"  # the role of those who contend; tests put others in their place
_HEAD_START_NS = 100_000_000  # until every worker has read its order


@attrs.frozen
class Scenario:
    """Who contends."""

    mode: str
    contenders: int

    @property
    def name(self) -> str:
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
        return [[label] for label in labels] if self.mode == "processes" else [labels]


@attrs.frozen
class Plan:
    """How each scenario is measured."""

    seconds: float = 2.0
    repeats: int = 5
    hold_s: float = 0.0
    warm_up_s: float = 0.5
    floor_seconds: float = 0.5
    floor_samples: int = 200


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
                    progress.end(f"{repeat.found['acquisitions_per_s']:,.0f} acquisitions/s")
        except WorkerDied as error:
            result.failure = str(error)
        if not result.clean:
            result.kept = _keep(folder)
    return result


class _Bench:
    """The workers of one scenario, and how they are set to work."""

    def __init__(
        self, server: Server, scenario: Scenario, plan: Plan, folder: pathlib.Path, crew: Crew
    ) -> None:
        self._server, self._scenario, self._plan = server, scenario, plan
        self._folder, self._crew = folder, crew
        self._rounds = itertools.count()
        self._floors = FloorCrew(server.endpoint, scenario.contenders > 1, crew)
        lock = {"url": server.url, "name": f"bench-{secrets.token_hex(4)}", "hold_s": plan.hold_s}
        patched = scenario.mode == "greenlets"
        self._contenders = [
            crew.hire(f"contender-{number}", CONTENDERS, {**lock, "labels": labels}, patched)
            for number, labels in enumerate(scenario.teams())
        ]

    @property
    def expected_s(self) -> float:
        """About how long a repeat takes."""
        return self._plan.warm_up_s + self._plan.seconds + 2 * self._plan.floor_seconds

    def repeat(self) -> Repeat:
        """In slices, so that contenders and floor share the machine's moods."""
        slices = self._scenario.slices
        times = figures.LockTimes()
        history: list[Operation] = []
        spent: collections.Counter[str] = collections.Counter()
        for _ in range(slices):
            self._floors.measure(self._plan.floor_seconds / slices, self._plan.floor_samples // slices)
            start_ns = clock_ns() + _HEAD_START_NS
            measure_ns = start_ns + round(self._plan.warm_up_s / slices * 1e9)
            window = figures.Window(measure_ns, measure_ns + round(self._plan.seconds / slices * 1e9))
            operations = self._contend(start_ns, window, spent)
            times.merge(figures.lock_times(checkers.holds_of(operations), window))
            history += operations

        verdict = checkers.check_lock(history)
        found = figures.lock_figures(times, self._scenario.contenders)
        found |= figures.costs(spent, found["acquisitions"], verdict.holds)
        floors = self._floors.take()
        return Repeat({**found, **floors, **figures.multiples(found, floors)}, times, verdict)

    def _contend(
        self, start_ns: int, window: figures.Window, spent: collections.Counter[str]
    ) -> list[Operation]:
        """Let them contend for one slice; what they saw, and into `spent` what it cost within the window."""
        number = next(self._rounds)
        paths = {
            worker: self._folder / f"history-{number}-{worker.name}.jsonl" for worker in self._contenders
        }
        moments = {"start_ns": start_ns, "measure_ns": window.start_ns, "until_ns": window.end_ns}
        orders = {worker: {**moments, "history_path": str(path)} for worker, path in paths.items()}
        server_before = self._server.cpu_ns()
        limit_s = self._plan.warm_up_s + self._plan.seconds + PATIENCE_S + 10
        for answer in self._crew.work(orders, limit_s):
            spent.update(answer)
        if server_before is not None:
            spent["server_cpu_ns"] += (self._server.cpu_ns() or 0) - server_before
        return load_all(paths.values())


def load_all(paths: Iterable[pathlib.Path]) -> list[Operation]:
    """The histories of several processes as one."""
    return [operation for path in sorted(paths) for operation in history.load(path)]


def _keep(folder: pathlib.Path) -> str:
    """Save what the contenders saw, and what is wrong with it, where it outlives this run."""
    operations = load_all(folder.glob("history-*.jsonl"))
    violations = checkers.check_lock(operations).violations
    file, path = tempfile.mkstemp(prefix="coordkit-history-", suffix=".jsonl")
    os.close(file)
    history.save(path, [*operations, *violations])
    return path
