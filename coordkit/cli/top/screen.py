"""A terminal as a screen: frames instead of lines, keys as they are typed, and all as it was at the end.

POSIX only; no curses.  Whatever ends it, the terminal is restored: q, Ctrl-C, an error, SIGTERM, SIGHUP; also
while Ctrl-Z has stopped it.  Source: xterm's control sequences (ctlseqs), termios(3).
"""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import sys
import types
from collections.abc import Sequence
from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other buffer, no cursor, no wrapping of long lines
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """The terminal that standard output and standard input are."""

    def __init__(self) -> None:
        self._modes: list[Any] | None = None  # of the terminal, before; None: nobody types here
        self._handlers: dict[signal.Signals, Any] = {}
        self._woken, self._waking = -1, -1

    def __enter__(self) -> Screen:
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waking, False)
        signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        for each in _ENDING:
            self._handlers[each] = signal.signal(each, _end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        # Does nothing but wake `key`, which then returns for another draw.
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        try:
            sys.stdout.flush()  # what a signal has left of a frame must not come on the screen that was there
        except OSError:
            pass  # the terminal is gone
        self._restore()
        os.close(self._woken)
        os.close(self._waking)

    def size(self) -> os.terminal_size:
        """Columns and lines, now."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, and nothing else."""
        drawn = "\r\n".join(f"{line}\x1b[0m\x1b[K" for line in lines)
        sys.stdout.write(f"\x1b[H{drawn}\x1b[J")
        sys.stdout.flush()

    def wake(self) -> None:
        """Let `key` return, for there is something to draw; from any thread."""
        try:
            os.write(self._waking, b"\0")
        except OSError:
            pass  # it is full, which wakes just as well; or all is over

    def key(self, timeout_s: float) -> str:
        """The key that was typed; "" when none was in time, or when there is reason to draw again."""
        typed = [sys.stdin] if self._modes is not None else []
        limit_s = None if timeout_s == math.inf else max(0.0, timeout_s)
        ready, _, _ = select.select([*typed, self._woken], [], [], limit_s)
        if self._woken in ready:
            os.read(self._woken, 1024)
        if not typed or sys.stdin not in ready:
            return ""
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys:
            self._modes = None  # the end of what can be typed
        return "" if keys.startswith(b"\x1b") else keys[:1].decode(errors="replace").lower()

    def _begin(self) -> None:
        import termios
        import tty

        if sys.stdin.isatty():
            self._modes = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        _say(_ENTER)

    def _restore(self) -> None:
        import termios

        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)
        _say(_LEAVE)

    def _stop(self, number: int, frame: types.FrameType | None) -> None:
        """Ctrl-Z: give the terminal back, stop; and take it again when we go on."""
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here we were stopped, and go on now.
        signal.signal(signal.SIGTSTP, self._stop)
        self._begin()


def _say(codes: str) -> None:
    """To the terminal, past Python's buffer: a signal's handler may run within a write to that."""
    try:
        os.write(sys.stdout.fileno(), codes.encode())
    except OSError:
        pass  # the terminal is gone


def _end(number: int, frame: types.FrameType | None) -> None:
    raise SystemExit(128 + number)
