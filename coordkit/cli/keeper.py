"""Keeper: sees to it that a process group does not outlive a deadline, or the process that set it.

The supervisor itself kills its command in time, as long as it runs.  A keeper does when it does not: when it
was killed, is stopped, or is starved.  It is a process of its own (`keeper_process.py`).

POSIX only.  Cost: one small process, 20 ms of its own time; one write for each new deadline.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from coordkit.cli import keeper_process

_PATIENCE_S = 0.5
_TOLD_ANEW_S = 0.01  # a deadline that moved by less is the same


class Keeper:
    """One guarded process group at most."""

    def __init__(self) -> None:
        """Raises OSError when no process can be started."""
        self._last: tuple[int, float] | None = None
        self._start()

    def _start(self) -> None:
        # -I -S: it imports nothing that anybody could have put in its way, and starts fast.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)  # a keeper that was stopped must not stop us

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def guard(self, group: int, deadline_s: float) -> None:
        """Kill this group at the deadline (on the clock of `boottime`), unless told another one before."""
        last = self._last
        if last is not None and last[0] == group and abs(last[1] - deadline_s) < _TOLD_ANEW_S:
            return
        self._last = group, deadline_s
        try:
            self._tell(group, deadline_s)
        except BlockingIOError:
            pass  # it is stopped, and has many lines to read when it goes on
        except OSError:
            self._let_go()
            self._replace(group, deadline_s)  # somebody killed it

    def _replace(self, group: int, deadline_s: float) -> None:
        try:
            self._start()
            self._tell(group, deadline_s)
        except OSError:
            self._last = None  # no process can be started: it is tried again at the next look

    def guard_me(self, deadline_s: float) -> None:
        """The same for the calling process, a fork that leads a group: guarded before it does anything."""
        with contextlib.suppress(OSError):  # the supervisor will tell, too
            self._tell(os.getpid(), deadline_s)

    def _tell(self, group: int, deadline_s: float) -> None:
        os.write(self._pipe, b"%d %.6f\n" % (group, deadline_s))

    def end(self) -> None:
        """The group has ended, or may live on; idempotent."""
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, b"end\n")
        except OSError:
            pass  # somebody killed it
        self._let_go()

    def _let_go(self) -> None:
        assert self._process.stdin is not None
        self._pipe = -1
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass  # it is stopped
