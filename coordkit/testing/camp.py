"""One play in a siege: its members, two coordinators, their history, and what is wrong with it.

Where the play's contenders stand in lines, one who only looks on (`attendance.py`) notes whose turn it was.
That nobody held although the cluster answered, for longer than `DUE_S`, is a violation; so is a wait in vain
during which it answered all the time.  Other waits in vain are excused, and told.

Cost: a thread a member, and three who look on.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
import random
import threading
import time
from collections.abc import Callable

from coordkit import coordinator, errors
from coordkit.testing import attendance, history, patience, plays, trial
from coordkit.testing.checkers import turns
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Recorder

MEMBERS = 4  # of each play
TTL_S = 3
LONGEST_S = 45.0  # no call has a deadline later than that
#: Of the plays whose contenders stand in lines: the kind of their keys.
LINED = {"lock": "lock", "rwlock": "rwlock", "semaphore": "semaphore", "election": "election"}
DUE_S = 10.0  # whose turn it is knows by then, whatever member its client is connected to
#: What is counted of a play: calls of this kind that ended well.
COUNTED = {"lock": Kind.RELEASE, "queue": Kind.ACK, "topic": Kind.PUBLISH}


class Camp:
    """One play and its members."""

    def __init__(
        self,
        name: str,
        urls: list[str],
        folder: pathlib.Path,
        number: int = 1,
        members: int = MEMBERS,
        rest_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.name = name
        self.play = plays.find(name)
        self.broken: list[str] = []
        #: Waits that were in vain, and nobody is to blame.
        self.excused: list[str] = []
        self.idle_s = 0.0
        self._namespace = f"{name}-{number}"
        self._rest_s = rest_s
        self.coords = [coordinator.connect(url, ttl=TTL_S, namespace=self._namespace) for url in urls]
        self.path = folder / f"{self._namespace}.jsonl"
        self._recorder = Recorder(self.path)
        self._outside = contextlib.ExitStack()
        outside = self._outside.enter_context(
            coordinator.connect(urls[0], ttl=TTL_S, timeout=LONGEST_S, namespace=self._namespace)
        )
        self._outside.enter_context(plays.look_on(self.play, outside, self._recorder.witness(plays.LOOKOUT)))
        self._attendance: attendance.Attendance | None = None
        if name in LINED:
            self._attendance = attendance.Attendance(outside, LINED[name], named=name == "lock")
            self._outside.enter_context(self._attendance)
        self._enough = threading.Event()
        self._crew = [
            threading.Thread(target=self._run, args=(self.coords[number % len(urls)], number), daemon=True)
            for number in range(members)
        ]
        for thread in self._crew:
            thread.start()

    def _run(self, coord: coordinator.Coordinator, number: int) -> None:
        witness = self._recorder.witness(str(number))
        while not self._enough.is_set():
            try:
                self.play.cycle(coord, witness)
            except errors.CoordError:
                self._enough.wait(0.02)  # an outage, mostly
            except Exception as error:
                self.broken.append(f"error: {type(error).__name__}: {error}")
                return
            if rest_s := self._rest_s():
                self._enough.wait(random.uniform(0, rest_s))

    @property
    def volume(self) -> int:
        """How much was done of what is counted, so far."""
        return self._recorder.done[COUNTED[self.name]] if self.name in COUNTED else 0

    def end(self, url: str) -> None:
        """Let them come to an end, and look at what they leave."""
        self._enough.set()
        end_s = time.monotonic() + LONGEST_S
        for thread in self._crew:
            thread.join(max(0.0, end_s - time.monotonic()))
        if any(thread.is_alive() for thread in self._crew):
            self.broken.append("hang: a member did not come to an end")
        try:
            with coordinator.connect(url, ttl=TTL_S, timeout=LONGEST_S, namespace=self._namespace) as coord:
                plays.finish(self.play, coord, self._recorder.witness(plays.END))
                self.broken += trial.left_behind(coord, self._namespace, self.play, TTL_S + 3)
        except errors.CoordError as error:
            self.broken.append(f"error: nobody could look at what is left: {type(error).__name__}: {error}")
        for coord in self.coords:
            coord.close()
        self._outside.close()

    def judge(self) -> tuple[dict[str, int], list[str]]:
        """How calls ended, and what is wrong."""
        operations = history.load(self.path)
        ended = [each for each in operations if each.completed_ns is not None]
        late = [each for each in ended if (each.completed_ns or 0) - each.invoked_ns > LONGEST_S * 1e9]
        told = dict(collections.Counter(each.result.value for each in ended))
        wrong = [f"late: {each.kind.value} of contender {each.contender}" for each in late]
        if self._attendance is not None:
            wrong += self._judge_the_line(operations, self._attendance)
        blamed = [each for each in operations if not self._is_excused(each)]
        return told, [*self.broken, *wrong, *self.play.judge(blamed)]

    def _judge_the_line(self, operations: list[history.Operation], seen: attendance.Attendance) -> list[str]:
        stays, silences = seen.stays, seen.silences
        seen.save(self.path.with_suffix(".line.jsonl"))
        idle = turns.idle(operations, stays, silences)
        self.idle_s = max((each.answered_ns / 1e9 for each in idle), default=0.0)
        verdict = turns.check_turns(operations, stays, silences, int(DUE_S * 1e9))
        return plays.words(verdict)

    def _is_excused(self, operation: history.Operation) -> bool:
        """Whether it is a wait in vain for which nobody is to blame."""
        if self._attendance is None or not patience.was_in_vain(operation):
            return False
        why = patience.excused(operation, self._attendance.silences)
        if why is not None:
            self.excused.append(why)
        return why is not None
