"""Launch: starts a command without a shell, in a process group of its own.

POSIX only.
"""

from __future__ import annotations

import collections.abc
import errno
import os
import shutil
import signal
import subprocess
import sys

from coordkit.cli import foreground

NOT_EXECUTABLE = 126
NOT_FOUND = 127

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class CannotRun(Exception):
    """The command cannot be started.

    Attributes:
        status: 126 or 127, as a shell has it.
    """

    def __init__(self, program: str, reason: str, status: int) -> None:
        super().__init__(f"{program}: {reason}")
        self.status = status


def check_command(program: str) -> None:
    """Look for a program before anything is held for its sake.

    Raises:
        CannotRun: It is not there, or is no program.
    """
    if shutil.which(program) is not None:
        return
    if os.sep in program and os.path.lexists(program):
        raise CannotRun(program, "not an executable file", NOT_EXECUTABLE)
    raise CannotRun(program, "command not found", NOT_FOUND)


def start(
    command: list[str],
    environment: dict[str, str],
    lend: foreground.Terminal | None,
    announce: collections.abc.Callable[[], None],
) -> int:
    """Start it; its process id, which is its group's, too.  It is the caller's to wait for.

    Args:
        command: Program and arguments.
        environment: All of it.
        lend: The terminal that it is to have.
        announce: Called in the new process, when it leads its group and is not the command yet.

    Raises:
        CannotRun: It could not be started.
    """
    if lend is not None:
        lend.lending()
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            close_fds=False,  # ours close themselves; those that a shell gave us are the command's
            preexec_fn=_beginning(lend, announce),
        )
    except OSError as error:
        if lend is not None:
            lend.take()
        raise _cannot(command[0], error) from error
    child.returncode = 0  # that object does not wait for it
    return child.pid


def start_aside(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start one that has nothing to do with the terminal, nor with our life.

    Raises:
        CannotRun: It could not be started.
    """
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise _cannot(command[0], error) from error


def _cannot(program: str, error: OSError) -> CannotRun:
    status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return CannotRun(program, error.strerror or str(error), status)


def _beginning(
    lend: foreground.Terminal | None, announce: collections.abc.Callable[[], None]
) -> collections.abc.Callable[[], None]:
    """What the child does before it becomes the command."""
    us = os.getpid()
    end_with_parent = die_with_parent()

    def begin() -> None:
        os.setpgid(0, 0)
        announce()
        if lend is not None:
            lend.move(os.getpid())
        end_with_parent()
        if os.getppid() != us:
            os._exit(1)  # it died before the kernel was told

    return begin


def die_with_parent() -> collections.abc.Callable[[], object]:
    """Where the kernel can do so (Linux): let it kill this process when its parent has died."""
    if sys.platform != "linux":
        return lambda: None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda: None  # a Python without ctypes: the keeper remains
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
