"""What is promised of all recipes alike: of everything that waits, and of everything that is held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from contract.locklikes import LOCKLIKES
from contract.players import PATIENCE_S, Call, expire, wait_until
from contract.waits import WAITS, Interrupted

import coordkit
from coordkit import errors
from coordkit.etcd import kv

pytestmark = pytest.mark.coordkit_leaves("keys")

SHORT_S = 0.3


@attrs.frozen
class Holding:
    """How something is taken: the context manager, and what is held within it."""

    make: Callable[[coordkit.Coordinator, str], Any]
    hold: Callable[[Any], Any] = lambda made: made
    #: How `check()` tells of a loss.
    loss: type[errors.CoordError] = errors.LockLost
    #: How the end of the block does; None: it does not, but stands again.
    told: type[errors.CoordError] | None = errors.LockLost


def _job(coord: coordkit.Coordinator, name: str) -> coordkit.Job:
    queue = coord.queue(name)
    if queue.empty():
        queue.put(b"work")
    return queue.claim(timeout=10)


HOLDINGS: dict[str, Holding] = {
    **{name: Holding(each.make) for name, each in LOCKLIKES.items()},
    "multilock": Holding(lambda coord, name: coord.multilock([name, f"{name}~"])),
    "leadership": Holding(lambda coord, name: coord.election(name).campaign()),
    "standing": Holding(
        lambda coord, name: coord.standing(name),
        hold=lambda made: made.wait(PATIENCE_S) and made.leadership,
        told=None,
    ),
    "once": Holding(lambda coord, name: coord.once(name, "1", attempts=2), told=errors.ClaimLost),
    "job": Holding(_job, loss=errors.ClaimLost, told=errors.ClaimLost),
}


@pytest.fixture(params=HOLDINGS)
def holding(request: pytest.FixtureRequest) -> Holding:
    """Each of them."""
    return HOLDINGS[request.param]


class Taken:
    """What is held, and what was said and prepared while it was."""

    def __init__(self, coord: coordkit.Coordinator, hold: Any) -> None:
        self.hold = hold
        self.key, self.fence, self.lost = hold.key, hold.fence, hold.lost
        write = kv.put(f"/{coord.settings.namespace}/state", b"written")
        self._prepared = [hold.txn().then(write), coord.kv.txn().when(*hold.guard()).then(write)]

    @property
    def stands(self) -> bool:
        """Whether it is among those who are told to hold or wait."""
        return (self.key, self.fence) in {(each.key, each.fence) for each in self.hold.contenders()}

    def writes(self) -> list[bool]:
        """Whether the transactions pass that carry its guard."""
        return [each.commit().succeeded for each in self._prepared]


class TestHolding:
    """fence, key, guard, txn, lost, check, remaining, contenders, `with`."""

    def test_until_the_end_of_the_block(self, coord, holding):
        """
        It says for how long, and who stands there; what carries its guard is written, and not afterwards.
        """
        made = holding.make(coord, "held")
        with made:
            hold = holding.hold(made)
            held = Taken(coord, hold)

            hold.check()
            assert 0 < hold.remaining() <= coord.session.ttl_s
            assert not held.lost.is_set()
            assert held.fence > 0 and held.stands
            assert held.writes() == [True, True]

        assert hold.remaining() == 0
        with pytest.raises(errors.NotHeld):
            hold.check()
        assert held.writes() == [False, False]
        assert not held.stands
        assert not held.lost.is_set()

    def test_what_is_lost_is_told_and_refused(self, coord, coord_factory, holding):
        """
        A lost session is told by `lost`, check(), remaining() and the block; the next fence is above this
        one, and by then what carries this guard is refused.
        """
        other = coord_factory()
        made = holding.make(other, "lost")
        told = pytest.raises(holding.told) if holding.told else contextlib.nullcontext()
        with told, made:
            hold = holding.hold(made)
            held = Taken(other, hold)

            expire(other.session, coord)

            assert held.lost.wait(PATIENCE_S)
            assert hold.remaining() == 0
            with pytest.raises(holding.loss):
                hold.check()
            heir = holding.make(coord, "lost") if holding.told else made
            with heir:
                assert holding.hold(heir).fence > held.fence
                assert held.writes() == [False, False]
                assert not held.stands

    def test_names_that_are_prefixes_of_one_another_are_not_the_same(self, coord, holding):
        """
        All of them are held at once, each with a key and a guard of its own.
        """
        with contextlib.ExitStack() as stack:
            keys = []
            for name in ("job", "job1", "job/1", "job/", "job%2F1"):
                made = holding.make(coord, name)
                stack.enter_context(made)
                hold = holding.hold(made)
                assert hold.txn().then(kv.get(hold.key)).commit().succeeded
                keys += [hold.key]

            assert len(set(keys)) == len(keys)


class TestWaiting:
    """A timeout, and an end from elsewhere in the program."""

    @pytest.mark.parametrize("name", WAITS)
    def test_a_time_that_is_up(self, coord, coord_factory, name):
        """
        It ends as its contract says; nothing of it is left, others go on, and the handle can be used again.
        """
        waiting = Interrupted(name, coord, coord_factory())

        ended = Call(waiting.wait.act, SHORT_S).outcome()

        assert _is(ended, waiting.wait.late)
        if waiting.wait.late is errors.BrokenBarrier:
            waiting.goes_on()  # what tells of the break stays until the generation after the next
        else:
            waiting.verify()

    @pytest.mark.parametrize("name", WAITS)
    def test_a_wait_that_is_cancelled(self, coord, coord_factory, name):
        """
        It ends at once, from another thread; nothing is left, and what can be used again can be used again.
        """
        waiting = Interrupted(name, coord, coord_factory())
        call = Call(waiting.act)

        def cancelled() -> bool:
            waiting.wait.cancel()  # whether it waits yet or not
            return call.over.is_set()

        wait_until(cancelled, what="the end of the wait")

        assert _is(call.outcome(), waiting.wait.cancelled)
        if not waiting.wait.final:
            waiting.verify()


def _is(ended: Any, expected: Any) -> bool:
    return isinstance(ended, expected) if isinstance(expected, type) else ended is expected
