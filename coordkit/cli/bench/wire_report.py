"""What `coordkit bench wire` says at the end.

The JSON is described in `benchmarks/README.md`; its `schema` changes when a field changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from coordkit.cli import terminal
from coordkit.cli.bench import machine
from coordkit.cli.bench.bars import Bar
from coordkit.cli.bench.server import Server
from coordkit.cli.bench.transports import OURS, RATIOS, Result

SCHEMA = "coordkit-bench-wire/1"
_LEAST = {("threads", 1): 1.2, ("threads", 64): 2.0, ("gevent", 1): 1.4, ("gevent", 64): 2.7}
_COLUMNS = ("", "client", "puts/s", "p50, ms", "p99, ms", "CPU per put, us")


@attrs.frozen
class Report:
    """One run: its server, its results, and why a peer is missing."""

    server: Server
    results: Sequence[Result]
    skipped: str | None
    load: float  # the machine's, before it began
    clean = True  # no put answers twice, and a worker that fails ends the run

    @property
    def bars(self) -> list[Bar]:
        """Our rate by grpcio's."""
        return [
            Bar(
                f"{result.scenario.name}: puts/s by {peer}'s",
                result.ratio(peer, "puts_per_s").median,
                least=_LEAST[result.scenario.mode, result.scenario.in_flight],
            )
            for result in self.results
            for peer in _peers(result)
            if (result.scenario.mode, result.scenario.in_flight) in _LEAST
        ]

    def show(self) -> None:
        """To standard output, for people."""
        repeats = len(self.results[0].rounds[OURS])
        title = f"etcd {self.server.version}; median of {repeats} rounds (lowest to highest)"
        rows = [row for result in self.results for row in _rows(result)]
        terminal.Table(title, _COLUMNS, rows).show()
        for bar in self.bars:
            print(bar)
        if warning := machine.busy(self.load):
            print(warning)
        if self.skipped:
            print(f"no comparison: {self.skipped}")

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.server.heading(SCHEMA, "wire", self.load),
            "scenarios": [_scenario(result) for result in self.results],
            "skipped": self.skipped,
            "bars": [bar.as_json() for bar in self.bars],
        }


def _peers(result: Result) -> list[str]:
    return [client for client in result.rounds if client != OURS]


def _rows(result: Result) -> list[list[str]]:
    rows = []
    for client in result.rounds:
        found = result.summary(client)
        cells = [found["puts_per_s"].text("{:,.0f}")]
        cells += [found[figure].text("{:,.2f}", 1e3) for figure in ("put_p50_us", "put_p99_us")]
        rows.append([result.scenario.name, client, *cells, found["cpu_us"].text("{:,.0f}")])
    for peer in _peers(result):
        rate, cpu = (result.ratio(peer, figure).text("{:.2f}x") for figure in RATIOS)
        rows.append(["", f"by {peer}'s", rate, "", "", cpu])
    return rows


def _scenario(result: Result) -> dict[str, Any]:
    ratios = {
        peer: {figure: attrs.asdict(result.ratio(peer, figure)) for figure in RATIOS}
        for peer in _peers(result)
    }
    return {
        "name": result.scenario.name,
        "mode": result.scenario.mode,
        "in_flight": result.scenario.in_flight,
        "rounds": result.rounds,
        "ratios": ratios,
        "pairs": {peer: result.pairs(peer) for peer in _peers(result)},
    }
