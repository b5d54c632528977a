"""Worker processes of a benchmark: started together, given one order at a time, gone at the end.

Each is a fresh interpreter (never a fork) that runs `worker.py`; orders and answers are JSON lines over its
pipes. A worker ends by itself when its pipe is closed, and its own watchdog ends it when an order takes too
long, so none outlives a parent that was killed.

Cost: one interpreter's start per worker.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import coordkit

_START_S = 60.0
_GRACE_S = 5.0  # for the answer of a worker whose own watchdog has the same limit
_TICK_S = 0.1


class WorkerDied(Exception):
    """A worker ended, failed or fell silent; the message has its last words."""


class Worker:
    """One child process, seen from its parent."""

    def __init__(
        self,
        name: str,
        role: str,
        settings: Mapping[str, Any],
        folder: pathlib.Path,
        patched: bool,
        program: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        if not program:
            # gevent.monkey patches before it runs the module, so before anything of ours is imported.
            python = ["-m", "gevent.monkey", "--module"] if patched else ["-m"]
            program = [sys.executable, *python, "coordkit.cli.bench.worker"]
            settings = {**settings, "patched": patched}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*program, role, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is the parent's; it ends us in order
            )
        assert self._process.stdin and self._process.stdout
        self._orders, self.answers = self._process.stdin, self._process.stdout
        self._received = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(self, order: Mapping[str, Any], limit_s: float) -> None:
        """Send one order, to be done within the limit."""
        line = json.dumps({"limit_s": limit_s, "order": order}) + "\n"
        try:
            self._orders.write(line.encode())
            self._orders.flush()
        except BrokenPipeError as error:
            raise self.died() from error

    def read(self) -> dict[str, Any] | None:
        """What has arrived; None while the answer is not complete.

        Raises:
            WorkerDied: It ended, or it reported an error.
        """
        piece = os.read(self.answers.fileno(), 1 << 20)
        self._received += piece
        if not piece:
            raise self.died()
        if not self._received.endswith(b"\n"):
            return None
        answer: dict[str, Any] = json.loads(self._received)
        self._received = b""
        if "error" in answer:
            raise WorkerDied(f"worker {self.name} (pid {self.pid}) failed: {answer['error']}")
        return answer

    def died(self, why: str = "ended") -> WorkerDied:
        log = self._log.read_text(errors="replace").strip().splitlines()
        words = "\n  ".join(log[-12:]) or "(it wrote nothing)"
        return WorkerDied(f"worker {self.name} (pid {self.pid}) {why}; its last words:\n  {words}")

    def kill(self) -> None:
        """SIGKILL: it ends wherever it is."""
        self._process.kill()

    def dismiss(self) -> None:
        """Close its pipe, which ends a worker that waits for orders."""
        try:
            self._orders.close()
        except BrokenPipeError:
            return  # gone already; `bury` collects it

    def bury(self, limit_s: float) -> None:
        """Wait for its end, and bring it about when the time is up."""
        for final in (signal.SIGTERM, signal.SIGKILL):
            if self._ends_within(limit_s):
                break
            self._process.send_signal(final)
        self._ends_within(math.inf)
        self.answers.close()

    def _ends_within(self, limit_s: float) -> bool:
        # Not wait(): under gevent it can sleep through the end of one child that follows another's.
        end = time.monotonic() + limit_s
        while self._process.poll() is None:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True


class Crew:
    """The workers of one measurement; a context manager that leaves none behind."""

    def __init__(self, folder: pathlib.Path, tick: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._tick = tick
        self._workers: list[Worker] = []

    def hire(
        self,
        name: str,
        role: str,
        settings: Mapping[str, Any],
        patched: bool = False,
        program: Sequence[str] = (),
    ) -> Worker:
        """Start a worker, under gevent's patches if wanted, or another program that answers the same orders.

        `ready` waits for it.
        """
        worker = Worker(name, role, settings, self._folder, patched, program)
        self._workers.append(worker)
        return worker

    def ready(self, *workers: Worker) -> None:
        """Wait until every worker, or each of these, has connected and stands at the start."""
        self.collect(list(workers) or self._workers, _START_S)

    def work(self, orders: Mapping[Worker, Mapping[str, Any]], limit_s: float) -> list[dict[str, Any]]:
        """Give each its order at once; their answers, in the same order.

        Raises:
            WorkerDied: One of them ended, failed, or did not answer in time.
        """
        for worker, order in orders.items():
            worker.order(order, limit_s)
        return self.collect(list(orders), limit_s + _GRACE_S)

    def collect(self, workers: list[Worker], limit_s: float) -> list[dict[str, Any]]:
        """Every answer; a failure is raised when the others have ended too, and kept what they saw.

        Raises:
            WorkerDied: One of them ended, failed, or did not answer in time.
        """
        end = time.monotonic() + limit_s
        answers: dict[Worker, dict[str, Any]] = {}
        failures: dict[Worker, WorkerDied] = {}
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            while selector.get_map() and time.monotonic() < end:
                for key, _ in selector.select(_TICK_S):
                    try:
                        answer = key.data.read()
                    except WorkerDied as failure:
                        failures[key.data] = failure
                    else:
                        if answer is None:
                            continue
                        answers[key.data] = answer
                    selector.unregister(key.fileobj)
                self._tick()
            for key in list(selector.get_map().values()):
                failures[key.data] = key.data.died(f"did not answer within {limit_s:.0f} s")
        if failures:
            raise next(iter(failures.values()))
        return [answers[worker] for worker in workers]

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.bury(_GRACE_S if kind is None else 0.2)


def _environment() -> dict[str, str]:
    """Ours, in which the same coordkit is found that runs here, installed or not."""
    root = str(pathlib.Path(coordkit.__path__[0]).parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
