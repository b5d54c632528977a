"""The terminal: lent to a command's process group, and taken back.

A terminal has one process group in its foreground: that one may read, and gets Ctrl-C and Ctrl-Z.  A command
in a group of its own can only be interactive while its group is that one.

POSIX only.  Source: the job control chapter of the GNU C Library manual; Stevens and Rago, APUE, section 9.8.
"""

from __future__ import annotations

import collections.abc
import contextlib
import os
import signal
import termios
import typing


class Terminal:
    """Our controlling terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ours = os.getpgrp()
        self._modes: list[typing.Any] = []
        #: Whether a command has it.
        self.is_lent = False

    @classmethod
    def ours(cls) -> Terminal | None:
        """None when there is none."""
        try:
            return cls(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return None

    def close(self) -> None:
        """Forget it."""
        os.close(self._fd)

    @property
    def in_foreground(self) -> bool:
        """Whether our own group is in its foreground."""
        try:
            return os.tcgetpgrp(self._fd) == self._ours
        except OSError:
            return False  # it hung up

    def lending(self) -> None:
        """Note its modes: from now on it is lent, or about to be."""
        self.is_lent = True
        with contextlib.suppress(termios.error):
            self._modes = termios.tcgetattr(self._fd)

    def lend(self, group: int) -> None:
        """Put this group into the foreground."""
        self.lending()
        self.move(group)

    def take(self, restore: bool = False) -> None:
        """Be in the foreground again, if it was lent.

        Args:
            restore: The modes, too: a program that was killed leaves them as they were, perhaps without echo.
        """
        if not self.is_lent:
            return
        self.is_lent = False
        if self.move(self._ours) and restore and self._modes:
            with _undisturbed(), contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)

    def move(self, group: int) -> bool:
        """Put a group into the foreground, from wherever we are; whether it was possible."""
        with _undisturbed():
            try:
                os.tcsetpgrp(self._fd, group)
            except OSError:
                return False  # it hung up, or the group has ended
            return True


@contextlib.contextmanager
def _undisturbed() -> collections.abc.Iterator[None]:
    """Without being stopped for what only the foreground may do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
