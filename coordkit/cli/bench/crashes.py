"""A holder is killed, kill -9, while the next one stands in line: how long until that one holds.

Until then the holder's lease must run out.  It was renewed up to a heartbeat's interval before, so the
moments are random; and etcd looks for ended leases every half second.

Cost: a crash takes an interpreter's start and up to the TTL and a second.
"""

from __future__ import annotations

import itertools
import pathlib
import random
import secrets
import tempfile
import time
from typing import Any

import attrs

import coordkit
from coordkit import deadline
from coordkit.cli import terminal
from coordkit.cli.bench import contention, figures, parts
from coordkit.cli.bench.crew import Crew, Worker, WorkerDied
from coordkit.cli.bench.primitives import Scenario
from coordkit.cli.bench.server import Server
from coordkit.etcd import pulse
from coordkit.testing.history import Operation, Result, clock_ns

CANDIDATE = f"{__name__}:Candidate"  # the role of those who are killed; tests put others in their place
_KINDS = {"lock": parts.Lock.kinds, "election": parts.Election.kinds}
_PATIENCE_S = 20.0  # beyond the TTL


class Candidate:
    """Takes its place, and keeps it for as long as its process lives."""

    def __init__(self, url: str, name: str, label: str, primitive: str, ttl_s: int) -> None:
        self._coord = coordkit.connect(url, ttl=ttl_s)
        self._session = self._coord.session  # this one: the coordinator opens another when it is lost
        self._part = parts.PARTS[primitive](parts.Setting(self._coord, name, label, contenders=2))

    def round(self, timeout_s: float) -> dict[str, Any]:
        """Stand in line until it is our turn; asked again, insist that we hold it still."""
        if self._part.fence is not None:
            self._session.check()
            return {}
        asked_ns = clock_ns()
        self._part.acquire(timeout_s)
        return {"asked_ns": asked_ns, "running_ns": clock_ns(), "fence": self._part.fence}

    def close(self) -> None:
        self._coord.close()


def measure(
    server: Server, scenario: Scenario, plan: contention.Plan, progress: terminal.Progress
) -> contention.Result:
    """As many crashes as planned, each a repeat; no process is left, and no file but a bad history."""
    result = contention.Result(scenario)
    seen: list[Operation] = []
    with tempfile.TemporaryDirectory(prefix="coordkit-bench-") as folder:
        try:
            with Crew(pathlib.Path(folder), progress.tick) as crew, coordkit.connect(server.url) as coord:
                succession = _Succession(server.url, coord, scenario, crew, seen)
                for number in range(plan.crashes):
                    progress.begin(f"{scenario.name}, {number + 1} of {plan.crashes}")
                    found = {"successor_s": succession.crash()}
                    verdict = contention.judge(server, scenario, plan, seen[-3:])
                    verdict = attrs.evolve(verdict, holds=1)  # the one before has been counted
                    result.repeats.append(contention.Repeat(found, figures.LockTimes(), verdict))
                    progress.end(f"the next one holds after {found['successor_s']:.2f} s")
        except WorkerDied as error:
            result.failure = str(error)
    if not result.clean:
        result.kept = contention.keep(seen, contention.judge(server, scenario, plan, seen))
    return result


class _Succession:
    """One holder after the other."""

    def __init__(self, url: str, coord: Any, scenario: Scenario, crew: Crew, seen: list[Operation]) -> None:
        """Args:
        url: Where those in line connect.
        coord: Our own connection, to see that they stand there.
        scenario: What they stand in line for.
        crew: Theirs.
        seen: What happened is added to it.
        """
        self._crew, self._seen = crew, seen
        self._ttl_s, self._limit_s = scenario.ttl_s, scenario.ttl_s + _PATIENCE_S
        self._acquire, self._release = _KINDS[scenario.primitive]
        name = f"bench-{secrets.token_hex(4)}"
        self._settings = {"url": url, "name": name, "primitive": scenario.primitive, "ttl_s": scenario.ttl_s}
        self._line = {"lock": coord.lock, "election": coord.election}[scenario.primitive](name)
        self._labels = map(str, itertools.count())
        self._holder = self._join()
        self._await(self._holder)

    def crash(self) -> float:
        """Kill the holder; the seconds until the next one holds."""
        heir = self._join()
        self._await_place(heir)
        time.sleep(random.uniform(0, self._ttl_s / pulse.RENEWALS_PER_TTL))
        # On a machine that stood still its lease may be over: then no successor would be too early.
        self._crew.work({self._holder: {"timeout_s": 0.0}}, self._limit_s)
        killed_ns = clock_ns()
        self._holder.kill()
        # It was in the critical section up to that moment, and not a moment longer.
        held = self._seen[-1]
        ended = attrs.evolve(held, kind=self._release, index=1, invoked_ns=killed_ns, completed_ns=killed_ns)
        self._seen.append(ended)
        self._holder = heir
        return (self._await(heir) - killed_ns) / 1e9

    def _join(self) -> Worker:
        label = next(self._labels)
        worker = self._crew.hire(label, CANDIDATE, {**self._settings, "label": label})
        self._crew.ready(worker)
        worker.order({"timeout_s": self._limit_s}, self._limit_s)
        return worker

    def _await_place(self, heir: Worker) -> None:
        limit = deadline.Deadline.after(_PATIENCE_S)
        while len(self._line.contenders()) < 2:
            if limit.expired:
                raise heir.died("did not come into the line")
            time.sleep(0.02)

    def _await(self, worker: Worker) -> int:
        """When it got its turn."""
        (told,) = self._crew.collect([worker], self._limit_s)
        acquired = Operation(
            self._acquire, Result.OK, worker.pid, worker.name, 0, told["asked_ns"], told["running_ns"],
            fence=told["fence"],
        )  # fmt: skip
        self._seen.append(acquired)
        return int(told["running_ns"])
