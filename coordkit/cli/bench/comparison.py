"""Two runs of one benchmark, figure by figure: ratios of medians, and whether the interquartile ranges meet.

A series is one figure of one scenario, with a value for each repeat; it is taken from the JSON document, of
whichever benchmark that is.

Of two runs of one thing, with 5 repeats each, the ranges of one figure in five do not meet by chance alone;
with 11 repeats, one in forty.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from coordkit.cli import failure, terminal

Series = dict[tuple[str, str], list[float]]  # by scenario and figure
_LEAST_FOR_QUARTILES = 3
#: Which figures are shown, and judged where ranges must meet; the rest is in the JSON.
_TOLD = ("_per_s", "_p50_us", "_p99_us", "_x", "cpu_us", "_mib", "successor_s")
_UNTOLD = ("_p95_x", "_p999_x", "_max_x")


def series(document: dict[str, Any]) -> Series:
    """All that a document has, of whichever benchmark it is."""
    found: Series = {}
    for scenario in document.get("scenarios", []):
        for client, rounds in scenario.get("rounds", {}).items():
            _collect(found, f"{scenario['name']}, {client}", rounds)
        for peer, pairs in scenario.get("pairs", {}).items():
            _collect(found, f"{scenario['name']}, by {peer}'s", pairs)
        _collect(found, scenario["name"], scenario.get("repeats", []))
    _collect(found, "", document.get("repeats", []))
    return found


def _collect(found: Series, scenario: str, repeats: Sequence[dict[str, float]] | dict[str, Any]) -> None:
    """Repeats, each with its figures; or figures, each with its repeats."""
    if isinstance(repeats, dict):
        found |= {(scenario, name): list(values) for name, values in repeats.items()}
        return
    for repeat in repeats:
        for name, value in repeat.items():
            found.setdefault((scenario, name), []).append(value)


@attrs.frozen
class Compared:
    """One figure of one scenario in two runs."""

    scenario: str
    figure: str
    old: float
    new: float
    ratio: float | None
    overlap: bool | None  # of the interquartile ranges; None: too few repeats to say


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Compared]:
    """Every figure that both have.

    Raises:
        failure.CommandFailed: They are of different benchmarks, or of nothing in common.
    """
    if old.get("schema") != new["schema"] or old.get("benchmark") != new["benchmark"]:
        raise failure.CommandFailed(
            f"the earlier run is {old.get('schema')} of {old.get('benchmark')}; "
            f"this one {new['schema']} of {new['benchmark']}",
            failure.USAGE,
        )
    before, found = series(old), []
    for key, values in series(new).items():
        if key in before:
            earlier, now = statistics.median(before[key]), statistics.median(values)
            ratio = now / earlier if earlier else None
            found.append(Compared(*key, earlier, now, ratio, overlap(before[key], values)))
    if not found:
        had = ", ".join(sorted({scenario for scenario, _ in before}))
        raise failure.CommandFailed(f"nothing in common with the earlier run, which has {had}", failure.USAGE)
    return found


def overlap(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether the interquartile ranges meet; None when there are too few values."""
    if min(len(one), len(other)) < _LEAST_FOR_QUARTILES:
        return None
    (low, _, high), (other_low, _, other_high) = (
        statistics.quantiles(each, n=4, method="inclusive") for each in (one, other)
    )
    return low <= other_high and other_low <= high


def told(compared: Sequence[Compared]) -> list[Compared]:
    """Those that a comparison shows, and that --strict judges."""
    return [each for each in compared if each.figure.endswith(_TOLD) and not each.figure.endswith(_UNTOLD)]


def show(compared: Sequence[Compared]) -> None:
    """To standard output, figure by figure."""
    shown = told(compared)
    words = {True: "yes", False: "NO", None: "-"}
    rows = [
        [
            f"{each.scenario}: {each.figure}" if each.scenario else each.figure,
            f"{each.old:,.2f}",
            f"{each.new:,.2f}",
            f"{each.ratio:.2f}x" if each.ratio is not None else "-",
            words[each.overlap],
        ]
        for each in shown
    ]
    columns = ["", "earlier", "now", "ratio", "quartiles overlap"]
    terminal.Table("beside the earlier run, medians", columns, rows).show()
    apart = sum(each.overlap is False for each in shown)
    few = sum(each.overlap is None for each in shown)
    unknown = f"; of {few} figures there are too few repeats to say" if few else ""
    print(f"interquartile ranges: {apart} of {len(shown) - few} do not overlap{unknown}")
