"""Every wait that a recipe has, to be timed out, to be cancelled, and to be interrupted."""

from __future__ import annotations

import functools
import queue as standard
from collections.abc import Callable
from typing import Any

import attrs
from contract.players import Call, wait_until

import coordkit
from coordkit import errors

LIMIT_S = 30.0


@attrs.frozen
class Wait:
    """`act(timeout)` waits until `release()` was called from elsewhere; its handle can be used again."""

    act: Callable[[float], Any]
    release: Callable[[], Any]
    #: What is done with what the second `act()` was given.
    finish: Callable[[Any], Any] = lambda given: None
    #: Before the second `act()`.
    mend: Callable[[], Any] = lambda: None
    #: Ends the wait, from elsewhere in the program.
    cancel: Callable[[], Any] = attrs.field(kw_only=True)
    #: What `act()` gives, or raises, when it was cancelled.
    cancelled: Any = attrs.field(default=errors.Cancelled, kw_only=True)
    #: Whether there is nothing to be used again after that.
    final: bool = attrs.field(default=False, kw_only=True)
    #: What `act()` gives, or raises, when the time is up.
    late: Any = attrs.field(default=False, kw_only=True)


Stage = Callable[[coordkit.Coordinator, coordkit.Coordinator], Wait]


def _lock(make: Callable[[coordkit.Coordinator], Any], rival: Callable[[coordkit.Coordinator], Any]) -> Stage:
    def stage(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
        lock, holder = make(coord), rival(other)
        assert holder.acquire(timeout=LIMIT_S)
        return Wait(
            lambda timeout: lock.acquire(timeout=timeout),
            holder.release,
            lambda given: lock.release(),
            cancel=lock.cancel,
        )

    return stage


def _same(make: Callable[[coordkit.Coordinator], Any]) -> Stage:
    return _lock(make, make)


def barrier(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.barrier("w", 2), other.barrier("w", 2)
    calls: list[Call] = []
    return Wait(
        lambda timeout: mine.wait(timeout=timeout) in (0, 1),
        lambda: calls.append(Call(theirs.wait, timeout=LIMIT_S)),
        lambda given: calls[0].end(),
        lambda: mine.reset(timeout=LIMIT_S),  # who gave up broke it, as in threading
        cancel=mine.cancel,
        late=errors.BrokenBarrier,
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

    return Wait(
        lambda timeout: mine.enter(timeout=timeout),
        lambda: calls.append(Call(stay)),
        finish,
        cancel=mine.cancel,
    )


def gate(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    other.gate("w").close()
    mine = coord.gate("w")
    return Wait(lambda timeout: mine.wait(timeout=timeout), other.gate("w").open, cancel=mine.cancel)


def latch(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.latch("w", 1), other.latch("w", 1)
    return Wait(lambda timeout: mine.wait(timeout=timeout), theirs.count_down, cancel=mine.cancel)


def campaign(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, leader = coord.election("w"), other.election("w").campaign()
    return Wait(
        lambda timeout: mine.campaign(timeout=timeout),
        leader.resign,
        lambda term: term.resign(),
        cancel=mine.cancel,
        late=errors.AcquireTimeout,
    )


def leadership(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine = coord.election("w")
    term = mine.campaign()
    return Wait(
        lambda timeout: term.wait(timeout=timeout),
        lambda: other.kv.delete(term.key),
        cancel=mine.cancel,
        cancelled=True,  # it is time to stop
        final=True,
    )


def standing(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    leader = other.election("w").campaign()
    mine = coordkit.Standing(coord.election("w")).start()
    wait_until(lambda: len(other.election("w").contenders()) == 2, what="standing")
    return Wait(
        lambda timeout: mine.wait(timeout=timeout),
        leader.resign,
        lambda given: mine.close(),
        cancel=mine.close,
        cancelled=False,
        final=True,
    )


def observing(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    observation = coord.election("w").observe()
    assert next(observation) is None
    terms: list[Any] = []

    def act(timeout: float) -> Any:
        if timeout < LIMIT_S:
            return next(iter(list(coord.election("w").observe(timeout))[1:]), None)
        return next(observation)

    def finish(given: Any) -> None:
        observation.close()
        wait_until(lambda: terms, what="the leader's own word")  # the event may come before the reply
        terms[0].resign()

    return Wait(
        act,
        lambda: terms.append(other.election("w").campaign(b"x")),
        finish,
        cancel=observation.close,
        cancelled=StopIteration,
        final=True,
        late=None,
    )


def queue(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.queue("w"), other.queue("w")
    return Wait(
        lambda timeout: mine.get(timeout=timeout) == b"x",
        lambda: theirs.put(b"x"),
        cancel=mine.cancel,
        late=standard.Empty,
    )


def room(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine, theirs = coord.queue("w", max_length=1), other.queue("w")
    theirs.put(b"x")
    return Wait(
        lambda timeout: mine.put(b"y", timeout=timeout),
        theirs.get,
        lambda id_: theirs.get(timeout=LIMIT_S),
        cancel=mine.cancel,
        late=errors.QueueFull,
    )


def topic(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    subscription = coord.topic("w").subscribe()
    return Wait(
        lambda timeout: subscription.get(timeout=timeout),
        lambda: other.topic("w").publish(b"x"),
        lambda given: subscription.close(),
        cancel=subscription.cancel,
        final=True,
        late=None,
    )


def value(coord: coordkit.Coordinator, other: coordkit.Coordinator) -> Wait:
    mine = coord.value("w")

    def change(timeout: float) -> Any:
        for told in mine.watch(timeout=timeout):
            if told.value is not None:
                return told
        return None

    return Wait(change, lambda: other.value("w").set(b"x"), cancel=mine.cancel, late=None)


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
    "room": room,
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
        self.wait = WAITS[name](coord, other)
        self._before = leased(other)
        self.act = functools.partial(self.wait.act, LIMIT_S)

    def verify(self) -> None:
        """Nothing of it is left, others go on, and the same handle can be used again."""
        wait_until(lambda: leased(self._other) == self._before, what=f"{leased(self._other)} to go")
        self.goes_on()

    def goes_on(self) -> None:
        """Others go on, and the same handle can be used again."""
        self.wait.mend()
        again = Call(self._guarded)
        self.wait.release()
        again.end(LIMIT_S)

    def _guarded(self) -> None:
        given = self.act()
        assert given, given
        self.wait.finish(given)
