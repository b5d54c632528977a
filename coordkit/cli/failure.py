"""How a command fails: a sentence for people, a status for scripts."""

from __future__ import annotations

from coordkit import early

VIOLATION = 1
USAGE = 2
UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
DENIED = 77  # EX_NOPERM
NOT_ACQUIRED = 75  # EX_TEMPFAIL
LOST = 76  # what was held was lost
INTERRUPTED = early.INTERRUPTED
BROKEN_PIPE = 141  # 128 + SIGPIPE


class CommandFailed(Exception):
    """Ends a command: the message goes to standard error, the status to the shell."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
