"""What the commands share: how a command is added, the types of options, the options that all have.

`connection(parser)` adds where etcd is, `speech(parser)` adds --quiet and --verbose.  What they gave is used
by `settings_of(arguments)`, `connect(arguments)` and `listen(arguments)`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import coordkit
from coordkit import settings

Run = Callable[[argparse.Namespace], int]

#: Those settings of `connect` that every command takes, with what they are.
GIVEN = {
    "namespace": "the first segment of all keys",
    "timeout": "in seconds, for dialling and for each request; not for what is waited for",
    "user": "for etcd's authentication; a password is taken from the URL or the environment",
    "cacert": "file of the certificate authority",
    "cert": "file of our certificate",
    "key": "file of its key",
}
#: Those among them whose value is a file.
FILES = ("cacert", "cert", "key")
#: And those that only some take.
MORE = ("ttl", "identity")


def command(commands: Any, name: str, summary: str, examples: str, run: Run) -> argparse.ArgumentParser:
    """Add a command; its `--help` ends with the examples, and `run` gets the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
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


def rate(text: str) -> float:
    """So many a second, more than 0."""
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number a second above 0") from None


def connection(parser: argparse.ArgumentParser) -> None:
    """Add where etcd is and how to speak to it."""
    group = parser.add_argument_group("connection")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--url", help="as in etcd://me:secret@db1:2379,db2:2379/app")
    where.add_argument("--endpoints", help="host:port,host:port")
    for name, what in GIVEN.items():
        if name == "timeout":
            flags = ("--request-timeout", "--timeout")
            group.add_argument(*flags, dest=name, type=positive, metavar="SEC", help=what)
        else:
            group.add_argument(f"--{name}", metavar="FILE" if name in FILES else None, help=what)


def wait(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --wait."""
    parser.add_argument("-w", "--wait", type=duration, metavar="SEC", help=what)


def speech(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --verbose."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but what was asked for")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say what happens; -vv: more of it")


def document(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def usual(parser: argparse.ArgumentParser) -> None:
    """Add --json, and what `connection` and `speech` add."""
    document(parser)
    connection(parser)
    speech(parser)


def settings_of(arguments: argparse.Namespace) -> settings.Settings:
    """From what was given on the command line, then the environment.

    Raises:
        InvalidValue: A setting makes no sense.
    """
    where = arguments.url
    if arguments.endpoints is not None:
        where = [each.strip() for each in arguments.endpoints.split(",")]
    return settings.resolve(where, {name: getattr(arguments, name, None) for name in (*GIVEN, *MORE)})


def connect(arguments: argparse.Namespace) -> coordkit.Coordinator:
    """A coordinator, connected.

    Raises:
        Unavailable, Unauthenticated, InvalidValue: As `coordkit.connect`.
    """
    coordinator = coordkit.Coordinator(settings_of(arguments))
    try:
        coordinator.client.connect()
    except BaseException:
        coordinator.close()
        raise
    return coordinator


def listen(arguments: argparse.Namespace, level: int = logging.WARNING) -> None:
    """Let the library's log go to standard error, as far as this command was asked to speak.

    Args:
        arguments: With --quiet, --verbose, --json, where the command has them.
        level: Without --quiet and --verbose.
    """
    if arguments.quiet:
        level = logging.CRITICAL + 1
    elif arguments.verbose:
        level = logging.INFO if arguments.verbose == 1 else logging.DEBUG
    listener = logging.StreamHandler()
    listener.setFormatter(_JsonLines() if getattr(arguments, "json", False) else _Lines())
    logging.basicConfig(level=level, handlers=[listener])


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"coordkit: {record.getMessage()}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"event": "log", "level": record.levelname.lower(), "text": record.getMessage()})
