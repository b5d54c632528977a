"""Processes of several threads that do the same over and over, write it down, and may be killed anywhere.

A member is a program that defines `cycle(coord, witness)` and ends with `crowd.take_part(cycle)`:

    from coordkit.testing import crowd
    from coordkit.testing.history import Kind
    from coordkit.testing.recorder import Told

    def cycle(coord, witness):
        lock = coord.lock("crowd")
        ...
        witness.call(Kind.ACQUIRE, acquire)

    crowd.take_part(cycle)
"""

from __future__ import annotations

import pathlib
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import coordkit
from coordkit.deadline import Deadline
from coordkit.testing import history
from coordkit.testing.history import Operation, Result
from coordkit.testing.recorder import Recorder, Witness

Cycle = Callable[[coordkit.Coordinator, Witness], None]

#: Starts a Python program given as source with arguments: its stdin is a pipe.
Start = Callable[..., "subprocess.Popen[str]"]


def take_part(cycle: Cycle) -> None:
    """Be a member: run `cycle` in each thread, as often as the crowd asked, or until it closes our input."""
    url, path, cycles, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    recorder, enough = Recorder(path), threading.Event()

    def run(label: str) -> None:
        witness, done = recorder.witness(label), 0
        while not enough.is_set() and (not cycles or done < cycles):
            cycle(coord, witness)
            done += 1

    with coordkit.connect(url) as coord:
        crew = [threading.Thread(target=run, args=(str(number),)) for number in range(threads)]
        for thread in crew:
            thread.start()
        if not cycles:
            select.select([sys.stdin], [], [])  # a read would block every greenlet of a patched process
            enough.set()
        for thread in crew:
            thread.join()


class Crowd:
    """Members at work, seen from outside."""

    def __init__(
        self, start: Start, url: str, folder: pathlib.Path, threads: int = 4, seed: Any = None
    ) -> None:
        self._start, self._url, self._folder, self._threads = start, url, folder, threads
        self._chance = random.Random(seed)
        self._hired = 0
        self.alive: list[subprocess.Popen[str]] = []
        self.killed = 0
        #: The process ids of those who were killed.
        self.lost: set[int] = set()

    def hire(self, source: str, cycles: int = 0) -> subprocess.Popen[str]:
        """One more member: so many cycles in each thread, or 0 for as many as there is time for."""
        path = self._folder / f"{self._hired}.jsonl"
        self._hired += 1
        member = self._start(source, self._url, str(path), str(cycles), str(self._threads))
        self.alive.append(member)
        return member

    def work(self, source: str, calls: int, kills: int, within_s: float = 60.0) -> None:
        """Four members, until so many calls have ended and they have come to an end.

        Meanwhile some are killed and replaced, after even numbers of calls, each within so many seconds.
        """
        for _ in range(4):
            self.hire(source)
        for number in range(1, kills + 1):
            self.wait_for(calls * number // (kills + 1), within_s)
            self.kill_one()
            self.hire(source)
        self.wait_for(calls, within_s)
        self.finish()

    def kill_one(self) -> None:
        """SIGKILL for one of them, wherever it is."""
        victim = self.alive.pop(self._chance.randrange(len(self.alive)))
        victim.kill()
        victim.wait()
        self.killed += 1
        self.lost.add(victim.pid)

    def finish(self, timeout_s: float = 60.0) -> None:
        """Let all come to an end, and insist that each did so in order."""
        for member in self.alive:
            assert member.stdin is not None
            member.stdin.close()
        statuses = [member.wait(timeout_s) for member in self.alive]
        assert not any(statuses), f"members ended with {statuses}"

    def operations(self) -> list[Operation]:
        """All that was written down so far."""
        return [each for path in sorted(self._folder.glob("*.jsonl")) for each in history.load(path)]

    def wait_for(self, count: int, within_s: float = 60.0) -> None:
        """Until so many calls have ended."""
        limit = Deadline.after(within_s)
        while (completed := self.completed()) < count:
            assert not limit.expired, f"{completed} of {count} calls have ended within {within_s:g} s"
            time.sleep(0.05)

    def completed(self) -> int:
        """How many calls have ended so far."""
        return sum(each.result is not Result.INVOKED for each in self.operations())
