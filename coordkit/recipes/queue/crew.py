"""Workers: threads, or greenlets in a patched process, that work off jobs until they are told to stop.

A stop is graceful: nobody claims any more, and what is claimed is finished.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import types
import typing

from coordkit import errors, forks
from coordkit.deadline import NEVER, Deadline
from coordkit.recipes.queue.fetcher import Request
from coordkit.recipes.queue.job import Job

_log = logging.getLogger("coordkit")

RETRY_S = 1.0  # after a refusal, as when etcd has no space

Work = typing.Callable[[Job], object]
Claim = typing.Callable[[Deadline, typing.Callable[[Request], None]], Job]


class Crew:
    """Workers at work.  Made by `Queue.consume`."""

    def __init__(self, claim: Claim, work: Work, count: int, retry_delay_s: float) -> None:
        self._claim = claim
        self._work = work
        self._retry_delay_s = retry_delay_s
        self._stopping = False
        self._stopped = forks.event()
        self._requests: dict[int, Request] = {}  # what each worker waits for
        self._error: BaseException | None = None
        #: How many jobs were acked, and how many failed.
        self.done = self.failed = 0
        self._counting = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"coordkit-worker-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Wait until the workers have stopped; in the main thread SIGTERM tells them to.

        Ctrl-C does, too: what is claimed is finished, then KeyboardInterrupt goes on.

        Raises:
            CoordError: What kept a worker from claiming, for good.
        """
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: self.stop()) if in_main else None
        try:
            self.wait()
        except KeyboardInterrupt:
            self.stop()
            self.wait()
            raise
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)

    def stop(self) -> None:
        """Claim no more.  Returns at once; `wait` waits for what is claimed."""
        self._stopping = True
        self._stopped.set()
        for request in list(self._requests.values()):
            request.end()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all workers have ended, which they do after `stop`.

        Args:
            timeout: Seconds; None or -1 waits for ever.

        Returns:
            Whether they have.

        Raises:
            CoordError: What kept a worker from claiming, for good.
        """
        deadline = Deadline.after(timeout)
        for thread in self._threads:
            while thread.is_alive() and not deadline.expired:
                thread.join(deadline.wait_s())
        if self._error is not None:
            raise self._error
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.stop()
        self.wait()

    # A worker.

    def _run(self, number: int) -> None:
        def begun(request: Request) -> None:
            self._requests[number] = request
            if self._stopping:
                request.end()

        while not self._stopping:
            try:
                job = self._claim(NEVER, begun)
            except queue.Empty:
                continue  # told to stop
            except (errors.UsageError, errors.SessionLost) as error:
                self._error = error
                self.stop()
                return
            except errors.CoordError as error:
                _log.warning("nothing can be claimed, it is tried again: %s", error)
                self._stopped.wait(RETRY_S)
                continue
            self._work_off(job)

    def _work_off(self, job: Job) -> None:
        try:
            self._work(job)
        except BaseException as error:  # the job's, not ours: SystemExit, too, and gevent's Timeout
            if type(error).__name__ == "GreenletExit":
                self._end(job.nack)  # this worker is killed: somebody else will do it
                raise
            _log.warning("%r failed: %s", job, type(error).__name__, exc_info=error)
            self._count(failed=1)
            why = f"{type(error).__name__}: {error}"
            self._end(lambda: self._give_up(job, why))
        else:
            self._end(lambda: self._finish(job))

    def _finish(self, job: Job) -> None:
        if job.refused:
            job.nack(self._retry_delay_s)
        elif not job.ended:
            job.ack()
        self._count(done=1)

    def _give_up(self, job: Job, why: str) -> None:
        if job.ended:
            return
        if job.is_last:
            job.bury(why)
        else:
            job.nack(self._retry_delay_s)

    def _end(self, end: typing.Callable[[], None]) -> None:
        try:
            end()
        except errors.CoordError as error:
            # The item is somebody else's, or returns with the session.
            _log.warning("a job did not end as it should: %s", error)

    def _count(self, done: int = 0, failed: int = 0) -> None:
        with self._counting:
            self.done += done
            self.failed += failed
