"""Pairs of rounds, ours and a peer's, on one server: the machine's mood changes, so only pairs tell.

Cost: per mode two interpreters; per pair two rounds of `seconds` and a warm-up each.
"""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
import tempfile
from collections.abc import Sequence

import attrs

from coordkit.cli import failure, terminal
from coordkit.cli.bench import figures
from coordkit.cli.bench.crew import Crew, Worker
from coordkit.cli.bench.figures import Figures, Spread
from coordkit.cli.bench.histogram import Histogram
from coordkit.cli.bench.server import Server
from coordkit.testing.history import clock_ns

OURS = "coordkit"
RATIOS = ("puts_per_s", "cpu_us")  # which are told as ours by theirs
_WARM_UP_S = 0.4
_HEAD_START_NS = 50_000_000


@attrs.frozen
class Scenario:
    """How many puts are on their way at once, and what their callers are."""

    mode: str
    in_flight: int

    @property
    def name(self) -> str:
        return f"{self.mode}, {'one at a time' if self.in_flight == 1 else f'{self.in_flight} in flight'}"


@attrs.define
class Result:
    """All rounds of one scenario, by client."""

    scenario: Scenario
    rounds: dict[str, list[Figures]]

    def summary(self, client: str) -> dict[str, Spread]:
        return figures.summary(self.rounds[client])

    def ratio(self, peer: str, figure: str) -> Spread:
        """Ours by theirs, over all pairs."""
        return Spread.of([pair[f"{figure}_x"] for pair in self.pairs(peer)])

    def pairs(self, peer: str) -> list[Figures]:
        """Ours by theirs, pair by pair."""
        both = zip(self.rounds[OURS], self.rounds[peer], strict=True)
        return [{f"{each}_x": ours[each] / theirs[each] for each in RATIOS} for ours, theirs in both]


def peer(name: str) -> tuple[str | None, str | None]:
    """The peer to measure, and why there is none."""
    if name == "none":
        return None, "no peer was asked for"
    if importlib.util.find_spec("grpc") is None:
        return None, "grpcio is not installed (pip install 'coordkit[bench]')"
    return name, None


def measure(
    server: Server,
    scenarios: Sequence[Scenario],
    rival: str | None,
    repeats: int,
    seconds: float,
    progress: terminal.Progress,
) -> list[Result]:
    """Every scenario; the clients take turns in going first."""
    if server.endpoint is None:
        raise failure.CommandFailed("bench wire needs an etcd without TLS and passwords", failure.USAGE)
    clients = [OURS, *([rival] if rival else [])]
    results = []
    for mode, group in itertools.groupby(scenarios, lambda scenario: scenario.mode):
        with (
            tempfile.TemporaryDirectory(prefix="coordkit-bench-") as folder,
            Crew(pathlib.Path(folder), progress.tick) as crew,
        ):
            progress.begin(f"{mode}, starting")
            settings = {"url": server.url, "endpoint": server.endpoint}
            workers = {
                client: crew.hire(client, f"{client}-puts", settings, patched=mode == "gevent")
                for client in clients
            }
            crew.ready()
            results += [_scenario(crew, workers, each, repeats, seconds, progress) for each in group]
    return results


def _scenario(
    crew: Crew,
    workers: dict[str, Worker],
    scenario: Scenario,
    repeats: int,
    seconds: float,
    progress: terminal.Progress,
) -> Result:
    result = Result(scenario, {client: [] for client in workers})
    for number in range(repeats):
        expected_s = len(workers) * (_WARM_UP_S + seconds)
        progress.begin(f"{scenario.name}, pair {number + 1} of {repeats}", expected_s)
        turns = list(workers) if number % 2 else list(reversed(workers))
        for client in turns:
            result.rounds[client].append(_round(crew, workers[client], scenario.in_flight, seconds))
        rates = {client: result.rounds[client][-1]["puts_per_s"] for client in workers}
        progress.end(", ".join(f"{client} {rate:,.0f} puts/s" for client, rate in rates.items()))
    return result


def _round(crew: Crew, worker: Worker, in_flight: int, seconds: float) -> Figures:
    start_ns = clock_ns() + _HEAD_START_NS
    measure_ns = start_ns + round(_WARM_UP_S * 1e9)
    window = figures.Window(measure_ns, measure_ns + round(seconds * 1e9))
    order = {
        "start_ns": start_ns,
        "measure_ns": window.start_ns,
        "until_ns": window.end_ns,
        "in_flight": in_flight,
    }
    (answer,) = crew.work({worker: order}, _WARM_UP_S + seconds + 20)
    latencies = Histogram.from_json(answer["latencies"])
    if not latencies.count:
        raise failure.CommandFailed(f"{worker.name} completed no put in {seconds:g} s")
    return {
        "puts_per_s": latencies.count / window.seconds,
        "cpu_us": answer["cpu_ns"] / 1e3 / latencies.count,
        **figures.percentiles("put", latencies),
    }
