"""`coordkit lock run`: hold a lock while a command runs."""

from __future__ import annotations

import argparse
from typing import Any

from coordkit.cli import failure, options

_SUMMARY = "hold a lock while a command runs"
_EXAMPLES = """\
example:
  coordkit lock run nightly -n -- ./report.sh"""


def register(group: Any) -> None:
    """Add `lock run`."""
    parser = options.command(group, "run", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("name", metavar="NAME", help="of the lock")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Acquire, run, release."""
    raise failure.CommandFailed("not there yet")
