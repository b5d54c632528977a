"""`coordkit`, also `python -m coordkit`: parses, runs one command, and turns its end into an exit status.

A group of commands is a module, or a package, with `register(commands)`, which adds its parsers by
`options.command`. A command's function takes the parsed arguments and returns its exit status; it raises
`failure.CommandFailed`, or one of coordkit's errors, for what a person should read. What stands behind the
first `--` is not parsed: it is `arguments.child`, the command line of a child, or None. A command that takes
several values calls them `values`: options may stand among them.

Exit status: 0, 1 as a command says, 2 usage, 69 no etcd, 77 etcd denies it, 130 Ctrl-C, 141 closed pipe.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import typing
from collections.abc import Sequence

from coordkit import early, errors
from coordkit.cli import failure, signals

GROUPS = (
    "coordkit.cli.demo",
    "coordkit.cli.bench",
    "coordkit.cli.doctor",
    "coordkit.cli.lock",
    "coordkit.cli.elect",
    "coordkit.cli.once",
    "coordkit.cli.queue",
    "coordkit.cli.session",
    "coordkit.cli.topic",
    "coordkit.cli.status",
    "coordkit.cli.watch",
    "coordkit.cli.top",
    "coordkit.cli.server",
    "coordkit.cli.completion",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    try:
        early.over()
        status = _run(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:  # it was closed when we were started
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return failure.INTERRUPTED
    except signals.Signalled as ended:
        return ended.status
    except BrokenPipeError:
        # The reader left; what is still buffered must not raise again at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure.BROKEN_PIPE
    except failure.CommandFailed as error:
        return _say(error, error.status)
    except errors.Unavailable as error:
        return _say(error, failure.UNREACHABLE)
    except errors.UsageError as error:
        return _say(error, failure.USAGE)
    except (errors.Unauthenticated, errors.PermissionDenied) as error:
        return _say(error, failure.DENIED)
    except errors.CoordError as error:
        return _say(error, 1)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="coordkit",
        description="Locks, elections, queues on etcd: from the command line.",
        epilog="example:\n  coordkit demo    8 processes contend for one lock on a private etcd",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in GROUPS:
        importlib.import_module(name).register(commands)
    return top


def without_child(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """What is ours, and what stands behind the first `--`; None without one."""
    split = argv.index("--") if "--" in argv else len(argv)
    return argv[:split], argv[split + 1 :] if split < len(argv) else None


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from coordkit.cli.bench import machine

        print(f"coordkit {machine.version()}")
        parser.exit()


def _run(argv: list[str]) -> int:
    own, child = without_child(argv)
    arguments, left = parser().parse_known_args(own)
    unknown = left
    if hasattr(arguments, "values"):
        # argparse ends VALUE... at the first option, and leaves over what stands behind
        arguments.values = [*arguments.values, *filter(_is_value, left)]
        unknown = [word for word in left if not _is_value(word)]
    if unknown:
        _refuse(arguments, unknown, child)
    arguments.child = child
    status: int = arguments.run(arguments)
    return status


def _is_value(word: str) -> bool:
    """Whether it is no option, as argparse tells them apart."""
    return not word.startswith("-") or word == "-" or " " in word


def _refuse(arguments: argparse.Namespace, unknown: list[str], child: list[str] | None) -> typing.NoReturn:
    """With the usage of the command that was meant, and the usual reasons."""
    usage = arguments.parser.format_usage()
    hint = ""
    if "-- COMMAND" in usage and child is None:
        hint = "; a command to run stands behind --"
    elif hasattr(arguments, "values"):
        hint = "; values that begin with a dash stand behind --"
    arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    raise AssertionError("argparse ends the program there")


def _say(error: Exception, status: int) -> int:
    if sys.stderr is not None:  # it was closed when we were started
        print(f"coordkit: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
