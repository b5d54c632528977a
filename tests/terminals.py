"""A terminal for the command line: a program in it, what it shows, what is typed, and how it is left."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from typing import Any

PATIENCE_S = 20.0

# The program gets the terminal as its controlling one, so that Ctrl-C and Ctrl-Z are its kernel's business.
_PROGRAM = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

COORDKIT = (sys.executable, "-m", "coordkit")


class Terminal:
    """A program with these words, in a terminal of its own."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.slave = slave
        self.modes = termios.tcgetattr(slave)
        termios.tcsetwinsize(slave, (40, 120)) if hasattr(termios, "tcsetwinsize") else None
        self.text = ""
        self._seen = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **environment},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    def until(self, words: str) -> Terminal:
        """Read on until it shows this."""
        return self.until_like(re.escape(words))

    def until_like(self, pattern: str) -> Terminal:
        """Read on until it shows what this regular expression matches."""
        limit_s = time.monotonic() + PATIENCE_S
        while not (found := re.compile(pattern).search(self.text, self._seen)):
            self._read(limit_s, pattern)
        self._seen = found.end()
        return self

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Its exit status, and all that it showed has been read."""
        limit_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self._read(limit_s, "its end")
        while select.select([self._master], [], [], 0)[0]:
            self._read(limit_s, "its end")
        return self.process.returncode

    def _read(self, limit_s: float, what: str) -> None:
        assert time.monotonic() < limit_s, f"{what!r} did not come; it showed {self.text[-2000:]!r}"
        if select.select([self._master], [], [], 0.05)[0]:
            self.text += os.read(self._master, 65536).decode(errors="replace")
