"""What a person sees: tables, and a progress bar that keeps quiet where nobody watches.

Tables are drawn by rich where it is installed and a terminal looks on; otherwise as plain text.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import attrs

from coordkit.cli import failure

_UNBOUNDED = 100_000  # columns: more than any table has


@attrs.frozen
class Table:
    """Named columns; the first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without_empty(self, nothing: str = "-") -> Table:
        """Less the columns, but the first, in which no row has anything."""
        kept = [
            number
            for number in range(len(self.columns))
            if not number or any(row[number] != nothing for row in self.rows)
        ]
        columns, *rows = ([row[number] for number in kept] for row in (self.columns, *self.rows))
        return Table(self.title, columns, rows)

    def show(self) -> None:
        """To standard output."""
        if not (sys.stdout.isatty() and self._show_rich()):
            print(self.text())

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self._line(self.columns, widths), *(self._line(row, widths) for row in self.rows)]
        rule = "-" * max(map(len, lines))
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:], rule])

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *others = (
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    def _show_rich(self) -> bool:
        try:
            import rich.console
        except ImportError:
            return False
        table = self.rich()
        console = rich.console.Console()
        unbounded = console.options.update(width=_UNBOUNDED)
        if console.measure(table, options=unbounded).maximum > console.width:
            return False  # cut off cells tell less than lines that wrap
        console.print(table)
        return True

    def rich(self) -> Any:
        """As rich's table.  Cells are what they are: a name in brackets is no mark-up."""
        import rich.table
        import rich.text

        table = rich.table.Table(title=rich.text.Text(self.title), title_justify="left", header_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(rich.text.Text(column), justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row))
        return table


def plain(text: str) -> str:
    """What others wrote, fit for a terminal: nothing in it moves the cursor or changes colours."""
    return "".join(each if each.isprintable() else "?" for each in text)


def confirm(question: str, yes: bool) -> bool:
    """Ask on the terminal, unless the answer was given on the command line.

    Raises:
        CommandFailed: Nobody is there to be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise failure.CommandFailed(f"{question}  There is no terminal to ask on: say --yes", failure.USAGE)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Progress:
    """Steps of known length, on standard error: a bar on a terminal, one line per step elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._began = time.monotonic()
        self._step_s = math.inf
        self._text = ""
        self._live = sys.stderr.isatty()

    def begin(self, text: str, expected_s: float = math.inf) -> None:
        """A step has begun; the bar moves on only where its length is known."""
        self._text, self._step_s, self._began = text, expected_s, time.monotonic()
        self.tick()

    def tick(self) -> None:
        """Time has passed."""
        if self._live:
            part = min((time.monotonic() - self._began) / self._step_s, 1.0)
            self._draw((self._done + part) / self._steps, self._text)

    def end(self, result: str) -> None:
        """The step is done; what came of it."""
        self._done += 1
        self._text = f"{self._text}: {result}"
        if self._live:
            self._draw(self._done / self._steps, self._text)
        else:
            print(self._text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the line to others."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _draw(self, part: float, text: str) -> None:
        bar = "#" * round(30 * part)
        line = f"[{bar:.<30}] {part:4.0%}  {text}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
