"""What a contention benchmark and `coordkit demo` say at the end: a table, bars, a correctness line; or JSON.

The JSON is described in `benchmarks/README.md`; its `schema` changes when a field changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from coordkit.cli import terminal
from coordkit.cli.bench import machine
from coordkit.cli.bench.bars import Bar
from coordkit.cli.bench.contention import Plan, Result
from coordkit.cli.bench.figures import Spread
from coordkit.cli.bench.primitives import PRIMITIVES, Primitive
from coordkit.cli.bench.server import Server
from coordkit.testing.history import Rule

SCHEMA = "coordkit-bench-contention/1"
_UNITS = {"_x": "x", "_s": " s"}
_HISTOGRAMS = ("waits", "pairs", "hand_overs", "returns")

#: Label, figure, and how a number is written. A figure that no scenario has is no row.
_ROWS = (
    ("{counts}/s", "acquisitions_per_s", "{:,.0f}"),
    ("wait p50, ms", "wait_p50_us", "ms"),
    ("wait p95, ms", "wait_p95_us", "ms"),
    ("wait p99, ms", "wait_p99_us", "ms"),
    ("wait p99.9, ms", "wait_p999_us", "ms"),
    ("wait max, ms", "wait_max_us", "ms"),
    ("acquire + release p50, ms", "pair_p50_us", "ms"),
    ("hand-overs", "hand_overs", "{:,.0f}"),
    ("hand-over p50, ms", "hand_over_p50_us", "ms"),
    ("hand-over p95, ms", "hand_over_p95_us", "ms"),
    ("hand-over p99, ms", "hand_over_p99_us", "ms"),
    ("hand-over max, ms", "hand_over_max_us", "ms"),
    ("fairness (Jain's index)", "jain", "{:.3f}"),
    ("re-acquired after p50, ms", "reacquire_p50_us", "ms"),
    ("client CPU per acquisition, us", "client_cpu_us", "{:,.0f}"),
    ("server CPU per acquisition, us", "server_cpu_us", "{:,.0f}"),
    ("calls per acquisition", "calls", "{:.2f}"),
    ("bytes per acquisition", "bytes", "{:,.0f}"),
    ("floor of acquire + release p50, ms", "floor_pair_p50_us", "ms"),
    ("floor of a hand-over p50, ms", "floor_hand_over_p50_us", "ms"),
    ("wait p50 / floor", "wait_p50_x", "{:.2f}"),
    ("acquire + release p50 / floor", "pair_p50_x", "{:.2f}"),
    ("acquire + release p99 / floor", "pair_p99_x", "{:.2f}"),
    ("hand-over p50 / floor", "hand_over_p50_x", "{:.2f}"),
    ("hand-over p95 / floor", "hand_over_p95_x", "{:.2f}"),
    ("hand-over p99 / floor", "hand_over_p99_x", "{:.2f}"),
    ("time per acquisition / floor", "cycle_x", "{:.2f}"),
    ("the fair lock, acquisitions/s", "lock_per_s", "{:,.0f}"),
    ("a bare FIFO baton, acquisitions/s", "baton_per_s", "{:,.0f}"),
    ("acquisitions/s / the fair lock's", "lock_x", "{:.2f}"),
    ("acquisitions/s / the baton's", "baton_x", "{:.2f}"),
    ("kill -9 to the next holder, s", "successor_s", "{:,.2f}"),
    ("turns of another process", "rival_turns", "{:,.0f}"),
    ("hand-overs before its turn, p50", "overtaken_p50", "{:,.0f}"),
    ("hand-overs before its turn, max", "overtaken_max", "{:,.0f}"),
)


@attrs.frozen
class Report:
    """One run: its server, its plan, its results."""

    server: Server
    plan: Plan
    results: Sequence[Result]
    load: float = 0.0  # the machine's, before it began

    @property
    def clean(self) -> bool:
        return all(result.clean for result in self.results)

    @property
    def primitive(self) -> Primitive:
        """All scenarios of a run are of one."""
        return PRIMITIVES[self.results[0].scenario.primitive]

    @property
    def bars(self) -> list[Bar]:
        """What a release must reach."""
        found = []
        for result in self.results:
            figures = result.summary()
            for figure, (word, bound) in self.primitive.bars(result.scenario).items():
                if figure in figures:
                    name, spread = f"{result.scenario.name}: {figure}", figures[figure]
                    # Nobody waits for the median of crashes: the slowest counts.
                    measured = spread.high if figure == "successor_s" else spread.median
                    unit = next((unit for end, unit in _UNITS.items() if figure.endswith(end)), "")
                    found.append(Bar(name, measured, **{word: bound}, unit=unit))
        return found

    def correctness(self) -> str:
        """One line: what the checker found in everything that was run."""
        verdicts = [repeat.verdict for result in self.results for repeat in result.repeats]
        counts = {rule: sum(verdict.count(rule) for verdict in verdicts) for rule in Rule}
        broken = ", ".join(f"{rule.value} {count}" for rule, count in counts.items() if count)
        count = sum(verdict.holds for verdict in verdicts)
        found = f"VIOLATIONS: {broken}" if broken else f"{self.primitive.promise}; no violation"
        return f"correctness: {found}; {count:,} {self.primitive.counts} judged"

    def show(self) -> None:
        """To standard output, for people."""
        self._show_table()
        for bar in self.bars:
            print(bar)
        if self.server.endpoint is None and self.primitive.floors:
            print("floor: not measured; its client knows neither TLS nor passwords")
        if warning := machine.busy(self.load):
            print(warning)
        print(self.correctness())
        self._show_failures()

    def show_verdict_first(self) -> None:
        """For somebody who sees it for the first time: is it right, and how does it do; no bars."""
        print(self.correctness())
        self._show_failures()
        self._show_table()

    def _show_table(self) -> None:
        kind = "private etcd" if self.server.private else "etcd"
        spread = f"median of {self.plan.repeats} repeats (lowest to highest)"
        title = f"{self.primitive.name}: {kind} {self.server.version}; {spread}"
        table(title, self.results).show()

    def _show_failures(self) -> None:
        for result in self.results:
            if result.failure:
                print(f"{result.scenario.name} failed: {result.failure}")
            if result.kept:
                print(f"{result.scenario.name}: the history is kept in {result.kept}")

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.server.heading(SCHEMA, self.primitive.name, self.load),
            "counts": self.primitive.counts,
            "plan": attrs.asdict(self.plan),
            "scenarios": [_scenario(result) for result in self.results],
            "bars": [bar.as_json() for bar in self.bars],
            "clean": self.clean,
        }


def table(title: str, results: Sequence[Result]) -> terminal.Table:
    """Figures down, scenarios across."""
    summaries = [result.summary() for result in results]
    counts = PRIMITIVES[results[0].scenario.primitive].counts
    rows = [
        [label.format(counts=counts), *(_cell(summary.get(figure), form) for summary in summaries)]
        for label, figure, form in _ROWS
        if any(figure in summary for summary in summaries)
    ]
    return terminal.Table(title, ["", *(result.scenario.name for result in results)], rows)


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    return spread.text("{:,.2f}", 1e3) if form == "ms" else spread.text(form)


def _scenario(result: Result) -> dict[str, Any]:
    violations = [violation for repeat in result.repeats for violation in repeat.verdict.violations]
    return {
        "name": result.scenario.name,
        "mode": result.scenario.mode,
        "contenders": result.scenario.contenders,
        "rivals": result.scenario.rivals,
        "ttl_s": result.scenario.ttl_s,
        "summary": {name: attrs.asdict(spread) for name, spread in result.summary().items()},
        "repeats": [repeat.found for repeat in result.repeats],
        "shares": result.shares(),
        "timeline_ns": result.timeline(),
        "histograms_ns": {name: result.histogram(name).as_json() for name in _HISTOGRAMS},
        "correctness": {
            "holds": sum(repeat.verdict.holds for repeat in result.repeats),
            **{rule.value: sum(violation.rule is rule for violation in violations) for rule in Rule},
        },
        "failure": result.failure,
        "history": result.kept,
    }
