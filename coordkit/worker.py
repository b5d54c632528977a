"""Jobs that run in order on a thread of their own, which exists only while there is work."""

from __future__ import annotations

import collections
import logging
import os
import threading
import typing

Job = typing.Callable[[], None]

_log = logging.getLogger("coordkit")


class Worker:
    """A queue of jobs and, while it is not empty, a thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: collections.deque[Job] = collections.deque()
        self._running = False

    def submit(self, job: Job) -> None:
        """Run a job after those before it; a job that fails is logged.

        It is dropped in the child of a fork, and at interpreter exit, when no thread can start.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            self._jobs.append(job)
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:
            self._running = False

    def _run(self) -> None:
        while self._pid == os.getpid():  # under gevent it would go on in a forked child
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # it may be a user's listener, and the jobs behind it must run
                _log.exception("%s: a job failed", self._name)
