"""A lock's history as a picture: a bar for each that stood in line, thin while it waited, thick as it held.

The axis is time where it is known well enough, by the clocks of those who joined; else revisions.  Needs
matplotlib, of the `bench` extra.
"""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Sequence

import attrs

from coordkit.cli import failure, terminal
from coordkit.inspection import tenures

MOST = 200  # bars that a picture can show


@attrs.frozen
class Bar:
    """One that stood in line, on the axis; `turn` is None when it never held."""

    label: str
    came: float
    turn: float | None
    gone: float
    over: bool  # False: it is still there


def check() -> None:
    """Raises:
    CommandFailed: There is no matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise failure.CommandFailed("--plot needs matplotlib: pip install 'coordkit[bench]'", failure.USAGE)


def bars(found: Sequence[tenures.Tenure], clock: tenures.Clock) -> tuple[list[Bar], bool]:
    """The newest of them, and whether the axis is time: seconds since the epoch."""
    found = found[-MOST:]
    in_time = len(found) > 1 and all(clock.at(each.joined) for each in found)
    last = max((r for each in found for r in (each.joined, each.granted, each.ended) if r), default=0)

    def at(revision: int) -> float:
        if not in_time:
            return float(revision)
        moment = clock.at(revision) or clock.at(_newest(found))
        assert moment is not None
        return moment.at.timestamp()

    return [
        Bar(
            f"{terminal.plain(each.place.identity) or each.place.lease} ({each.joined})",
            at(each.joined),
            None if each.granted is None else at(max(each.granted, each.joined)),
            at(last if each.ended is None else each.ended),
            each.ended is not None,
        )
        for each in found
    ], in_time


def _newest(found: Sequence[tenures.Tenure]) -> int:
    """What comes after the last join has no clock: it is drawn there."""
    return max(each.joined for each in found)


def draw(title: str, found: Sequence[tenures.Tenure], clock: tenures.Clock, path: str) -> None:
    """Write the picture; its name's ending says which format.

    Raises:
        CommandFailed: The file cannot be written, or nobody knows that format.
    """
    import matplotlib.figure

    drawn, in_time = bars(found, clock)
    figure = matplotlib.figure.Figure(figsize=(10, 1.5 + 0.3 * len(drawn)), layout="tight")
    axes = figure.add_subplot()
    for n, bar in enumerate(drawn):
        axes.plot([bar.came, bar.gone], [n, n], color="silver", linewidth=2)
        if bar.turn is not None:
            axes.plot([bar.turn, bar.gone], [n, n], color="tab:blue", linewidth=8, solid_capstyle="butt")
        axes.plot([bar.gone], [n], marker="|" if bar.over else ">", color="black")
    axes.set_yticks(range(len(drawn)), [bar.label for bar in drawn])
    axes.invert_yaxis()
    axes.set_title(terminal.plain(title))
    axes.set_xlabel("UTC, by the clocks of those who joined" if in_time else "revision")
    if in_time:
        axes.xaxis.set_major_formatter(lambda seconds, _: _clock_text(seconds))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise failure.CommandFailed(f"cannot write {path!r}: {error}") from error


def _clock_text(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{at:%H:%M:%S.%f}"[:-3]
