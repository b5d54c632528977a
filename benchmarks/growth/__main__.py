"""`python -m benchmarks.growth`: time and memory against waiters, names, sessions, items and subscribers.

Each point is a process of its own on one private etcd; a point that takes too long, or fails, is told and
ends its axis.  Writes `growth.json` and a plot for each axis into a folder.

exit status: 0; 1 when a point failed or, with --strict, when a bar is missed
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks.growth import axes
from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import machine, plots, server
from coordkit.cli.bench.bars import Bar

SCHEMA = "coordkit-growth/1"
POINTS = {
    "waiters": (10, 30, 100, 300, 1000),
    "greenlets": (10, 30, 100, 300, 1000),
    "bare-threads": (10, 100, 1000),
    "bare-greenlets": (10, 100, 1000),
    "names": (10, 100, 1000, 10_000),
    "sessions": (1, 10, 100, 1000),
    "length": (100, 1000, 10_000, 100_000),
    "subscribers": (1, 4, 16, 64),
}
_LABELS = {
    "waiters": "waiters in one line, threads", "greenlets": "waiters in one line, greenlets",
    "bare-threads": "threads that wait, and no lock", "bare-greenlets": "greenlets that wait, and no lock",
    "names": "locks held", "sessions": "sessions, idle",
    "length": "items in a queue", "subscribers": "subscribers in a process",
}  # fmt: skip
#: An axis, a count, a figure, what it may be at most and in what; against the same figure at another count.
_BARS = (
    ("waiters", 1000, "hand_over_p50_ms", 2, "x", 10),
    ("waiters", 1000, "kib_each", 20, " KiB", None),
    ("greenlets", 1000, "hand_over_p50_ms", 2, "x", 10),
    ("greenlets", 1000, "kib_each", 20, " KiB", None),
    ("sessions", 1000, "watch_streams", 1, "", None),
    ("sessions", 1000, "requests_each_per_s", 1, "/s", None),
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--axes", default=",".join(POINTS), metavar="AXIS,...", help="default %(default)s")
    parser.add_argument("--most", type=options.count, default=10**6, help="leave out what is larger")
    parser.add_argument("--limit", type=options.positive, default=60.0, help="of a point, seconds")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    chosen = parser.parse_args(arguments)
    wanted = chosen.axes.split(",")
    if unknown := [axis for axis in wanted if axis not in axes.AXES]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(POINTS)}")

    load = machine.load()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with server.serving(None) as etcd:
        document = {**etcd.heading(SCHEMA, "growth", load), "axes": {}, "failures": {}}
        for axis in wanted:
            counts = [each for each in POINTS[axis] if each <= chosen.most]
            document["axes"][axis] = _axis(axis, counts, etcd.url, chosen.limit, document["failures"])
            # After each axis: a run that is cut short keeps what it has.
            document["bars"] = [bar.as_json() for bar in met(document["axes"])]
            (chosen.out / "growth.json").write_text(json.dumps(document, indent=1) + "\n")
    _show(document, chosen.out)
    missed = chosen.strict and not all(bar.passed for bar in met(document["axes"]))
    return int(bool(document["failures"]) or missed)


def met(found: dict[str, list[dict[str, float]]]) -> list[Bar]:
    """The bars of those points that were measured."""
    points = {(axis, point["count"]): point for axis, own in found.items() for point in own}
    bars = []
    for axis, count, figure, most, unit, beside in _BARS:
        if (axis, count) not in points or (beside and (axis, beside) not in points):
            continue
        measured = points[axis, count][figure]
        if beside:
            measured /= points[axis, beside][figure]
        name = f"{count:,} {_LABELS[axis]}: {figure}" + (f" by that of {beside}" if beside else "")
        bars.append(Bar(name, measured, most=most, unit=unit))
    return bars


def _axis(
    axis: str, counts: list[int], url: str, limit_s: float, failures: dict[str, str]
) -> list[dict[str, float]]:
    """Its points, up to the first that fails."""
    points: list[dict[str, float]] = []
    for count in counts:
        try:
            points.append({"count": count, **_point(axis, count, url, limit_s)})
        except RuntimeError as error:
            failures[f"{axis} {count}"] = str(error)
            break
        print(f"{axis} {count}: {points[-1]}", file=sys.stderr, flush=True)
    return points


def _point(axis: str, count: int, url: str, limit_s: float) -> dict[str, float]:
    patches = ["-m", "gevent.monkey", "--module"] if axis in axes.GREENLETS else ["-m"]
    command = [sys.executable, *patches, "benchmarks.growth.axes", axis, str(count), url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"not done within {limit_s:.0f} s") from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _show(document: dict[str, Any], folder: pathlib.Path) -> None:
    for axis, points in document["axes"].items():
        if not points:
            continue
        names = [name for name in points[0] if name != "count"]
        rows = [[f"{point['count']:,}", *(f"{point[name]:,.2f}" for name in names)] for point in points]
        terminal.Table(_LABELS[axis], ["", *names], rows).show()
        _draw(axis, points, names, document, folder / f"growth-{axis}.svg")
    for bar in met(document["axes"]):
        print(bar)
    for point, why in document["failures"].items():
        print(f"{point}: {why}")
    if warning := machine.busy(document["machine"]["load"]):
        print(warning)


def _draw(
    axis: str, points: list[dict[str, float]], names: list[str], document: dict[str, Any], path: pathlib.Path
) -> None:
    """Each figure against the count."""
    try:
        pyplot = plots.load()
    except failure.CommandFailed as error:
        print(error)
        return
    figure, all_axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
    for one, name in zip(all_axes[0], names, strict=True):
        one.plot([point["count"] for point in points], [point[name] for point in points], "o-")
        one.set(xscale="log", xlabel=_LABELS[axis], title=name)
        one.set_ylim(bottom=0)
    about = f"etcd {document['etcd']['version']}, load {document['machine']['load']:g}"
    figure.suptitle(about, fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
