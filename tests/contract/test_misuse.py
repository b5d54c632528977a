"""What should not be done to a recipe, or happens to it: large values, a full database, foreign keys.

An error in words, at once, and nothing is left of it.  Queues and topics have their own tests of the same:
`test_queue_care.py`, `test_queue_faults.py`, `test_topic.py`, `test_topic_log.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import PATIENCE_S, Call, wait_until

import coordkit
from coordkit import codecs, errors
from coordkit.etcd import kv
from coordkit.testing import LocalEtcd

pytestmark = pytest.mark.coordkit_leaves("keys")

LARGE = b"x" * 2**21
LIMIT_S = 60.0  # nobody waits so long for what fails at once

Use = Callable[[coordkit.Coordinator], Any]


def leased(coord: coordkit.Coordinator) -> list[bytes]:
    """What hangs on a lease, but for sessions."""
    prefix = f"/{coord.settings.namespace}/"
    sessions = f"{prefix}session/".encode()
    return [each.key for each in coord.kv.range(prefix) if each.lease and not each.key.startswith(sessions)]


def refused(use: Use, coord: coordkit.Coordinator, kind: type[errors.CoordError]) -> str:
    """What the error says."""
    error = Call(use, coord).outcome()
    assert isinstance(error, kind), repr(error)
    return str(error)


LARGE_USES: dict[str, Use] = {
    "set": lambda coord: coord.value("v").set(LARGE),
    "compare_and_set": lambda coord: coord.value("v").compare_and_set(0, LARGE),
    "update": lambda coord: coord.value("v").update(lambda value: LARGE),
    "campaign": lambda coord: coord.election("e").campaign(LARGE, timeout=LIMIT_S),
    "try to campaign": lambda coord: coord.election("e").campaign(LARGE, timeout=0),
    "run": lambda coord: coord.election("e").run(print, LARGE, timeout=LIMIT_S),
    "put": lambda coord: coord.queue("q").put(LARGE),
    "put_many": lambda coord: coord.queue("q").put_many([b"a", LARGE]),
    "publish": lambda coord: coord.topic("t").publish(LARGE),
    "publish to a log": lambda coord: coord.topic("t", retain=9).publish(LARGE),
}


class TestTooLarge:
    """2 MiB: etcd takes 1.5."""

    @pytest.mark.parametrize("use", LARGE_USES.values(), ids=LARGE_USES)
    def test_it_is_refused(self, coord, namespace, use):
        """
        TooLarge says how large it is; nothing is stored, and nobody stands in line.
        """
        said = refused(use, coord, errors.TooLarge)
        (size_bytes,) = map(int, re.findall(r"(\d+) bytes", said))
        assert len(LARGE) <= size_bytes < len(LARGE) + 1000

        wait_until(lambda: not leased(coord), what="an empty line")
        left = [each.key for each in coord.kv.range(f"/{namespace}/")]
        assert all(b"/session/" in key for key in left), left

    def test_what_was_there_before_stays(self, coord):
        """
        A leader that cannot proclaim leads on; a job whose work cannot be written can be acked without.
        """
        with coord.election("e").campaign(b"host-1") as leadership:
            refused(lambda coord: leadership.proclaim(LARGE), coord, errors.TooLarge)
            leadership.check()
            assert coord.election("e").leader().value == b"host-1"
        jobs = coord.queue("q")
        jobs.put(b"x")
        job = jobs.claim(timeout=PATIENCE_S)
        work = job.txn().then(kv.put(f"/{coord.settings.namespace}/work", LARGE))

        refused(lambda coord: job.ack(work), coord, errors.TooLarge)

        job.ack()
        assert jobs.empty()


@pytest.fixture(scope="module")
def full(etcd_binary) -> Iterator[coordkit.Coordinator]:
    """A coordinator on a server without space, whose session was opened before."""
    with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coord:
        assert coord.session.alive
        coord.etcd.create_alarm()
        yield coord
        coord.etcd.disarm_alarm()


NEEDY_USES: dict[str, Use] = {
    "lock": lambda coord: coord.lock("x").acquire(timeout=LIMIT_S),
    "rlock": lambda coord: coord.rlock("x").acquire(timeout=LIMIT_S),
    "reader": lambda coord: coord.rwlock("x").read.acquire(timeout=LIMIT_S),
    "writer": lambda coord: coord.rwlock("x").write.acquire(timeout=LIMIT_S),
    "semaphore": lambda coord: coord.semaphore("x", 2).acquire(timeout=LIMIT_S),
    "resize": lambda coord: coord.semaphore("x", 2).resize(3),
    "multilock": lambda coord: coord.multilock(["x", "y"]).acquire(timeout=LIMIT_S),
    "cohort": lambda coord: coord.cohort_lock("x").acquire(timeout=LIMIT_S),
    "campaign": lambda coord: coord.election("x").campaign(timeout=LIMIT_S),
    "standing": lambda coord: coord.standing("x"),
    "once": lambda coord: coord.once("x", "1").claim(),
    "gate": lambda coord: coord.gate("x").close(),
    "latch": lambda coord: coord.latch("x", 2).count_down(timeout=LIMIT_S),
    "counter": lambda coord: coord.counter("x").add(1, timeout=LIMIT_S),
    "value": lambda coord: coord.value("x").set(b"x"),
    "update": lambda coord: coord.value("x").update(lambda value: b"x"),
    "barrier": lambda coord: coord.barrier("x", 2).wait(timeout=LIMIT_S),
    "double barrier": lambda coord: coord.double_barrier("x", 2).enter(timeout=LIMIT_S),
    "put": lambda coord: coord.queue("x").put(b"x"),
    "publish": lambda coord: coord.topic("x").publish(b"x"),
    "publish to a log": lambda coord: coord.topic("y", retain=9).publish(b"x"),
    "session": lambda coord: coord.new_session(),
}


class TestOutOfSpace:
    """What needs space says so, and does not wait for it; what gives something back passes."""

    @pytest.mark.parametrize("use", NEEDY_USES.values(), ids=NEEDY_USES)
    def test_what_needs_space_says_so(self, full, use):
        """
        QuotaExceeded, long before the time is up; nobody stands in line.
        """
        assert "space" in refused(use, full, errors.QuotaExceeded)

        wait_until(lambda: not leased(full), what="an empty line")
        assert full.session.alive

    def test_a_run_that_could_not_stand_says_why(self, full):
        """
        It tries again as long as it has time; what it says then is what kept it, not that no reply came.
        """
        said = refused(lambda coord: coord.election("x").run(print, timeout=1), full, errors.AcquireTimeout)

        assert "space" in said

    def test_what_gives_something_back_passes(self, etcd_binary):
        """
        Releases, resignations, openings, acks; afterwards nothing is held, and all can be used again.
        """
        with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coord:
            locks = [
                coord.lock("l"),
                coord.rwlock("w").write,
                coord.rwlock("r").read,
                coord.semaphore("s", 2),
                coord.multilock(["a", "b"]),
                coord.cohort_lock("c"),
            ]
            for lock in locks:
                lock.acquire()
            leadership = coord.election("e").campaign()
            coord.gate("g").close()
            jobs = coord.queue("q")
            jobs.put_many([b"1", b"2"])
            acked, returned = jobs.claim_many(2, timeout=PATIENCE_S)
            double = coord.double_barrier("d", 1)
            assert double.enter(timeout=PATIENCE_S)
            coord.etcd.create_alarm()

            for lock in locks:
                lock.release()
            leadership.resign()
            assert coord.gate("g").open()
            acked.ack()
            returned.nack()
            assert double.leave(timeout=PATIENCE_S)
            assert jobs.purge() == 1

            assert leased(coord) == []
            coord.etcd.disarm_alarm()
            for lock in locks:
                with lock.within(PATIENCE_S):
                    pass


class TestForeignKeys:
    """Somebody else's keys among ours."""

    def test_a_limit_that_is_none(self, coord, namespace):
        """
        InvalidValue names the key, at once; resize puts it right.
        """
        strange = f"/{namespace}/semaphore/s/limit/many"
        coord.kv.put(strange, b"")
        semaphore = coord.semaphore("s", 2)

        said = refused(lambda coord: semaphore.acquire(timeout=LIMIT_S), coord, errors.InvalidValue)

        assert strange in said
        semaphore.resize(2)
        with semaphore.within(PATIENCE_S):
            assert semaphore.available() == 1

    @pytest.mark.parametrize(
        ("key", "use"),
        [
            ("value/x", lambda coord: coord.value("x", codecs.JSON).get()),
            ("value/x", lambda coord: coord.value("x", codecs.JSON).update(lambda value: 1)),
            ("value/x", lambda coord: next(coord.value("x", codecs.JSON).watch(timeout=LIMIT_S))),
            ("counter/x/value", lambda coord: coord.counter("x").add(1, timeout=LIMIT_S)),
            ("latch/x/value", lambda coord: coord.latch("x", 2).count_down(timeout=LIMIT_S)),
            ("latch/x/value", lambda coord: coord.latch("x", 2).wait(timeout=LIMIT_S)),
            ("barrier/x/generation", lambda coord: coord.barrier("x", 2).wait(timeout=LIMIT_S)),
            (
                "double_barrier/x/generation",
                lambda coord: coord.double_barrier("x", 2).enter(timeout=LIMIT_S),
            ),
            ("topic/x/groups/g/next", lambda coord: coord.topic("x", retain=9).subscribe(group="g")),
        ],
    )
    def test_what_cannot_be_read_is_told(self, coord, namespace, key, use):
        """
        InvalidValue names the key, not what it holds; it stays as it is.
        """
        key = f"/{namespace}/{key}"
        coord.kv.put(key, b"{secret")

        said = refused(use, coord, errors.InvalidValue)

        assert key in said and "secret" not in said
        assert coord.kv.get(key).value == b"{secret"

    def test_one_that_stands_in_line_is_waited_for(self, coord, namespace):
        """
        As anybody's key is, and it shows; who gives up leaves nothing behind.
        """
        for kind, name in (("lock", "x"), ("rwlock", "x/write"), ("election", "x")):
            coord.kv.put(f"/{namespace}/{kind}/{name}/strange", b"\xff{")
        writer = coord.rwlock("x").write

        assert not coord.lock("x").acquire(timeout=0.2)
        assert not writer.acquire(timeout=0.2)
        with pytest.raises(errors.AcquireTimeout):
            coord.election("x").campaign(timeout=0.2)

        for line in (coord.lock("x"), writer, coord.election("x")):
            wait_until(lambda line=line: len(line.contenders()) == 1, what="nobody but the stranger")
            assert line.contenders()[0].key.endswith(b"/strange")


def test_an_item_cannot_be_given_back_in_the_past(coord):
    """
    A negative delay, or one that is none, is refused; the job is still ours.
    """
    jobs = coord.queue("q")
    jobs.put(b"x")
    job = jobs.claim(timeout=PATIENCE_S)

    for delay in (-1, float("nan"), float("inf"), "1", True):
        with pytest.raises(errors.UsageError):
            job.nack(delay=delay)

    job.check()
    job.ack()
