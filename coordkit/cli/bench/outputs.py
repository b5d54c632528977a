"""What every benchmark can do with its figures: `--json`, `--csv`, `--plot`, `--compare`, `--twice`.

All work on the JSON document, so that a run that was kept can be compared with one of today.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from coordkit.cli import failure, signals
from coordkit.cli.bench import comparison
from coordkit.cli.bench.bars import Bar

SWEEP = [1, 2, 4, 8, 16, 32, 64]  # how many at once, where --full was asked for


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--csv", metavar="FILE", help="write every figure of every repeat, a line each")
    parser.add_argument("--plot", metavar="FILE", help="draw what was measured, as SVG; needs matplotlib")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--compare", metavar="OLD", help="a JSON document of an earlier run")
    other.add_argument(
        "--twice", action="store_true", help="run it all twice, and compare the second run with the first"
    )
    parser.add_argument(
        "--strict", action="store_true",
        help="exit with 1 when a bar is missed or, with --twice, quartiles do not overlap",
    )  # fmt: skip


class Report(Protocol):
    """What a benchmark makes of one run."""

    @property
    def bars(self) -> Sequence[Bar]:
        """What a release must reach."""

    @property
    def clean(self) -> bool:
        """Whether no rule was broken."""

    def show(self) -> None:
        """To standard output, for people."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""


def run(arguments: argparse.Namespace, measure: Callable[[], Report]) -> int:
    """Measure, or measure twice; tell, write and compare what was asked for; the exit status.

    A signal that ends it lets the servers and workers be ended first, as Ctrl-C does.

    Raises:
        failure.CommandFailed: There is no such earlier run, it is of another kind, or nothing can be drawn.
    """
    with signals.Inbox():
        return _run(arguments, measure)


def _run(arguments: argparse.Namespace, measure: Callable[[], Report]) -> int:
    earlier = _earlier(arguments.compare) if arguments.compare else None
    if arguments.csv and not pathlib.Path(arguments.csv).parent.is_dir():
        raise failure.CommandFailed(f"there is no folder for {arguments.csv}", failure.USAGE)
    if arguments.plot:
        from coordkit.cli.bench import plots

        plots.load()  # found out before anything is measured

    reports = [measure()]
    documents = [reports[0].as_json()]
    if arguments.twice:
        if not arguments.json:
            print("the first run")
            reports[0].show()
            print("the second run")
        reports.append(measure())
        documents.append(reports[1].as_json())
        earlier = documents[0]
    try:
        compared = comparison.compare(earlier, documents[-1]) if earlier else None
    except failure.CommandFailed:
        _tell(arguments, documents, reports[-1], None)  # it was measured, whatever it cannot be compared with
        raise
    _tell(arguments, documents, reports[-1], compared)

    missed = any(not bar.passed for report in reports for bar in report.bars)
    apart = arguments.twice and not all(each.overlap for each in comparison.told(compared or []))
    failed = not all(report.clean for report in reports) or (arguments.strict and (missed or apart))
    return failure.VIOLATION if failed else 0


def _tell(
    arguments: argparse.Namespace,
    documents: list[dict[str, Any]],
    report: Report,
    compared: list[comparison.Compared] | None,
) -> None:
    """The last run, and how it compares, where that was asked for; files, in which no run is left out."""
    document = documents[-1]
    if arguments.csv:
        write_csv(documents, pathlib.Path(arguments.csv))
    if arguments.plot:
        from coordkit.cli.bench import plots

        plots.draw(document, pathlib.Path(arguments.plot))
    if compared is not None:
        document["comparison"] = [attrs.asdict(each) for each in compared]
    if len(documents) > 1:
        document["first"] = documents[0]
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    report.show()
    if compared is not None:
        comparison.show(compared)


def write_csv(documents: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """A line for each figure of each repeat of each run."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["benchmark", "run", "scenario", "figure", "repeat", "value"])
        for run_number, document in enumerate(documents, 1):
            for (scenario, figure), values in comparison.series(document).items():
                for number, value in enumerate(values, 1):
                    lines.writerow([document["benchmark"], run_number, scenario, figure, number, value])


def _earlier(path: str) -> dict[str, Any]:
    try:
        document: object = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise failure.CommandFailed(f"no earlier run in {path}: {error}", failure.USAGE) from error
    if not isinstance(document, dict) or "benchmark" not in document:
        raise failure.CommandFailed(f"no earlier run in {path}: it is no benchmark's document", failure.USAGE)
    return document
