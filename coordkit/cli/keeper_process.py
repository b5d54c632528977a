"""The process behind `Keeper`: kills a process group when its supervisor falls silent or dies.

A program of its own, on nothing but the standard library, in a session of its own: no terminal, no signal to
the supervisor's group and nothing that blocks the supervisor can hold it up.

stdin: lines of `GROUP DEADLINE`, the last of which counts.  The deadline is in seconds of the clock that
`coordkit.deadline.boottime` reads.  The group is killed when that time has come, and when stdin ends, as it
does when the supervisor dies.  The line `end` ends this process, and nobody is killed.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time

#: select's clock stands still while the machine is suspended, so it is asked for short naps only.
LONGEST_NAP_S = 0.25
#: What came too early to be killed, or was forked from outside of the group, is killed again.
AGAIN_S = 0.05


def main() -> int:
    """Until told to end, or told nothing any more."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    group, deadline_s = 0, math.inf
    heard = b""
    while True:
        left_s = deadline_s - time.clock_gettime(clock)
        if left_s <= 0:
            kill(group)
            left_s = AGAIN_S
        if not select.select([0], [], [], min(left_s, LONGEST_NAP_S))[0]:
            continue
        chunk = os.read(0, 4096)
        *lines, heard = (heard + chunk).split(b"\n")
        if b"end" in lines:
            return 0
        if not chunk:
            kill(group)
            return 0
        if lines:
            words = lines[-1].split()
            group, deadline_s = int(words[0]), float(words[1])


def kill(group: int) -> None:
    """All of it, whatever state it is in."""
    if group:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all of it has ended, or goes by another user's name now


if __name__ == "__main__":
    sys.exit(main())
