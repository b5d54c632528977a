"""One lock, many contenders: repeats of a scenario, each beside the floor of the same moment, each judged.

A repeat measures the floor, lets the contenders warm up, and then counts for a fixed time. All that the
contenders saw, warm-up included, goes to the checker.

Cost: a scenario starts one interpreter per process; a repeat takes warm-up, seconds, and the floor's second.
"""

from __future__ import annotations

import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterable

import attrs

from coordkit.cli import terminal
from coordkit.cli.bench import figures, floor
from coordkit.cli.bench.contenders import PATIENCE_S
from coordkit.cli.bench.crew import Crew, Worker, WorkerDied
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
        self._rounds = 0
        self._floors: dict[str, Worker] = {}
        if server.endpoint is not None:
            roles = ("pair-floor", "delete-floor", "watch-floor")[: 3 if scenario.contenders > 1 else 1]
            folders = dict.fromkeys(roles, f"/coordkit-floor/{secrets.token_hex(4)}")
            folders["pair-floor"] += "-pair"  # a line of its own, which the watch does not see
            self._floors = {
                role: crew.hire(role, role, {"endpoint": server.endpoint, "folder": folders[role]})
                for role in roles
            }
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
        """The floor, then the contenders."""
        self._rounds += 1
        floors = self._measure_floors()
        start_ns = clock_ns() + _HEAD_START_NS
        measure_ns = start_ns + round(self._plan.warm_up_s * 1e9)
        window = figures.Window(measure_ns, measure_ns + round(self._plan.seconds * 1e9))
        server_before = self._server.cpu_s()
        spent = self._contend(start_ns, window)
        server_after = self._server.cpu_s()

        operations = load_all(self._folder.glob(f"history-{self._rounds}-*.jsonl"))
        holds = checkers.holds_of(operations)
        times = figures.lock_times(holds, window)
        found = figures.lock_figures(times, holds, window, self._scenario.contenders)
        found |= figures.costs(spent, found["acquisitions"])
        if server_before is not None and server_after is not None and holds:
            found["server_cpu_us"] = (server_after - server_before) * 1e6 / len(holds)
        found |= {**floors, **figures.multiples(found, floors)}
        return Repeat(found, times, checkers.check_lock(operations))

    def _contend(self, start_ns: int, window: figures.Window) -> dict[str, int]:
        """Let them contend; what all of them spent within the window."""
        orders = {
            worker: {
                "start_ns": start_ns,
                "measure_ns": window.start_ns,
                "until_ns": window.end_ns,
                "history_path": str(self._folder / f"history-{self._rounds}-{worker.name}.jsonl"),
            }
            for worker in self._contenders
        }
        limit_s = self._plan.warm_up_s + self._plan.seconds + PATIENCE_S + 10
        spent = self._crew.work(orders, limit_s)
        return {name: sum(each[name] for each in spent) for name in spent[0]}

    def _measure_floors(self) -> figures.Figures:
        """The floor of a pair; with several contenders that of a hand-over too."""
        if not self._floors:
            return {}
        found: figures.Figures = {}
        limit_s = self._plan.floor_seconds + 20
        end_ns = clock_ns() + round(self._plan.floor_seconds * 1e9)
        (pairs,) = self._crew.work({self._floors["pair-floor"]: {"until_ns": end_ns}}, limit_s)
        both = zip(pairs["joins_ns"], pairs["releases_ns"], strict=True)
        found |= figures.percentiles("floor_wait", Histogram(pairs["joins_ns"]))
        found |= figures.percentiles("floor_pair", Histogram(join + release for join, release in both))
        if "watch-floor" in self._floors:
            order = {"samples": self._plan.floor_samples}
            workers = (self._floors["delete-floor"], self._floors["watch-floor"])
            deleted, seen = self._crew.work(dict.fromkeys(workers, order), limit_s)
            found |= figures.percentiles("floor_hand_over", Histogram(floor.hand_overs_ns(deleted, seen)))
        return found


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
