"""Failover: contenders for one lock, while the leader of their cluster is killed, paused and moved.

What they saw is recorded and judged; how long the lock stood still at each fault is measured, from the grants
themselves.

    with failover.Drill(cluster, path) as drill:
        for fault in failover.FAULTS:
            drill.strike(fault)
    report = drill.report()
    assert report.verdict.sound and not report.late

Cost: a connection and a thread for each contender; a fault takes until the lock is granted again.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import types
from collections.abc import Callable, Sequence

import attrs

from coordkit import coordinator, deadline, errors
from coordkit.etcd import kv
from coordkit.recipes import lock as locks
from coordkit.testing import checkers, cluster, history, recorder
from coordkit.testing.history import Kind, Operation, Result

CONTENDERS = 8
HOLD_S = 0.002  # in the critical section
WAIT_S = 30.0  # the timeout of each acquire
WRITE_S = 2.0  # and of each guarded write: a follower keeps what it sent to a leader that died
GRACE_S = 2.0  # how much later than its deadline a wait may end on a machine that is busy
GRANTS = 20  # so many after a fault show that the lock is passed on again
PATIENCE_S = 60.0


@attrs.frozen
class Fault:
    """Something that was done to the leader; times are `history.clock_ns`."""

    kind: str
    begun_ns: int
    #: When whom it had hurt was well again.
    mended_ns: int


@attrs.frozen
class Report:
    """What a drill showed."""

    faults: tuple[Fault, ...]
    verdict: history.Verdict
    #: For each fault, the longest time in seconds in which the lock was granted to nobody.
    interruptions_s: tuple[float, ...]
    #: How long each acquire took that was granted.
    waits_s: tuple[float, ...]
    #: Acquires that ended later than their deadline, or never.
    late: tuple[Operation, ...]
    #: Calls that were told that a session, or a hold, was lost: a leader that wakes up after a pause may end
    #: leases that its successor had renewed.
    losses: int

    def __str__(self) -> str:
        stood, waited = self.interruptions_s, self.waits_s
        return (
            f"{len(self.faults)} faults, {self.verdict.holds} holds, "
            f"{len(self.verdict.violations)} violations, {len(self.late)} late, {self.losses} losses told; "
            f"interruption p50 {percentile(stood, 50):.2f} s, p99 {percentile(stood, 99):.2f} s; "
            f"wait p50 {percentile(waited, 50):.3f} s, p99 {percentile(waited, 99):.2f} s, "
            f"longest {max(waited, default=0.0):.2f} s"
        )


class Drill:
    """Contenders at work.  Each has a connection, a session and a thread of its own.

    Args:
        on: The cluster; no other member must be down.
        path: Where the history is written, as JSON lines.
        contenders: How many.
        ttl: Of their sessions, in seconds.
        name: Of the lock.
    """

    def __init__(
        self,
        on: cluster.EtcdCluster,
        path: str | os.PathLike[str],
        contenders: int = CONTENDERS,
        ttl: float = 10.0,
        name: str = "failover",
    ) -> None:
        self._cluster = on
        self._path = path
        self._name = name
        self._recorder = recorder.Recorder(path)
        self._enough = threading.Event()
        self._grants = itertools.count()
        self._granted = 0
        self._faults: list[Fault] = []
        self._coords = [
            coordinator.connect(on.url, ttl=ttl, identity=f"contender {number}")
            for number in range(contenders)
        ]
        self._crew = [
            threading.Thread(target=self._contend, args=(coord, str(number)), daemon=True)
            for number, coord in enumerate(self._coords)
        ]

    def __enter__(self) -> Drill:
        for thread in self._crew:
            thread.start()
        try:
            self._await_grants()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._enough.set()
        limit = deadline.Deadline.after(WAIT_S + GRACE_S)
        for thread in self._crew:
            thread.join(limit.remaining())
        for coord in self._coords:
            coord.close()

    def strike(self, kind: str, longest_s: float = PATIENCE_S) -> Fault:
        """Hurt the leader, wait until another leads and the lock is passed on, and make it well again.

        Args:
            kind: "killed", "paused" or "moved".
            longest_s: Seconds after which it is made well although the lock still stands.

        Raises:
            DeadlineExceeded: The lock stands still although all members are well.
        """
        begin, mend = FAULTS[kind]
        leader = self._cluster.leader()
        begun_ns = history.clock_ns()
        begin(self._cluster, leader)
        try:
            self._cluster.leader()
            self._is_passed_on(longest_s)
        finally:
            mend(leader)
        fault = Fault(kind, begun_ns, history.clock_ns())
        self._faults.append(fault)
        self._await_grants()
        return fault

    def report(self) -> Report:
        """What it showed, once it is over."""
        operations = history.load(self._path)
        return Report(
            faults=tuple(self._faults),
            verdict=checkers.check_lock(operations),
            interruptions_s=interruptions_s(operations, self._faults),
            waits_s=tuple(_taken_s(each) for each in operations if _is_grant(each)),
            late=tuple(late(operations, WAIT_S + GRACE_S)),
            losses=sum((each.error or "").startswith(("SessionLost", "LockLost")) for each in operations),
        )

    def _await_grants(self) -> None:
        if not self._is_passed_on(PATIENCE_S):
            raise errors.DeadlineExceeded(f"the lock has been standing still for {PATIENCE_S:g} s")

    def _is_passed_on(self, within_s: float) -> bool:
        enough = self._granted + GRANTS
        limit = deadline.Deadline.after(within_s)
        while self._granted < enough and not limit.expired:
            time.sleep(0.005)
        return self._granted >= enough

    # A contender.

    def _contend(self, coord: coordinator.Coordinator, label: str) -> None:
        witness = self._recorder.witness(label)
        lock = coord.lock(self._name)
        while not self._enough.is_set():
            self._cycle(lock, witness, f"/{coord.settings.namespace}/{self._name}")

    def _cycle(self, lock: locks.Lock, witness: recorder.Witness, state: str) -> None:
        def acquire() -> recorder.Told:
            if not lock.acquire(timeout=WAIT_S):
                return recorder.Told(done=False)
            return recorder.Told(fence=lock.fence)

        def write() -> recorder.Told:
            written = lock.txn().then(kv.put(state, b"%d" % fence)).commit(WRITE_S)
            return recorder.Told(revision=written.revision, done=written.succeeded)

        def release() -> recorder.Told:
            lock.release()
            return recorder.Told(revision=lock.released_revision)

        told = witness.call(Kind.ACQUIRE, acquire)
        if told is None or told.fence is None:
            return
        fence = told.fence
        self._granted = next(self._grants)
        witness.call(Kind.WRITE, write, fence=fence)
        time.sleep(HOLD_S)
        witness.call(Kind.RELEASE, release, fence=fence)


#: What is done to a leader, and what makes it well again.
FAULTS: dict[
    str, tuple[Callable[[cluster.EtcdCluster, cluster.Member], object], Callable[[cluster.Member], object]]
] = {
    "killed": (lambda _, leader: leader.kill(), lambda leader: leader.start()),
    "paused": (lambda _, leader: leader.pause(), lambda leader: leader.resume()),
    "moved": (lambda on, _: on.move_leader(), lambda _: None),
}


def interruptions_s(history: Sequence[Operation], faults: Sequence[Fault]) -> tuple[float, ...]:
    """For each fault the longest time without a grant, from the last one before it on."""
    grants = sorted(each.completed_ns or 0 for each in history if _is_grant(each))
    ends = [*(fault.begun_ns for fault in faults[1:]), math.inf]
    found = []
    for fault, end in zip(faults, ends, strict=True):
        gaps = [
            following - grant
            for grant, following in itertools.pairwise(grants)
            if fault.begun_ns < following <= end
        ]
        found.append(max(gaps, default=math.inf) / 1e9)
    return tuple(found)


def late(history: Sequence[Operation], limit_s: float) -> list[Operation]:
    """The acquires that took longer, or never ended."""
    return [
        each
        for each in history
        if each.kind is Kind.ACQUIRE and (each.completed_ns is None or _taken_s(each) > limit_s)
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)] if ordered else 0.0


def _is_grant(operation: Operation) -> bool:
    return operation.kind is Kind.ACQUIRE and operation.result is Result.OK


def _taken_s(operation: Operation) -> float:
    return ((operation.completed_ns or operation.invoked_ns) - operation.invoked_ns) / 1e9
