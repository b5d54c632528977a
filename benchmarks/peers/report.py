"""Tables, a plot and a JSON document of a run beside peers."""

from __future__ import annotations

import pathlib
from typing import Any

import attrs

from benchmarks.peers.lineup import OURS
from benchmarks.peers.rounds import Standing
from coordkit.cli import terminal
from coordkit.cli.bench import comparison, figures, machine
from coordkit.cli.bench.contention import Plan
from coordkit.cli.bench.server import Server

SCHEMA = "coordkit-bench-peers/2"
_COLUMNS = (
    "", "promise", "{unit}/s", "ours is", "wait p50, ms", "hand-over p50, ms", "p99, ms", "Jain",
    "CPU each, us",
)  # fmt: skip


@attrs.frozen
class Report:
    """One run: every scenario with the standings of its peers, and who is missing, with the reason."""

    what: str
    unit: str
    server: Server
    plan: Plan
    results: dict[str, list[Standing]]
    skipped: dict[str, str]
    load: float

    @property
    def ours(self) -> list[Standing]:
        """Scenario by scenario."""
        return [one for standings in self.results.values() for one in standings if one.peer.name == OURS]

    def show(self) -> None:
        """Tables on standard output."""
        for scenario, standings in self.results.items():
            rows = [_row(one, ratio(standings, one)) for one in standings if one.rounds and not one.failure]
            title = (
                f"{self.what}, {scenario}: etcd {self.server.version}, median of {self.plan.repeats} rounds"
            )
            terminal.Table(title, [each.format(unit=self.unit) for each in _COLUMNS], rows).show()
            for one in standings:
                if one.failure:
                    until = f"out after {len(one.rounds)} rounds" if one.rounds else "not measured"
                    print(f"{one.peer.name}: {until}: {one.failure}")
        for name, why in self.skipped.items():
            print(f"{name}: not measured: {why}")
        if warning := machine.busy(self.load):
            print(warning)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.server.heading(SCHEMA, f"{self.what}-peers", self.load),
            "unit": self.unit,
            "plan": attrs.asdict(self.plan),
            "skipped": self.skipped,
            "scenarios": {
                name: [_standing(one, ratio(standings, one)) for one in standings]
                for name, standings in self.results.items()
            },
        }


def ratios(standings: list[Standing], peer: Standing) -> list[float]:
    """Our rate by the peer's, round by round."""
    ours = next((one for one in standings if one.peer.name == OURS), None)
    if ours is None or ours is peer:
        return []
    pairs = zip(ours.rounds, peer.rounds, strict=False)
    return [a["acquisitions_per_s"] / b["acquisitions_per_s"] for a, b in pairs if b["acquisitions_per_s"]]


def ratio(standings: list[Standing], peer: Standing) -> figures.Spread | None:
    """The median of those, and how far they lie apart."""
    found = ratios(standings, peer)
    return figures.Spread.of(found) if found else None


def compare(first: Report, second: Report) -> list[comparison.Compared]:
    """Two runs, by every peer's rate and by how many times that ours is."""
    return comparison.compare(_rates(first), _rates(second))


def _rates(report: Report) -> dict[str, Any]:
    """In the form of the other benchmarks' documents."""
    scenarios = []
    for scenario, standings in report.results.items():
        for one in standings:
            repeats = [{"acquisitions_per_s": each["acquisitions_per_s"]} for each in one.rounds]
            repeats += [{"ours_x": each} for each in ratios(standings, one)]
            scenarios.append({"name": f"{scenario}, {one.peer.name}", "repeats": repeats})
    return {"schema": SCHEMA, "benchmark": report.what, "scenarios": scenarios}


def _row(one: Standing, times: figures.Spread | None) -> list[str]:
    found = one.summary()

    def cell(name: str, form: str, scale: float = 1.0) -> str:
        return form.format(found[name].median * scale) if name in found else "-"

    return [
        one.peer.name,
        one.peer.promise,
        cell("acquisitions_per_s", "{:,.0f}"),
        f"{times.median:.1f}x ({times.low:.1f} to {times.high:.1f})" if times else "",
        cell("wait_p50_us", "{:.2f}", 1e-3),
        cell("hand_over_p50_us", "{:.2f}", 1e-3),
        cell("hand_over_p99_us", "{:.2f}", 1e-3),
        cell("jain", "{:.2f}"),
        cell("client_cpu_us", "{:,.0f}"),
    ]


def _standing(one: Standing, times: figures.Spread | None) -> dict[str, Any]:
    return {
        "peer": one.peer.name,
        "server": one.peer.server,
        "promise": one.peer.promise,
        "judged_by": "fences" if one.peer.fenced else "the clock",
        "holds": one.holds,
        "failure": one.failure,
        "summary": {name: attrs.asdict(spread) for name, spread in one.summary().items()},
        "ours_by_this": attrs.asdict(times) if times else None,
        "rounds": one.rounds,
    }


def plot(report: Report, path: pathlib.Path) -> None:
    """What every peer did in a second, scenario by scenario, on a logarithmic scale."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(one.peer.name for standings in report.results.values() for one in standings))
    figure, axes = pyplot.subplots(figsize=(10, 5))
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        heights = [_rate(standings, name) for standings in report.results.values()]
        places = [index + (number - len(names) / 2 + 0.5) * width for index in range(len(heights))]
        axes.bar(places, heights, width, label=name, color=f"C{number}" if name != OURS else "black")
    axes.set_xticks(range(len(report.results)), list(report.results))
    axes.set_yscale("log")
    axes.set_ylabel(f"{report.unit} per second")
    axes.set_title(
        f"{report.what}, closed loop; etcd {report.server.version}, median of {report.plan.repeats} rounds"
    )
    axes.legend(fontsize="small", ncols=2)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _rate(standings: list[Standing], name: str) -> float:
    one = next((each for each in standings if each.peer.name == name and not each.failure), None)
    found = one.summary() if one else {}
    return found["acquisitions_per_s"].median if "acquisitions_per_s" in found else 0.0
