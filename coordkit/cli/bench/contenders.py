"""The contenders of one process: each takes and gives back one primitive in a loop, and notes what it saw.

They are threads, or greenlets where the process is patched. They use the public API only. The loop is closed,
or, where a rate is given, open: each cycle has a moment at which it is meant to begin, and counts from then.

Cost: per cycle, what the primitive costs, four readings of a clock and one small object.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs

import coordkit
from coordkit import errors
from coordkit.cli.bench import parts
from coordkit.testing import history
from coordkit.testing.history import Kind, Operation, Result, clock_ns

PATIENCE_S = 20.0  # for one acquire: the lease of a holder that died must run out first


class Contenders:
    """As many contenders as there are labels, in one session: for one lock, or each for its own."""

    def __init__(
        self,
        url: str,
        name: str,
        labels: list[str],
        hold_s: float,
        own: bool = False,
        primitive: str = "lock",
        terms: dict[str, Any] | None = None,
    ) -> None:
        """Args:
        url: Where to connect.
        name: Of what is contended for.
        labels: The contenders' names.
        hold_s: Seconds inside.
        own: Whether each has a lock of its own.
        primitive: Which of `parts.PARTS`.
        terms: Further fields of `parts.Setting`, and `every_ns`: how far apart the beginnings of all
            contenders' cycles are meant to be, in an open loop.
        """
        self._coord = self.connect(url)
        _ = self._coord.session  # opened now, not on the clock
        terms = dict(terms or {})
        self._pace_ns = terms.pop("every_ns", 0)
        terms.setdefault("contenders", len(labels))
        shared: dict[str, Any] = {}
        names = [f"{name}-{label}" if own else name for label in labels]
        self._contenders = []
        for one, label in zip(names, labels, strict=True):
            part = self.part(primitive, parts.Setting(self._coord, one, label, shared=shared, **terms))
            if own:
                part.name = one
            self._contenders.append(_Contender(part, label, hold_s, self._pace_ns * terms["contenders"]))

    def connect(self, url: str) -> Any:
        return coordkit.connect(url)

    def part(self, primitive: str, setting: parts.Setting) -> parts.Part:
        return parts.PARTS[primitive](setting)

    def round(
        self, start_ns: int, measure_ns: int, until_ns: int, history_path: str, number: int = 0
    ) -> dict[str, Any]:
        """Contend from start to end; CPU and traffic are counted from `measure_ns` on."""
        threads = []
        for contender in self._contenders:
            contender.begin(number, start_ns + self._pace_ns * contender.rank)
            threads.append(threading.Thread(target=contender.contend, args=(until_ns,), daemon=True))
        for thread in threads:
            thread.start()
        sleep_until(measure_ns)
        before = self._spent()
        sleep_until(until_ns)
        after = self._spent()
        for thread in threads:
            thread.join()

        history.save(history_path, [o for contender in self._contenders for o in contender.take()])
        failures = [contender.failure for contender in self._contenders if contender.failure]
        if failures:
            raise RuntimeError("; ".join(failures))
        return {name: after[name] - before[name] for name in before}

    def close(self) -> None:
        self._coord.close()

    def _spent(self) -> dict[str, int]:
        return {"cpu_ns": time.process_time_ns(), **traffic(self._coord)}


@attrs.define
class _Cycle:
    """One acquire and one release; None is what did not happen."""

    asked_ns: int
    name: str
    running_ns: int | None = None
    releasing_ns: int | None = None
    released_ns: int | None = None
    fence: int | None = None
    number: int | None = None
    subject: str = ""
    released_revision: int | None = None
    over: bool = False  # it was told that the round is over
    error: Exception | None = None


class _Contender:
    def __init__(self, part: parts.Part, label: str, hold_s: float, period_ns: int) -> None:
        self._part = part
        self._label = label
        self._hold_s = hold_s
        self._period_ns = period_ns  # from one meant beginning to the next; 0: as soon as can be
        self._cycles: list[_Cycle] = []
        self._calls = itertools.count()
        self._start_ns = 0
        self.failure: str | None = None

    @property
    def rank(self) -> int:
        """Among all contenders, where labels are numbers."""
        return int(self._label) if self._label.isdecimal() else 0

    def begin(self, number: int, start_ns: int) -> None:
        """The next round is this one."""
        self._start_ns = start_ns
        try:
            self._part.begin(number)
        except errors.CoordError as error:
            self.failure = self._failed(error)

    def contend(self, until_ns: int) -> None:
        meant_ns = self._start_ns
        sleep_until(meant_ns)
        over = False
        while not (self.failure or over) and clock_ns() < until_ns:
            cycle = _Cycle(meant_ns if self._period_ns else clock_ns(), self._part.name)
            self._cycles.append(cycle)
            try:
                self._run(cycle)
                over = cycle.over
            except Exception as error:
                cycle.error = error
                self.failure = self._failed(error)
            if self._period_ns:
                meant_ns += self._period_ns
                sleep_until(min(meant_ns, until_ns))
        try:
            self._part.end()
        except errors.CoordError as error:
            self.failure = self.failure or self._failed(error)

    def take(self) -> Iterator[Operation]:
        """What happened since the last time, as a history."""
        cycles, self._cycles = self._cycles, []
        for cycle in cycles:
            yield self._operation(0, cycle, cycle.asked_ns, cycle.running_ns)
            if cycle.releasing_ns is not None:
                yield self._operation(1, cycle, cycle.releasing_ns, cycle.released_ns)

    def _failed(self, error: Exception) -> str:
        return f"contender {self._label}: {type(error).__name__}: {error}"

    def _run(self, cycle: _Cycle) -> None:
        part = self._part
        taken = part.acquire(PATIENCE_S)
        cycle.running_ns = clock_ns()
        cycle.fence, cycle.number, cycle.subject, cycle.name = (
            part.fence, part.number, part.subject, part.name
        )  # fmt: skip
        if not taken:
            cycle.over = True
            return
        if self._hold_s:
            time.sleep(self._hold_s)
        if part.releases:
            cycle.releasing_ns = clock_ns()
            part.release()
            cycle.released_ns = clock_ns()
            cycle.released_revision = part.released_revision

    def _operation(self, which: int, cycle: _Cycle, invoked_ns: int, completed_ns: int | None) -> Operation:
        kind: Kind = self._part.kinds[which]
        done = completed_ns is not None
        ended = Result.FAIL if cycle.over else Result.OK
        return Operation(
            kind,
            ended if done else _told(cycle.error),
            os.getpid(),
            self._label,
            next(self._calls),
            invoked_ns,
            completed_ns,
            name=cycle.name,
            fence=cycle.fence,
            revision=cycle.released_revision if which else None,
            error=None if done else f"{type(cycle.error).__name__}: {cycle.error}",
            subject=cycle.subject,
            number=cycle.number,
        )


def traffic(coord: Any) -> dict[str, int]:
    """Calls and bytes so far; nothing where the coordinator does not count them."""
    statistics = getattr(coord, "statistics", None)
    if statistics is None:
        return {}
    counted = statistics()
    return {"calls": counted.calls, "bytes": counted.bytes_sent + counted.bytes_received}


def sleep_until(moment_ns: int) -> None:
    """Sleep until `clock_ns` says so."""
    while (left_ns := moment_ns - clock_ns()) > 0:
        time.sleep(left_ns / 1e9)


def _told(error: Exception | None) -> Result:
    certain = isinstance(error, errors.LockLost) or getattr(error, "outcome", None) is errors.Outcome.NONE
    return Result.FAIL if certain else Result.UNKNOWN
