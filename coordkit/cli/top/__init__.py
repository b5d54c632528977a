"""`coordkit top`: who holds what and who waits, live."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import math
import pathlib
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from coordkit import errors
from coordkit.cli import failure, options

if TYPE_CHECKING:
    from coordkit.cli.top import frame, screen
    from coordkit.inspection import reading

_SUMMARY = "show locks, their lines and the sessions, live"
_EXAMPLES = """\
examples:
  coordkit top
  coordkit top -d 0.5
  coordkit top -o - -r 1
  coordkit top --json -r 10 > rounds.json

q quits, r looks at once.  The busiest locks come first.  Away from a terminal, and with -o, the rounds are
printed one after the other; --json prints one document on each line.

exit status: 0; 69 when etcd does not answer: on a terminal only at the beginning, later it is waited for;
130 Ctrl-C"""

DEFAULT_DELAY_S = 2.0


def register(commands: Any) -> None:
    """Add `top`."""
    parser = options.command(commands, "top", _SUMMARY, _EXAMPLES, run)
    parser.add_argument(
        "-d",
        "--delay",
        type=options.positive,
        metavar="SECONDS",
        default=DEFAULT_DELAY_S,
        help=f"between two looks; default {DEFAULT_DELAY_S:g}",
    )
    parser.add_argument("-r", "--rounds", type=options.count, help="end after so many looks")
    parser.add_argument("-o", "--output", metavar="FILE", help="print plain text there; - is standard output")
    parser.add_argument("--json", action="store_true", help="print a JSON document on each line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, show, wait; again."""
    from coordkit.cli.top import screen
    from coordkit.inspection import reading

    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        where = f"{','.join(map(str, coord.settings.options.endpoints))}{reader.root.decode().rstrip('/')}"
        if arguments.output or arguments.json or not sys.stdout.isatty():
            options.listen(arguments)
            with _output(arguments.output) as out:
                return _print_rounds(arguments, reader, where, out)
        with screen.Screen() as shown:
            return _show_rounds(arguments, reader, where, shown)


def _output(path: str | None) -> contextlib.AbstractContextManager[IO[str]]:
    if path is None or path == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return pathlib.Path(path).open("w", encoding="utf-8")
    except OSError as error:
        raise failure.CommandFailed(f"cannot write {path!r}: {error}") from error


def _print_rounds(arguments: argparse.Namespace, reader: reading.Reader, where: str, out: IO[str]) -> int:
    from coordkit.cli.top import frame

    done = 0
    while True:
        begun_s = time.monotonic()
        seen = frame.look(reader, where, frame.MOST_ROWS)
        print(seen.document() if arguments.json else seen.text(), file=out, flush=True)
        done += 1
        if done == arguments.rounds:
            return 0
        time.sleep(max(0.0, begun_s + arguments.delay - time.monotonic()))


def _show_rounds(
    arguments: argparse.Namespace, reader: reading.Reader, where: str, shown: screen.Screen
) -> int:
    from coordkit.cli.top import frame

    done, seen, trouble = 0, None, ""
    due_s = time.monotonic()
    # Elsewhere, so that keys are heard while etcd is silent.  Whoever closes the client ends a look.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    looking: concurrent.futures.Future[frame.Frame] | None = None
    while True:
        size = shown.size()
        if looking is None and time.monotonic() >= due_s:
            looking = pool.submit(frame.look, reader, where, size.lines)
            looking.add_done_callback(lambda _: shown.wake())
        if looking is not None and looking.done():
            try:
                seen, trouble = looking.result(), ""
            except errors.OUTAGE as error:
                trouble = f"etcd does not answer: {error}"
            looking, due_s, done = None, time.monotonic() + arguments.delay, done + 1
        shown.draw(frame.lines(seen, trouble, size.columns, size.lines))
        if done == arguments.rounds:
            return 0
        key = shown.key(math.inf if looking else due_s - time.monotonic())
        if key == "q":
            return 0
        if key == "r":
            due_s = time.monotonic()
