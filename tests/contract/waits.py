"""Every wait that a recipe has, to be interrupted in a test's own process or in a child's main thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from contract.players import Call, wait_until

import coordkit

LIMIT_S = 30.0


@attrs.frozen
class Wait:
    """`act()` waits until `release()` was called from elsewhere; its handle can be used again."""

    act: Callable[[], Any]
    release: Callable[[], Any]
    #: What is done with what the second `act()` was given.
    finish: Callable[[Any], Any] = lambda given: None
    #: Before the second `act()`.
    mend: Callable[[], Any] = lambda: None


Stage = Callable[[coordkit.Coordinator, coordkit.Coordinator], Wait]


def _lock(make: Callable[[coordkit.Coordinator], Any], rival: Callable[[coordkit.Coordinator], Any]) -> Stage:
    def stage(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
        lock, holder = make(coord), rival(other)
        assert holder.acquire(timeout=LIMIT_S)
        return Wait(lambda: lock.acquire(timeout=LIMIT_S), holder.release, lambda given: lock.release())

    return stage


def _same(make: Callable[[coordkit.Coordinator], Any]) -> Stage:
    return _lock(make, make)


def barrier(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.barrier("w", 2), other.barrier("w", 2)
    calls: list[Call] = []
    return Wait(
        lambda: mine.wait(timeout=LIMIT_S) in (0, 1),
        lambda: calls.append(Call(theirs.wait, timeout=LIMIT_S)),
        lambda given: calls[0].end(),
        lambda: mine.reset(timeout=LIMIT_S),  # who gave up broke it, as in threading
    )


def entering(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.double_barrier("w", 2), other.double_barrier("w", 2)
    calls: list[Call] = []

    def stay() -> None:
        assert theirs.enter(timeout=LIMIT_S)
        assert theirs.leave(timeout=LIMIT_S)

    def finish(given: Any) -> None:
        assert mine.leave(timeout=LIMIT_S)
        calls[0].end()

    return Wait(lambda: mine.enter(timeout=LIMIT_S), lambda: calls.append(Call(stay)), finish)


def gate(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    other.gate("w").close()
    mine = coord.gate("w")
    return Wait(lambda: mine.wait(timeout=LIMIT_S), other.gate("w").open)


def latch(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.latch("w", 1), other.latch("w", 1)
    return Wait(lambda: mine.wait(timeout=LIMIT_S), theirs.count_down)


def campaign(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, leader = coord.election("w"), other.election("w").campaign()
    return Wait(lambda: mine.campaign(timeout=LIMIT_S), leader.resign, lambda term: term.resign())


def leadership(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    term = coord.election("w").campaign()
    return Wait(lambda: term.wait(timeout=LIMIT_S), lambda: other.kv.delete(term.key))


def standing(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    leader = other.election("w").campaign()
    mine = coordkit.Standing(coord.election("w")).start()
    wait_until(lambda: len(other.election("w").contenders()) == 2, what="standing")
    return Wait(lambda: mine.wait(timeout=LIMIT_S), leader.resign, lambda given: mine.close())


def observing(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    observation = coord.election("w").observe()
    assert next(observation) is None
    terms: list[Any] = []

    def finish(given: Any) -> None:
        observation.close()
        wait_until(lambda: terms, what="the leader's own word")  # the event may come before the reply
        terms[0].resign()

    return Wait(
        lambda: next(observation), lambda: terms.append(other.election("w").campaign(b"x")), finish
    )


def queue(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.queue("w"), other.queue("w")
    return Wait(lambda: mine.get(timeout=LIMIT_S) == b"x", lambda: theirs.put(b"x"))


def topic(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    subscription = coord.topic("w").subscribe()
    return Wait(
        lambda: subscription.get(timeout=LIMIT_S),
        lambda: other.topic("w").publish(b"x"),
        lambda given: subscription.close(),
    )


def value(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine = coord.value("w")

    def change() -> Any:
        for told in mine.watch(timeout=LIMIT_S):
            if told.value is not None:
                return told
        return None

    return Wait(change, lambda: other.value("w").set(b"x"))


WAITS: dict[str, Stage] = {
    "lock": _same(lambda coord: coord.lock("w")),
    "rlock": _same(lambda coord: coord.rlock("w")),
    "reader": _lock(lambda coord: coord.rwlock("w").read, lambda coord: coord.rwlock("w").write),
    "writer": _lock(lambda coord: coord.rwlock("w").write, lambda coord: coord.rwlock("w").read),
    "semaphore": _same(lambda coord: coord.semaphore("w", 1)),
    "multilock": _lock(lambda coord: coord.multilock(["v", "w"]), lambda coord: coord.lock("w")),
    "cohort": _same(lambda coord: coord.cohort_lock("w")),
    "barrier": barrier,
    "entering": entering,
    "gate": gate,
    "latch": latch,
    "campaign": campaign,
    "leadership": leadership,
    "standing": standing,
    "observing": observing,
    "queue": queue,
    "topic": topic,
    "value": value,
}


def leased(witness: coordkit.Coordinator) -> set[bytes]:
    """All that goes with somebody's session, but the sessions' own keys."""
    prefix = f"/{witness.settings.namespace}/"
    sessions = f"{prefix}session/".encode()
    found = witness.kv.range(prefix)
    return {each.key for each in found if each.lease and not each.key.startswith(sessions)}


class Interrupted:
    """One wait, its interruption, and what must hold afterwards."""

    def __init__(self, name: str, coord: coordkit.Coordinator, other: coordkit.Coordinator) -> None:
        assert coord.session.alive and other.session.alive
        self._other = other
        self._wait = WAITS[name](coord, other)
        self._before = leased(other)
        self.act = self._wait.act

    def verify(self) -> None:
        """Nothing of it is left, others go on, and the same handle can be used again."""
        wait_until(lambda: leased(self._other) == self._before, what=f"{leased(self._other)} to go")
        self._wait.mend()
        again = Call(self._guarded)
        self._wait.release()
        again.end(LIMIT_S)

    def _guarded(self) -> None:
        given = self.act()
        assert given, given
        self._wait.finish(given)
