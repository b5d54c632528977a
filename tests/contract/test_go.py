"""Go's Mutex, Election and RWMutex and ours contend on one prefix: each waits for the other, nobody overlaps.

The Go program is that of the benchmarks; it is built once, under build/.
"""

from __future__ import annotations

import itertools
import pathlib
import threading

import attrs
import pytest

import coordkit
from benchmarks.peers import lineup, servers
from coordkit.cli.bench import contenders, contention, crew, parts
from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, clock_ns

pytestmark = pytest.mark.timeout(120)

LABELS = ["ours-0", "ours-1", "ours-2"]
SECONDS = 0.5


class Reading(parts.ReaderWriter):
    """Ours of Go's key layout."""

    def __init__(self, setting: parts.Setting) -> None:
        lock = coordkit.RWLock.at(setting.coord.session, setting.name)
        self._sides = {"read": parts.Lock(lock.read), "write": parts.Lock(lock.write)}
        self._every, self._holds = 3, 0


class Leading(parts.Election):
    def __init__(self, setting: parts.Setting) -> None:
        super().__init__(setting)
        self._election = coordkit.Election.at(setting.coord.session, setting.name)


class Ours(contenders.Contenders):
    """On the prefix that Go was given."""

    def part(self, primitive: str, setting: parts.Setting) -> parts.Part:
        if primitive == "mutex":
            return parts.Lock(coordkit.Lock.at(setting.coord.session, setting.name))
        return Leading(setting) if primitive == "election" else Reading(setting)


@pytest.fixture(scope="module")
def program() -> str:
    try:
        return lineup.go_program()
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def contend(etcd, namespace: str, tmp_path: pathlib.Path, program: str):
    """Three contenders of ours and three of Go's for one prefix; what all of them saw."""

    def run(role: str) -> list[Operation]:
        prefix = f"/{namespace}/shared"
        paths = {who: tmp_path / f"{who}.jsonl" for who in ("go", "ours")}
        settings = {"endpoint": etcd.endpoint, "name": prefix, "labels": ["go-0", "go-1", "go-2"]}
        ours = Ours(f"etcd://{etcd.endpoint}/{namespace}", prefix, LABELS, 0.0, primitive=role)
        with crew.Crew(tmp_path) as workers:
            go = workers.hire("go", role, {**settings, "write_every": 3}, program=[program])
            workers.ready()
            start = clock_ns() + 50_000_000
            until = start + round(SECONDS * 1e9)
            moments = {"start_ns": start, "measure_ns": start, "until_ns": until}
            order = {**moments, "history_path": str(paths["ours"])}
            beside = threading.Thread(target=ours.round, kwargs=order)
            beside.start()
            workers.work({go: {**moments, "history_path": str(paths["go"])}}, 60)
            beside.join()
        ours.close()
        return contention.load_all(paths.values())

    return run


def turns(holds) -> int:
    """How often the lock went from one of ours to one of Go's, or back."""
    sides = [hold.acquire.contender.split("-")[0] for hold in sorted(holds, key=lambda hold: hold.clock)]
    return sum(one != other for one, other in itertools.pairwise(sides))


class TestGo:
    def test_mutexes_stand_in_one_line(self, contend):
        """
        One holder at a time, in the order of the keys, whoever made them.
        """
        seen = contend("mutex")

        verdict = checkers.check_lock(seen)

        assert verdict.clean, verdict.violations[0].why
        assert turns(checkers.holds_of(seen)) > 2

    def test_elections_have_one_leader(self, contend):
        """
        Candidates of both are elected in their turn.
        """
        ours = {Kind.CAMPAIGN: Kind.ACQUIRE, Kind.RESIGN: Kind.RELEASE}
        seen = [attrs.evolve(each, kind=ours.get(each.kind, each.kind)) for each in contend("election")]

        verdict = checkers.check_lock(seen)

        assert verdict.clean, verdict.violations[0].why
        assert turns(checkers.holds_of(seen)) > 2

    def test_readers_and_writers_exclude_each_other(self, contend):
        """
        A writer of either side is alone; Go's does not tell its key, so the clock judges it.
        """
        numbers = itertools.count(1)
        seen = [
            attrs.evolve(each, fence=-next(numbers)) if each.fence is None else each
            for each in contend("rwmutex")
        ]

        verdict = checkers.check_rwlock(seen)

        assert verdict.clean, verdict.violations[0].why
        assert turns(checkers.holds_of(seen)) > 2
        assert {"read", "write"} == {hold.acquire.subject for hold in checkers.holds_of(seen)}
