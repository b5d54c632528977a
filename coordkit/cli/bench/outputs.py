"""What every benchmark can do with its figures: `--json`, `--csv`, `--plot`, `--compare`.

All work on the JSON document, so that a run that was kept can be compared with one of today.  A series is one
figure of one scenario, with a value for each repeat.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from coordkit.cli import failure, terminal

Series = dict[tuple[str, str], list[float]]  # by scenario and figure
_LEAST_FOR_QUARTILES = 3
#: Which figures a comparison shows; the rest is in the JSON.
_TOLD = ("_per_s", "_p50_us", "_p99_us", "_x", "cpu_us", "_mib")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--csv", metavar="FILE", help="write every figure of every repeat, a line each")
    parser.add_argument("--plot", metavar="FILE", help="draw what was measured, as SVG; needs matplotlib")
    parser.add_argument("--compare", metavar="OLD", help="a JSON document of an earlier run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")


def check(arguments: argparse.Namespace) -> None:
    """Find out before anything is measured that a run cannot be compared or drawn.

    Raises:
        failure.CommandFailed: There is no such earlier run, or no matplotlib.
    """
    if arguments.compare:
        _earlier(arguments.compare)
    if arguments.plot:
        from coordkit.cli.bench import plots

        plots.load()


def tell(arguments: argparse.Namespace, document: dict[str, Any], show: Callable[[], None]) -> None:
    """Print the document or the table, and write what else was asked for.

    Raises:
        failure.CommandFailed: There is no such earlier run, or it is of another kind.
    """
    compared = compare(_earlier(arguments.compare), document) if arguments.compare else None
    if arguments.csv:
        write_csv(document, pathlib.Path(arguments.csv))
    if arguments.plot:
        from coordkit.cli.bench import plots

        plots.draw(document, pathlib.Path(arguments.plot))
    if compared is not None:
        document["comparison"] = [attrs.asdict(each) for each in compared]
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    show()
    if compared is not None:
        _show_comparison(compared)


# Series.


def series(document: dict[str, Any]) -> Series:
    """All that a document has, of whichever benchmark it is."""
    found: Series = {}
    for scenario in document.get("scenarios", []):
        rounds = scenario["rounds"] if isinstance(scenario.get("rounds"), dict) else {}
        for client, each in rounds.items():
            _collect(found, f"{scenario['name']}, {client}", each)
        _collect(found, scenario["name"], scenario.get("repeats", []))
    repeats = document.get("repeats", [])
    if isinstance(repeats, dict):
        found |= {("", name): list(values) for name, values in repeats.items()}
    else:
        _collect(found, "", repeats)
    return found


def _collect(found: Series, scenario: str, repeats: Sequence[dict[str, float]]) -> None:
    for repeat in repeats:
        for name, value in repeat.items():
            found.setdefault((scenario, name), []).append(value)


def write_csv(document: dict[str, Any], path: pathlib.Path) -> None:
    """A line for each figure of each repeat."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["benchmark", "scenario", "figure", "repeat", "value"])
        for (scenario, figure), values in series(document).items():
            for number, value in enumerate(values, 1):
                lines.writerow([document["benchmark"], scenario, figure, number, value])


# Two runs.


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
        failure.CommandFailed: They are of different benchmarks.
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
    return found


def overlap(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether the interquartile ranges meet; None when there are too few values."""
    if min(len(one), len(other)) < _LEAST_FOR_QUARTILES:
        return None
    (low, _, high), (other_low, _, other_high) = (
        statistics.quantiles(each, n=4, method="inclusive") for each in (one, other)
    )
    return low <= other_high and other_low <= high


def _earlier(path: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise failure.CommandFailed(f"no earlier run in {path}: {error}", failure.USAGE) from error
    return document


def _show_comparison(compared: list[Compared]) -> None:
    told = [each for each in compared if each.figure.endswith(_TOLD)]
    words = {True: "yes", False: "NO", None: "-"}
    rows = [
        [
            f"{each.scenario}: {each.figure}" if each.scenario else each.figure,
            f"{each.old:,.2f}",
            f"{each.new:,.2f}",
            f"{each.ratio:.2f}x" if each.ratio is not None else "-",
            words[each.overlap],
        ]
        for each in told
    ]
    columns = ["", "earlier", "now", "ratio", "quartiles overlap"]
    terminal.Table("beside the earlier run, medians", columns, rows).show()
    apart = sum(each.overlap is False for each in told)
    few = sum(each.overlap is None for each in told)
    print(f"interquartile ranges: {apart} of {len(told) - few} do not overlap")
