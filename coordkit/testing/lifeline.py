"""A temporary folder, and a server in it, that do not outlive the process that made them.

A watcher, one idle `sh`, holds the reading end of a pipe whose writing end only we hold.  When we end in any
way at all, SIGKILL included, the pipe closes; the watcher then kills the server and removes the folder.  So
no atexit hook and no signal handler is needed, and nothing is left behind where those do not run.

POSIX only.  Source: D. J. Bernstein's self-pipe trick, turned round.  Cost: one small process, 2 ms.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
import weakref

# The server is not the watcher's child, so it cannot be waited for; and a dying server may still write.
_WATCHER = """
trap '' HUP INT QUIT TERM
while read -r pid; do server=$pid; done
[ -z "$server" ] || kill -9 "$server" 2>/dev/null
tries=0
while [ -e "$1" ] && [ "$tries" -lt 50 ]; do
    rm -rf -- "$1" 2>/dev/null || sleep 0.1
    tries=$((tries + 1))
done
"""


class Lifeline:
    """One folder with its watcher, and at most one process that is guarded.

    Attributes:
        folder: The temporary folder.
        watcher_pid: The watcher's process id.
    """

    def __init__(self, prefix: str) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        self._owner = os.getpid()
        reading, self._writing = os.pipe()
        _open.add(self)
        try:
            # It gets nothing of ours but the pipe: no terminal and no pipeline may stay open because of it.
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, "sh", str(self.folder)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            _close(reading)
        self.watcher_pid = self._watcher.pid

    @property
    def ours(self) -> bool:
        """False in a forked child."""
        return self._owner == os.getpid()

    def guard(self, pid: int | None) -> None:
        """Tell the watcher whom to kill; None is nobody, for a pid that was waited for is soon another's."""
        os.write(self._writing, b"%d\n" % pid if pid else b"\n")

    def cut(self) -> None:
        """Remove the folder, end the watcher.  The guarded process must have ended."""
        self._let_go()
        self._watcher.wait()

    def _let_go(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in _open:
            _open.discard(self)
            _close(self._writing)


def _close(descriptor: int) -> None:
    """Close at once.  gevent's `os.close` (25.8.1 and newer) leaves pipes to a later turn of the loop: too
    late in a forked child, and never when the loop is idle.
    """
    os.closerange(descriptor, descriptor + 1)


#: Those whose pipe is open in this process.
_open: weakref.WeakSet[Lifeline] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Close the child's copies: while one is open the watcher takes us for alive."""
    for lifeline in list(_open):
        _close(lifeline._writing)
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
