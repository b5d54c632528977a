"""What the commands' argument parsers share: how a command is added, and the types of options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int]


def command(commands: Any, name: str, summary: str, examples: str, run: Run) -> argparse.ArgumentParser:
    """Add a command; its `--help` ends with the examples, and `run` gets the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def group(commands: Any, name: str, summary: str) -> Any:
    """Add a command that only holds others; the object to which they are added."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def duration(text: str) -> float:
    """Seconds, 0 or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def positive(text: str) -> float:
    """Seconds, more than 0."""
    seconds = duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError("0 seconds are too few")
    return seconds
