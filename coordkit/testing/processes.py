"""Processes as a fault sees them: alive, stopped, gone.

Cost: on Linux a few reads under /proc; elsewhere one `ps` for each look.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time

from coordkit import deadline, errors


def states(pid: int) -> set[str]:
    """The states of a process's threads, as `ps` names them ("R", "S", "T", "Z"); empty when it is gone."""
    if pathlib.Path("/proc/self/stat").exists():
        try:
            threads = list(pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))
        except OSError:
            return set()  # gone while we looked
        return {state for thread in threads if (state := _state(thread))}
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return set(done.stdout.strip()[:1])


def _state(stat: pathlib.Path) -> str:
    try:
        # "pid (name) state ...", and a name may hold parentheses and spaces.
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def lives(pid: int) -> bool:
    """Whether a process is there; one that ended and was not waited for is not."""
    return bool(states(pid) - {"Z", "X"})


def pause(pid: int, timeout_s: float = 10.0) -> None:
    """SIGSTOP, and wait until it is obeyed: what runs on another core goes on for a moment.

    Raises:
        DeadlineExceeded: It still runs.
    """
    os.kill(pid, signal.SIGSTOP)
    limit = deadline.Deadline.after(timeout_s)
    while not states(pid) <= {"T", "Z", "X"}:
        if limit.expired:
            raise errors.DeadlineExceeded(f"process {pid} was sent SIGSTOP and still runs")
        time.sleep(0.001)


def resume(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)
