"""Signals as news: noted in a pipe, taken from there in order; one wait for them and whatever else happens.

Until `gather` is called a signal that ends programs is raised instead, as Ctrl-C is: whoever waits for a lock
leaves the line on TERM, too.

POSIX only, and of the main thread.  Source: D. J. Bernstein's self-pipe trick; `signal.set_wakeup_fd`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import types
import typing
from collections.abc import Iterator

#: End a program that does not mind them.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: Told to a command, too; and what tells of the command itself.
FURTHER = (
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCHLD,
)
WOKEN = 0  # in place of a signal's number: `wake` was called

_Action = typing.Callable[[int, types.FrameType | None], object] | int | None


class Signalled(BaseException):
    """A signal that ends programs; not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number
        self.status = 128 + number  # as shells tell of it


class Inbox:
    """A context manager; what was set before is set again at its end."""

    def __init__(self) -> None:
        self._reading = self._writing = -1
        self._raising = True
        self._holding = False
        self._held = 0  # what came meanwhile
        self._continued = 0  # how often
        self._kept: list[int] = []  # read, and not taken yet
        self._before: dict[int, _Action] = {}
        self._fd_before = -1

    def __enter__(self) -> Inbox:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in ENDING:
            self._take_over(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reading)
        os.close(self._writing)
        self._reading = self._writing = -1

    def gather(self) -> None:
        """From now on nothing is raised; all that is told is kept for `wait`."""
        self._raising = False
        for number in FURTHER:
            self._take_over(number)

    def raise_again(self) -> None:
        """From now on it is as in the beginning."""
        self._raising = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What would be raised within is raised at the end: what was begun here is known by then."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            number, self._held = self._held, 0
            if number:
                self._raise(number)

    def wait(self, timeout_s: float) -> list[int]:
        """The numbers of the signals that came, in order; empty when none did in this time."""
        if not self._kept:
            select.select([self._reading], [], [], max(0.0, timeout_s))
        news, self._kept = self._kept + self._read(), []
        return news

    def wake(self) -> None:
        """End the wait, from any thread."""
        try:
            os.write(self._writing, bytes([WOKEN]))
        except OSError:
            pass  # it is full, so nobody sleeps; or it is closed, so nobody waits

    def stop(self, number: int, whole_group: bool) -> bool:
        """Stop, as this signal stops a program that does not mind it; returns when continued.

        Args:
            number: SIGTSTP, SIGTTIN or SIGTTOU.
            whole_group: The others of our process group have not heard of it yet.

        Returns:
            False in an orphaned process group: nobody could continue us, so the kernel does not stop us.
        """
        before = signal.getsignal(number)
        continued = self._continued
        if whole_group:
            signal.signal(number, signal.SIG_IGN)
            os.killpg(os.getpgrp(), number)
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)  # this very thread: stopped before it returns
        signal.signal(number, before)
        self._kept += [each for each in self._read() if each != signal.SIGCONT]
        return self._continued > continued

    def _read(self) -> list[int]:
        try:
            return list(os.read(self._reading, 4096))
        except BlockingIOError:
            return []

    def _take_over(self, number: int) -> None:
        # What was ignored when we were started stays so, for us and for the command: nohup, and sh's `&`.
        before = signal.getsignal(number)
        if before is signal.SIG_IGN and number != signal.SIGCHLD:
            return
        self._before[number] = before
        signal.signal(number, self._note)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._continued += number == signal.SIGCONT
        if not self._raising or number not in ENDING:
            return  # the interpreter has written its number into the pipe
        if self._holding:
            self._held = self._held or number
        else:
            self._raise(number)

    def _raise(self, number: int) -> typing.NoReturn:
        for ending in ENDING:
            if ending in self._before:
                signal.signal(ending, signal.SIG_IGN)  # the way out is short; it is not interrupted again
        raise KeyboardInterrupt if number == signal.SIGINT else Signalled(number)


def die_of(number: int, whole_group: bool) -> None:
    """End as this signal ends a program that does not mind it, so that whoever waits for us can tell.

    Args:
        number: The signal.
        whole_group: The others of our process group have not heard of it yet.
    """
    signal.signal(number, signal.SIG_DFL)
    if whole_group:
        os.killpg(os.getpgrp(), number)
    else:
        os.kill(os.getpid(), number)
