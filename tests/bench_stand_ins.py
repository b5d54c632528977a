"""Locks in coordkit's place, to test what a benchmark makes of them: one is fair, the others are not.

They are roles of benchmark workers. The fair one is a locked file with a counter in it.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import tempfile
import threading
from typing import IO, Any

from coordkit import errors
from coordkit.cli.bench import contenders, crashes
from coordkit.testing.history import clock_ns


class FileLock:
    """Exclusive between processes; its counter stands for etcd's revision."""

    def __init__(self, name: str) -> None:
        self._path = pathlib.Path(tempfile.gettempdir()) / name
        self._file: IO[str] | None = None
        self.fence = 0
        self.released_revision: int | None = None

    def acquire(self, timeout: float = -1) -> bool:
        self._file = open(self._path, "a+")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.fence = self._next_revision()
        return True

    def release(self) -> None:
        assert self._file is not None
        self.released_revision = self._next_revision()
        self._file.close()

    def _next_revision(self) -> int:
        assert self._file is not None
        self._file.seek(0)
        revision = int(self._file.read() or 1) + 1
        self._file.truncate(0)
        self._file.write(str(revision))
        self._file.flush()
        return revision


class NoLock(FileLock):
    """Granted to everybody at once."""

    def acquire(self, timeout: float = -1) -> bool:
        self.fence = clock_ns()
        return True

    def release(self) -> None:
        self.released_revision = clock_ns()


class LostLock(FileLock):
    """Lost at the third release."""

    releases = 0

    def release(self) -> None:
        self.releases += 1
        super().release()
        if self.releases == 3:
            raise errors.LockLost("the third hold was lost")


class DeadlyLock(FileLock):
    """Its process dies in its third critical section."""

    acquisitions = 0

    def acquire(self, timeout: float = -1) -> bool:
        self.acquisitions += 1
        if self.acquisitions == 3:
            os.write(2, b"these are my last words\n")
            os._exit(3)
        return super().acquire(timeout)


class _Coordinator:
    session = None

    def __init__(self, lock: type[FileLock]) -> None:
        self.lock = lock

    def close(self) -> None:
        return None


class Fair(contenders.Contenders):
    def connect(self, url: str) -> Any:
        return _Coordinator(FileLock)


class Broken(contenders.Contenders):
    def connect(self, url: str) -> Any:
        return _Coordinator(NoLock)


class Lost(contenders.Contenders):
    def connect(self, url: str) -> Any:
        return _Coordinator(LostLock)


class Deadly(contenders.Contenders):
    def connect(self, url: str) -> Any:
        return _Coordinator(DeadlyLock)


class Early(crashes.Candidate):
    """Says that it held as soon as it had asked."""

    def round(self, timeout_s: float) -> dict[str, Any]:
        told = super().round(timeout_s)
        return {**told, "running_ns": told["asked_ns"] + 1} if told else {}


class Forgetful(crashes.Candidate):
    """Has lost its session when it is asked again."""

    def round(self, timeout_s: float) -> dict[str, Any]:
        if self._part.fence is not None:
            self._session.close()
        return super().round(timeout_s)


class Stuck:
    """Never answers an order."""

    def round(self) -> None:
        threading.Event().wait()

    def close(self) -> None:
        return None
