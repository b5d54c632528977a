"""The first moments of `coordkit` as a command: Ctrl-C while Python still imports ends it without a word.

To import everything takes most of a short command's time, and a KeyboardInterrupt that comes out of the
middle of it prints a traceback.  A program that only uses the library is none of our business: its signals
stay as they are.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import typing

INTERRUPTED = 130  # 128 + SIGINT


def begin() -> None:
    """Before the other imports; does nothing unless this process is the command."""
    if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def over() -> None:
    """From now on KeyboardInterrupt is waited for."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_command() -> bool:
    """Whether this process was started as `python -m coordkit`, or by the script that pip writes."""
    started = sys.argv[0] if getattr(sys, "argv", None) else ""
    if started == "-m":  # its package is imported right now; afterwards this is a path
        words = sys.orig_argv
        return "-mcoordkit" in words or ("-m", "coordkit") in itertools.pairwise(words)
    if os.path.basename(started) != "coordkit":
        return False
    try:
        with open(started, "rb") as script:
            return b"from coordkit.cli.main import main" in script.read(4096)
    except OSError:
        return False


def _leave(number: int, frame: object) -> typing.NoReturn:
    os._exit(INTERRUPTED)  # nothing was begun yet
