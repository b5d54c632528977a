"""Plots of a benchmark's JSON document, as SVG: drawn by matplotlib where it is installed.

Contention: the distribution of waits, throughput and p99 against contenders, a timeline of hand-overs, and
what each contender got.  Others: medians of their rates and times, with their extremes.
"""

from __future__ import annotations

import itertools
import pathlib
import statistics
from typing import Any

from coordkit.cli import failure
from coordkit.cli.bench import comparison


def draw(document: dict[str, Any], path: pathlib.Path) -> None:
    """Draw it.

    Raises:
        failure.CommandFailed: matplotlib is not installed.
    """
    pyplot = load()
    if any("histograms_ns" in scenario for scenario in document.get("scenarios", [])):
        figure = _contention(pyplot, document)
    else:
        figure = _bars(pyplot, document)
    facts = document["machine"]
    figure.suptitle(
        f"coordkit bench {document['benchmark']}: etcd {_etcd(document)}, {facts['processors']} processors, "
        f"load {facts['load']:g}, {document['at'][:10]}",
        fontsize="medium",
    )
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def load() -> Any:
    """matplotlib's pyplot, set to write SVG.

    Raises:
        failure.CommandFailed: It is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise failure.CommandFailed("no plot: matplotlib is not installed", failure.USAGE) from error
    matplotlib.use("svg")
    from matplotlib import pyplot

    return pyplot


def _etcd(document: dict[str, Any]) -> str:
    etcd = document["etcd"]
    return str(etcd["version"] if isinstance(etcd, dict) else etcd)


def _contention(pyplot: Any, document: dict[str, Any]) -> Any:
    scenarios = [each for each in document["scenarios"] if "acquisitions_per_s" in each["summary"]]
    figure, ((waits, against), (timeline, shares)) = pyplot.subplots(2, 2, figsize=(12, 8))
    for scenario in scenarios:
        _distribution(waits, scenario)
    waits.set(xscale="log", xlabel="wait, ms", ylabel="share of all", title="waits", ylim=(0, 1.02))
    _against(against, scenarios, document["counts"])
    _timeline(timeline, scenarios)
    _shares(shares, scenarios)
    if scenarios:
        waits.legend(fontsize="x-small")
    return figure


def _distribution(axes: Any, scenario: dict[str, Any]) -> None:
    buckets = scenario["histograms_ns"]["waits"]["buckets"]
    totals = list(itertools.accumulate(count for _, count in buckets))
    if totals:
        values = [max(end, 1) / 1e6 for end, _ in buckets]
        axes.step(values, [total / totals[-1] for total in totals], where="post", label=scenario["name"])


def _against(axes: Any, scenarios: list[dict[str, Any]], counts: str) -> None:
    axes.set(xlabel="contenders", ylabel=f"{counts}/s", title="throughput (lines) and wait p99 (dashes)")
    other = axes.twinx()
    other.set(ylabel="wait p99, ms", yscale="log")
    for number, mode in enumerate(dict.fromkeys(each["mode"] for each in scenarios)):
        own = [each for each in scenarios if each["mode"] == mode and not each["rivals"]]
        own.sort(key=lambda each: int(each["contenders"]))
        where = [each["contenders"] for each in own]
        rates = [each["summary"]["acquisitions_per_s"] for each in own]
        axes.plot(where, [rate["median"] for rate in rates], "o-", color=f"C{number}", label=mode)
        axes.fill_between(
            where, [rate["low"] for rate in rates], [rate["high"] for rate in rates],
            color=f"C{number}", alpha=0.2,
        )  # fmt: skip
        late = [(each["contenders"], each["summary"].get("wait_p99_us")) for each in own]
        points = [(count, found["median"] / 1e3) for count, found in late if found]
        other.plot([x for x, _ in points], [y for _, y in points], "x--", color=f"C{number}")
    if scenarios:
        axes.set_xscale("log", base=2)
        axes.legend(fontsize="x-small")
    axes.set_ylim(bottom=0)


def _timeline(axes: Any, scenarios: list[dict[str, Any]]) -> None:
    for scenario in scenarios:
        moments = scenario["timeline_ns"]
        if moments:
            axes.plot(
                [at / 1e9 for at, _ in moments], [max(gap, 1) / 1e6 for _, gap in moments],
                ".", markersize=2, label=scenario["name"],
            )  # fmt: skip
    axes.set(xlabel="s", ylabel="hand-over, ms", yscale="log", title="hand-overs of the last repeat")
    if any(scenario["timeline_ns"] for scenario in scenarios):
        axes.legend(fontsize="x-small")


def _shares(axes: Any, scenarios: list[dict[str, Any]]) -> None:
    place = 0.0
    for number, scenario in enumerate(scenarios):
        shares = [count for _, count in sorted(scenario["shares"].items())]
        places = [place + index for index in range(len(shares))]
        axes.bar(places, shares, 0.9, color=f"C{number % 10}", label=scenario["name"])
        place += len(shares) + 1
    axes.set(xlabel="contenders", ylabel="got", title="what each contender got", xticks=[])


def _bars(pyplot: Any, document: dict[str, Any]) -> Any:
    found = comparison.series(document)
    kinds = [("_per_s", "per second", 1.0), ("_p50_us", "p50, ms", 1e-3)]
    figure, all_axes = pyplot.subplots(1, 2, figsize=(13, 5))
    for axes, (ending, label, scale) in zip(all_axes, kinds, strict=True):
        chosen = {": ".join(filter(None, key)): found[key] for key in found if key[1].endswith(ending)}
        medians = [statistics.median(values) * scale for values in chosen.values()]
        spans = [
            [median - min(values) * scale for median, values in zip(medians, chosen.values(), strict=True)],
            [max(values) * scale - median for median, values in zip(medians, chosen.values(), strict=True)],
        ]
        axes.barh(range(len(chosen)), medians, xerr=spans if chosen else None)
        axes.set_yticks(range(len(chosen)), list(chosen), fontsize="x-small")
        axes.set(xlabel=label, xscale="log" if chosen else "linear")
        axes.invert_yaxis()
    return figure
