"""What `coordkit bench topic` says at the end.

The JSON is described in `benchmarks/README.md`; its `schema` changes when a field changes its meaning.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from coordkit.cli import terminal
from coordkit.cli.bench import machine
from coordkit.cli.bench.bars import Bar
from coordkit.cli.bench.figures import Spread
from coordkit.cli.bench.server import Server

SCHEMA = "coordkit-bench-topic/2"
KINDS = ("live", "retained")
_MOST = 8  # subscribers for which the bar of the rate was set: each takes its share of the machine


@attrs.frozen
class Plan:
    """How much of it."""

    subscribers: Sequence[int]
    messages: int
    samples: int
    repeats: int


@attrs.define
class Result:
    """So many subscribers: a list of repeats under each name, which ends in its unit."""

    subscribers: int
    found: dict[str, list[float]] = attrs.Factory(dict)
    judged: int = 0
    wrong: int = 0

    @property
    def name(self) -> str:
        return "1 subscriber" if self.subscribers == 1 else f"{self.subscribers} subscribers"

    def add(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)

    def last(self, name: str) -> float:
        return self.found[name][-1]

    @property
    def bars(self) -> list[Bar]:
        """What a release must reach."""
        bars = []
        for kind in KINDS:
            name = f"{self.name}, {kind}"
            if self.subscribers <= _MOST:
                rate = statistics.median(self.found[f"{kind}_x"])
                bars.append(Bar(f"{name}: messages/s by serial puts/s", rate, least=5))
            if deliveries := self.found.get(f"{kind}_p50_x"):
                delivery = statistics.median(deliveries)
                bars.append(Bar(f"{name}: delivery p50 by its floor", delivery, most=2))
        return bars

    def cell(self, name: str) -> str:
        """Of a table."""
        if name not in self.found:
            return "-"
        return Spread.of(self.found[name]).text("{:,.0f}" if name.endswith("_per_s") else "{:,.2f}")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subscribers": self.subscribers,
            "repeats": self.found,
            "correctness": {"judged": self.judged, "wrong": self.wrong},
        }


@attrs.frozen
class Report:
    """One run."""

    server: Server
    plan: Plan
    results: Sequence[Result]
    load: float  # the machine's, before it began

    @property
    def bars(self) -> list[Bar]:
        return [bar for result in self.results for bar in result.bars]

    @property
    def clean(self) -> bool:
        return not any(result.wrong for result in self.results)

    def correctness(self) -> str:
        judged, wrong = (sum(getattr(each, name) for each in self.results) for name in ("judged", "wrong"))
        return f"correctness: {wrong} of {judged:,} deliveries missing, repeated or out of order"

    def show(self) -> None:
        """To standard output, for people."""
        kind = "private etcd" if self.server.private else "etcd"
        spread = f"median of {self.plan.repeats} repeats (lowest to highest)"
        title = f"{kind} {self.server.version}; 1 publisher; {spread}"
        names = dict.fromkeys(name for result in self.results for name in result.found)
        rows = [[name, *(result.cell(name) for result in self.results)] for name in names]
        terminal.Table(title, ["", *(result.name for result in self.results)], rows).show()
        for bar in self.bars:
            print(bar)
        if warning := machine.busy(self.load):
            print(warning)
        print(self.correctness())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.server.heading(SCHEMA, "topic", self.load),
            "plan": attrs.asdict(self.plan),
            "scenarios": [result.as_json() for result in self.results],
            "bars": [bar.as_json() for bar in self.bars],
            "clean": self.clean,
        }
