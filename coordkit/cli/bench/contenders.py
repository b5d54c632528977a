"""The contenders of one process: each takes and releases one lock in a closed loop, and notes what it saw.

They are threads, or greenlets where the process is patched. They use the public API only.

Cost: per cycle, what the lock costs, four readings of a clock and one tuple.
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
from coordkit.testing import history
from coordkit.testing.history import Kind, Operation, Result, clock_ns

PATIENCE_S = 20.0  # for one acquire: the lease of a holder that died must run out first


class Contenders:
    """As many contenders as there are labels, in one session: for one lock, or each for its own."""

    def __init__(self, url: str, name: str, labels: list[str], hold_s: float, own: bool = False) -> None:
        self._coord = self.connect(url)
        _ = self._coord.session  # opened now, not on the clock
        names = [f"{name}-{label}" if own else name for label in labels]
        self._contenders = [
            _Contender(self._coord.lock(one), one if own else "", label, hold_s)
            for one, label in zip(names, labels, strict=True)
        ]

    def connect(self, url: str) -> Any:
        return coordkit.connect(url)

    def round(self, start_ns: int, measure_ns: int, until_ns: int, history_path: str) -> dict[str, Any]:
        """Contend from start to end; CPU and traffic are counted from `measure_ns` on."""
        threads = [
            threading.Thread(target=contender.contend, args=(start_ns, until_ns), daemon=True)
            for contender in self._contenders
        ]
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
    running_ns: int | None = None
    releasing_ns: int | None = None
    released_ns: int | None = None
    fence: int | None = None
    released_revision: int | None = None
    error: Exception | None = None


class _Contender:
    def __init__(self, lock: Any, name: str, label: str, hold_s: float) -> None:
        self._lock = lock
        self._name = name
        self._label = label
        self._hold_s = hold_s
        self._cycles: list[_Cycle] = []
        self._calls = itertools.count()
        self.failure: str | None = None

    def contend(self, start_ns: int, until_ns: int) -> None:
        sleep_until(start_ns)
        while not self.failure and clock_ns() < until_ns:
            cycle = _Cycle(clock_ns())
            self._cycles.append(cycle)
            try:
                self._run(cycle)
            except Exception as error:
                cycle.error = error
                self.failure = f"contender {self._label}: {type(error).__name__}: {error}"

    def take(self) -> Iterator[Operation]:
        """What happened since the last time, as a history."""
        cycles, self._cycles = self._cycles, []
        for cycle in cycles:
            yield self._operation(Kind.ACQUIRE, cycle, cycle.asked_ns, cycle.running_ns)
            if cycle.releasing_ns is not None:
                yield self._operation(Kind.RELEASE, cycle, cycle.releasing_ns, cycle.released_ns)

    def _run(self, cycle: _Cycle) -> None:
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise errors.AcquireTimeout(f"no grant within {PATIENCE_S:.0f} s")
        cycle.running_ns = clock_ns()
        cycle.fence = self._lock.fence
        if self._hold_s:
            time.sleep(self._hold_s)
        cycle.releasing_ns = clock_ns()
        self._lock.release()
        cycle.released_ns = clock_ns()
        cycle.released_revision = self._lock.released_revision

    def _operation(self, kind: Kind, cycle: _Cycle, invoked_ns: int, completed_ns: int | None) -> Operation:
        return Operation(
            kind,
            Result.OK if completed_ns is not None else _told(cycle.error),
            os.getpid(),
            self._label,
            next(self._calls),
            invoked_ns,
            completed_ns,
            name=self._name,
            fence=cycle.fence,
            revision=cycle.released_revision if kind is Kind.RELEASE else None,
            error=None if completed_ns is not None else f"{type(cycle.error).__name__}: {cycle.error}",
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
